//! Sizes and end offsets of all logs, read when Prometheus asks for them: partitions come and go,
//! and a gauge per partition would have to be told of each append.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};

use super::{MetadataError, Published};
use crate::metrics::Metrics;

const LABELS: &[&str] = &["topic", "partition"];

struct LogCollector {
    published: Arc<Published>,
    descs: Vec<Desc>,
}

/// Registers `ottla_log_size_bytes` and `ottla_log_end_offset`.
pub(super) fn register(published: &Arc<Published>, metrics: &Metrics) -> Result<(), MetadataError> {
    let (size, end) = gauges().map_err(metric)?;
    let descs = [size.desc(), end.desc()].into_iter().flatten().cloned().collect();
    let collector = LogCollector { published: published.clone(), descs };
    metrics.registry().register(Box::new(collector)).map_err(metric)
}

fn metric(error: prometheus::Error) -> MetadataError {
    MetadataError::Storage(format!("a metric could not be registered: {error}"))
}

fn gauges() -> prometheus::Result<(IntGaugeVec, IntGaugeVec)> {
    let size = Opts::new("ottla_log_size_bytes", "Bytes of a partition's segments on disk.");
    let end = Opts::new("ottla_log_end_offset", "One past a partition's last offset.");
    Ok((IntGaugeVec::new(size, LABELS)?, IntGaugeVec::new(end, LABELS)?))
}

impl Collector for LogCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Fresh gauges for each scrape: series of deleted topics must not linger.
        let Ok((size, end)) = gauges() else { return Vec::new() };
        for topic in self.published.image.load().topics() {
            for id in topic.logs() {
                let Some(log) = self.published.log(id.topic, id.partition) else { continue };
                let labels = [topic.name.as_str(), &id.partition.to_string()];
                size.with_label_values(&labels).set(log.size_bytes() as i64);
                end.with_label_values(&labels).set(log.span().end.to_wire());
            }
        }
        [size.collect(), end.collect()].concat()
    }
}
