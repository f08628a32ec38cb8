//! What jobs leave behind does not grow with their age: the journal, the state topic and the list
//! of ended jobs are bounded, and every restore finds what it needs.

use super::*;
use crate::config::Durability;
use crate::metadata::local_journal::journal_topic;
use crate::stream::checkpoint::record::{Ended, Event, Submitted};
use crate::stream::checkpoint::state_topic;
use crate::types::LogId;

/// The log of job `j`'s state.
fn state_log(broker: &Broker) -> Partition {
    let partition = crate::stream::state::hash(b"j") % u64::from(state_topic::PARTITIONS);
    broker.logs_of(state_topic::TOPIC).swap_remove(partition as usize)
}

/// What the last checkpoint says of state; `None` if there was none.
async fn manifest(broker: &Broker) -> Option<StateManifest> {
    let journal = JobJournal::open(broker.rooms.journal.clone()).await.unwrap();
    journal.image("j").await.unwrap().commit.unwrap().state
}

/// Runs an attempt whose first checkpoint is a full one, sends a click after it, and kills the attempt
/// in the next one, so that the restore that follows is from a log that was trimmed.
async fn killed_after_a_full_checkpoint(broker: &Broker, page: &str, second: i64) {
    let epoch = last_epoch(broker).await;
    let killed = attempt(broker, 1, Some((epoch + 2, Failpoint::BeforeCommit)), usize::MAX);
    let more = async {
        let deadline = Instant::now() + PATIENCE;
        while last_epoch(broker).await == epoch && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        broker.produce("clicks", 0, &[click(page, second)]).await;
    };
    assert_eq!(tokio::join!(killed, more).0, Outcome::Killed);
}

#[tokio::test(flavor = "multi_thread")]
async fn state_before_a_full_checkpoint_is_forgotten_and_what_a_restore_reads_is_not() {
    let dir = TempDir::new().unwrap();
    let mut starts = Vec::new();
    for round in 0..4_u32 {
        let broker = Broker::start(&dir, round + 1).await;
        if round == 0 {
            broker.create("clicks", 1).await;
        }
        // A window stays open from one attempt to the next: only the state knows of its clicks.
        let second = i64::from(round) * 10;
        let clicks = [click("a", second + 1), click("a", second + 9), click("a", second + 11)];
        broker.produce("clicks", 0, &clicks).await;
        killed_after_a_full_checkpoint(&broker, "a", second + 12).await;
        // The very first checkpoint may come before the first click was read, and has no state then:
        // another attempt, with a click that is not counted.
        let needed = loop {
            match manifest(&broker).await {
                Some(manifest) => break manifest.from,
                None => killed_after_a_full_checkpoint(&broker, "bot", second + 12).await,
            }
        };
        let start = state_log(&broker).span().start;
        assert_eq!(start.get(), needed, "in round {round}");
        starts.push(start);
        broker.end().await;
    }
    assert!(starts.is_sorted_by(|a, b| a < b), "each round forgets the one before: {starts:?}");

    let broker = Broker::start(&dir, 9).await;
    assert_eq!(attempt(&broker, 1, None, 4).await, Outcome::Shutdown);
    // Windows after the first also hold the two clicks of the round before.
    let expected =
        [counted("a", 0, 2), counted("a", 10, 4), counted("a", 20, 4), counted("a", 30, 4)];
    assert_eq!(broker.committed("counts").await, expected);
    broker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ended_gives_its_state_up() {
    let dir = TempDir::new().unwrap();
    let broker = Broker::start(&dir, 1).await;
    broker.create("clicks", 1).await;
    let jobs = Jobs::start(broker.rooms.clone(), &broker.metrics).await.unwrap();
    let id = jobs.submit(new_job()).await.unwrap().0;
    broker.produce("clicks", 0, &[click("a", 1)]).await;
    eventually(&jobs, &id, |job| job.records_in == 1 && job.checkpoint.is_some()).await;
    let held = |broker: &Broker| -> Vec<_> {
        let logs = broker.logs_of(state_topic::TOPIC);
        logs.iter().map(|log| log.span().end.get() - log.span().start.get()).collect()
    };
    jobs.stop(&id).await.unwrap();
    assert_eq!(held(&broker), [0; state_topic::PARTITIONS as usize]);
    let written: u64 =
        broker.logs_of(state_topic::TOPIC).iter().map(|log| log.span().end.get()).sum();
    assert!(written > 0, "it had state");
    broker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_ended_jobs_is_bounded_by_forgetting_the_oldest() {
    const ENDED: i64 = 103;
    let dir = TempDir::new().unwrap();
    let broker = Broker::start(&dir, 1).await;
    broker.create("clicks", 1).await;
    let journal = JobJournal::open(broker.rooms.journal.clone()).await.unwrap();
    let id = |n: i64| format!("job-{n}");
    for n in 0..ENDED {
        let submitted = Submitted {
            name: "count".to_owned(),
            definition: "the definition".to_owned(),
            checkpoint_interval: Duration::from_secs(10),
            parallelism: 1,
            at_ms: 0,
        };
        journal.append(&id(n), Event::Submitted(submitted)).await.unwrap();
        // The first of all ended before times were written down.
        let at_ms = (n > 0).then_some(n);
        let ended = Ended { state: "finished".to_owned(), failure: None, at_ms };
        journal.append(&id(n), Event::Ended(ended)).await.unwrap();
    }
    let jobs = Jobs::start(broker.rooms.clone(), &broker.metrics).await.unwrap();
    jobs.recover(Arc::new(Replan)).await;
    let known = |jobs: &Jobs| (0..ENDED).filter(|n| jobs.status(&id(*n)).is_some()).min();
    assert_eq!((jobs.list().len(), known(&jobs)), (100, Some(3)));

    // One more runs, which is no history yet, and ends.
    let newest = jobs.submit(new_job()).await.unwrap().0;
    assert_eq!((jobs.list().len(), known(&jobs)), (101, Some(3)));
    eventually(&jobs, &newest, |job| job.state == JobState::Running).await;
    jobs.cancel(&newest).await.unwrap();
    assert_eq!((jobs.list().len(), known(&jobs)), (100, Some(4)));
    assert_eq!(jobs.status(&newest).unwrap().state, JobState::Canceled);
    broker.end().await;
}

/// Over logs as a broker keeps them, without waiting for the disk.
#[tokio::test(flavor = "multi_thread")]
async fn the_journal_of_a_job_with_thousands_of_checkpoints_stays_small() {
    const CHECKPOINTS: u64 = 3000;
    let dir = TempDir::new().unwrap();
    let config = Config { durability: Durability::PageCache, ..Config::default() };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let open = |start: u32| {
        let (logs, view) = (dir.path().join("logs"), dir.path().join(format!("view-{start}")));
        let epoch = LeaderEpoch(start as i32);
        let logs = Logs::over_directories(
            &logs,
            &view,
            &config,
            clock.clone(),
            epoch,
            &Metrics::default(),
        );
        let journal = Arc::new(LocalJournal::new(logs.clone(), clock.clone()));
        (logs, journal)
    };
    let (logs, journal) = open(1);
    let jobs = JobJournal::open(journal).await.unwrap();
    for epoch in 1..=CHECKPOINTS {
        let commit = Commit { epoch, attempt: 1, ..Commit::default() };
        jobs.append("j", Event::Committed(Box::new(commit))).await.unwrap();
    }
    let expected = jobs.jobs().await;
    tokio::task::spawn_blocking(move || logs.shutdown()).await.unwrap();

    let (logs, journal) = open(2);
    assert_eq!(JobJournal::open(journal).await.unwrap().jobs().await, expected);
    let slots = (0..crate::metadata::journal::SLOTS)
        .filter_map(|slot| {
            let partition = PartitionId(u32::from(slot));
            logs.partition(LogId { topic: journal_topic(), partition })
        })
        .map(|log| (log.span(), log.size_bytes()));
    let (span, bytes) = slots.max_by_key(|(span, _)| span.end).unwrap();
    assert!(span.end.get() >= CHECKPOINTS);
    assert!(span.start.get() > CHECKPOINTS / 2, "{span:?}");
    assert!(bytes <= 1 << 20, "{bytes} bytes");
    tokio::task::spawn_blocking(move || logs.shutdown()).await.unwrap();
}
