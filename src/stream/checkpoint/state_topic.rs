//! Operator state in the internal topic `__ottla_state`: written by each subtask at a barrier, read
//! back when an attempt starts.
//!
//! Which entries count is asked of the commit record, not of the markers: all of one attempt, from
//! its last full checkpoint up to the committed epoch. So a restore never waits for the transaction
//! of another job in the same partition.
//!
//! Key: version:u8 job:(len:u8, bytes) node:u32 subtask:u32, then the operator's key. Value: the
//! operator's, or none to remove it. Header `e`: attempt:u32 epoch:u64. Integers big-endian.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::record::StateManifest;
use super::transaction::TransactionalWriter;
use crate::log::batch::NewRecord;
use crate::log::{Isolation, Partition, ReadRequest, records};
use crate::stream::operator::{Failure, StateEntry};
use crate::types::{Offset, Timestamp};

/// The topic.
pub const TOPIC: &str = "__ottla_state";
/// Its partitions; a job's state lies in one of them.
pub const PARTITIONS: u32 = 16;
/// Old state is given back by whole segments: a partition holds on to one of them at most.
pub const CONFIGS: &[(&str, &str)] = &[("segment.bytes", "67108864")];
/// Largest state batch: a single key's state must fit.
pub const BATCH_BYTES_MAX: u32 = 64 << 20;

const VERSION: u8 = 1;
/// Entries are gathered into batches of about this size.
const BATCH_BYTES: usize = 512 << 10;
const READ_BYTES: usize = 4 << 20;

/// Appends `entries` of one operator's subtask; returns their bytes.
pub fn write(
    writer: &mut TransactionalWriter,
    log: &Partition,
    owner: &StateOwner<'_>,
    epoch: u64,
    entries: Vec<StateEntry>,
    now: Timestamp,
) -> Result<u64, Failure> {
    let mut stamp = BytesMut::with_capacity(12);
    stamp.put_u32(owner.attempt);
    stamp.put_u64(epoch);
    let stamp = stamp.freeze();
    let (mut total, mut gathered) = (0, 0);
    let mut batch = Vec::new();
    for entry in entries {
        let key = record_key(owner, &entry.key);
        let bytes = key.len() + entry.value.as_ref().map_or(0, Bytes::len);
        if gathered + bytes > BATCH_BYTES && !batch.is_empty() {
            writer.append(log, &std::mem::take(&mut batch))?;
            gathered = 0;
        }
        gathered += bytes;
        total += bytes as u64;
        batch.push(NewRecord {
            key: Some(key),
            value: entry.value,
            headers: vec![("e".to_owned(), Some(stamp.clone()))],
            timestamp: now,
        });
    }
    if !batch.is_empty() {
        writer.append(log, &batch)?;
    }
    Ok(total)
}

/// Whose state.
pub struct StateOwner<'a> {
    /// The job.
    pub job: &'a str,
    /// The attempt that writes.
    pub attempt: u32,
    /// The operator's node.
    pub node: u32,
    /// Its subtask.
    pub subtask: u32,
}

fn record_key(owner: &StateOwner<'_>, operator_key: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(64 + operator_key.len());
    key.put_u8(VERSION);
    key.put_u8(owner.job.len() as u8);
    key.put_slice(owner.job.as_bytes());
    key.put_u32(owner.node);
    key.put_u32(owner.subtask);
    key.put_slice(operator_key);
    key.freeze()
}

/// Node, subtask and the operator's own key.
type EntryKey<'a> = (u32, u32, &'a [u8]);

/// The parts of a record key, if it is of `job`.
fn parse_key<'a>(job: &str, key: &'a [u8]) -> Result<Option<EntryKey<'a>>, Failure> {
    let Some((&version, rest)) = key.split_first() else { return Ok(None) };
    let Some((&length, rest)) = rest.split_first() else { return Ok(None) };
    let Some(rest) = rest
        .get(..usize::from(length))
        .filter(|name| *name == job.as_bytes())
        .map(|name| &rest[name.len()..])
    else {
        return Ok(None);
    };
    if version != VERSION {
        return Err(Failure::Storage(format!(
            "the state of job '{job}' has version {version}, this binary reads {VERSION}; run a \
             newer Ottla"
        )));
    }
    let number = |at: usize| {
        rest.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(u32::from_be_bytes)
    };
    match (number(0), number(4)) {
        (Some(node), Some(subtask)) => Ok(Some((node, subtask, &rest[8..]))),
        _ => Err(Failure::Storage(format!("a state entry of job '{job}' has a short key"))),
    }
}

/// The state that a commit covers, by node. Blocking.
pub fn read(
    log: &Partition,
    job: &str,
    attempt: u32,
    epoch: u64,
    manifest: &StateManifest,
) -> Result<BTreeMap<u32, Vec<StateEntry>>, Failure> {
    let mut newest: BTreeMap<(u32, u32, Vec<u8>), Bytes> = BTreeMap::new();
    let mut from = Offset::new(manifest.from);
    let to = Offset::new(manifest.to);
    while from < to {
        let request = ReadRequest {
            from,
            bytes_max: READ_BYTES,
            at_least_one: true,
            isolation: Isolation::ReadUncommitted,
        };
        let read = log.read_blocking(request).map_err(|error| {
            Failure::Storage(format!("the state of job '{job}' cannot be read: {error}"))
        })?;
        let batches = records::decode(read.records, BATCH_BYTES_MAX as usize)
            .map_err(|error| Failure::Storage(error.to_string()))?;
        let Some(last) = batches.last() else {
            return Err(Failure::Storage(format!(
                "the state of job '{job}' ends at offset {from} of {}, expected {to}",
                log.id()
            )));
        };
        from = last.last_offset.plus(1);
        for record in batches.into_iter().filter(|batch| !batch.control).flat_map(|b| b.records) {
            if record.offset < Offset::new(manifest.from) || record.offset >= to {
                continue;
            }
            let Some((node, subtask, key)) =
                record.key.as_deref().map_or(Ok(None), |key| parse_key(job, key))?
            else {
                continue;
            };
            let stamp = record.headers.iter().find(|(name, _)| name.as_ref() == b"e");
            let Some(stamp) =
                stamp.and_then(|(_, value)| value.as_deref()).filter(|v| v.len() == 12)
            else {
                continue;
            };
            let mut wrote_attempt = [0; 4];
            wrote_attempt.copy_from_slice(&stamp[..4]);
            let mut wrote_epoch = [0; 8];
            wrote_epoch.copy_from_slice(&stamp[4..]);
            let wrote_epoch = u64::from_be_bytes(wrote_epoch);
            if u32::from_be_bytes(wrote_attempt) != attempt
                || !(manifest.base_epoch..=epoch).contains(&wrote_epoch)
            {
                continue;
            }
            let key = (node, subtask, key.to_vec());
            match record.value {
                Some(value) => newest.insert(key, value),
                None => newest.remove(&key),
            };
        }
    }
    let mut entries: BTreeMap<u32, Vec<StateEntry>> = BTreeMap::new();
    for ((node, _, key), value) in newest {
        entries.entry(node).or_default().push(StateEntry { key, value: Some(value) });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_key_is_parsed_back_and_other_jobs_are_skipped() {
        let owner = StateOwner { job: "abc", attempt: 1, node: 7, subtask: 3 };
        let key = record_key(&owner, b"xyz");
        assert_eq!(parse_key("abc", &key), Ok(Some((7, 3, b"xyz".as_slice()))));
        assert_eq!(parse_key("abd", &key), Ok(None));
        assert_eq!(parse_key("abc", &[]), Ok(None));
        assert!(parse_key("abc", &key[..8]).is_err());
    }
}
