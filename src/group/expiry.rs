//! When committed offsets expire, as in Kafka: `offsets.retention.minutes` after their group has lost
//! its last member (KIP-211), or after their commit if no member has ever joined the group, or if its
//! members do not subscribe to their topic. Offsets of OffsetCommit v2-4, whose clients say how long to
//! keep them, expire under the same conditions at the time that was said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::CommittedOffset;
use super::offsets::Reader;
use super::state::{Group, State};
use super::task::Place;
use crate::types::{Timestamp, TopicName};

/// The protocol type of consumers, whose subscriptions tell topics.
const CONSUMER: &str = "consumer";

/// From when on a group's offsets are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// Never: its members mean to go on where they are.
    Never,
    /// All of them from then, when it lost its last member.
    FromEmpty(Timestamp),
    /// Each from its commit.
    FromCommit,
    /// Each from its commit, but for topics that members subscribe to: those never.
    UnlessSubscribed(BTreeSet<String>),
}

impl Group {
    /// From when on its offsets are counted.
    pub(super) fn expiry(&self) -> Expiry {
        match (&self.protocol_type, &self.state) {
            (_, State::Dead) => Expiry::Never,
            (None, _) => Expiry::FromCommit,
            // Records of old versions of Kafka do not tell since when a group is empty.
            (Some(_), State::Empty) => {
                self.empty_since.map_or(Expiry::FromCommit, Expiry::FromEmpty)
            }
            (Some(kind), State::Stable) if kind == CONSUMER => {
                self.subscribed_topics().map_or(Expiry::Never, Expiry::UnlessSubscribed)
            }
            (Some(_), _) => Expiry::Never,
        }
    }

    /// Whether it may be deleted once it has no offsets: nobody is in it or on the way into it.
    pub(super) fn is_left(&self) -> bool {
        self.state == State::Empty && self.pending.is_empty() && self.writing.is_empty()
    }

    /// Notes since when it has no members. To be called after each event.
    pub(super) fn note_time(&mut self, now: Timestamp) {
        match self.state {
            State::Empty => drop(self.empty_since.get_or_insert(now)),
            State::Dead => {}
            _ => self.empty_since = None,
        }
    }

    /// The topics of all members; `None` where a subscription does not decode.
    fn subscribed_topics(&self) -> Option<BTreeSet<String>> {
        let protocol = self.protocol.as_deref()?;
        let mut all = BTreeSet::new();
        for member in self.members.values() {
            all.extend(topics_of(member.subscription(protocol)).ok()?);
        }
        Some(all)
    }
}

/// The topics of a consumer's subscription. All versions of it begin alike.
fn topics_of(subscription: Bytes) -> Result<Vec<String>, String> {
    let mut reader = Reader::new(subscription);
    let version = reader.i16()?;
    let count = reader.i32()?;
    if version < 0 || count < 0 {
        return Err(format!("it has version {version} and {count} topics"));
    }
    (0..count).map(|_| reader.string()).collect()
}

/// The offsets of a group that have expired. Those of places that are being committed to are not among
/// them: a tombstone behind the new commit would take it along.
pub(super) fn expired(
    offsets: &BTreeMap<Place, (TopicName, CommittedOffset)>,
    in_flight: &BTreeSet<Place>,
    expiry: &Expiry,
    retention: Duration,
    now: Timestamp,
) -> Vec<(Place, TopicName)> {
    let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    let is_expired = |name: &TopicName, committed: &CommittedOffset| {
        let from = match expiry {
            Expiry::Never => return false,
            Expiry::UnlessSubscribed(topics) if topics.contains(name.as_str()) => return false,
            Expiry::FromEmpty(since) => *since,
            Expiry::FromCommit | Expiry::UnlessSubscribed(_) => committed.committed_at,
        };
        match committed.expires_at {
            Some(at) => at <= now,
            None => now.0.saturating_sub(from.0) >= retention_ms,
        }
    };
    offsets
        .iter()
        .filter(|(place, (name, committed))| {
            is_expired(name, committed) && !in_flight.contains(place)
        })
        .map(|(place, (name, _))| (*place, name.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Position;
    use crate::group::effect::{GroupMetadata, MemberMetadata};
    use crate::types::{PartitionId, TopicId};

    const RETENTION: Duration = Duration::from_millis(100);

    fn committed(at: i64, expires_at: Option<i64>) -> CommittedOffset {
        CommittedOffset {
            position: Position::from_wire(7),
            leader_epoch: None,
            metadata: String::new(),
            committed_at: Timestamp(at),
            expires_at: expires_at.map(Timestamp),
        }
    }

    /// Of each topic one partition, committed at that time and maybe with a time of expiry.
    fn offsets(each: &[(&str, i64, Option<i64>)]) -> BTreeMap<Place, (TopicName, CommittedOffset)> {
        let place = |at: usize| (TopicId(uuid::Uuid::from_u128(at as u128)), PartitionId(0));
        let each = each.iter().enumerate().map(|(at, (name, time, expires_at))| {
            (place(at), (TopicName::parse(name).unwrap(), committed(*time, *expires_at)))
        });
        each.collect()
    }

    fn gone(
        offsets: &BTreeMap<Place, (TopicName, CommittedOffset)>,
        expiry: &Expiry,
        now: i64,
    ) -> Vec<String> {
        let gone = expired(offsets, &BTreeSet::new(), expiry, RETENTION, Timestamp(now));
        gone.into_iter().map(|(_, name)| name.as_str().to_owned()).collect()
    }

    #[test]
    fn offsets_expire_at_their_time_unless_they_are_committed_anew() {
        let offsets = offsets(&[
            ("none", 1, None),
            ("ten", 1, Some(10)),
            ("eleven", 1, Some(11)),
            ("nine", 1, Some(9)),
        ]);
        assert!(gone(&offsets, &Expiry::FromCommit, 8).is_empty());
        assert_eq!(gone(&offsets, &Expiry::FromCommit, 10), ["ten", "nine"]);
        assert!(gone(&offsets, &Expiry::Never, i64::MAX).is_empty());
        let in_flight = offsets.keys().copied().skip(3).collect();
        let expiry = Expiry::FromCommit;
        let gone = expired(&offsets, &in_flight, &expiry, RETENTION, Timestamp(i64::MAX));
        assert_eq!(gone.len(), 3);
    }

    #[test]
    fn others_expire_by_the_retention_from_their_commit_or_from_when_the_group_was_left() {
        let offsets = offsets(&[("old", 10, None), ("new", 50, None), ("said", 10, Some(90))]);
        assert!(gone(&offsets, &Expiry::FromCommit, 89).is_empty());
        assert_eq!(gone(&offsets, &Expiry::FromCommit, 109), ["said"]);
        assert_eq!(gone(&offsets, &Expiry::FromCommit, 110), ["old", "said"]);
        let left = Expiry::FromEmpty(Timestamp(60));
        assert_eq!(gone(&offsets, &left, 159), ["said"]);
        assert_eq!(gone(&offsets, &left, 160), ["old", "new", "said"]);
        let subscribed = Expiry::UnlessSubscribed(BTreeSet::from(["old".to_owned()]));
        assert_eq!(gone(&offsets, &subscribed, 150), ["new", "said"]);
        // Clocks that go back or are far off.
        assert!(gone(&offsets, &Expiry::FromEmpty(Timestamp(i64::MAX)), i64::MIN).is_empty());
    }

    fn subscription(topics: &[&str]) -> Bytes {
        let mut bytes = vec![0, 3];
        bytes.extend_from_slice(&(topics.len() as i32).to_be_bytes());
        for topic in topics {
            bytes.extend_from_slice(&(topic.len() as i16).to_be_bytes());
            bytes.extend_from_slice(topic.as_bytes());
        }
        // Later versions go on.
        bytes.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.into()
    }

    /// A group of members with these subscriptions, read back from the log.
    fn group(kind: &str, subscriptions: &[Bytes], since: Option<i64>) -> Group {
        let members = subscriptions.iter().enumerate().map(|(at, subscription)| MemberMetadata {
            member: format!("m{at}"),
            subscription: subscription.clone(),
            ..MemberMetadata::default()
        });
        let metadata = GroupMetadata {
            protocol_type: kind.to_owned(),
            protocol: Some("range".to_owned()),
            members: members.collect(),
            ..GroupMetadata::default()
        };
        Group::restore("g", Duration::ZERO, metadata, since.map(Timestamp), Duration::ZERO)
    }

    #[test]
    fn a_groups_kind_and_state_say_from_when_its_offsets_are_counted() {
        // Nobody ever joined.
        let mut alone = Group::new("g", Duration::ZERO);
        alone.note_time(Timestamp(5));
        assert_eq!((alone.expiry(), alone.is_left()), (Expiry::FromCommit, true));
        // Left, also across a restart; unless the record does not tell the time.
        let mut left = group("consumer", &[], Some(7));
        left.note_time(Timestamp(9));
        assert_eq!(left.expiry(), Expiry::FromEmpty(Timestamp(7)));
        assert_eq!(group("consumer", &[], None).expiry(), Expiry::FromCommit);
        left.state = State::Dead;
        assert_eq!((left.expiry(), left.is_left()), (Expiry::Never, false));
        // With members.
        let both = [subscription(&["a", "b"]), subscription(&["c"])];
        let mut consumers = group("consumer", &both, Some(7));
        let topics = ["a", "b", "c"].map(str::to_owned).into();
        assert_eq!(consumers.expiry(), Expiry::UnlessSubscribed(topics));
        assert!(!consumers.is_left());
        consumers.state = State::CompletingRebalance;
        assert_eq!(consumers.expiry(), Expiry::Never);
        assert_eq!(group("connect", &both, None).expiry(), Expiry::Never);
        for broken in
            [&b""[..], b"\xff\xff\0\0\0\0", b"\0\0\xff\xff\xff\xff", b"\0\0\x7f\0\0\0\0\x01"]
        {
            let group = group("consumer", &[Bytes::from_static(broken)], None);
            assert_eq!(group.expiry(), Expiry::Never, "{broken:?}");
        }
        // When the last one goes, the time begins; when one comes, it ends.
        consumers.members.clear();
        consumers.state = State::Empty;
        consumers.note_time(Timestamp(20));
        consumers.note_time(Timestamp(30));
        assert_eq!(consumers.expiry(), Expiry::FromEmpty(Timestamp(20)));
        consumers.state = State::CompletingRebalance;
        consumers.note_time(Timestamp(40));
        consumers.state = State::Empty;
        consumers.note_time(Timestamp(50));
        assert_eq!(consumers.expiry(), Expiry::FromEmpty(Timestamp(50)));
    }
}
