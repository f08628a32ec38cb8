//! Faults around a job: kills over many partitions, an answer that got lost, topics that change
//! under it, a checkpoint torn at each byte.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;

use super::*;
use crate::metadata::journal::{Journal, JournalError, Slot};

/// A journal whose answers to commit records get lost: with `keep` after they were written, else
/// before.
struct Lossy {
    journal: Arc<dyn Journal>,
    lossy: AtomicBool,
    keep: bool,
}

impl Lossy {
    fn over(broker: &mut Broker, keep: bool) -> Arc<Lossy> {
        let journal = broker.rooms.journal.clone();
        let lossy = Arc::new(Lossy { journal, lossy: AtomicBool::new(true), keep });
        broker.rooms.journal = lossy.clone();
        lossy
    }
}

impl Journal for Lossy {
    fn append(
        &self,
        slot: Slot,
        seq: u64,
        record: Bytes,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        let text = String::from_utf8_lossy(&record).into_owned();
        let lost = text.contains(r#""event":"committed""#) && self.lossy.load(Ordering::Relaxed);
        let keep = self.keep;
        let append = self.journal.append(slot, seq, record);
        Box::pin(async move {
            if !lost || keep {
                append.await?;
            }
            match lost {
                true => Err(JournalError::Storage("the answer got lost".to_owned())),
                false => Ok(()),
            }
        })
    }

    fn read(
        &self,
        slot: Slot,
        from: u64,
    ) -> BoxFuture<'static, Result<Vec<(u64, Bytes)>, JournalError>> {
        self.journal.read(slot, from)
    }

    fn trim(&self, slot: Slot, before: u64) -> BoxFuture<'static, Result<(), JournalError>> {
        self.journal.trim(slot, before)
    }

    fn watch(&self, slot: Slot, from: u64) -> BoxFuture<'static, Result<(), JournalError>> {
        self.journal.watch(slot, from)
    }
}

/// The job, with watermarks as Flink emits them by default.
fn periodic() -> Graph {
    let mut graph = graph();
    if let Op::Source(source) = &mut graph.nodes[0].op
        && let Some(watermarks) = &mut source.watermark
    {
        watermarks.emit = Emit::Periodic(Duration::from_millis(20));
    }
    graph
}

#[tokio::test(flavor = "multi_thread")]
async fn three_partitions_read_by_two_subtasks_lose_no_window_to_a_dozen_kills() {
    const PAGES: [&str; 5] = ["a", "b", "c", "d", "e"];
    let failpoints = [
        Failpoint::BeforeCommit,
        Failpoint::AfterCommit,
        Failpoint::BetweenMarkers,
        Failpoint::AfterMarkers,
    ];
    let dir = TempDir::new().unwrap();
    let rounds = 12;
    let mut kills = 0;
    let mut expected: BTreeMap<(i64, &str), u64> = BTreeMap::new();
    for round in 0..rounds {
        let broker = Broker::start(&dir, round as u32 + 1).await;
        if round == 0 {
            broker.create("clicks", 3).await;
        }
        // The partitions' event times drift apart by up to half a window, in either direction.
        let mut batches = Vec::new();
        for step in 0..4 {
            for partition in 0..3_i64 {
                let second = round * 8 + step * 2 + partition * 2;
                let mut clicks = Vec::new();
                for (index, page) in PAGES.iter().enumerate().skip(partition as usize) {
                    for _ in 0..=index {
                        clicks.push(click(page, second));
                        *expected.entry((second / 10 * 10, *page)).or_default() += 1;
                    }
                }
                batches.push((partition as usize, clicks));
            }
        }
        let producing = async {
            for (partition, clicks) in &batches {
                broker.produce("clicks", *partition, clicks).await;
                tokio::time::sleep(Duration::from_millis(7)).await;
            }
        };
        let epoch = last_epoch(&broker).await + 1 + round as u64 % 3;
        let failpoint = failpoints[round as usize % 4];
        let killed = attempt_of(&broker, periodic(), 2, Some((epoch, failpoint)), usize::MAX);
        // An attempt that never gets there is dropped with the broker.
        let killed = tokio::time::timeout(Duration::from_millis(800), killed);
        let (killed, ()) = tokio::join!(killed, producing);
        if let Ok(outcome) = killed {
            assert_eq!(outcome, Outcome::Killed, "{failpoint:?} in round {round}");
            kills += 1;
        }
        broker.end().await;
    }
    assert!(kills >= rounds / 2, "{kills} kills in {rounds} rounds");
    let broker = Broker::start(&dir, 99).await;
    for partition in 0..3 {
        broker.produce("clicks", partition, &[click("end", 1000)]).await;
    }
    let mut expected: Vec<_> =
        expected.iter().map(|((start, page), count)| counted(page, *start, *count)).collect();
    expected.sort();
    let outcome = attempt_of(&broker, periodic(), 2, None, expected.len()).await;
    assert_eq!(outcome, Outcome::Shutdown);
    assert_eq!(broker.committed("counts").await, expected);
    broker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_got_lost_is_not_aborted() {
    let dir = TempDir::new().unwrap();
    let mut broker = Broker::start(&dir, 1).await;
    broker.create("clicks", 1).await;
    let lossy = Lossy::over(&mut broker, true);
    broker.produce("clicks", 0, &[click("a", 1), click("a", 12)]).await;
    let outcome = attempt(&broker, 1, None, usize::MAX).await;
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    lossy.lossy.store(false, Ordering::Relaxed);
    broker.produce("clicks", 0, &[click("a", 22)]).await;
    attempt(&broker, 1, None, 2).await;
    assert_eq!(broker.committed("counts").await, [counted("a", 0, 1), counted("a", 10, 1)]);
    broker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_whose_last_checkpoint_fails_is_told_so() {
    let dir = TempDir::new().unwrap();
    let mut broker = Broker::start(&dir, 1).await;
    broker.create("clicks", 1).await;
    let lossy = Lossy::over(&mut broker, false);
    lossy.lossy.store(false, Ordering::Relaxed);
    let jobs = Jobs::start(broker.rooms.clone(), &broker.metrics).await.unwrap();
    let id = jobs.submit(new_job()).await.unwrap().0;
    eventually(&jobs, &id, |status| status.checkpoint.is_some()).await;
    lossy.lossy.store(true, Ordering::Relaxed);
    let stopped = tokio::time::timeout(Duration::from_secs(5), jobs.stop(&id)).await;
    let error = stopped.expect("the caller is answered").unwrap_err().to_string();
    assert!(error.contains("the answer got lost"), "{error}");
    lossy.lossy.store(false, Ordering::Relaxed);
    jobs.cancel(&id).await.unwrap();
    broker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_still_queued_when_an_attempt_ends_leave_no_transaction_open() {
    let dir = TempDir::new().unwrap();
    let broker = Broker::start(&dir, 1).await;
    broker.create("counts", 1).await;
    let log = broker.logs_of("counts").swap_remove(0);
    let pair = [ProducerId(900), ProducerId(901)];
    let runtime = tokio::runtime::Handle::current();
    let target = log.clone();
    let appends = tokio::task::spawn_blocking(move || {
        // Other records keep the log's thread at work.
        let options = AppendOptions {
            durable: Durable::Synced,
            batch_bytes_max: 1 << 20,
            origin: AppendOrigin::Broker,
        };
        for _ in 0..100 {
            let value = Some(Bytes::from(vec![b'x'; 100_000]));
            let plain = batch::encode(&[NewRecord { value, ..NewRecord::default() }], None);
            drop(runtime.block_on(target.enqueue(plain, options)));
        }
        let mut writer = TransactionalWriter::new(pair, ProducerEpoch(0), 1, 1 << 20, runtime);
        writer
            .append(&target, &[NewRecord { value: Some("x".into()), ..NewRecord::default() }])
            .unwrap();
        writer.end_epoch(1)
    });
    let appends = appends.await.unwrap();
    let logs = std::slice::from_ref(&log);
    settle(logs, &HashSet::from(pair), &[], ProducerEpoch(0)).await.unwrap();
    for append in appends {
        append.pending.await.unwrap();
    }
    assert!(log.open_transactions().is_empty());
    broker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_topic_that_is_deleted_or_created_again_fails_the_job_by_name() {
    let dir = TempDir::new().unwrap();
    let broker = Broker::start(&dir, 1).await;
    broker.create("clicks", 1).await;
    let jobs = Jobs::start(broker.rooms.clone(), &broker.metrics).await.unwrap();
    let id = jobs.submit(new_job()).await.unwrap().0;
    broker.produce("clicks", 0, &[click("a", 1)]).await;
    eventually(&jobs, &id, |status| status.records_in == 1 && status.checkpoint.is_some()).await;
    let topic = broker.rooms.metadata.image().topic("clicks").unwrap().id;
    broker.rooms.metadata.delete(topic).await.unwrap();
    let says = |part: &'static str| {
        move |status: &crate::stream::job::JobStatus| {
            status.failure.as_ref().is_some_and(|failure| failure.contains(part))
        }
    };
    eventually(&jobs, &id, says("topic 'clicks' was deleted")).await;
    broker.create("clicks", 1).await;
    eventually(&jobs, &id, says("deleted and created again since the last checkpoint")).await;
    jobs.cancel(&id).await.unwrap();
    broker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_added_to_a_source_topic_are_read_without_a_restart_of_the_broker() {
    let dir = TempDir::new().unwrap();
    let broker = Broker::start(&dir, 1).await;
    broker.create("clicks", 1).await;
    let jobs = Jobs::start(broker.rooms.clone(), &broker.metrics).await.unwrap();
    let id = jobs.submit(new_job()).await.unwrap().0;
    broker.produce("clicks", 0, &[click("a", 1)]).await;
    eventually(&jobs, &id, |status| status.records_in == 1 && status.checkpoint.is_some()).await;
    let topic = broker.rooms.metadata.image().topic("clicks").unwrap().id;
    broker.rooms.metadata.add_partitions(topic, 2).await.unwrap();
    broker.produce("clicks", 1, &[click("a", 2), click("a", 12)]).await;
    // The old partition's watermark must not pass before the new one is known.
    eventually(&jobs, &id, |status| status.attempt == 1 && status.failure.is_none()).await;
    broker.produce("clicks", 0, &[click("a", 12)]).await;
    assert_eq!(broker.wait_for("counts", 1).await, [counted("a", 0, 2)]);
    jobs.cancel(&id).await.unwrap();
    broker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_topic_that_is_deleted_and_created_again_gets_what_comes_after() {
    let dir = TempDir::new().unwrap();
    let broker = Broker::start(&dir, 1).await;
    broker.create("clicks", 1).await;
    let jobs = Jobs::start(broker.rooms.clone(), &broker.metrics).await.unwrap();
    let id = jobs.submit(new_job()).await.unwrap().0;
    broker.produce("clicks", 0, &[click("a", 1), click("a", 12)]).await;
    assert_eq!(broker.wait_for("counts", 1).await.len(), 1);
    let topic = broker.rooms.metadata.image().topic("counts").unwrap().id;
    broker.rooms.metadata.delete(topic).await.unwrap();
    eventually(&jobs, &id, |status| {
        status
            .failure
            .as_ref()
            .is_some_and(|failure| failure.contains("topic 'counts' was deleted"))
    })
    .await;
    broker.produce("clicks", 0, &[click("a", 22)]).await;
    assert_eq!(broker.wait_for("counts", 1).await, [counted("a", 10, 1)]);
    jobs.cancel(&id).await.unwrap();
    broker.end().await;
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Every file below `dir`.
fn files(dir: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Where the last batch of a log begins.
fn last_batch(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let length = u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize + 12;
        if at + length >= bytes.len() {
            return at;
        }
        at += length;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_record_torn_anywhere_means_the_checkpoint_before_it() {
    let dir = TempDir::new().unwrap();
    let broker = Broker::start(&dir, 1).await;
    broker.create("clicks", 1).await;
    broker.produce("clicks", 0, &[click("a", 1), click("a", 12)]).await;
    attempt(&broker, 1, None, 1).await;
    broker.end().await;
    let broker = Broker::start(&dir, 2).await;
    let before = last_epoch(&broker).await;
    broker.produce("clicks", 0, &[click("b", 13), click("a", 22)]).await;
    let failpoint = Some((before + 1, Failpoint::AfterCommit));
    assert_eq!(attempt(&broker, 1, failpoint, usize::MAX).await, Outcome::Killed);
    broker.end().await;

    let committed: &[u8] = br#""event":"committed""#;
    let journal = files(&dir.path().join("logs")).into_iter().find(|path| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(committed.len()).any(|window| window == committed)
    });
    let journal = journal.unwrap();
    let whole = std::fs::read(&journal).unwrap();
    let start = last_batch(&whole);
    // Each byte of the header, then strides, then the last byte.
    let cuts = (start..start + 61).chain((start + 61..whole.len() - 1).step_by(41));
    let cuts: Vec<usize> = cuts.chain([whole.len() - 1]).collect();
    for (index, &cut) in cuts.iter().enumerate() {
        let torn = TempDir::new().unwrap();
        copy(&dir.path().join("logs"), &torn.path().join("logs"));
        let path = torn.path().join(journal.strip_prefix(dir.path()).unwrap());
        std::fs::write(&path, &whole[..cut]).unwrap();
        // As a power loss leaves it before the record was synced: the manifest does not know of it.
        std::fs::remove_file(path.with_file_name("manifest")).unwrap();
        let broker = Broker::start(&torn, 3).await;
        assert_eq!(last_epoch(&broker).await, before, "cut at byte {}", cut - start);
        if index % 20 == 0 {
            broker.produce("clicks", 0, &[click("a", 32)]).await;
            attempt(&broker, 1, None, 4).await;
            let mut expected =
                [counted("a", 0, 1), counted("a", 10, 1), counted("a", 20, 1), counted("b", 10, 1)];
            expected.sort();
            assert_eq!(broker.committed("counts").await, expected, "cut at byte {}", cut - start);
        }
        broker.end().await;
    }
}
