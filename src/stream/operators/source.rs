//! Reads a topic's partitions: committed records to rows, and watermarks per partition.
//!
//! Positions and the partitions' watermarks are part of a checkpoint, so that after a crash event
//! time stands where it stood and the same rows are late (Flink begins its watermarks anew).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{Array, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMillisecondType};
use arrow::record_batch::RecordBatch;
use futures_util::future::select_all;
use prometheus::IntCounter;
use tokio::sync::watch;

use super::project::Project;
use crate::log::{Isolation, OffsetSpan, Partition, ReadRequest, records};
use crate::stream::chain::OperatorCounters;
use crate::stream::checkpoint::record::SourcePosition;
use crate::stream::format::json::Decoder;
use crate::stream::graph::{Emit, Format, Source as Plan, Watermarks};
use crate::stream::operator::{Batch, Failure, Output, Watermark};
use crate::types::{Clock, Offset, PartitionId, Timestamp};

/// Rows per batch.
const BATCH_ROWS: usize = 4096;
/// Bytes per read, unless a single batch is larger.
const READ_BYTES: usize = 1 << 20;
/// What one compressed batch may inflate to.
const INFLATED_BYTES_MAX: usize = 64 << 20;

/// What a source shares with those who watch it.
#[derive(Clone)]
pub(crate) struct SourceCounters {
    pub(crate) operator: Arc<OperatorCounters>,
    pub(crate) records_in: IntCounter,
    /// Grows with every offset and watermark.
    pub(crate) progress: Arc<AtomicU64>,
    /// The last watermark sent; `i64::MIN` before the first.
    pub(crate) watermark_ms: Arc<AtomicI64>,
}

/// A partition as the source begins to read it.
#[derive(Clone)]
pub(crate) struct StartPartition {
    pub(crate) id: PartitionId,
    pub(crate) log: Partition,
    pub(crate) position: Offset,
    pub(crate) watermark_ms: Option<i64>,
}

/// See the module's header. The root of a subtask, not an operator: it has no input.
pub(crate) struct Source {
    node: u32,
    topic: String,
    decoder: Decoder,
    computed: Option<Project>,
    watermarks: Option<Watermarks>,
    partitions: Vec<Reader>,
    emitted_ms: i64,
    emitted_at: Duration,
    told_idle: bool,
    clock: Arc<dyn Clock>,
    counters: SourceCounters,
}

struct Reader {
    id: PartitionId,
    log: Partition,
    changes: watch::Receiver<OffsetSpan>,
    position: Offset,
    watermark_ms: Option<i64>,
    active_at: Duration,
    idle: bool,
}

impl Source {
    /// A source as planned, with the rows of `schema`.
    pub(crate) fn new(
        node: u32,
        plan: &Plan,
        schema: &SchemaRef,
        partitions: Vec<StartPartition>,
        clock: Arc<dyn Clock>,
        counters: SourceCounters,
    ) -> Result<Source, Failure> {
        let Format::Json(json) = &plan.format;
        let decoder = Decoder::new(plan.physical.clone(), json.clone()).map_err(Failure::Rows)?;
        let computed = plan.computed.clone();
        let now = clock.monotonic();
        let partitions = partitions
            .into_iter()
            .map(|start| Reader {
                id: start.id,
                changes: start.log.subscribe(),
                log: start.log,
                position: start.position,
                watermark_ms: start.watermark_ms,
                active_at: now,
                idle: false,
            })
            .collect();
        Ok(Source {
            node,
            topic: plan.topic.clone(),
            decoder,
            computed: computed.map(|columns| Project::new(columns, schema.clone())),
            watermarks: plan.watermark.clone(),
            partitions,
            emitted_ms: i64::MIN,
            emitted_at: now,
            told_idle: false,
            clock,
            counters,
        })
    }

    /// Reads once from each partition that has something. Returns whether there was anything.
    pub(crate) fn poll(&mut self, out: &mut dyn Output) -> Result<bool, Failure> {
        let mut any = false;
        for index in 0..self.partitions.len() {
            any |= self.poll_partition(index, out)?;
        }
        Ok(any)
    }

    /// Waits until a partition changes. Seen changes are those before the last `poll`.
    pub(crate) async fn changed(&mut self) -> Result<(), Failure> {
        let changes = self.partitions.iter_mut().map(|reader| Box::pin(reader.changes.changed()));
        let changes: Vec<_> = changes.collect();
        if changes.is_empty() {
            return std::future::pending().await;
        }
        let (changed, _, _) = select_all(changes).await;
        changed.map_err(|_| Failure::Topic(format!("topic '{}' was deleted", self.topic)))
    }

    /// Does what is due by the clock: periodic watermarks, idle partitions.
    pub(crate) fn tick(&mut self, out: &mut dyn Output) -> Result<(), Failure> {
        let now = self.clock.monotonic();
        let Some(watermarks) = &self.watermarks else { return Ok(()) };
        if let Some(timeout) = watermarks.idle_timeout {
            for reader in &mut self.partitions {
                // A partition with records to read is not idle, however long a full ring or a
                // slow operator kept the source from reading them.
                let caught_up = reader.position >= reader.changes.borrow().last_stable;
                reader.idle = caught_up && now.saturating_sub(reader.active_at) >= timeout;
            }
        }
        let due = match watermarks.emit {
            Emit::Periodic(every) => now.saturating_sub(self.emitted_at) >= every,
            Emit::OnEvent => true,
        };
        if due {
            self.emitted_at = now;
            self.emit_watermark(out)?;
        }
        // Partitions may also all be elsewhere: more subtasks than partitions.
        if self.partitions.iter().all(|reader| reader.idle) && !self.told_idle {
            self.told_idle = true;
            out.idle()?;
        }
        Ok(())
    }

    /// Where the source stands, for a checkpoint.
    pub(crate) fn positions(&self) -> Vec<SourcePosition> {
        self.partitions
            .iter()
            .map(|reader| SourcePosition {
                node: self.node,
                topic: reader.log.id().topic.to_string(),
                partition: reader.id.0,
                offset: reader.position.get(),
                watermark_ms: reader.watermark_ms,
            })
            .collect()
    }

    fn poll_partition(&mut self, index: usize, out: &mut dyn Output) -> Result<bool, Failure> {
        let reader = &mut self.partitions[index];
        let span = *reader.changes.borrow_and_update();
        if reader.position >= span.last_stable {
            return Ok(false);
        }
        let request = ReadRequest {
            from: reader.position,
            bytes_max: READ_BYTES,
            at_least_one: true,
            isolation: Isolation::ReadCommitted,
        };
        let (id, from) = (reader.id, reader.position);
        let topic = self.topic.clone();
        let unreadable = |reason: String| {
            Failure::Topic(format!("topic '{topic}', partition {id}, offset {from}: {reason}"))
        };
        let read = reader.log.read_blocking(request).map_err(|e| unreadable(e.to_string()))?;
        let batches = records::decode(read.records, INFLATED_BYTES_MAX)
            .map_err(|e| unreadable(e.to_string()))?;
        let Some(next) = batches.last().map(|batch| batch.last_offset.plus(1)) else {
            return Ok(false);
        };
        for batch in records::committed(batches, &read.aborted) {
            // The first batch may begin before the position; a tombstone is no row.
            for record in batch.records {
                let Some(value) = record.value.filter(|_| record.offset >= from) else { continue };
                self.decoder.push(&value).map_err(|reject| Failure::Record {
                    topic: self.topic.clone(),
                    partition: id,
                    offset: record.offset,
                    reason: reject.to_string(),
                })?;
                if self.decoder.rows() >= BATCH_ROWS {
                    self.push(index, out)?;
                }
            }
        }
        self.push(index, out)?;
        let now = self.clock.monotonic();
        let reader = &mut self.partitions[index];
        reader.position = next;
        reader.active_at = now;
        self.counters.progress.fetch_add(next.since(from).max(1), Ordering::Relaxed);
        Ok(true)
    }

    /// Sends the decoded rows on.
    fn push(&mut self, index: usize, out: &mut dyn Output) -> Result<(), Failure> {
        if self.decoder.rows() == 0 {
            return Ok(());
        }
        let mut rows = self.decoder.finish()?;
        if let Some(computed) = &self.computed {
            rows = computed.evaluate(&rows)?;
        }
        let count = rows.num_rows() as u64;
        self.counters.operator.records_in.fetch_add(count, Ordering::Relaxed);
        self.counters.operator.records_out.fetch_add(count, Ordering::Relaxed);
        self.counters.records_in.inc_by(count);
        self.told_idle = false;
        let mut batch = Batch::inserts(rows);
        let Some(watermarks) = &self.watermarks else { return out.batch(batch) };
        let proposed = proposals(watermarks, &batch.rows)?;
        let now = self.clock.monotonic();
        let others = self.smallest(Some(index));
        let reader = &mut self.partitions[index];
        reader.active_at = now;
        reader.idle = false;
        let on_event = watermarks.emit == Emit::OnEvent;
        let mut in_force = Vec::with_capacity(if on_event { batch.len() } else { 0 });
        let mut emitted = self.emitted_ms;
        for row in 0..proposed.len() {
            if on_event {
                in_force.push(emitted);
            }
            if proposed.is_valid(row) {
                let own = reader.watermark_ms.unwrap_or(i64::MIN).max(proposed.value(row));
                reader.watermark_ms = Some(own);
                let smallest = match others {
                    Smallest::Held => continue,
                    Smallest::At(others) => own.min(others),
                    Smallest::Free => own,
                };
                emitted = emitted.max(smallest);
            }
        }
        if on_event {
            batch.watermarks = Some(Int64Array::from(in_force));
        }
        out.batch(batch)?;
        if on_event { self.emit_watermark(out) } else { Ok(()) }
    }

    /// The smallest watermark over the partitions that count, without one of them if given.
    fn smallest(&self, without: Option<usize>) -> Smallest {
        let mut smallest = Smallest::Free;
        for (index, reader) in self.partitions.iter().enumerate() {
            if reader.idle || without == Some(index) {
                continue;
            }
            smallest = match (smallest, reader.watermark_ms) {
                (_, None) => return Smallest::Held,
                (Smallest::At(so_far), Some(own)) => Smallest::At(so_far.min(own)),
                (_, Some(own)) => Smallest::At(own),
            };
        }
        smallest
    }

    fn emit_watermark(&mut self, out: &mut dyn Output) -> Result<(), Failure> {
        if let Smallest::At(smallest) = self.smallest(None)
            && smallest > self.emitted_ms
        {
            self.emitted_ms = smallest;
            self.counters.watermark_ms.store(smallest, Ordering::Relaxed);
            self.counters.progress.fetch_add(1, Ordering::Relaxed);
            out.watermark(Watermark(Timestamp(smallest)))?;
        }
        Ok(())
    }
}

/// A minimum over partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Smallest {
    /// No partition counts.
    Free,
    /// A partition has no watermark yet and holds the others back.
    Held,
    /// The minimum.
    At(i64),
}

/// The watermark that each row proposes, in ms.
fn proposals(watermarks: &Watermarks, rows: &RecordBatch) -> Result<Int64Array, Failure> {
    let proposed = watermarks.expr.evaluate(rows)?.into_array(rows.num_rows())?;
    let millis = match proposed.data_type() {
        DataType::Timestamp(TimeUnit::Millisecond, _) => proposed,
        _ => cast(&proposed, &DataType::Timestamp(TimeUnit::Millisecond, None))?,
    };
    let millis = millis.as_primitive::<TimestampMillisecondType>();
    Ok(Int64Array::new(millis.values().clone(), millis.nulls().cloned()))
}
