//! Writes rows as record values into a topic, exactly once: what is appended in an epoch becomes
//! visible to read_committed readers when the epoch is committed.

use std::sync::Arc;

use bytes::Bytes;
use prometheus::IntCounter;

use crate::log::Partition;
use crate::log::batch::{HEADER_BYTES, NewRecord};
use crate::stream::checkpoint::transaction::TransactionalWriter;
use crate::stream::format::json::Encoder;
use crate::stream::operator::{Barrier, Batch, Failure, Operator, Output, Snapshot, Watermark};
use crate::types::Clock;

/// Records are gathered into batches of about this size.
const BATCH_BYTES: usize = 256 << 10;
/// What a record needs beside its value at most.
const RECORD_OVERHEAD_BYTES: usize = 32;

/// See the module's header.
pub struct Sink {
    topic: String,
    encoder: Encoder,
    partitions: Vec<Partition>,
    /// Batches go round the partitions, as a keyless producer's do.
    next: usize,
    writer: TransactionalWriter,
    gathered: Vec<NewRecord>,
    gathered_bytes: usize,
    message_bytes_max: usize,
    clock: Arc<dyn Clock>,
    records_out: IntCounter,
}

impl Sink {
    /// `partitions` are the topic's, at least one.
    pub fn new(
        topic: String,
        encoder: Encoder,
        partitions: Vec<Partition>,
        writer: TransactionalWriter,
        message_bytes_max: u32,
        clock: Arc<dyn Clock>,
        records_out: IntCounter,
    ) -> Sink {
        Sink {
            topic,
            encoder,
            partitions,
            next: 0,
            writer,
            gathered: Vec::new(),
            gathered_bytes: HEADER_BYTES,
            message_bytes_max: message_bytes_max as usize,
            clock,
            records_out,
        }
    }

    fn add(&mut self, value: Bytes) -> Result<(), Failure> {
        let bytes = value.len() + RECORD_OVERHEAD_BYTES;
        if bytes + HEADER_BYTES > self.message_bytes_max {
            return Err(Failure::Rows(format!(
                "a row for topic '{}' has {} bytes as JSON, at most message.max.bytes = {} fit in a \
                 record batch; raise message.max.bytes",
                self.topic,
                value.len(),
                self.message_bytes_max
            )));
        }
        if self.gathered_bytes + bytes > BATCH_BYTES.min(self.message_bytes_max) {
            self.flush()?;
        }
        self.gathered_bytes += bytes;
        self.gathered.push(NewRecord {
            key: None,
            value: Some(value),
            headers: Vec::new(),
            timestamp: self.clock.now(),
        });
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.gathered_bytes = HEADER_BYTES;
        if self.gathered.is_empty() {
            return Ok(());
        }
        let partition = &self.partitions[self.next % self.partitions.len()];
        self.next = self.next.wrapping_add(1);
        self.writer.append(partition, &self.gathered)?;
        self.gathered.clear();
        Ok(())
    }
}

impl Operator for Sink {
    fn batch(&mut self, batch: Batch, _out: &mut dyn Output) -> Result<(), Failure> {
        if !batch.is_inserts() {
            return Err(Failure::Rows(format!(
                "topic '{}' takes inserts only, the query updates its results",
                self.topic
            )));
        }
        for value in self.encoder.encode(&batch.rows)? {
            self.add(value)?;
        }
        self.records_out.inc_by(batch.len() as u64);
        Ok(())
    }

    fn watermark(&mut self, _watermark: Watermark, _out: &mut dyn Output) -> Result<(), Failure> {
        Ok(())
    }

    fn barrier(&mut self, barrier: Barrier, snapshot: &mut Snapshot) -> Result<(), Failure> {
        self.flush()?;
        snapshot.appends.extend(self.writer.end_epoch(barrier.epoch));
        Ok(())
    }
}
