//! Every log of this node: opens, recovers and deletes logs, and owns their writer and upkeep threads. No
//! record passes through here: a log is appended to and read through its handle in `partition.rs`.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use dashmap::DashMap;
use tokio::sync::{oneshot, watch};

use super::append::owner::{OwnedLog, Recovered};
use super::append::queue;
use super::append::shard::Shard;
use super::append::writer::{Command, Writer};
use super::boot::Boot;
use super::config::LogConfig;
use super::meter;
use super::object::local_store::LocalRecordStore;
use super::object::record_store::RecordStore;
use super::outcome::OffsetSpan;
use super::partition::{Partition, Readable, Shared};
use super::recover::recovery;
use super::refusals::{Refusal, Refusals};
use super::settings::Settings;
use super::upkeep;
use super::upkeep::clean::CleanMeter;
use super::upkeep::periodic::Periodic;
use super::upkeep::retention::Retainer;
use super::wal::WalConfig;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::types::{Clock, IdHash, LeaderEpoch, LogId, Progress, TopicId};

/// Bytes of recent appends that are kept in memory for readers, over all logs. Older bytes are read from the
/// page cache. More memory would not help: it would no longer fit the processor's caches.
const TAIL_BYTES_MAX: usize = 8 << 20;

/// A writer gets its write-ahead log after this many syncs of single logs: a broker that is only tried out
/// does not need the disk space.
const WAL_SYNCS_MIN: u32 = 256;

/// The logs that are open.
pub(super) type OpenLogs = DashMap<LogId, Partition, IdHash>;

/// Every partition log of this node. Cheap to clone; writer threads stop with `shutdown`.
#[derive(Clone)]
pub struct Logs {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) settings: Arc<Settings>,
    /// Shared with the upkeep threads, which must not keep `Inner` alive.
    pub(super) open: Arc<OpenLogs>,
    /// A lock for each log, held while the log is opened or deleted. The map never gets a value: only its
    /// entries are locked, so that `open` stays free for look-ups meanwhile.
    opening: DashMap<LogId, ()>,
    pub(super) shards: Vec<Shard>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The upkeep threads; they end before the writers do.
    upkeep: Mutex<Vec<Periodic>>,
    /// A log could not be opened, so that nothing is known of its end.
    has_unopened: AtomicBool,
}

/// What can go wrong when a log is opened, created or deleted.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// On which path.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Logs {
    /// Starts the writer threads over `dir` (created if absent). `epoch` is this node's leader
    /// epoch for every log. Opens no log yet.
    pub fn start(
        dir: &Path,
        boot: Boot,
        store: Store,
        config: &Config,
        clock: Arc<dyn Clock>,
        epoch: LeaderEpoch,
        metrics: &Metrics,
    ) -> Result<Logs, LogError> {
        let records = LocalRecordStore::open(dir, boot).map_err(|source| LogError::Io {
            action: "open log directory",
            path: dir.display().to_string(),
            source,
        })?;
        let wal = WalConfig {
            writers: config.log_writer_threads.max(1),
            file_bytes: config.log_wal_bytes / 2,
            syncs_min: WAL_SYNCS_MIN,
        };
        let wal_off = meter::wal_off(metrics).map_err(unregistered)?;
        let records = records.with_open_files(config.log_open_files_max).with_wal(wal, wal_off);
        Logs::over(Arc::new(records), store, config, clock, epoch, metrics)
    }

    /// `start` over any record store.
    pub fn over(
        records: Arc<dyn RecordStore>,
        view: Store,
        config: &Config,
        clock: Arc<dyn Clock>,
        epoch: LeaderEpoch,
        metrics: &Metrics,
    ) -> Result<Logs, LogError> {
        let clean_meter = CleanMeter::register(metrics).map_err(unregistered)?;
        let settings = Arc::new(Settings::new(records, view, config, clock, epoch, metrics)?);
        let (logs, writers) = Logs::with(settings, config, TAIL_BYTES_MAX);
        let mut threads = Vec::with_capacity(writers.len());
        for (index, (shard, writer)) in logs.inner.shards.iter().zip(writers).enumerate() {
            let name = format!("log-writer-{index}");
            shard.begin(writer);
            let shard = shard.clone();
            let thread = std::thread::Builder::new()
                .name(name.clone())
                .spawn(move || shard.serve())
                .map_err(|source| LogError::Io { action: "start thread", path: name, source })?;
            threads.push(thread);
        }
        *logs.inner.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
        let upkeep = logs.start_upkeep(config, clean_meter).map_err(|source| LogError::Io {
            action: "start threads of",
            path: "upkeep".to_owned(),
            source,
        })?;
        *logs.inner.upkeep.lock().unwrap_or_else(PoisonError::into_inner) = upkeep;
        Ok(logs)
    }

    /// The logs, and the writers, which no thread drives yet.
    pub(super) fn with(
        settings: Arc<Settings>,
        config: &Config,
        tail_bytes_max: usize,
    ) -> (Logs, Vec<Writer>) {
        let count = config.log_writer_threads.max(1);
        let (shards, writers) = (0..count)
            .map(|index| {
                let (queue, receiver) = queue::queue(config.log_append_queue_bytes);
                let tail_bytes_max = tail_bytes_max / count;
                let writer = Writer::new(index, receiver, settings.clone(), tail_bytes_max);
                (Shard::new(queue), writer)
            })
            .unzip();
        let inner = Inner {
            settings,
            open: Arc::default(),
            opening: DashMap::new(),
            shards,
            threads: Mutex::default(),
            upkeep: Mutex::default(),
            has_unopened: AtomicBool::new(false),
        };
        (Logs { inner: Arc::new(inner) }, writers)
    }

    /// Starts the upkeep threads. They hold no `Logs`, so that they end with the last handle.
    fn start_upkeep(&self, config: &Config, clean_meter: CleanMeter) -> io::Result<Vec<Periodic>> {
        let Inner { open, settings, .. } = &*self.inner;
        upkeep::start(open, settings, config, clean_meter)
    }

    /// Applies retention to all open logs, as the upkeep does at intervals. Blocking.
    pub fn apply_retention(&self) {
        let Inner { open, settings, .. } = &*self.inner;
        Retainer::new(open.clone(), settings.clone()).round(|| true);
    }

    /// Makes recovery count in `progress` what it reads from now on; only the first call has an effect.
    pub fn report_to(&self, progress: &Progress) {
        let _ = self.inner.settings.progress.set(progress.clone());
    }

    /// Where recovery counts what it reads.
    pub fn progress(&self) -> &Progress {
        self.inner.settings.progress()
    }

    /// The logs that refuse appends.
    pub fn refusals(&self) -> Refusals {
        self.inner.settings.refusals.clone()
    }

    /// Sets the name of a topic, for log lines about its logs. Best before they are opened.
    pub fn name_topic(&self, topic: TopicId, name: &str) {
        self.inner.settings.topics.name(topic, name);
    }

    /// Sets the name and the configs of a topic. Best before its logs are opened, and again whenever a
    /// config changes: it holds from the next append on.
    pub fn configure(&self, topic: TopicId, name: &str, config: LogConfig) {
        self.inner.settings.topics.configure(topic, name, config);
    }

    /// Opens a log, recovering it if it exists and creating it if not. Blocking: call it at
    /// start-up or inside `spawn_blocking`. Opening an open log returns the same handle.
    pub fn open(&self, id: LogId) -> Result<Partition, LogError> {
        let _opening = self.inner.opening.entry(id);
        if let Some(open) = self.partition(id) {
            return Ok(open);
        }
        let partition = self.inner.recover(id)?;
        self.inner.open.insert(id, partition.clone());
        Ok(partition)
    }

    /// `open` at start-up, where a log that cannot be read must not stop the others: that log stays closed
    /// until the next start, and the reason is logged and shown in `/readyz`.
    pub fn open_or_refuse(&self, id: LogId) {
        let Err(error) = self.open(id) else { return };
        self.inner.has_unopened.store(true, Ordering::Relaxed);
        let settings = &self.inner.settings;
        let refusal = Refusal::disk(format!("the log cannot be opened: {error}"));
        settings.note_refusal(id, &refusal);
        let Refusal { reason, next_step } = refusal;
        let log = settings.label(id);
        tracing::error!(log, reason, next_step, "partition is offline until the next start");
    }

    /// Whether every log was opened so far and is whole: nothing is left of a power loss.
    pub fn are_all_whole(&self) -> bool {
        let has_unopened = self.inner.has_unopened.load(Ordering::Relaxed);
        !has_unopened && self.inner.settings.refusals.list().is_empty()
    }

    /// The handle of an open log.
    pub fn partition(&self, id: LogId) -> Option<Partition> {
        self.inner.open.get(&id).map(|partition| partition.clone())
    }

    /// Ids of all logs found on disk, open or not.
    pub fn on_disk(&self) -> Result<Vec<LogId>, LogError> {
        self.inner.settings.store.logs().map_err(|source| LogError::Io {
            action: "list",
            path: "logs".to_owned(),
            source,
        })
    }

    /// Closes and deletes every log of a topic; reads that are under way get `ReadError::Deleted`.
    /// Blocking.
    pub fn delete_topic(&self, topic: TopicId) -> Result<(), LogError> {
        let open = self.inner.open.iter().map(|entry| *entry.key());
        let mut ids: Vec<LogId> = open.filter(|id| id.topic == topic).collect();
        ids.extend(self.on_disk()?.into_iter().filter(|id| id.topic == topic));
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            self.inner.delete(id)?;
        }
        self.inner.settings.topics.forget(topic);
        Ok(())
    }

    /// Closes every file that is kept open only for speed: after a start, logs that are not used yet should
    /// hold no file handles. Blocking.
    pub fn rest(&self) {
        // The store closes files that were not used since the call before. So the first call marks the
        // files that were used, and the second call closes them.
        self.inner.settings.store.rest();
        self.inner.settings.store.rest();
    }

    /// Drains the queues, syncs every log, flushes the view and stops the threads. Blocking.
    pub fn shutdown(&self) {
        self.inner.end_upkeep();
        self.inner.end_threads(|| Command::Stop);
        let Inner { open, settings, .. } = &*self.inner;
        let manifest = |log: LogId| upkeep::manifest_of(open, log);
        for (object, error) in settings.store.checkpoint(true, &manifest) {
            let log = settings.label(object.log);
            tracing::error!(log, segment = %object, %error, "last sync failed, the next start repeats it");
        }
    }
}

pub(super) fn unregistered(error: prometheus::Error) -> LogError {
    LogError::Io {
        action: "register metrics of",
        path: "logs".to_owned(),
        source: io::Error::other(error),
    }
}

impl Inner {
    fn recover(&self, id: LogId) -> Result<Partition, LogError> {
        let replayed = recovery::replay(id, &self.settings)?;
        let readable = Readable {
            segments: replayed.segments,
            aborted: replayed.aborted,
            open: replayed.producers.open_transactions(),
            cleaned_to: replayed.cleaned_to,
            ..Readable::default()
        };
        let (span, seen) = watch::channel(OffsetSpan::default());
        let settings = &self.settings;
        let shard = self.shard(id).clone();
        let (noted, is_listed) = (replayed.noted, replayed.is_listed);
        let shared = Arc::new(Shared::new(id, settings.clone(), seen, readable, noted, shard));
        let recovered = Recovered {
            producers: replayed.producers,
            start: replayed.start,
            end: replayed.end,
            anchor: replayed.anchor,
            view_due_bytes: replayed.scanned_bytes,
            view_aborted: replayed.view_aborted,
            refused: replayed.refused,
            is_listed,
            is_synced: replayed.is_synced,
        };
        let mut owned = OwnedLog::new(shared.clone(), span, recovered);
        owned.keep_view_if_due(settings);
        // A writer that is gone drops the log: its appends answer `Stopping`.
        drop(self.shard(id).send(Command::Adopt(Box::new(owned))));
        Ok(Partition { shared })
    }

    fn delete(&self, id: LogId) -> Result<(), LogError> {
        let _opening = self.opening.entry(id);
        if let Some(forgotten) = self.close(id) {
            // An error means that the writer ended, which forgets as well.
            drop(queue::block_on(forgotten));
        }
        self.erase(id)
    }

    /// Takes an open log from its readers and its writer; tells when the writer has let go of it.
    pub(super) fn close(&self, id: LogId) -> Option<oneshot::Receiver<()>> {
        let (_, partition) = self.open.remove(&id)?;
        partition.shared.mark_deleted();
        let (done, forgotten) = oneshot::channel();
        self.shard(id).send(Command::Forget(id, done)).ok()?;
        Some(forgotten)
    }

    /// Removes a closed log from the disk and the view.
    pub(super) fn erase(&self, id: LogId) -> Result<(), LogError> {
        self.settings.refusals.forget(id);
        self.settings.store.delete_log(id).map_err(|source| LogError::Io {
            action: "delete",
            path: id.to_string(),
            source,
        })?;
        // Topic ids never come back, so what stays in a failing view is never looked up.
        if let Err(error) = self.settings.view.forget_log(id) {
            tracing::warn!(log = %id, %error, "view still holds a deleted log");
        }
        Ok(())
    }

    /// The shard that a log belongs to. Partitions of one topic are spread evenly.
    pub(super) fn shard(&self, id: LogId) -> &Shard {
        let (high, low) = id.topic.0.as_u64_pair();
        let spread = (high ^ low).wrapping_add(u64::from(id.partition.0));
        &self.shards[(spread % self.shards.len() as u64) as usize]
    }

    fn end_upkeep(&self) {
        self.upkeep.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn end_threads(&self, command: impl Fn() -> Command) {
        for shard in &self.shards {
            // A writer that is gone already needs no telling.
            drop(shard.send(command()));
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a log writer thread panicked");
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end_upkeep();
        self.end_threads(|| Command::Halt);
    }
}

#[cfg(test)]
impl Logs {
    /// Logs over `dir` with their view in `view`, for tests of rooms that may not use `store/`.
    pub(crate) fn over_directories(
        dir: &Path,
        view: &Path,
        config: &Config,
        clock: Arc<dyn Clock>,
        epoch: LeaderEpoch,
        metrics: &Metrics,
    ) -> Logs {
        let store = Store::open(view).expect("the view opens");
        Logs::start(dir, Boot::default(), store, config, clock, epoch, metrics)
            .expect("the logs open")
    }
}
