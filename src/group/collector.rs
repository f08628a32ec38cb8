//! Group lag, read when Prometheus asks for it: it changes with every produced record.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};

use super::GroupError;
use super::task::Directory;
use crate::metadata::Metadata;
use crate::metrics::Metrics;

struct LagCollector {
    directory: Arc<Directory>,
    metadata: Metadata,
    descs: Vec<Desc>,
}

/// Registers `ottla_group_lag_records`.
pub(super) fn register(
    directory: &Arc<Directory>,
    metadata: &Metadata,
    metrics: &Metrics,
) -> Result<(), GroupError> {
    let descs = gauge().map_err(metric)?.desc().into_iter().cloned().collect();
    let collector =
        LagCollector { directory: directory.clone(), metadata: metadata.clone(), descs };
    metrics.registry().register(Box::new(collector)).map_err(metric)
}

fn metric(error: prometheus::Error) -> GroupError {
    GroupError::Storage(format!("a metric could not be registered: {error}"))
}

fn gauge() -> prometheus::Result<IntGaugeVec> {
    let lag = Opts::new(
        "ottla_group_lag_records",
        "Records between a group's committed offset and the high watermark.",
    );
    IntGaugeVec::new(lag, &["group", "topic", "partition"])
}

impl Collector for LagCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(lag) = gauge() else { return Vec::new() };
        for group in self.directory.iter() {
            for ((topic, partition), (name, committed)) in &group.offsets {
                let Some(log) = self.metadata.log(*topic, *partition) else { continue };
                // A number that is no offset has no distance to the end.
                let Some(offset) = committed.position.offset() else { continue };
                let behind = log.span().high_watermark.since(offset);
                let labels = [group.key().as_str(), name.as_str(), &partition.to_string()];
                lag.with_label_values(&labels).set(behind as i64);
            }
        }
        lag.collect()
    }
}
