//! The journal's slot is written anew: it stays small, and a crash at any moment changes nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::journal::{MemoryJournal, read_all};
use super::*;
use crate::metadata::change::{Change, TopicChange};
use crate::metadata::journal::{History, JournalError};
use crate::metadata::record::{self, JournalRecord};
use crate::metadata::replay::Replay;
use crate::metadata::task::Owner;

/// A journal in memory that stops answering: what is asked of it after the first `left` calls fails,
/// and has happened or not, as `half_done` says of the first of them.
struct Crashing {
    kept: Arc<MemoryJournal>,
    left: AtomicU64,
    half_done: bool,
}

impl Crashing {
    fn over(kept: &Arc<MemoryJournal>, left: u64, half_done: bool) -> Arc<Crashing> {
        Arc::new(Crashing { kept: kept.clone(), left: AtomicU64::new(left), half_done })
    }

    /// Whether a call is carried out, and whether it is answered.
    fn call(&self) -> (bool, bool) {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        let is_first = left == 1 && self.half_done;
        (left > 0, left > 0 && !is_first)
    }
}

fn crashed<T>() -> Result<T, JournalError> {
    Err(JournalError::Storage("crashed".to_owned()))
}

impl Journal for Crashing {
    fn append(
        &self,
        slot: Slot,
        seq: u64,
        record: Bytes,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        let (is_done, is_answered) = self.call();
        let done = is_done.then(|| self.kept.append(slot, seq, record));
        Box::pin(async move {
            match done {
                Some(done) => {
                    done.await.and_then(|()| if is_answered { Ok(()) } else { crashed() })
                }
                None => crashed(),
            }
        })
    }

    fn read(
        &self,
        slot: Slot,
        from: u64,
    ) -> BoxFuture<'static, Result<Vec<(u64, Bytes)>, JournalError>> {
        self.kept.read(slot, from)
    }

    fn trim(&self, slot: Slot, before: u64) -> BoxFuture<'static, Result<(), JournalError>> {
        let (is_done, is_answered) = self.call();
        let done = is_done.then(|| self.kept.trim(slot, before));
        Box::pin(async move {
            match done {
                Some(done) => {
                    done.await.and_then(|()| if is_answered { Ok(()) } else { crashed() })
                }
                None => crashed(),
            }
        })
    }

    fn watch(&self, slot: Slot, from: u64) -> BoxFuture<'static, Result<(), JournalError>> {
        self.kept.watch(slot, from)
    }
}

fn created(name: &str) -> Change {
    Change::Topic(TopicChange::Created {
        id: TopicId::random(),
        name: name.to_owned(),
        partitions: 1,
        configs: BTreeMap::new(),
        internal: false,
    })
}

async fn replayed(journal: &Arc<MemoryJournal>) -> (Image, u64, History) {
    let mut replay = Replay::default();
    replay.read_on(journal).await.unwrap();
    replay.finish()
}

/// An owner over `journal` that has replayed it, over logs that it opens none of.
async fn owner(logs: &Logs, kept: &Arc<MemoryJournal>, journal: Arc<dyn Journal>) -> Owner {
    let (image, next, history) = replayed(kept).await;
    let published = Arc::new(Published {
        image: ArcSwap::from_pointee(image),
        changed: watch::Sender::new(()),
        logs: logs.clone(),
    });
    Owner::new(published, journal, Arc::new(Config::default()), (next, history))
        .with_image_parts_of(30)
}

/// Topics, and one that was deleted and whose logs are not removed yet.
async fn some_topics(kept: &Arc<MemoryJournal>) -> Image {
    let topics: Vec<Change> = ["a", "b", "c", "d"].map(created).into();
    let Change::Topic(TopicChange::Created { id, .. }) = topics[3] else { unreachable!() };
    let records = [topics, vec![Change::Topic(TopicChange::Deleted { id })]];
    for (position, changes) in (0..).zip(records) {
        kept.append(Slot::METADATA, position, record::encode(&changes)).await.unwrap();
    }
    replayed(kept).await.0
}

#[tokio::test]
async fn a_crash_at_any_moment_of_writing_anew_leaves_the_same_image() {
    let dir = TempDir::new().unwrap();
    let (logs, ..) = open(&dir).await;
    let mut is_trimmed = Vec::new();
    for (calls, half_done) in (0..20).flat_map(|calls| [(calls, false), (calls, true)]) {
        let kept = Arc::new(MemoryJournal::default());
        let before = some_topics(&kept).await;
        let mut owner = owner(&logs, &kept, Crashing::over(&kept, calls, half_done)).await;
        let done = owner.rewrite().await;
        let (mut after, next, _) = replayed(&kept).await;
        assert!(before.topics().eq(after.topics()), "crashed after {calls} calls");
        is_trimmed.push(read_all(&kept, Slot::METADATA).await[0].0 > 0);
        assert!(*is_trimmed.last().unwrap() || done.is_err());

        // The next life goes on: it decides, and writes anew what this one left.
        let mut owner = self::owner(&logs, &kept, Arc::new(kept.clone())).await;
        let changes = [created("e")];
        owner.decide(&changes, |_, _| Ok(())).await.unwrap();
        after.apply(next, &changes).unwrap();
        assert!(replayed(&kept).await.1 > next);
        owner.rewrite().await.unwrap();
        let (last, ..) = replayed(&kept).await;
        assert!(last.topics().eq(after.topics()));
        assert_eq!(last.topics.logs_left().count(), 0, "the start has removed them");
        let first = record::decode(read_all(&kept, Slot::METADATA).await[0].1.clone()).unwrap();
        assert!(matches!(first, JournalRecord::ImagePart { index: 0, .. }), "{first:?}");
    }
    assert!(is_trimmed.contains(&true) && is_trimmed.contains(&false), "each has happened");
    tokio::task::spawn_blocking(move || logs.shutdown()).await.unwrap();
}

#[tokio::test]
async fn an_image_that_another_writer_interrupts_says_nothing() {
    let dir = TempDir::new().unwrap();
    let (logs, ..) = open(&dir).await;
    let kept = Arc::new(MemoryJournal::default());
    let mut image = some_topics(&kept).await;
    let parts: Vec<Bytes> = record::parts(&image, 30).collect();
    assert!(parts.len() > 2);
    let late = [created("late")];
    let (first, rest) = parts.split_at(1);
    let interrupted = [first, &[record::encode(&late)], rest].concat();
    for (position, record) in (2..).zip(interrupted) {
        kept.append(Slot::METADATA, position, record).await.unwrap();
    }
    image.apply(0, &late).unwrap();
    assert_eq!(replayed(&kept).await.0, image);

    // One who is behind reads the others' changes before it decides; parts of theirs and its own
    // that are not whole change nothing.
    let mut behind = owner(&logs, &kept, Arc::new(kept.clone())).await;
    let mut ahead = owner(&logs, &kept, Arc::new(kept.clone())).await;
    let more = [created("more")];
    ahead.decide(&more, |_, _| Ok(())).await.unwrap();
    image.apply(0, &more).unwrap();
    behind.rewrite().await.unwrap();
    assert_eq!(read_all(&kept, Slot::METADATA).await[0].0, 0, "it was too late to trim");
    ahead.rewrite().await.unwrap();
    assert!(read_all(&kept, Slot::METADATA).await[0].0 > 0);
    let last = [created("last")];
    behind.decide(&last, |_, _| Ok(())).await.unwrap();
    image.apply(0, &last).unwrap();
    assert!(replayed(&kept).await.0.topics().eq(image.topics()));
    assert!(behind.image().topics().eq(image.topics()), "it has read the other's image");
    tokio::task::spawn_blocking(move || logs.shutdown()).await.unwrap();
}

#[tokio::test]
async fn changes_of_one_record_hold_together_or_not_at_all() {
    let kept = Arc::new(MemoryJournal::default());
    let mut image = some_topics(&kept).await;
    let before = image.clone();
    let refused = image.apply(9, &[created("new"), created("a")]).unwrap_err();
    assert!(refused.contains("created twice"), "{refused}");
    assert_eq!(image, before);
}

#[tokio::test]
async fn a_journal_that_lost_its_beginning_is_refused() {
    let kept = Arc::new(MemoryJournal::default());
    some_topics(&kept).await;
    kept.trim(Slot::METADATA, 1).await.unwrap();
    let refused = Replay::default().read_on(&kept).await.unwrap_err();
    assert!(refused.to_string().contains("beginning"), "{refused}");
}

const GROUP_VERSION: SupportedFeature =
    SupportedFeature { name: "group.version", level_min: 0, level_max: 1 };

#[tokio::test]
async fn the_features_epoch_is_the_position_of_their_change_also_when_it_is_trimmed() {
    let dir = TempDir::new().unwrap();
    let (logs, ..) = open(&dir).await;
    let kept = Arc::new(MemoryJournal::default());
    some_topics(&kept).await;
    let mut owner = owner(&logs, &kept, Arc::new(kept.clone())).await;
    assert_eq!(owner.image().features().epoch(), None);
    let first = read_all(&kept, Slot::METADATA).await.len() as u64;
    owner.finalize(&[GROUP_VERSION]).await.unwrap();
    owner.finalize(&[GROUP_VERSION]).await.unwrap();
    owner.decide(&[created("later")], |_, _| Ok(())).await.unwrap();
    owner.rewrite().await.unwrap();
    let more = SupportedFeature { name: "share.version", level_min: 1, level_max: 2 };
    let next = replayed(&kept).await.1;
    for (supported, epoch) in [(vec![], first), (vec![GROUP_VERSION, more], next)] {
        owner.finalize(&supported).await.unwrap();
        for features in [replayed(&kept).await.0.features(), owner.image().features()] {
            assert_eq!(features.epoch(), Some(epoch));
            let level = features.levels().find(|(name, _)| *name == "group.version");
            assert_eq!(level, Some(("group.version", 1)));
        }
    }
    tokio::task::spawn_blocking(move || logs.shutdown()).await.unwrap();
}

/// The bytes that 100,000 changes of topics leave in the journal, at most: a segment that is full,
/// and one that is being written.
const LEFT_BYTES_MAX: u64 = 2 << 20;

#[tokio::test]
async fn the_journal_after_100_000_topic_changes_is_small() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let journal: Arc<dyn Journal> = Arc::new(Arc::new(MemoryJournal::default()));
    let (logs, config, clock) = (bench.logs.clone(), bench.config.clone(), bench.clock.clone());
    let metrics = Metrics::default();
    let metadata = Metadata::start(logs, journal.clone(), config, clock, &metrics).await.unwrap();
    let mut topics = Vec::new();
    for index in 0..100 {
        let topic = metadata.create(new_topic(&format!("topic-{index}"), 1), false).await.unwrap();
        topics.push(topic.id);
    }
    for change in 0..100_000 {
        let changes = set("retention.ms", &change.to_string());
        metadata.alter_configs(topics[change % topics.len()], changes, false).await.unwrap();
    }
    let left = read_all(&*journal, Slot::METADATA).await;
    // A batch with one record takes less than 80 bytes beside what the record says.
    let bytes: u64 = left.iter().map(|(_, record)| record.len() as u64 + 80).sum();
    assert!(bytes < LEFT_BYTES_MAX, "{} records with {bytes} bytes are left", left.len());
    assert!(left[0].0 > 90_000, "from position {}", left[0].0);
    drop(metadata);
    bench.stop().await;
}
