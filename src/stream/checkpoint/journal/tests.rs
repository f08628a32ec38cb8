//! The job journal over a journal in memory: what is left of it, and what a crash leaves.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::BoxFuture;

use super::*;
use crate::metadata::tests::journal::{MemoryJournal, read_all};
use crate::stream::checkpoint::record::{Commit, Ended, Started, StateManifest, Submitted};

/// A journal that fails for good after so many writes.
#[derive(Clone)]
struct Dying {
    journal: Arc<MemoryJournal>,
    writes_left: Arc<AtomicU64>,
}

impl Dying {
    fn over(journal: &Arc<MemoryJournal>, writes: u64) -> Arc<Dying> {
        let writes_left = Arc::new(AtomicU64::new(writes));
        Arc::new(Dying { journal: journal.clone(), writes_left })
    }

    fn dies(&self) -> bool {
        let left = &self.writes_left;
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

fn dead<T: Send + 'static>() -> BoxFuture<'static, Result<T, JournalError>> {
    Box::pin(async { Err(JournalError::Storage("the power is gone".to_owned())) })
}

impl Journal for Dying {
    fn append(
        &self,
        slot: Slot,
        seq: u64,
        record: Bytes,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        if self.dies() { dead() } else { self.journal.append(slot, seq, record) }
    }

    fn read(
        &self,
        slot: Slot,
        from: u64,
    ) -> BoxFuture<'static, Result<Vec<(u64, Bytes)>, JournalError>> {
        self.journal.read(slot, from)
    }

    fn trim(&self, slot: Slot, before: u64) -> BoxFuture<'static, Result<(), JournalError>> {
        if self.dies() { dead() } else { self.journal.trim(slot, before) }
    }

    fn watch(&self, slot: Slot, from: u64) -> BoxFuture<'static, Result<(), JournalError>> {
        self.journal.watch(slot, from)
    }
}

/// Three jobs of one slot.
fn neighbours() -> [String; 3] {
    let mut ids = (0..).map(|n| format!("job-{n}")).filter(|id| index(id) == index("job-0"));
    std::array::from_fn(|_| ids.next().unwrap())
}

fn submitted(name: &str) -> Event {
    Event::Submitted(Submitted {
        name: name.to_owned(),
        definition: format!("INSERT INTO {name}"),
        checkpoint_interval: std::time::Duration::from_millis(10),
        parallelism: 1,
        at_ms: 1,
    })
}

fn started(attempt: u32) -> Event {
    Event::Started(Started { attempt, producers: vec![[1, 2]], ..Started::default() })
}

fn committed(attempt: u32, epoch: u64) -> Event {
    let state = StateManifest { partition: 3, base_epoch: epoch, from: epoch, to: epoch + 1 };
    Event::Committed(Box::new(Commit { attempt, epoch, state: Some(state), ..Commit::default() }))
}

fn ended() -> Event {
    Event::Ended(Ended { state: "finished".to_owned(), failure: None, at_ms: Some(9) })
}

async fn open(journal: &Arc<MemoryJournal>) -> JobJournal {
    JobJournal::open(Arc::new(journal.clone())).await.unwrap()
}

/// The slot's size, and the position of its oldest record.
async fn kept(journal: &Arc<MemoryJournal>, job: &str) -> (u64, u64) {
    let records = read_all(journal, slot(index(job))).await;
    (records.len() as u64, records[0].0)
}

#[tokio::test]
async fn a_slot_does_not_grow_with_the_checkpoints_and_all_jobs_in_it_stay() {
    let memory = Arc::new(MemoryJournal::default());
    let journal = open(&memory).await;
    let [busy, idle, done] = neighbours();
    for job in [&busy, &idle, &done] {
        journal.append(job, submitted(job)).await.unwrap();
        journal.append(job, started(1)).await.unwrap();
    }
    journal.append(&idle, committed(1, 1)).await.unwrap();
    journal.append(&idle, started(2)).await.unwrap();
    journal.append(&done, ended()).await.unwrap();
    let mut starts = Vec::new();
    for epoch in 1..=5 * History::MIN.records {
        journal.append(&busy, committed(1, epoch)).await.unwrap();
        if epoch % 64 > 0 {
            continue;
        }
        let (records, start) = kept(&memory, &busy).await;
        assert!(records <= History::MIN.records, "{records} records at epoch {epoch}");
        starts.push(start);
    }
    starts.dedup();
    assert!(starts.len() > 4 && starts.is_sorted(), "the slot's start advances: {starts:?}");

    let before: BTreeMap<_, _> = journal.jobs().await.into_iter().collect();
    let after: BTreeMap<_, _> = open(&memory).await.jobs().await.into_iter().collect();
    assert_eq!(after, before);
    assert_eq!(after[&busy].commit.as_ref().unwrap().epoch, 5 * History::MIN.records);
    assert_eq!(after[&busy].submitted.as_ref().unwrap().definition, format!("INSERT INTO {busy}"));
    assert_eq!((after[&idle].attempt(), after[&idle].commit.as_ref().unwrap().attempt), (2, 1));
    assert_eq!(after[&done].ended.as_ref().unwrap().at_ms, Some(9));
}

#[tokio::test]
async fn large_records_are_history_sooner() {
    let memory = Arc::new(MemoryJournal::default());
    let journal = open(&memory).await;
    let large = "x".repeat(64 << 10);
    for _ in 0..200 {
        journal.append("a", submitted(&large)).await.unwrap();
        let (records, _) = kept(&memory, "a").await;
        assert!(records * (64 << 10) <= History::MIN.bytes, "{records} records");
    }
}

#[tokio::test]
async fn a_slot_of_many_jobs_is_not_written_anew_at_every_record() {
    let memory = Arc::new(MemoryJournal::default());
    let journal = open(&memory).await;
    let ids = (0..).map(|n| format!("job-{n}")).filter(|id| index(id) == index("job-0"));
    let ids: Vec<String> = ids.take(2 * History::MIN.records as usize).collect();
    for id in &ids {
        journal.append(id, submitted("j")).await.unwrap();
    }
    let (_, start) = kept(&memory, &ids[0]).await;
    for epoch in 1..=100 {
        journal.append(&ids[0], committed(0, epoch)).await.unwrap();
    }
    assert_eq!(kept(&memory, &ids[0]).await.1, start);
    assert_eq!(open(&memory).await.jobs().await.len(), ids.len());
}

#[tokio::test]
async fn a_crash_anywhere_in_a_rewrite_loses_nothing() {
    let [busy, idle, done] = neighbours();
    // Three jobs, one of them ended, have ten records to be written anew; then comes the trim.
    for writes in 0..=11 {
        let memory = Arc::new(MemoryJournal::default());
        let journal = open(&memory).await;
        for job in [&busy, &idle, &done] {
            journal.append(job, submitted(job)).await.unwrap();
            journal.append(job, committed(0, 1)).await.unwrap();
            journal.append(job, started(1)).await.unwrap();
        }
        journal.append(&done, ended()).await.unwrap();
        for epoch in 2..=History::MIN.records - 9 {
            journal.append(&busy, committed(1, epoch)).await.unwrap();
        }
        let expected: BTreeMap<_, _> = journal.jobs().await.into_iter().collect();
        drop(journal);

        // The last append is one write, and what follows is cut off after `writes` more.
        let dying = Dying::over(&memory, 1 + writes);
        let journal = JobJournal::open(dying).await.unwrap();
        let last = committed(1, History::MIN.records);
        journal.append(&busy, last.clone()).await.unwrap();
        let (records, start) = kept(&memory, &busy).await;
        let expected_start = if writes > 10 { History::MIN.records + 1 } else { 0 };
        assert_eq!(start, expected_start, "{records} records after {writes} writes");

        let mut expected = expected;
        expected.get_mut(&busy).unwrap().apply(last);
        // Twice, and with more records behind: what is said twice counts once.
        for _ in 0..2 {
            let again = open(&memory).await;
            let jobs: BTreeMap<_, _> = again.jobs().await.into_iter().collect();
            assert_eq!(jobs, expected, "after {writes} writes");
            again.append(&idle, committed(1, 7)).await.unwrap();
            expected.get_mut(&idle).unwrap().apply(committed(1, 7));
        }
    }
}

#[tokio::test]
async fn two_writers_trim_behind_each_other_and_agree() {
    let memory = Arc::new(MemoryJournal::default());
    let (a, b) = (open(&memory).await, open(&memory).await);
    let [one, other, done] = neighbours();
    for job in [&one, &other, &done] {
        a.append(job, submitted(job)).await.unwrap();
    }
    assert!(b.image(&done).await.unwrap().submitted.is_some());
    a.append(&done, ended()).await.unwrap();
    a.forget(&done).await;
    for epoch in 1..=2 * History::MIN.records {
        a.append(&one, committed(1, epoch)).await.unwrap();
        if epoch % 100 == 0 {
            b.append(&other, committed(1, epoch)).await.unwrap();
        }
    }
    // Who lags behind a trim begins anew, without the job that was forgotten.
    for journal in [&b, &open(&memory).await] {
        assert_eq!(journal.image(&one).await.unwrap().commit.unwrap().epoch, 2048);
        assert_eq!(journal.image(&other).await.unwrap().commit.unwrap().epoch, 2000);
        assert_eq!(journal.image(&done).await.unwrap(), JobImage::default());
    }
    assert!(kept(&memory, &one).await.1 > 0);
}

#[tokio::test]
async fn only_jobs_that_ended_are_forgotten() {
    let memory = Arc::new(MemoryJournal::default());
    let journal = open(&memory).await;
    journal.append("a", submitted("a")).await.unwrap();
    journal.forget("a").await;
    assert!(journal.image("a").await.unwrap().submitted.is_some());
    journal.append("a", ended()).await.unwrap();
    journal.forget("a").await;
    assert!(journal.jobs().await.is_empty());
}

#[tokio::test]
async fn format_1_stays_readable() {
    let memory = Arc::new(MemoryJournal::default());
    let records = [
        r#"{"v":1,"job":"a","event":"submitted","name":"n","definition":"d","checkpoint_interval":{"secs":10,"nanos":0},"parallelism":2,"at_ms":5}"#,
        r#"{"v":1,"job":"a","event":"started","attempt":1,"producer_epoch":0,"producers":[[7,8]]}"#,
        r#"{"v":1,"job":"a","event":"committed","epoch":3,"attempt":1,"at_ms":6,"took_ms":1,"state_bytes":0,"positions":[],"state":{"partition":1,"base_epoch":2,"from":10,"to":12},"outputs":[]}"#,
        r#"{"v":1,"job":"a","event":"ended","state":"canceled","failure":null}"#,
    ];
    for (seq, record) in (0..).zip(records) {
        memory.append(slot(index("a")), seq, record.into()).await.unwrap();
    }
    let image = open(&memory).await.image("a").await.unwrap();
    assert_eq!(image.submitted.unwrap().parallelism, 2);
    assert_eq!(image.started.unwrap().producers, [[7, 8]]);
    assert_eq!(image.commit.unwrap().state.unwrap().from, 10);
    assert_eq!(image.ended.unwrap().at_ms, None);
}
