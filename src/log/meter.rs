//! Metrics of the logs' disk and its faults. The metadata exports sizes and offsets, since it knows
//! topics by name.

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts};

use crate::metrics::Metrics;

/// Buckets for the time of a sync, in seconds: from fast flash to a disk that hangs.
const SYNC_SECONDS: [f64; 14] = [
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0,
    5.0,
];

/// See the module's header.
pub(super) struct Meter {
    /// How long a writer waited for each sync.
    pub(super) sync_seconds: Histogram,
    /// Reads that met a damaged batch.
    pub(super) corrupt_reads: IntCounter,
    /// Reads that met a damaged batch which was whole when it was read again.
    pub(super) reread_reads: IntCounter,
    /// Logs that began to refuse appends, when they were opened or later.
    pub(super) refusing: IntCounter,
    /// Damaged places in logs, found by recovery or the scrub.
    pub(super) damaged: IntCounter,
    /// Bytes of batches that the scrub found undamaged.
    pub(super) scrubbed_bytes: IntCounter,
    /// When the scrub last finished a round over all logs; 0 if it has not yet.
    pub(super) scrub_ended: Gauge,
    /// Segments that retention removed.
    pub(super) expired_segments: IntCounter,
    /// Their bytes.
    pub(super) expired_bytes: IntCounter,
}

impl Meter {
    /// Registered with `metrics`.
    pub(super) fn register(metrics: &Metrics) -> Result<Meter, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::with_opts(Opts::new(name, help))?;
            metrics.registry().register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let scrub_ended = Gauge::with_opts(Opts::new(
            "ottla_log_scrub_round_ended_timestamp_seconds",
            "When the background scrub last finished a round over all logs; 0 before the first.",
        ))?;
        metrics.registry().register(Box::new(scrub_ended.clone()))?;
        let sync_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "ottla_log_sync_seconds",
                "How long each sync of a writer took, of one log or of several logs together.",
            )
            .buckets(SYNC_SECONDS.to_vec()),
        )?;
        metrics.registry().register(Box::new(sync_seconds.clone()))?;
        Ok(Meter {
            sync_seconds,
            corrupt_reads: counter(
                "ottla_log_corrupt_reads_total",
                "Reads that met a damaged batch on disk.",
            )?,
            reread_reads: counter(
                "ottla_log_reread_batches_total",
                "Reads that met a damaged batch which was whole when it was read again.",
            )?,
            refusing: counter(
                "ottla_log_fenced_total",
                "Partition logs that stopped taking appends because of damage or a failing disk.",
            )?,
            damaged: counter(
                "ottla_log_damaged_batches_total",
                "Damaged batches found when a log was opened or by the background scrub; adjacent \
                 ones count once.",
            )?,
            scrubbed_bytes: counter(
                "ottla_log_scrubbed_bytes_total",
                "Bytes of stored batches that the background scrub found undamaged.",
            )?,
            scrub_ended,
            expired_segments: counter(
                "ottla_log_retention_removed_segments_total",
                "Segments removed by retention.ms or retention.bytes.",
            )?,
            expired_bytes: counter(
                "ottla_log_retention_removed_bytes_total",
                "Bytes of the segments removed by retention.ms or retention.bytes.",
            )?,
        })
    }
}

/// Counts the writers whose write-ahead log is off; registered with `metrics`.
pub(super) fn wal_off(metrics: &Metrics) -> Result<IntGauge, prometheus::Error> {
    let off = IntGauge::with_opts(Opts::new(
        "ottla_log_wal_off",
        "Writers whose write-ahead log is off until the next start, because a sync or a write to it failed: \
         they sync each log by itself.",
    ))?;
    metrics.registry().register(Box::new(off.clone()))?;
    Ok(off)
}
