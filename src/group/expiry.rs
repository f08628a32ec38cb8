//! Committed offsets that have a last day: those of OffsetCommit v2-4, whose clients say how long the
//! broker shall keep them. Others are kept until their group or topic is deleted.

use std::collections::{BTreeMap, BTreeSet};

use super::CommittedOffset;
use super::task::Place;
use crate::types::{Timestamp, TopicName};

/// The offsets of a group that have expired. Those of places that are being committed to are not among
/// them: a tombstone behind the new commit would take it along.
pub(super) fn expired(
    offsets: &BTreeMap<Place, (TopicName, CommittedOffset)>,
    in_flight: &BTreeSet<Place>,
    now: Timestamp,
) -> Vec<(Place, TopicName)> {
    offsets
        .iter()
        .filter(|(place, (_, committed))| {
            committed.expires_at.is_some_and(|at| at <= now) && !in_flight.contains(place)
        })
        .map(|(place, (name, _))| (*place, name.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Position;
    use crate::types::{PartitionId, TopicId};

    #[test]
    fn offsets_expire_at_their_time_unless_they_are_committed_anew() {
        let topic = TopicId::random();
        let place = |index| (topic, PartitionId(index));
        let until = |expires_at: Option<i64>| {
            let committed = CommittedOffset {
                position: Position::from_wire(7),
                leader_epoch: None,
                metadata: String::new(),
                committed_at: Timestamp(1),
                expires_at: expires_at.map(Timestamp),
            };
            (TopicName::parse("t").unwrap(), committed)
        };
        let offsets = BTreeMap::from([
            (place(0), until(None)),
            (place(1), until(Some(10))),
            (place(2), until(Some(11))),
            (place(3), until(Some(9))),
        ]);
        let gone = |in_flight: &[Place], now| {
            let in_flight = in_flight.iter().copied().collect();
            let gone = expired(&offsets, &in_flight, Timestamp(now));
            gone.into_iter().map(|((_, index), _)| index.0).collect::<Vec<_>>()
        };
        assert!(gone(&[], 8).is_empty());
        assert_eq!(gone(&[], 10), [1, 3]);
        assert_eq!(gone(&[place(3)], i64::MAX), [1, 2]);
    }
}
