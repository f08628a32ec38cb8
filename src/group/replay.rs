//! Start-up: what `__consumer_offsets` says of groups and their offsets.

use std::collections::BTreeMap;

use tracing::{debug, error};

use super::CommittedOffset;
use super::GroupError;
use super::effect::GroupMetadata;
use super::offsets::{self, Entry};
use super::task::Place;
use crate::log::{Isolation, Partition, ReadError, ReadRequest, records};
use crate::metadata::Image;
use crate::types::{Offset, Timestamp, TopicName};

/// How much is read at once, except for a single larger batch.
const READ_BYTES_MAX: usize = 1 << 20;
/// The broker's own batches are not compressed, so this only bounds what others may have written.
const INFLATED_BYTES_MAX: usize = 256 << 20;

/// A group as it is after the last record.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// Its state, and since when it is so.
    pub(super) metadata: Option<(GroupMetadata, Option<Timestamp>)>,
    pub(super) offsets: BTreeMap<Place, (TopicName, CommittedOffset)>,
}

/// Reads a partition from its start to its end.
pub(super) async fn replay(
    log: &Partition,
    image: &Image,
) -> Result<BTreeMap<String, Replayed>, GroupError> {
    let storage = |error: &dyn std::fmt::Display| GroupError::Storage(error.to_string());
    let mut groups = BTreeMap::new();
    let end = log.span().high_watermark;
    let mut from = log.span().start;
    while from < end {
        let request = ReadRequest {
            from,
            bytes_max: READ_BYTES_MAX,
            at_least_one: true,
            isolation: Isolation::ReadUncommitted,
        };
        let read = match log.read(request).await {
            Ok(read) => read,
            // A damaged batch must not keep all other groups from starting.
            Err(ReadError::Corrupt { next, reason, .. }) => {
                let behind = next.filter(|next| *next > from);
                error!(log = %log.id(), offset = %from, next = behind.map(Offset::get), reason,
                    "a batch of __consumer_offsets is damaged, skipped: its groups may go back to \
                     older offsets");
                from = behind.unwrap_or(end);
                continue;
            }
            Err(error) => return Err(storage(&error)),
        };
        let batches =
            records::decode(read.records, INFLATED_BYTES_MAX).map_err(|error| storage(&error))?;
        let Some(last) = batches.last() else { break };
        from = last.last_offset.plus(1);
        for record in batches.iter().flat_map(|batch| &batch.records) {
            match offsets::decode(record) {
                Ok(entry) => apply(&mut groups, entry, image),
                // One record that cannot be read must not keep all other groups from starting.
                Err(reason) => error!(log = %log.id(), offset = %record.offset, reason,
                    "a record of __consumer_offsets cannot be read, skipped"),
            }
        }
    }
    Ok(groups)
}

fn apply(groups: &mut BTreeMap<String, Replayed>, entry: Entry, image: &Image) {
    match entry {
        Entry::Group { group, metadata: Some(metadata) } => {
            groups.entry(group).or_default().metadata = Some(metadata);
        }
        Entry::Group { group, metadata: None } => {
            groups.remove(&group);
        }
        Entry::Offset { group, topic, topic_id, partition, committed } => {
            // By id: the record may be about a deleted topic that had this name.
            let known = match topic_id {
                Some(id) => image.topic_by_id(id),
                None => image.topic(&topic),
            };
            let Some(known) = known else { return };
            let replayed = groups.entry(group).or_default();
            match committed {
                Some(committed) => {
                    let place = (known.id, partition);
                    replayed.offsets.insert(place, (known.name.clone(), committed));
                }
                None => {
                    replayed.offsets.remove(&(known.id, partition));
                }
            }
        }
        Entry::Other(kind) => debug!(kind, "a record of another group protocol, skipped"),
    }
}
