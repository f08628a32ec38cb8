//! What a start reads of the metadata's journal after many changes, and what a change costs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use ottla::config::{Config, Durability};
use ottla::log::Logs;
use ottla::log::data_dir::DataDir;
use ottla::metadata::journal::Journal;
use ottla::metadata::local_journal::journal_topic;
use ottla::metadata::{ConfigChange, ConfigChanges, LocalJournal, Metadata, NewTopic};
use ottla::metrics::Metrics;
use ottla::store::Store;
use ottla::types::{LogId, ManualClock, PartitionId, TopicId};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::NOW;

const TOPICS: usize = 100;
const CHANGES: usize = 100_000;

/// A broker's rooms up to the metadata.
struct Life {
    logs: Logs,
    metadata: Metadata,
    /// From the journal to the image, with the topics' logs opened.
    started_in: Duration,
    _dir: DataDir,
}

impl Life {
    async fn begin(tmp: &TempDir) -> Life {
        let dir = DataDir::open(&tmp.path().join("data")).unwrap();
        // The journal's syncs are the disk's matter, not the metadata's.
        let config = Config { durability: Durability::PageCache, ..Config::default() };
        let (config, clock) = (Arc::new(config), Arc::new(ManualClock::at(NOW)));
        let metrics = Metrics::default();
        // The tasks of an earlier life hold the view until they end.
        let store = loop {
            match Store::open(&dir.view()) {
                Ok(store) => break store,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        let (epoch, boot) = (dir.epoch(), dir.boot());
        let logs =
            Logs::start(&dir.logs(), boot, store, &config, clock.clone(), epoch, &metrics).unwrap();
        let journal: Arc<dyn Journal> = Arc::new(LocalJournal::new(logs.clone(), clock.clone()));
        let began = Instant::now();
        let metadata =
            Metadata::start(logs.clone(), journal, config, clock, &metrics).await.unwrap();
        Life { logs, metadata, started_in: began.elapsed(), _dir: dir }
    }

    /// Bytes of the metadata's slot on the disk.
    fn journal_bytes(&self) -> u64 {
        let slot = LogId { topic: journal_topic(), partition: PartitionId(0) };
        self.logs.partition(slot).unwrap().size_bytes()
    }

    async fn create(&self, index: usize) -> TopicId {
        let name = format!("topic-{index}");
        let topic = NewTopic { name, partitions: Some(1), configs: BTreeMap::new() };
        self.metadata.create(topic, false).await.unwrap().id
    }

    async fn change(&self, topic: TopicId, value: usize) {
        let set = ConfigChange::Set(value.to_string());
        let changes = ConfigChanges::Some([("retention.ms".to_owned(), set)].into());
        self.metadata.alter_configs(topic, changes, false).await.unwrap();
    }

    async fn end(self) {
        let Life { logs, metadata, .. } = self;
        drop(metadata);
        tokio::task::spawn_blocking(move || logs.shutdown()).await.unwrap();
    }
}

/// A change of one of 100 topics, and a start after 100,000 of them; says how large the journal is.
pub fn journal(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let tmp = tempfile::tempdir().unwrap();
    let mut life = Some(runtime.block_on(Life::begin(&tmp)));
    let topics: Vec<TopicId> = runtime.block_on(async {
        let mut topics = Vec::new();
        for index in 0..TOPICS {
            topics.push(life.as_ref().unwrap().create(index).await);
        }
        topics
    });
    let mut changes = 0;
    let mut group = criterion.benchmark_group("metadata");
    group.bench_function("change", |bench| {
        bench.iter(|| {
            changes += 1;
            let topic = topics[changes % TOPICS];
            runtime.block_on(life.as_ref().unwrap().change(topic, changes));
        });
    });
    runtime.block_on(async {
        while changes < CHANGES {
            changes += 1;
            life.as_ref().unwrap().change(topics[changes % TOPICS], changes).await;
        }
    });
    let bytes = life.as_ref().unwrap().journal_bytes();
    println!(
        "the metadata's journal takes {bytes} bytes after {changes} changes of {TOPICS} topics"
    );
    group.sample_size(10);
    group.bench_function("start", |bench| {
        bench.iter_custom(|lives| {
            let mut took = Duration::ZERO;
            for _ in 0..lives {
                runtime.block_on(async {
                    life.take().unwrap().end().await;
                    let next = Life::begin(&tmp).await;
                    took += next.started_in;
                    life = Some(next);
                });
            }
            took
        });
    });
    runtime.block_on(life.take().unwrap().end());
}
