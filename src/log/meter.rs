//! Counters of the partition store's faults. Sizes and offsets are the catalog's to tell: it knows
//! topics by name.

use prometheus::{IntCounter, Opts};

use crate::metrics::Metrics;

/// See the module's header.
pub(super) struct Meter {
    /// Reads that met a damaged batch.
    pub(super) corrupt_reads: IntCounter,
    /// Logs that stopped taking appends, at their opening or later.
    pub(super) refusing: IntCounter,
}

impl Meter {
    /// Registered with `metrics`.
    pub(super) fn register(metrics: &Metrics) -> Result<Meter, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::with_opts(Opts::new(name, help))?;
            metrics.registry().register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        Ok(Meter {
            corrupt_reads: counter(
                "ottla_log_corrupt_reads_total",
                "Reads that met a damaged batch on disk.",
            )?,
            refusing: counter(
                "ottla_log_fenced_total",
                "Partition logs that stopped taking appends because of damage or a failing disk.",
            )?,
        })
    }
}
