//! The threads that look after logs at rest: `log-upkeep` closes idle files, expires idle producers and
//! applies retention, `log-cleaner` compacts, `log-scrub` looks for damage, and `log-checkpoint` syncs
//! segments in place so that files of the write-ahead log can be reused. They share the open logs and hold
//! no `Logs`, which ends them when it is dropped. Read `periodic.rs` first.

pub(in crate::log) mod age;
pub(in crate::log) mod clean;
pub(in crate::log) mod periodic;
pub(in crate::log) mod retention;
pub(in crate::log) mod scrub;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::clean::{CleanMeter, Cleaner};
use self::periodic::Periodic;
use self::retention::Retainer;
use self::scrub::Scrub;
use crate::config::Config;
use crate::log::append::writer::Command;
use crate::log::logs::OpenLogs;
use crate::log::object::manifest::Manifest;
use crate::log::refusals::Refusal;
use crate::log::settings::Settings;
use crate::types::LogId;

/// A file is closed when it was not used for this long, or for up to twice as long.
const HANDLES_REST_INTERVAL: Duration = Duration::from_secs(30);

/// The interval at which idle producers expire, as Kafka's `producer.id.expiration.check.interval.ms`.
const PRODUCERS_CHECK_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// The shortest pause between two looks for something to compact: a look costs something even if there is
/// nothing to do.
const CLEANER_BACKOFF_MIN: Duration = Duration::from_millis(1);

/// A longer interval is cut to this: it means never, and no sum with it overflows.
const INTERVAL_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Starts all upkeep threads.
pub(super) fn start(
    open: &Arc<OpenLogs>,
    settings: &Arc<Settings>,
    config: &Config,
    clean_meter: CleanMeter,
) -> io::Result<Vec<Periodic>> {
    let mut threads = vec![keep(open, settings, config)?];
    let dynamic = config.dynamic.share();
    let cleaner_configs = move || {
        let values = dynamic.load();
        let backoff = values.log_cleaner_backoff.clamp(CLEANER_BACKOFF_MIN, INTERVAL_MAX);
        (values.log_cleaner_dedupe_buffer_bytes, backoff)
    };
    let (keys_bytes_max, first) = cleaner_configs();
    let mut cleaner =
        Cleaner::new(open.clone(), settings.clone(), clean_meter, keys_bytes_max, first);
    threads.push(Periodic::start("log-cleaner", first, move |pace| {
        let (keys_bytes_max, backoff) = cleaner_configs();
        cleaner.configure(keys_bytes_max, backoff);
        cleaner.round(pace);
        backoff
    })?);
    threads.push(checkpoint(open, settings)?);
    let bytes_per_second = config.log_scrub_bytes_per_second;
    if bytes_per_second > 0 {
        let mut scrub = Scrub::new(open.clone(), settings.clone(), bytes_per_second);
        let first = config.log_initial_task_delay.min(INTERVAL_MAX);
        let interval = config.log_scrub_interval.min(INTERVAL_MAX);
        threads.push(Periodic::start("log-scrub", first, move |pace| {
            scrub.round(pace);
            interval
        })?);
    }
    Ok(threads)
}

/// Starts the checkpoint thread, which works when a writer wakes it.
fn checkpoint(open: &Arc<OpenLogs>, settings: &Arc<Settings>) -> io::Result<Periodic> {
    let (open, of_thread) = (open.clone(), settings.clone());
    let periodic = Periodic::start("log-checkpoint", INTERVAL_MAX, move |_| {
        checkpoint_round(&open, &of_thread);
        INTERVAL_MAX
    })?;
    // Set once: the logs of these settings are started once.
    let _ = settings.checkpoint_alarm.set(periodic.alarm());
    Ok(periodic)
}

/// Syncs the segments that a WAL file holds bytes of, so that the file can be reused. If the sync of a
/// segment fails, its log refuses appends from then on.
pub(super) fn checkpoint_round(open: &OpenLogs, settings: &Settings) {
    let manifest = |log: LogId| manifest_of(open, log);
    for (object, error) in settings.store.checkpoint(false, &manifest) {
        if let Some(log) = open.get(&object.log) {
            let refusal = Refusal::disk(format!("a sync failed: {error}"));
            // A writer that is gone appends no more anyway.
            drop(log.shared.send(Command::SyncFailed(object.log, refusal)));
        }
    }
}

/// The manifest of an open log, for a checkpoint; `None` if the log has refused appends since it was opened.
pub(super) fn manifest_of(open: &OpenLogs, log: LogId) -> Option<Manifest> {
    let shared = open.get(&log).map(|partition| partition.shared.clone())?;
    let is_void = shared.noted().is_void;
    (!is_void).then(|| shared.manifest())
}

/// Has the writers forget idle producers, also those of logs without appends.
pub(super) fn expire_producers(open: &OpenLogs) {
    for log in open {
        // A writer that has ended remembers no producer.
        drop(log.shared.send(Command::ExpireProducers(*log.key())));
    }
}

/// Starts the thread that closes idle files, expires idle producers and applies retention, each at its own interval.
fn keep(open: &Arc<OpenLogs>, settings: &Arc<Settings>, config: &Config) -> io::Result<Periodic> {
    let (store, logs) = (settings.store.clone(), open.clone());
    let mut retainer = Retainer::new(open.clone(), settings.clone());
    let check_interval = config.log_retention_check_interval.min(INTERVAL_MAX);
    let mut rest_at = Instant::now() + HANDLES_REST_INTERVAL;
    let mut check_at = Instant::now() + config.log_initial_task_delay.min(INTERVAL_MAX);
    let mut expire_at = Instant::now() + PRODUCERS_CHECK_INTERVAL;
    let first = rest_at.min(check_at).saturating_duration_since(Instant::now());
    Periodic::start("log-upkeep", first, move |pace| {
        if rest_at <= Instant::now() {
            store.rest();
            rest_at = Instant::now() + HANDLES_REST_INTERVAL;
        }
        if check_at <= Instant::now() {
            retainer.round(|| pace.goes_on());
            check_at = Instant::now() + check_interval;
        }
        if expire_at <= Instant::now() {
            expire_producers(&logs);
            expire_at = Instant::now() + PRODUCERS_CHECK_INTERVAL;
        }
        rest_at.min(check_at).min(expire_at).saturating_duration_since(Instant::now())
    })
}
