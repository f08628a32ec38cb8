//! What compaction does, in numbers.

use prometheus::{Gauge, IntCounter, Opts};

use crate::metrics::Metrics;

/// See the module's header.
pub(in crate::log) struct CleanMeter {
    pub(super) runs: IntCounter,
    pub(super) failures: IntCounter,
    pub(super) bytes_read: IntCounter,
    pub(super) bytes_written: IntCounter,
    pub(super) dirty_ratio_max: Gauge,
}

impl CleanMeter {
    /// Registered with `metrics`.
    pub(in crate::log) fn register(metrics: &Metrics) -> Result<CleanMeter, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::with_opts(Opts::new(name, help))?;
            metrics.registry().register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let dirty_ratio_max = Gauge::new(
            "ottla_log_cleaner_dirty_ratio_max",
            "Share of bytes not compacted yet in the compacted log that has most of them, 0 to 1.",
        )?;
        metrics.registry().register(Box::new(dirty_ratio_max.clone()))?;
        Ok(CleanMeter {
            runs: counter("ottla_log_cleaner_runs_total", "Compactions of partition logs.")?,
            failures: counter(
                "ottla_log_cleaner_failures_total",
                "Compactions that ended early because of a failing disk or damage.",
            )?,
            bytes_read: counter(
                "ottla_log_cleaner_read_bytes_total",
                "Bytes that compactions have read.",
            )?,
            bytes_written: counter(
                "ottla_log_cleaner_written_bytes_total",
                "Bytes that compactions have written in place of what they read.",
            )?,
            dirty_ratio_max,
        })
    }
}
