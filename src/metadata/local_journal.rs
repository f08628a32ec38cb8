//! The journal of one machine: slot n is partition n of the internal topic `__ottla_journal`, and a
//! position is the offset of a batch with one record. Works on logs alone and knows no metadata,
//! because the metadata is written here.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, OnceCell};
use uuid::Uuid;

use super::journal::{Journal, JournalError, SLOTS, Slot};
use crate::log::batch::{self, NewRecord};
use crate::log::{
    AppendOptions, AppendOrigin, Durable, Isolation, LogConfig, Logs, Partition, ReadError,
    ReadRequest, records,
};
use crate::types::{Clock, LogId, Offset, PartitionId, TopicId};

const TOPIC: &str = "__ottla_journal";
/// A trimmed slot gives its space back by whole segments, so they are small.
const SEGMENT_BYTES: u64 = 1 << 20;
/// How much a read returns at most, except for a single larger record.
const READ_BYTES_MAX: usize = 1 << 20;
/// Journal records are the broker's own: only the format limits their size.
const BATCH_BYTES_MAX: u32 = i32::MAX as u32;

/// The id of `__ottla_journal`: the same in every data directory, so that the journal can be found
/// before any metadata has been read.
pub fn journal_topic() -> TopicId {
    TopicId(Uuid::new_v5(&Uuid::NAMESPACE_URL, b"ottla:topic:__ottla_journal"))
}

/// A cheap handle; all handles of one process must be clones of one `LocalJournal::new`, since the
/// slots' locks order the writers.
#[derive(Clone)]
pub struct LocalJournal {
    shared: Arc<Shared>,
}

struct Shared {
    logs: Logs,
    clock: Arc<dyn Clock>,
    slots: Vec<SlotLog>,
}

/// A slot's log, opened when it is first used, and the lock that makes "is the position vacant?"
/// and "write it" one step.
#[derive(Default)]
struct SlotLog {
    partition: OnceCell<Partition>,
    append: Mutex<()>,
}

impl LocalJournal {
    /// A journal over `logs`. Opens nothing yet.
    pub fn new(logs: Logs, clock: Arc<dyn Clock>) -> LocalJournal {
        logs.name_topic(journal_topic(), TOPIC);
        let slots = (0..SLOTS).map(|_| SlotLog::default()).collect();
        LocalJournal { shared: Arc::new(Shared { logs, clock, slots }) }
    }
}

impl Shared {
    fn slot(&self, slot: Slot) -> Result<&SlotLog, JournalError> {
        self.slots.get(usize::from(slot.0)).ok_or_else(|| {
            JournalError::Storage(format!("slot {} does not exist, there are {SLOTS}", slot.0))
        })
    }

    async fn partition(&self, slot: Slot) -> Result<&Partition, JournalError> {
        let open = || async {
            let id = LogId { topic: journal_topic(), partition: PartitionId(u32::from(slot.0)) };
            let logs = self.logs.clone();
            let opened = tokio::task::spawn_blocking(move || logs.open(id));
            let partition = opened.await.map_err(storage)?.map_err(storage)?;
            let config = LogConfig::clone(&partition.config());
            let segment_bytes = SEGMENT_BYTES.min(config.segment_bytes);
            self.logs.configure(id.topic, TOPIC, LogConfig { segment_bytes, ..config });
            Ok(partition)
        };
        self.slot(slot)?.partition.get_or_try_init(open).await
    }

    async fn append(&self, slot: Slot, seq: u64, record: Bytes) -> Result<(), JournalError> {
        let partition = self.partition(slot).await?;
        let _vacant = self.slot(slot)?.append.lock().await;
        let span = partition.span();
        let next = span.end.get();
        // Whether the record before is there is not known, so it can be neither counted nor left out.
        if span.end > span.high_watermark {
            let slot = slot.0;
            return Err(JournalError::Storage(format!(
                "a record of slot {slot} was written and could not be synced; restart the broker"
            )));
        }
        if seq != next {
            return Err(JournalError::Occupied { next });
        }
        let record =
            NewRecord { value: Some(record), timestamp: self.clock.now(), ..NewRecord::default() };
        let options = AppendOptions {
            durable: Durable::Synced,
            batch_bytes_max: BATCH_BYTES_MAX,
            origin: AppendOrigin::Broker,
        };
        partition.append(batch::encode(&[record], None), options).await.map_err(storage)?;
        Ok(())
    }

    async fn read(&self, slot: Slot, from: u64) -> Result<Vec<(u64, Bytes)>, JournalError> {
        let partition = self.partition(slot).await?;
        let read = loop {
            let span = partition.span();
            let from = from.max(span.start.get());
            if from >= span.high_watermark.get() {
                return Ok(Vec::new());
            }
            let request = ReadRequest {
                from: Offset::new(from),
                bytes_max: READ_BYTES_MAX,
                at_least_one: true,
                isolation: Isolation::ReadUncommitted,
            };
            match partition.read(request).await {
                Ok(read) => break read,
                // Trimmed just now.
                Err(ReadError::OutOfRange { .. }) if partition.span().start > request.from => {}
                Err(error) => return Err(storage(error)),
            }
        };
        let batches = records::decode(read.records, BATCH_BYTES_MAX as usize).map_err(storage)?;
        let records = batches.into_iter().flat_map(|batch| batch.records);
        Ok(records
            .map(|record| (record.offset.get(), record.value.unwrap_or_default()))
            .filter(|(seq, _)| *seq >= from)
            .collect())
    }

    async fn trim(&self, slot: Slot, before: u64) -> Result<(), JournalError> {
        let partition = self.partition(slot).await?;
        let before = Offset::new(before).min(partition.span().end);
        partition.trim(before).await.map(drop).map_err(storage)
    }

    async fn watch(&self, slot: Slot, from: u64) -> Result<(), JournalError> {
        let mut span = self.partition(slot).await?.subscribe();
        let written = span.wait_for(|span| span.high_watermark.get() > from).await;
        written.map(|_| ()).map_err(storage)
    }
}

fn storage(error: impl std::fmt::Display) -> JournalError {
    JournalError::Storage(error.to_string())
}

impl Journal for LocalJournal {
    fn append(
        &self,
        slot: Slot,
        seq: u64,
        record: Bytes,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        let shared = self.shared.clone();
        // A task of its own: a caller that gives up must not release the slot's lock between the
        // write and the log's new end, or the next writer would take the same position.
        let append = async move { shared.append(slot, seq, record).await };
        Box::pin(async move { tokio::spawn(append).await.map_err(storage)? })
    }

    fn read(
        &self,
        slot: Slot,
        from: u64,
    ) -> BoxFuture<'static, Result<Vec<(u64, Bytes)>, JournalError>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.read(slot, from).await })
    }

    fn trim(&self, slot: Slot, before: u64) -> BoxFuture<'static, Result<(), JournalError>> {
        let shared = self.shared.clone();
        // A task of its own: a caller that gives up must not leave files behind.
        let trim = async move { shared.trim(slot, before).await };
        Box::pin(async move { tokio::spawn(trim).await.map_err(storage)? })
    }

    fn watch(&self, slot: Slot, from: u64) -> BoxFuture<'static, Result<(), JournalError>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.watch(slot, from).await })
    }
}
