//! The metrics of compaction.

use prometheus::{Gauge, IntCounter, IntGauge, Opts};

use crate::metrics::Metrics;

/// See the module's header.
pub(in crate::log) struct CleanMeter {
    pub(in crate::log) runs: IntCounter,
    pub(in crate::log) failures: IntCounter,
    pub(in crate::log) bytes_read: IntCounter,
    pub(in crate::log) bytes_written: IntCounter,
    pub(in crate::log) dirty_ratio_max: Gauge,
    pub(in crate::log) set_aside: IntGauge,
    pub(in crate::log) waits_for_room: IntGauge,
}

impl CleanMeter {
    /// Registered with `metrics`.
    pub(in crate::log) fn register(metrics: &Metrics) -> Result<CleanMeter, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::with_opts(Opts::new(name, help))?;
            metrics.registry().register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            metrics.registry().register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let dirty_ratio_max = Gauge::new(
            "ottla_log_cleaner_dirty_ratio_max",
            "The largest dirty ratio of all compacted logs: the share of bytes that is not compacted \
             yet, 0 to 1.",
        )?;
        metrics.registry().register(Box::new(dirty_ratio_max.clone()))?;
        Ok(CleanMeter {
            runs: counter("ottla_log_cleaner_runs_total", "Compactions of partition logs.")?,
            failures: counter(
                "ottla_log_cleaner_failures_total",
                "Compactions that ended early because of a full or failing disk, or damage.",
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
            set_aside: gauge(
                "ottla_log_cleaner_set_aside_logs",
                "Compacted logs that are not compacted now: damaged, or failed a while ago.",
            )?,
            waits_for_room: gauge(
                "ottla_log_cleaner_waits_for_room",
                "1 while no log is compacted because the disk was full at the last attempt.",
            )?,
        })
    }
}
