//! What writers, recovery and upkeep share: the store, the view, the clocks and the topics' configs.

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::config::{Config, Durability, Dynamic};
use crate::log::append::owner::out_of_handles;
use crate::log::config::LogConfig;
use crate::log::logs::{LogError, unregistered};
use crate::log::meter::Meter;
use crate::log::object::record_store::{ObjectId, RecordStore};
use crate::log::refusals::{Refusal, RefusalCollector, Refusals};
use crate::log::topics::Topics;
use crate::log::upkeep::age::AgeClock;
use crate::log::upkeep::periodic::Alarm;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::types::{Clock, LeaderEpoch, LogId, Progress};

/// After this many bytes of appends a snapshot of a log is written to the view. Recovery reads about as much.
const VIEW_INTERVAL_BYTES: u64 = 16 << 20;

/// See the module's header.
pub(super) struct Settings {
    pub(super) store: Arc<dyn RecordStore>,
    pub(super) view: Store,
    /// Whether `Durable::Synced` means synced to disk; if not, written to the page cache.
    pub(super) sync: bool,
    pub(super) epoch: LeaderEpoch,
    pub(super) clock: Arc<dyn Clock>,
    /// The clock by which the age of records is measured.
    pub(super) age: AgeClock,
    pub(super) meter: Meter,
    pub(super) topics: Topics,
    /// Turns at checking and compressing clients' large batches: as many as there are cores, so that
    /// the memory for it is bounded.
    pub(super) checks: Arc<Semaphore>,
    /// Whether the records of clients' compressed batches are checked.
    pub(super) checks_compressed: bool,
    /// How far recovery has come, once somebody wants to know.
    pub(super) progress: OnceLock<Progress>,
    /// Bytes of appends between two snapshots in the view.
    pub(super) view_interval_bytes: u64,
    /// The logs that refuse appends.
    pub(super) refusals: Refusals,
    /// The configs that may change while running.
    pub(super) dynamic: Dynamic,
    /// Wakes the checkpoint thread, once it has started.
    pub(super) checkpoint_alarm: OnceLock<Alarm>,
}

impl Settings {
    /// The settings that `config` gives, over `store` and `view`; registers the logs' metrics.
    pub(super) fn new(
        store: Arc<dyn RecordStore>,
        view: Store,
        config: &Config,
        clock: Arc<dyn Clock>,
        epoch: LeaderEpoch,
        metrics: &Metrics,
    ) -> Result<Settings, LogError> {
        let meter = Meter::register(metrics).map_err(unregistered)?;
        let refusals = Refusals::default();
        let collector = RefusalCollector::new(refusals.clone()).map_err(unregistered)?;
        metrics.registry().register(Box::new(collector)).map_err(unregistered)?;
        Ok(Settings {
            store,
            view,
            sync: config.durability == Durability::Disk,
            epoch,
            age: AgeClock::start(clock.clone()),
            clock,
            meter,
            topics: Topics::new(LogConfig::internal(config)),
            checks: Arc::new(Semaphore::new(
                std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            )),
            checks_compressed: config.log_check_compressed_records,
            progress: OnceLock::new(),
            view_interval_bytes: VIEW_INTERVAL_BYTES,
            refusals,
            dynamic: config.dynamic.share(),
            checkpoint_alarm: OnceLock::new(),
        })
    }

    /// Syncs an object and counts the time in `ottla_log_sync_seconds`, unless the file could not be opened.
    pub(super) fn sync_object(&self, object: ObjectId) -> io::Result<()> {
        let began = Instant::now();
        let synced = self.store.sync(object);
        if !synced.as_ref().is_err_and(out_of_handles) {
            self.meter.sync_seconds.observe(began.elapsed().as_secs_f64());
        }
        synced
    }

    /// Notes for `/readyz` and the metrics that a log refuses appends.
    pub(super) fn note_refusal(&self, log: LogId, refusal: &Refusal) {
        self.meter.refusing.inc();
        self.refusals.add(log, self.topics.of(log.topic).name(), refusal);
    }

    /// How long an idle producer is remembered.
    pub(super) fn producer_idle_max(&self) -> Duration {
        self.dynamic.load().producer_id_expiration
    }

    /// Now, in milliseconds of the monotonic clock.
    pub(super) fn monotonic_ms(&self) -> i64 {
        i64::try_from(self.clock.monotonic().as_millis()).unwrap_or(i64::MAX)
    }

    pub(super) fn progress(&self) -> &Progress {
        self.progress.get_or_init(Progress::default)
    }

    /// A log as log lines name it: `clicks-3 (<topic uuid>-3)`, or by its id alone.
    pub(super) fn label(&self, log: LogId) -> String {
        match self.topics.of(log.topic).name() {
            Some(name) => format!("{name}-{} ({log})", log.partition),
            None => log.to_string(),
        }
    }
}
