//! The metadata over real logs: what it refuses, what survives a restart.

pub(crate) mod journal;
mod released;
mod rewrite;

use std::sync::Arc;

use tempfile::TempDir;

use self::journal::{conforms, conforms_after_a_restart};
use super::journal::{Journal, Slot};
use super::local_journal::journal_topic;
use super::*;
use crate::log::batch::{self, NewRecord};
use crate::log::boot::Boot;
use crate::log::{AppendOptions, AppendOrigin, Durable};
use crate::store::Store;
use crate::types::{LeaderEpoch, ManualClock, Offset, Timestamp};

/// A broker's rooms up to the metadata, over a directory that outlives them.
pub(crate) struct Bench {
    pub(crate) logs: Logs,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) metadata: Metadata,
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) metrics: Metrics,
}

async fn open(dir: &TempDir) -> (Logs, Arc<ManualClock>, Metrics, Arc<Config>) {
    let config = Arc::new(Config { offsets_topic_partitions: 4, ..Config::default() });
    let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
    let metrics = Metrics::default();
    // The tasks of an earlier life end when they are next polled; until then they hold the view.
    let store = loop {
        match Store::open(&dir.path().join("view")) {
            Ok(store) => break store,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
        }
    };
    let logs = Logs::start(
        &dir.path().join("logs"),
        Boot::default(),
        store,
        &config,
        clock.clone(),
        LeaderEpoch(1),
        &metrics,
    )
    .unwrap();
    (logs, clock, metrics, config)
}

impl Bench {
    pub(crate) async fn start(dir: &TempDir) -> Bench {
        let (logs, clock, metrics, config) = open(dir).await;
        let journal: Arc<dyn Journal> = Arc::new(LocalJournal::new(logs.clone(), clock.clone()));
        let metadata =
            Metadata::start(logs.clone(), journal.clone(), config.clone(), clock.clone(), &metrics)
                .await
                .unwrap();
        Bench { logs, journal, metadata, config, clock, metrics }
    }

    pub(crate) async fn stop(self) {
        let logs = self.logs;
        tokio::task::spawn_blocking(move || logs.shutdown()).await.unwrap();
    }

    pub(crate) async fn topic(&self, name: &str, partitions: u32) -> Arc<Topic> {
        self.metadata.create(new_topic(name, partitions), false).await.unwrap()
    }

    pub(crate) async fn append(&self, topic: TopicId, value: &'static str) {
        append(&self.metadata, topic, value).await;
    }

    pub(crate) fn scrape(&self) -> String {
        let families = self.metrics.registry().gather();
        prometheus::TextEncoder::new().encode_to_string(&families).unwrap()
    }
}

fn new_topic(name: &str, partitions: u32) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions: Some(partitions), configs: BTreeMap::new() }
}

async fn append(metadata: &Metadata, topic: TopicId, value: &'static str) {
    let record = NewRecord { value: Some(value.into()), ..NewRecord::default() };
    let options = AppendOptions {
        durable: Durable::Synced,
        batch_bytes_max: 1000,
        origin: AppendOrigin::Broker,
    };
    let log = metadata.log(topic, PartitionId(0)).unwrap();
    log.append(batch::encode(&[record], None), options).await.unwrap();
}

#[tokio::test]
async fn the_journal_in_logs_conforms() {
    let dir = TempDir::new().unwrap();
    let (logs, clock, ..) = open(&dir).await;
    conforms(Arc::new(LocalJournal::new(logs.clone(), clock))).await;
    tokio::task::spawn_blocking(move || logs.shutdown()).await.unwrap();

    let (logs, clock, ..) = open(&dir).await;
    conforms_after_a_restart(Arc::new(LocalJournal::new(logs.clone(), clock))).await;
    tokio::task::spawn_blocking(move || logs.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_trimmed_slot_gives_its_space_back() {
    let dir = TempDir::new().unwrap();
    let (logs, clock, ..) = open(&dir).await;
    let journal = LocalJournal::new(logs.clone(), clock);
    let record = bytes::Bytes::from(vec![7; 64 << 10]);
    for seq in 0..64 {
        journal.append(Slot::PRODUCER_IDS, seq, record.clone()).await.unwrap();
    }
    let id = LogId { topic: journal_topic(), partition: PartitionId(1) };
    let log = logs.partition(id).unwrap();
    assert!(log.size_bytes() > 4 << 20);
    journal.trim(Slot::PRODUCER_IDS, 63).await.unwrap();
    assert_eq!(log.span().start, Offset::new(63));
    assert!(log.size_bytes() <= 1 << 20, "{} bytes are left", log.size_bytes());
    tokio::task::spawn_blocking(move || logs.shutdown()).await.unwrap();
}

#[tokio::test]
async fn topics_and_their_records_survive_a_restart() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let kept = bench.topic("kept", 2).await;
    let dropped = bench.topic("dropped", 1).await;
    append(&bench.metadata, kept.id, "a").await;
    bench.metadata.add_partitions(kept.id, 3).await.unwrap();
    bench.metadata.delete(dropped.id).await.unwrap();
    bench.stop().await;

    let bench = Bench::start(&dir).await;
    let image = bench.metadata.image();
    assert_eq!(image.topics().count(), 1);
    let again = image.topic("kept").unwrap();
    assert_eq!((again.id, again.partitions), (kept.id, 3));
    assert!(image.topic_by_id(dropped.id).is_none());
    let log = bench.metadata.log(kept.id, PartitionId(0)).unwrap();
    assert_eq!(log.span().high_watermark, Offset::new(1));
    assert!(bench.metadata.log(kept.id, PartitionId(2)).is_some());
    assert!(bench.metadata.log(kept.id, PartitionId(3)).is_none());
    assert!(bench.metadata.log(journal_topic(), PartitionId(0)).is_none(), "out of clients' reach");
    bench.stop().await;
}

#[tokio::test]
async fn a_recreated_topic_is_another_topic() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let first = bench.topic("t", 1).await;
    append(&bench.metadata, first.id, "a").await;
    bench.metadata.delete(first.id).await.unwrap();
    let second = bench.topic("t", 1).await;
    assert_ne!(first.id, second.id);
    assert!(bench.metadata.log(first.id, PartitionId(0)).is_none());
    let log = bench.metadata.log(second.id, PartitionId(0)).unwrap();
    assert_eq!(log.span().end, Offset::ZERO);
    bench.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let metadata = &bench.metadata;
    let topic = bench.topic("t", 2).await;
    let internal = metadata.ensure_internal("__consumer_offsets", 4, &[]).await.unwrap();
    let create = |name: &str, partitions| metadata.create(new_topic(name, partitions), false);
    assert_eq!(create("t", 1).await.unwrap_err(), MetadataError::Exists("t".to_owned()));
    assert!(matches!(create("../x", 1).await.unwrap_err(), MetadataError::Name(_)));
    assert!(matches!(create("u", 0).await.unwrap_err(), MetadataError::Partitions(_)));
    assert!(matches!(create("u", u32::MAX).await.unwrap_err(), MetadataError::Partitions(_)));
    assert!(matches!(create("__ottla_x", 1).await.unwrap_err(), MetadataError::Internal(_)));
    let mut with_config = new_topic("u", 1);
    with_config.configs.insert("retention.ms".to_owned(), "soon".to_owned());
    assert!(matches!(
        metadata.create(with_config, false).await.unwrap_err(),
        MetadataError::Config(_)
    ));
    assert!(matches!(
        metadata.add_partitions(topic.id, 2).await.unwrap_err(),
        MetadataError::Partitions(_)
    ));
    assert!(matches!(metadata.delete(internal.id).await.unwrap_err(), MetadataError::Internal(_)));
    let nobody = TopicId::random();
    assert_eq!(metadata.delete(nobody).await.unwrap_err(), MetadataError::UnknownId(nobody));
    metadata.create(new_topic("only-checked", 1), true).await.unwrap();
    let names: Vec<String> =
        metadata.image().topics().map(|topic| topic.name.to_string()).collect();
    assert_eq!(names, ["__consumer_offsets", "t"]);
    bench.stop().await;
}

fn set(name: &str, value: &str) -> ConfigChanges {
    ConfigChanges::Some([(name.to_owned(), ConfigChange::Set(value.to_owned()))].into())
}

#[tokio::test]
async fn configs_change_while_the_logs_are_open_and_survive_a_restart() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let mut new = new_topic("t", 1);
    new.configs = [("retention.bytes".to_owned(), " 10 ".to_owned())].into();
    let topic = bench.metadata.create(new, false).await.unwrap();
    let log = bench.metadata.log(topic.id, PartitionId(0)).unwrap();
    assert_eq!(log.config().retention.unwrap().bytes_max, Some(10));
    assert_eq!(log.config().batch_bytes_max, 1_048_588);
    let alter = |changes, validate| bench.metadata.alter_configs(topic.id, changes, validate);
    alter(set("max.message.bytes", "99"), true).await.unwrap();
    assert_eq!(log.config().batch_bytes_max, 1_048_588, "it was only checked");
    alter(set("max.message.bytes", "99"), false).await.unwrap();
    assert_eq!(log.config().batch_bytes_max, 99);
    for wrong in [set("max.message.bytes", "-1"), set("no.such", "1")] {
        let refused = alter(wrong, false).await.unwrap_err();
        assert!(matches!(refused, MetadataError::Config(_)), "{refused}");
    }
    let lag = set("min.compaction.lag.ms", "10");
    alter(lag, false).await.unwrap();
    let below = alter(set("max.compaction.lag.ms", "5"), false).await.unwrap_err();
    assert!(matches!(below, MetadataError::Config(_)), "{below}");
    let unset = [("retention.bytes".to_owned(), ConfigChange::Unset)].into();
    alter(ConfigChanges::Some(unset), false).await.unwrap();
    assert_eq!(log.config().retention.unwrap().bytes_max, None);
    drop(log);
    bench.stop().await;

    let bench = Bench::start(&dir).await;
    let again = bench.metadata.image().topic("t").unwrap().clone();
    let names: Vec<&str> = again.configs.keys().map(String::as_str).collect();
    assert_eq!(names, ["max.message.bytes", "min.compaction.lag.ms"]);
    let log = bench.metadata.log(again.id, PartitionId(0)).unwrap();
    assert_eq!(log.config().batch_bytes_max, 99);
    drop(log);
    bench.stop().await;
}

#[tokio::test]
async fn an_internal_topic_of_an_older_version_takes_over_the_configs_it_lacks() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let old = bench.metadata.ensure_internal("__consumer_offsets", 1, &[]).await.unwrap();
    let by_hand = set("segment.bytes", "2097152");
    bench.metadata.alter_configs(old.id, by_hand, false).await.unwrap();
    let configs = [("cleanup.policy", "compact"), ("segment.bytes", "104857600")];
    let new = bench.metadata.ensure_internal("__consumer_offsets", 1, &configs).await.unwrap();
    assert_eq!(new.id, old.id);
    let log = bench.metadata.log(old.id, PartitionId(0)).unwrap();
    assert!(log.config().compaction.is_some() && log.config().retention.is_none());
    assert_eq!(log.config().segment_bytes, 2 << 20, "what was set by hand stays");
    let state = bench.metadata.ensure_internal("__ottla_state", 1, &[]).await.unwrap();
    let kept = bench.metadata.log(state.id, PartitionId(0)).unwrap();
    assert_eq!((kept.config().retention, kept.config().compaction), (None, None));
    let refused = bench.metadata.alter_configs(state.id, set("retention.ms", "1"), false).await;
    assert!(matches!(refused, Err(MetadataError::Internal(_))), "{refused:?}");
    drop((log, kept));
    bench.stop().await;
}

#[tokio::test]
async fn two_owners_of_the_metadata_over_one_journal_agree() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let other = Metadata::start(
        bench.logs.clone(),
        bench.journal.clone(),
        bench.config.clone(),
        bench.clock.clone(),
        &Metrics::default(),
    )
    .await
    .unwrap();
    let (a, b) = tokio::join!(
        bench.metadata.create(new_topic("t", 1), false),
        other.create(new_topic("t", 1), false)
    );
    assert!(a.is_ok() != b.is_ok(), "one of two racing creations wins: {a:?} {b:?}");
    other.create(new_topic("u", 1), false).await.unwrap();
    bench.topic("v", 1).await;
    let caught_up = bench.metadata.image().topic("u").unwrap().id;
    bench.metadata.add_partitions(caught_up, 3).await.unwrap();
    bench.metadata.alter_configs(caught_up, set("max.message.bytes", "77"), false).await.unwrap();
    other.create(new_topic("w", 1), false).await.unwrap();
    assert_eq!(other.image().topic("u").unwrap().configs["max.message.bytes"], "77");
    assert!(other.log(caught_up, PartitionId(2)).is_some(), "partitions of the other's are open");
    bench.stop().await;
}

#[tokio::test]
async fn logs_that_no_record_of_the_journal_explains_are_left_alone() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let topic = bench.topic("t", 1).await;
    append(&bench.metadata, topic.id, "a").await;
    bench.stop().await;
    // The journal is lost.
    for entry in std::fs::read_dir(dir.path().join("logs")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().contains(&journal_topic().to_string()) {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    std::fs::remove_dir_all(dir.path().join("view")).unwrap();
    let bench = Bench::start(&dir).await;
    assert_eq!(bench.metadata.image().topics().count(), 0);
    assert!(bench.logs.on_disk().unwrap().iter().any(|log| log.topic == topic.id));
    bench.stop().await;
}

#[tokio::test]
async fn a_record_of_a_newer_ottla_stops_the_start() {
    let dir = TempDir::new().unwrap();
    let (logs, clock, metrics, config) = open(&dir).await;
    let journal = Arc::new(LocalJournal::new(logs.clone(), clock.clone()));
    let newer = bytes::Bytes::from_static(&[7, 0]);
    journal.append(Slot::METADATA, 0, newer).await.unwrap();
    let refused = Metadata::start(logs.clone(), journal, config, clock, &metrics).await.err();
    assert!(refused.unwrap().to_string().contains("format 7"));
    tokio::task::spawn_blocking(move || logs.shutdown()).await.unwrap();
}

#[tokio::test]
async fn sizes_and_ends_are_scraped_and_go_with_their_topic() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let topic = bench.topic("t", 1).await;
    append(&bench.metadata, topic.id, "a").await;
    let text = bench.scrape();
    assert!(text.contains("ottla_log_end_offset{partition=\"0\",topic=\"t\"} 1"), "{text}");
    assert!(text.contains("ottla_log_size_bytes{partition=\"0\",topic=\"t\"}"), "{text}");
    bench.metadata.delete(topic.id).await.unwrap();
    assert!(!bench.scrape().contains("topic=\"t\""));
    bench.stop().await;
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_offline_and_stops_no_other() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let topic = bench.topic("half", 2).await;
    append(&bench.metadata, topic.id, "a").await;
    bench.stop().await;

    let folder = dir.path().join("logs").join(format!("{}-0", topic.id));
    let aside = dir.path().join("aside");
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::write(&folder, "a file where a folder should be").unwrap();
    let bench = Bench::start(&dir).await;
    assert!(bench.metadata.log(topic.id, PartitionId(0)).is_none());
    assert!(bench.metadata.log(topic.id, PartitionId(1)).is_some());
    let refusing = bench.logs.refusals().list();
    assert_eq!(refusing.len(), 1);
    assert_eq!((&*refusing[0].topic, refusing[0].log.partition.0), ("half", 0));
    bench.stop().await;

    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&aside, &folder).unwrap();
    let bench = Bench::start(&dir).await;
    let log = bench.metadata.log(topic.id, PartitionId(0)).unwrap();
    assert_eq!(log.span().high_watermark, Offset::new(1));
    assert!(bench.logs.refusals().list().is_empty());
    bench.stop().await;
}
