//! Writing under the job's producer ids, and ending those transactions.
//!
//! Each writer (a sink's subtask, or a subtask's state) has two producer ids that alternate by
//! epoch, so that markers of epoch n overlap output of n+1. Epoch n+2 takes the first id up again
//! only after n's markers, which is why barrier n+1 waits for them.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tokio::runtime::Handle;
use tracing::debug;

use super::record::Touched;
use crate::log::batch::{self, NewRecord, Producer};
use crate::log::{
    AppendError, AppendOptions, AppendOrigin, Durable, Marker, Partition, PendingAppend,
};
use crate::stream::operator::Failure;
use crate::types::{LogId, Offset, ProducerEpoch, ProducerId};

/// An append of the epoch that just ended, on its way to disk.
pub struct EpochAppend {
    /// Where.
    pub log: LogId,
    /// Under which producer.
    pub producer: ProducerId,
    /// Its outcome.
    pub pending: PendingAppend,
}

/// Appends transactional batches for one writer; belongs to one subtask thread.
pub struct TransactionalWriter {
    producers: [ProducerId; 2],
    producer_epoch: ProducerEpoch,
    /// The checkpoint epoch whose output is being written.
    epoch: u64,
    /// Next sequence per partition and producer.
    sequences: HashMap<(LogId, usize), i32>,
    appends: Vec<EpochAppend>,
    batch_bytes_max: u32,
    runtime: Handle,
}

impl TransactionalWriter {
    /// A writer that begins with `epoch`. No batch may exceed `batch_bytes_max`.
    pub fn new(
        producers: [ProducerId; 2],
        producer_epoch: ProducerEpoch,
        epoch: u64,
        batch_bytes_max: u32,
        runtime: Handle,
    ) -> TransactionalWriter {
        TransactionalWriter {
            producers,
            producer_epoch,
            epoch,
            sequences: HashMap::new(),
            appends: Vec::new(),
            batch_bytes_max,
            runtime,
        }
    }

    /// Queues one batch; its outcome comes with `end_epoch`. Waits while the log's queue is full.
    /// Only for threads outside the runtime.
    pub fn append(&mut self, log: &Partition, records: &[NewRecord]) -> Result<(), Failure> {
        let parity = (self.epoch % 2) as usize;
        let sequence = self.sequences.entry((log.id(), parity)).or_insert(0);
        let producer = Producer {
            id: self.producers[parity],
            epoch: self.producer_epoch,
            base_sequence: *sequence,
            transactional: true,
        };
        let bytes: Bytes = batch::encode(records, Some(producer));
        // Sequences wrap from 2^31 - 1 to 0, as Kafka's do.
        *sequence = ((i64::from(*sequence) + records.len() as i64) % (1 << 31)) as i32;
        let options = AppendOptions {
            durable: Durable::Synced,
            batch_bytes_max: self.batch_bytes_max,
            origin: AppendOrigin::Broker,
        };
        let pending = self.runtime.block_on(log.enqueue(bytes, options));
        self.appends.push(EpochAppend { log: log.id(), producer: producer.id, pending });
        Ok(())
    }

    /// Ends `epoch`: hands over its appends, and writes the next one from now on.
    pub fn end_epoch(&mut self, epoch: u64) -> Vec<EpochAppend> {
        self.epoch = epoch + 1;
        std::mem::take(&mut self.appends)
    }
}

/// The outcome of an epoch's append, as a failure that says what to do.
pub fn append_failure(log: LogId, error: &AppendError) -> Failure {
    Failure::Storage(format!("output could not be appended to log {log}: {error}"))
}

/// Ends every transaction that `producers` have open in `logs`: those that `committed` covers with
/// COMMIT, all others with ABORT. Harmless when repeated. A log that refuses does not keep the
/// others from being settled; the first refusal is returned.
pub async fn settle(
    logs: &[Partition],
    producers: &HashSet<ProducerId>,
    committed: &[Touched],
    producer_epoch: ProducerEpoch,
) -> Result<(), Failure> {
    let covered: HashMap<(LogId, ProducerId), Offset> = committed
        .iter()
        .filter_map(|touched| {
            let last = Offset::new(touched.last_offset);
            Some(((touched.log()?, touched.producer()), last))
        })
        .collect();
    let mut outcome = Ok(());
    for log in logs {
        let open = log.open_transactions();
        for &producer in producers {
            let first = open.iter().find(|open| open.producer == producer);
            let marker = match (first, covered.get(&(log.id(), producer))) {
                (Some(open), Some(last)) if open.first_offset <= *last => Marker::Commit,
                // Also without an open transaction: an append may still wait in the log's queue,
                // and what is not answered yet is part of no committed epoch.
                _ => Marker::Abort,
            };
            match log.end_transaction(producer, producer_epoch, marker).await {
                Ok(Some(_)) => {
                    debug!(log = %log.id(), %producer, ?marker, "ended a job's open transaction");
                }
                Ok(None) => {}
                Err(error) => {
                    outcome = outcome.and(Err(append_failure(log.id(), &error)));
                    break;
                }
            }
        }
    }
    outcome
}
