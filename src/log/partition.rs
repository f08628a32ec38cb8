//! The handle of one partition log: appends go to its writer, reads to memory or to the store.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tracing::warn;
use uuid::Uuid;

use crate::log::append::owner::Trimmed;
use crate::log::append::queue::{Closed, block_on};
use crate::log::append::shard::Shard;
use crate::log::append::tail::Tail;
use crate::log::append::writer::{Append, Batches, Command, End, Trim};
use crate::log::config::LogConfig;
use crate::log::format::admit::{Effort, Terms, Unadmitted};
use crate::log::format::batch::BatchHeader;
use crate::log::format::validate;
use crate::log::object::manifest::{Manifest, ManifestSegment};
use crate::log::object::record_store::ObjectId;
use crate::log::outcome::{
    AbortedTxn, AppendError, AppendOptions, AppendOrigin, Appended, Durable, Marker, OffsetSpan,
    OpenTxn, ReadError, ReadRequest, ReadResult, TimestampOffset, TrimError,
};
use crate::log::read::cold::Passed;
use crate::log::read::cursor::Cursors;
use crate::log::segment::{LargestTimestamp, Segment};
use crate::log::settings::Settings;
use crate::log::topics::TopicSettings;
use crate::types::{LogId, Offset, ProducerEpoch, ProducerId, Timestamp};

/// An append whose place in the log's order is fixed. Await it for the outcome. Dropping it does not undo the
/// append.
pub struct PendingAppend {
    outcome: Outcome,
}

enum Outcome {
    Done(Result<Appended, AppendError>),
    Queued(oneshot::Receiver<Result<Appended, AppendError>>),
}

impl PendingAppend {
    fn refused(error: AppendError) -> PendingAppend {
        PendingAppend::done(Err(error))
    }

    fn done(outcome: Result<Appended, AppendError>) -> PendingAppend {
        PendingAppend { outcome: Outcome::Done(outcome) }
    }

    /// The outcome, if it is known already; otherwise the append itself.
    pub fn into_outcome(self) -> Result<Result<Appended, AppendError>, PendingAppend> {
        match self.outcome {
            Outcome::Done(outcome) => Ok(outcome),
            Outcome::Queued(_) => Err(self),
        }
    }
}

impl Future for PendingAppend {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.outcome {
            Outcome::Done(outcome) => Poll::Ready(outcome.clone()),
            Outcome::Queued(reply) => {
                Pin::new(reply).poll(cx).map(|reply| reply.unwrap_or(Err(AppendError::Stopping)))
            }
        }
    }
}

/// What the writer shares with readers. Only the writer changes it.
pub(super) struct Shared {
    pub(super) id: LogId,
    pub(super) settings: Arc<Settings>,
    pub(super) span: watch::Receiver<OffsetSpan>,
    pub(super) deleted: AtomicBool,
    topic: Arc<TopicSettings>,
    readable: RwLock<Readable>,
    noted: Mutex<Noted>,
    shard: Shard,
    pub(super) cursors: Cursors,
    pub(super) passed: Passed,
}

/// What the log's manifest says, but for what can be read from its segments. See `Manifest`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Noted {
    /// The version of the last manifest.
    pub(super) version: u64,
    pub(super) start: Offset,
    /// The durable end.
    pub(super) end: Offset,
    pub(super) failed_sync: Option<Uuid>,
    /// The log has refused appends since it was opened: nothing is known of its end.
    pub(super) is_void: bool,
}

/// The bytes and transactions that readers may see.
#[derive(Default)]
pub(super) struct Readable {
    /// Ordered by base offset; the last one is the active segment.
    pub(super) segments: Vec<Segment>,
    /// How often segments were dropped or replaced.
    pub(super) departures: u64,
    /// The largest timestamp of the batches that were published before the first unpublished one.
    pub(super) published_largest: Option<LargestTimestamp>,
    pub(super) tail: Tail,
    /// By the offset of the marker.
    pub(super) aborted: Vec<AbortedTxn>,
    /// By first offset.
    pub(super) open: Vec<OpenTxn>,
    /// Up to where the log is compacted.
    pub(super) cleaned_to: Offset,
}

impl Readable {
    /// The largest timestamp of all that is written, and the first batch that has it.
    pub(super) fn largest(&self) -> Option<LargestTimestamp> {
        largest(&self.segments)
    }
}

/// The largest timestamp of some segments, and the first batch that has it.
pub(super) fn largest(segments: &[Segment]) -> Option<LargestTimestamp> {
    let all = segments.iter().filter_map(|segment| segment.largest);
    all.reduce(|a, b| if b.timestamp > a.timestamp { b } else { a })
}

impl Shared {
    pub(super) fn new(
        id: LogId,
        settings: Arc<Settings>,
        span: watch::Receiver<OffsetSpan>,
        readable: Readable,
        noted: Noted,
        shard: Shard,
    ) -> Shared {
        let topic = settings.topics.of(id.topic);
        Shared {
            id,
            settings,
            topic,
            span,
            deleted: AtomicBool::new(false),
            readable: RwLock::new(readable),
            noted: Mutex::new(noted),
            shard,
            cursors: Cursors::default(),
            passed: Passed::default(),
        }
    }

    /// The topic's current configs.
    pub(super) fn config(&self) -> Arc<LogConfig> {
        self.topic.config()
    }

    // If a reader panicked with the lock, the contents are valid all the same: readers change nothing.
    pub(super) fn readable(&self) -> RwLockReadGuard<'_, Readable> {
        self.readable.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn readable_mut(&self) -> RwLockWriteGuard<'_, Readable> {
        self.readable.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next manifest says.
    pub(super) fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new manifest of the log as it is now.
    pub(super) fn manifest(&self) -> Manifest {
        // With both locks: of two manifests, the one with the higher version tells the later state.
        let readable = self.readable();
        let mut noted = self.noted();
        noted.version += 1;
        let Noted { version, start, end, failed_sync, .. } = *noted;
        let listed = readable.segments.iter().take_while(|segment| segment.object.base < end);
        let segment =
            |segment: &Segment| ManifestSegment { id: segment.id(), bytes: segment.bytes };
        let (cleaned_to, segments) = (readable.cleaned_to, listed.map(segment).collect());
        Manifest { version, start, end, cleaned_to, failed_sync, segments }
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Marks the log as deleted for readers. Its writer drops the recent batches in memory.
    pub(super) fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
    }

    /// Deletes objects that the log no longer needs. Blocking.
    pub(super) fn delete(&self, objects: &[ObjectId]) {
        for object in objects {
            if let Err(error) = self.settings.store.delete(*object) {
                let log = self.settings.label(self.id);
                warn!(log, segment = %object, %error, "an unused segment could not be deleted, the next start deletes it");
            }
        }
    }

    /// Sends a command that needs no room in the queue to the log's writer.
    pub(super) fn send(&self, command: Command) -> Result<(), Closed> {
        self.shard.send(command)
    }

    /// The error of an append whose writer has ended: the topic is deleted, or the broker is stopping.
    fn gone(&self) -> AppendError {
        if self.is_deleted() { AppendError::Deleted } else { AppendError::Stopping }
    }
}

/// A cheap handle to one partition log, which its writer owns.
#[derive(Clone)]
pub struct Partition {
    pub(super) shared: Arc<Shared>,
}

impl Partition {
    /// Which log this is.
    pub fn id(&self) -> LogId {
        self.shared.id
    }

    /// The topic's current configs.
    pub fn config(&self) -> Arc<LogConfig> {
        self.shared.config()
    }

    /// Checks `batches` (one or more v2 record batches) and queues them, verbatim unless the topic's
    /// configs ask for something else. Waits only while the writer's queue is full, or while large
    /// batches are checked or given another codec on another thread. The order of `enqueue` calls that
    /// wait for each other is the order in the log.
    pub async fn enqueue(&self, batches: Bytes, options: AppendOptions) -> PendingAppend {
        let mut headers = match validate::headers(&batches, options.batch_bytes_max) {
            Ok(headers) => headers,
            Err(error) => return PendingAppend::refused(error),
        };
        let config = self.config();
        let segment_bytes = config.segment_bytes;
        let settings = &self.shared.settings;
        let terms = Terms::new(&config, options, settings.checks_compressed, settings.clock.now());
        let (batches, headers) = match terms.admit(&batches, &mut headers, Effort::Brief) {
            Ok(None) => (batches, headers),
            Ok(Some(stored)) => (stored, headers),
            Err(Unadmitted::Refused(error)) => return PendingAppend::refused(error),
            // Boxed, so that appends that are checked here do not carry the room for it.
            Err(Unadmitted::Later) => {
                match Box::pin(self.admit_elsewhere(batches, headers, options, config)).await {
                    Ok(admitted) => admitted,
                    Err(error) => return PendingAppend::refused(error),
                }
            }
        };
        let is_client = options.origin == AppendOrigin::Client;
        if is_client && batches.len() as u64 > segment_bytes {
            let bytes = batches.len();
            return PendingAppend::refused(AppendError::LargerThanSegment { bytes, segment_bytes });
        }
        self.queue_append(batches, headers, options.durable).await
    }

    /// Checks batches that take longer than a network thread can be spared; some at a time, on
    /// threads that may take that long.
    async fn admit_elsewhere(
        &self,
        batches: Bytes,
        mut headers: Vec<BatchHeader>,
        options: AppendOptions,
        config: Arc<LogConfig>,
    ) -> Result<(Bytes, Vec<BatchHeader>), AppendError> {
        let settings = &self.shared.settings;
        let (now, checks_compressed) = (settings.clock.now(), settings.checks_compressed);
        let admit = move || {
            let terms = Terms::new(&config, options, checks_compressed, now);
            match terms.admit(&batches, &mut headers, Effort::Full) {
                Ok(stored) => Ok((stored.unwrap_or(batches), headers)),
                Err(Unadmitted::Refused(error)) => Err(error),
                Err(Unadmitted::Later) => Err(AppendError::Stopping),
            }
        };
        // A thread outside the runtime is one that may be held up.
        if Handle::try_current().is_err() {
            return admit();
        }
        let permit =
            settings.checks.clone().acquire_owned().await.map_err(|_| AppendError::Stopping)?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            admit()
        })
        .await
        .unwrap_or_else(|_| Err(AppendError::Stopping))
    }

    async fn queue_append(
        &self,
        batches: Bytes,
        headers: Vec<BatchHeader>,
        durable: Durable,
    ) -> PendingAppend {
        let (shard, log) = (&self.shared.shard, self.shared.id);
        let mut batches = Batches { bytes: batches, headers };
        if durable == Durable::Written || !self.shared.settings.sync {
            batches = match shard.append(log, batches) {
                Ok(written) => return PendingAppend::done(written),
                Err(batches) => batches,
            };
        }
        let Ok(room) = shard.room(batches.bytes.len()).await else {
            return PendingAppend::refused(self.shared.gone());
        };
        let (reply, outcome) = oneshot::channel();
        match shard.send(Command::Append(Append { log, batches, durable, reply, room })) {
            Ok(()) => PendingAppend { outcome: Outcome::Queued(outcome) },
            Err(Closed) => PendingAppend::refused(self.shared.gone()),
        }
    }

    /// `enqueue`, then the outcome.
    pub async fn append(
        &self,
        batches: Bytes,
        options: AppendOptions,
    ) -> Result<Appended, AppendError> {
        self.enqueue(batches, options).await.await
    }

    /// `append` for threads outside the runtime (the executor's).
    pub fn append_blocking(
        &self,
        batches: Bytes,
        options: AppendOptions,
    ) -> Result<Appended, AppendError> {
        block_on(self.append(batches, options))
    }

    /// Ends the producer's open transaction with a synced control batch. `Ok(None)` when it has
    /// none here: writing a marker twice is harmless. Raises the producer's epoch to `epoch`.
    pub async fn end_transaction(
        &self,
        producer: ProducerId,
        epoch: ProducerEpoch,
        marker: Marker,
    ) -> Result<Option<Appended>, AppendError> {
        let shard = &self.shared.shard;
        let room = shard.room(0).await.map_err(|Closed| self.shared.gone())?;
        let (reply, outcome) = oneshot::channel();
        let end = End { log: self.shared.id, producer, epoch, marker, reply, room };
        shard.send(Command::End(end)).map_err(|Closed| self.shared.gone())?;
        outcome.await.unwrap_or(Err(AppendError::Stopping))
    }

    /// `end_transaction` for threads outside the runtime.
    pub fn end_transaction_blocking(
        &self,
        producer: ProducerId,
        epoch: ProducerEpoch,
        marker: Marker,
    ) -> Result<Option<Appended>, AppendError> {
        block_on(self.end_transaction(producer, epoch, marker))
    }

    /// Raises the log's start to `before`, durably, and deletes whole segments below it. Returns the new
    /// start, which is never lower than before.
    pub async fn trim(&self, before: Offset) -> Result<Offset, TrimError> {
        let log = self.clone();
        // A task of its own: the segments must be deleted also if the caller stops waiting.
        let trim = tokio::spawn(async move {
            let trimmed = log.raise_start(before).await?;
            if !trimmed.objects.is_empty() {
                let deleted = move || log.shared.delete(&trimmed.objects);
                // If this fails, the next start deletes them.
                drop(tokio::task::spawn_blocking(deleted).await);
            }
            Ok(trimmed.start)
        });
        trim.await.unwrap_or(Err(TrimError::Stopping))
    }

    /// `trim` for threads outside the runtime.
    pub fn trim_blocking(&self, before: Offset) -> Result<Offset, TrimError> {
        let trimmed = block_on(self.raise_start(before))?;
        self.shared.delete(&trimmed.objects);
        Ok(trimmed.start)
    }

    pub(super) async fn raise_start(&self, before: Offset) -> Result<Trimmed, TrimError> {
        let gone = || match self.shared.is_deleted() {
            true => TrimError::Deleted,
            false => TrimError::Stopping,
        };
        let shard = &self.shared.shard;
        let room = shard.room(0).await.map_err(|Closed| gone())?;
        let (reply, outcome) = oneshot::channel();
        let trim = Trim { log: self.shared.id, before, reply, room };
        shard.send(Command::Trim(trim)).map_err(|Closed| gone())?;
        outcome.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Transactions without a marker, by first offset.
    pub fn open_transactions(&self) -> Vec<OpenTxn> {
        self.shared.readable().open.clone()
    }

    /// Reads whole batches: from memory, or for a sequential reader from the page cache, on the calling
    /// thread; otherwise on a thread that may wait for the disk.
    pub async fn read(&self, request: ReadRequest) -> Result<ReadResult, ReadError> {
        if let Some(result) = self.shared.read_memory(&request)? {
            return Ok(result);
        }
        if let Some(result) = self.shared.read_ready(&request) {
            // A request may read many partitions this way: let other tasks of the thread run between.
            tokio::task::yield_now().await;
            return Ok(result);
        }
        self.on_reader_thread(move |shared| shared.read(&request)).await
    }

    /// `read` on the calling thread, for threads outside the runtime.
    pub fn read_blocking(&self, request: ReadRequest) -> Result<ReadResult, ReadError> {
        self.shared.read(&request)
    }

    /// The current offsets.
    pub fn span(&self) -> OffsetSpan {
        *self.shared.span.borrow()
    }

    /// A receiver of every change of the span; it is closed when the topic is deleted.
    pub fn subscribe(&self) -> watch::Receiver<OffsetSpan> {
        let mut span = self.shared.span.clone();
        span.mark_unchanged();
        span
    }

    /// The first record at or after `timestamp`, exact to the record inside a batch.
    pub async fn first_at_or_after(
        &self,
        timestamp: Timestamp,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        self.on_reader_thread(move |shared| shared.first_at_or_after(timestamp)).await
    }

    /// The record with the largest timestamp (KIP-734).
    pub async fn max_timestamp(&self) -> Result<Option<TimestampOffset>, ReadError> {
        self.on_reader_thread(|shared| shared.max_timestamp()).await
    }

    /// The header of the batch that holds `offset`, or of the next one below the high watermark. Reads
    /// no records.
    pub async fn header_at(&self, offset: Offset) -> Result<Option<BatchHeader>, ReadError> {
        self.on_reader_thread(move |shared| shared.header_at(offset)).await
    }

    /// Bytes of all segments.
    pub fn size_bytes(&self) -> u64 {
        self.shared.readable().segments.iter().map(|segment| segment.bytes).sum()
    }

    async fn on_reader_thread<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let shared = self.shared.clone();
        let log = shared.id;
        tokio::task::spawn_blocking(move || read(&shared))
            .await
            .unwrap_or_else(|e| Err(ReadError::Storage { log, reason: e.to_string() }))
    }
}
