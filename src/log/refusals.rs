//! The logs that refuse appends, and why: for error messages, `/readyz` and metrics.

use std::fmt;
use std::sync::Arc;

use dashmap::DashMap;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};

use crate::types::LogId;

/// Why a log refuses appends. Reads of it work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was found or failed.
    pub reason: String,
    /// What an operator should do about it.
    pub next_step: &'static str,
}

impl Refusal {
    /// The log is damaged.
    pub(super) fn damage(reason: String) -> Refusal {
        let next_step = "stop the broker, save a copy of its data directory, then run \
                         `ottla doctor --repair DATA_DIR`";
        Refusal { reason, next_step }
    }

    /// The write-ahead log has, or may have, acknowledged records that the log lacks.
    pub(super) fn incomplete(reason: String) -> Refusal {
        let next_step = "stop the broker, save a copy of its data directory, put back what is missing \
                         and start again; or give it up with `ottla doctor --repair DATA_DIR`";
        Refusal { reason, next_step }
    }

    /// The disk failed; the log's bytes may all be right.
    pub(super) fn disk(reason: String) -> Refusal {
        Refusal { reason, next_step: "check the disk and restart the broker" }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason, self.next_step)
    }
}

/// A log that refuses appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusing {
    /// Which.
    pub log: LogId,
    /// Its topic's name, or the topic's id if the name is not known.
    pub topic: String,
    /// Why.
    pub refusal: Refusal,
}

/// All logs that refuse appends. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    logs: Arc<DashMap<LogId, (String, Refusal)>>,
}

impl Refusals {
    pub(crate) fn add(&self, log: LogId, topic: Option<&str>, refusal: &Refusal) {
        let topic = topic.map_or_else(|| log.topic.to_string(), str::to_owned);
        self.logs.insert(log, (topic, refusal.clone()));
    }

    /// Whether a log is among them.
    pub(super) fn has(&self, log: LogId) -> bool {
        self.logs.contains_key(&log)
    }

    /// Forgets a deleted log.
    pub(super) fn forget(&self, log: LogId) {
        self.logs.remove(&log);
    }

    /// All of them, by topic name and partition.
    pub fn list(&self) -> Vec<Refusing> {
        let mut list: Vec<Refusing> = self
            .logs
            .iter()
            .map(|entry| {
                let (topic, refusal) = entry.value().clone();
                Refusing { log: *entry.key(), topic, refusal }
            })
            .collect();
        list.sort_unstable_by(|a, b| (&a.topic, a.log).cmp(&(&b.topic, b.log)));
        list
    }
}

/// The metric `ottla_log_refuses_appends`, with a series for each log that refuses appends, made at each
/// scrape.
pub(super) struct RefusalCollector {
    refusals: Refusals,
    descs: Vec<Desc>,
}

impl RefusalCollector {
    pub(super) fn new(refusals: Refusals) -> prometheus::Result<RefusalCollector> {
        let descs = gauge()?.desc().into_iter().cloned().collect();
        Ok(RefusalCollector { refusals, descs })
    }
}

fn gauge() -> prometheus::Result<IntGaugeVec> {
    let help = "1 for a partition that takes no appends because of damage or a failing disk.";
    IntGaugeVec::new(Opts::new("ottla_log_refuses_appends", help), &["topic", "partition"])
}

impl Collector for RefusalCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(gauge) = gauge() else { return Vec::new() };
        for Refusing { log, topic, .. } in self.refusals.list() {
            gauge.with_label_values(&[topic.as_str(), &log.partition.to_string()]).set(1);
        }
        gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PartitionId, TopicId};
    use uuid::Uuid;

    fn log(topic: u128, partition: u32) -> LogId {
        LogId { topic: TopicId(Uuid::from_u128(topic)), partition: PartitionId(partition) }
    }

    #[test]
    fn refusing_logs_are_told_in_order_until_they_are_deleted() {
        let refusals = Refusals::default();
        let refusal = Refusal::damage("segment 0 is damaged".to_owned());
        refusals.add(log(1, 10), Some("b"), &refusal);
        refusals.add(log(1, 9), Some("b"), &refusal);
        refusals.add(log(2, 0), Some("a"), &Refusal::disk("a sync failed".to_owned()));
        let told = |refusals: &Refusals| -> Vec<(String, u32)> {
            refusals.list().into_iter().map(|r| (r.topic, r.log.partition.0)).collect()
        };
        let named = |topic: &str, partition| (topic.to_owned(), partition);
        assert_eq!(told(&refusals), [named("a", 0), named("b", 9), named("b", 10)]);
        let collector = RefusalCollector::new(refusals.clone()).unwrap();
        assert_eq!(collector.collect()[0].get_metric().len(), 3);
        refusals.forget(log(1, 9));
        assert_eq!(told(&refusals), [named("a", 0), named("b", 10)]);
        assert_eq!(collector.collect()[0].get_metric().len(), 2);
    }
}
