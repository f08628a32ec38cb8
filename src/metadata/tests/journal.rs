//! What every journal must do, whatever keeps it: one suite over `dyn Journal`, and a journal in
//! memory for the tests of the rooms above.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::metadata::journal::{Journal, JournalError, SLOTS, Slot};

/// A journal that forgets everything when it is dropped.
pub(crate) struct MemoryJournal {
    slots: Vec<Mutex<Kept>>,
    written: watch::Sender<()>,
}

/// A slot's records, and the position of the first.
#[derive(Default)]
struct Kept {
    start: u64,
    records: Vec<Bytes>,
}

impl Kept {
    fn next(&self) -> u64 {
        self.start + self.records.len() as u64
    }
}

impl Default for MemoryJournal {
    fn default() -> MemoryJournal {
        let slots = (0..SLOTS).map(|_| Mutex::default()).collect();
        MemoryJournal { slots, written: watch::Sender::new(()) }
    }
}

impl MemoryJournal {
    fn next(&self, slot: Slot) -> u64 {
        self.slots[usize::from(slot.0)].lock().unwrap().next()
    }
}

impl Journal for Arc<MemoryJournal> {
    fn append(
        &self,
        slot: Slot,
        seq: u64,
        record: Bytes,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        let journal = self.clone();
        Box::pin(async move {
            let mut kept = journal.slots[usize::from(slot.0)].lock().unwrap();
            let next = kept.next();
            if seq != next {
                return Err(JournalError::Occupied { next });
            }
            kept.records.push(record);
            drop(kept);
            journal.written.send_replace(());
            Ok(())
        })
    }

    fn read(
        &self,
        slot: Slot,
        from: u64,
    ) -> BoxFuture<'static, Result<Vec<(u64, Bytes)>, JournalError>> {
        let kept = self.slots[usize::from(slot.0)].lock().unwrap();
        let numbered = (kept.start..).zip(kept.records.iter().cloned());
        let read = numbered.filter(|(seq, _)| *seq >= from).collect();
        Box::pin(async move { Ok(read) })
    }

    fn trim(&self, slot: Slot, before: u64) -> BoxFuture<'static, Result<(), JournalError>> {
        let mut kept = self.slots[usize::from(slot.0)].lock().unwrap();
        let start = before.clamp(kept.start, kept.next());
        let forgotten = (start - kept.start) as usize;
        kept.records.drain(..forgotten);
        kept.start = start;
        Box::pin(async { Ok(()) })
    }

    fn watch(&self, slot: Slot, from: u64) -> BoxFuture<'static, Result<(), JournalError>> {
        let journal = self.clone();
        Box::pin(async move {
            let mut written = journal.written.subscribe();
            while journal.next(slot) <= from {
                written.changed().await.map_err(|e| JournalError::Storage(e.to_string()))?;
            }
            Ok(())
        })
    }
}

/// Reads a slot to its end.
pub(crate) async fn read_all(journal: &dyn Journal, slot: Slot) -> Vec<(u64, Bytes)> {
    let mut all: Vec<(u64, Bytes)> = Vec::new();
    loop {
        let next = all.last().map_or(0, |(seq, _)| seq + 1);
        let more = journal.read(slot, next).await.unwrap();
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

/// The suite. `journal` must be empty; `conforms_after_a_restart` goes on where this ends.
pub(crate) async fn conforms(journal: Arc<dyn Journal>) {
    positions_are_claimed_in_order(&*journal, Slot(3)).await;
    slots_are_independent(&*journal).await;
    a_watcher_wakes_when_its_position_is_written(journal.clone(), Slot(7)).await;
    two_racing_writers_share_the_positions(journal.clone(), Slot(9)).await;
    what_is_trimmed_is_not_read_again(&*journal, TRIMMED, EMPTIED).await;
    a_reader_is_never_ahead_of_or_stuck_behind_a_trim(journal.clone(), Slot(12)).await;
}

const TRIMMED: Slot = Slot(10);
const EMPTIED: Slot = Slot(11);

/// The second half, over the same journal opened anew.
pub(crate) async fn conforms_after_a_restart(journal: Arc<dyn Journal>) {
    assert_eq!(journal.read(TRIMMED, 0).await.unwrap(), vec![(2, "c".into())]);
    assert_eq!(journal.read(EMPTIED, 0).await.unwrap(), vec![]);
    let again = journal.append(EMPTIED, 0, "d".into()).await;
    assert_eq!(again, Err(JournalError::Occupied { next: 3 }), "no position is vacant twice");
    assert_eq!(journal.append(EMPTIED, 3, "d".into()).await, Ok(()));
    assert_eq!(journal.read(EMPTIED, 1).await.unwrap(), vec![(3, "d".into())]);
}

async fn what_is_trimmed_is_not_read_again(journal: &dyn Journal, trimmed: Slot, emptied: Slot) {
    for slot in [trimmed, emptied] {
        for (seq, record) in (0..).zip(["a", "b", "c"]) {
            journal.append(slot, seq, record.into()).await.unwrap();
        }
    }
    assert_eq!(journal.trim(trimmed, 2).await, Ok(()));
    assert_eq!(journal.trim(trimmed, 1).await, Ok(()), "a lower one changes nothing");
    for from in 0..=2 {
        assert_eq!(journal.read(trimmed, from).await.unwrap(), vec![(2, "c".into())]);
    }
    // What was written and forgotten is nothing to wait for.
    let past = tokio::time::timeout(Duration::from_secs(10), journal.watch(trimmed, 0));
    past.await.unwrap().unwrap();
    // Beyond the end there is nothing to forget.
    assert_eq!(journal.trim(emptied, 9).await, Ok(()));
    assert_eq!(journal.read(emptied, 0).await.unwrap(), vec![]);
}

/// One writes and forgets all but the newest, the other reads along.
async fn a_reader_is_never_ahead_of_or_stuck_behind_a_trim(journal: Arc<dyn Journal>, slot: Slot) {
    const RECORDS: u64 = 100;
    let writer = tokio::spawn({
        let journal = journal.clone();
        async move {
            for seq in 0..RECORDS {
                journal.append(slot, seq, Bytes::from(seq.to_string())).await.unwrap();
                journal.trim(slot, seq).await.unwrap();
            }
        }
    });
    let mut next = 0;
    while next < RECORDS {
        journal.watch(slot, next).await.unwrap();
        let read = journal.read(slot, next).await.unwrap();
        assert!(!read.is_empty(), "the newest record is never trimmed");
        for (seq, record) in read {
            assert!(seq >= next, "position {seq} after {next}");
            assert_eq!(record, seq.to_string());
            next = seq + 1;
        }
    }
    writer.await.unwrap();
}

async fn positions_are_claimed_in_order(journal: &dyn Journal, slot: Slot) {
    assert_eq!(journal.read(slot, 0).await.unwrap(), vec![]);
    assert_eq!(journal.append(slot, 0, Bytes::from_static(b"a")).await, Ok(()));
    let again = journal.append(slot, 0, Bytes::from_static(b"b")).await;
    assert_eq!(again, Err(JournalError::Occupied { next: 1 }));
    let ahead = journal.append(slot, 5, Bytes::from_static(b"b")).await;
    assert_eq!(ahead, Err(JournalError::Occupied { next: 1 }));
    assert_eq!(journal.append(slot, 1, Bytes::from_static(b"c")).await, Ok(()));
    let records = journal.read(slot, 1).await.unwrap();
    assert_eq!(records, vec![(1, Bytes::from_static(b"c"))]);
    assert_eq!(journal.read(slot, 2).await.unwrap(), vec![]);
}

async fn slots_are_independent(journal: &dyn Journal) {
    assert_eq!(journal.append(Slot(4), 0, Bytes::from_static(b"x")).await, Ok(()));
    assert_eq!(journal.append(Slot(5), 0, Bytes::from_static(b"y")).await, Ok(()));
    assert_eq!(journal.read(Slot(5), 0).await.unwrap(), vec![(0, Bytes::from_static(b"y"))]);
}

async fn a_watcher_wakes_when_its_position_is_written(journal: Arc<dyn Journal>, slot: Slot) {
    let watcher = tokio::spawn(journal.watch(slot, 1));
    journal.append(slot, 0, Bytes::from_static(b"a")).await.unwrap();
    tokio::task::yield_now().await;
    assert!(!watcher.is_finished());
    journal.append(slot, 1, Bytes::from_static(b"b")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), watcher).await.unwrap().unwrap().unwrap();
}

async fn two_racing_writers_share_the_positions(journal: Arc<dyn Journal>, slot: Slot) {
    const EACH: usize = 40;
    let write = |name: &'static str| {
        let journal = journal.clone();
        tokio::spawn(async move {
            let mut seq = 0;
            for n in 0..EACH {
                let record = Bytes::from(format!("{name}{n}"));
                while let Err(error) = journal.append(slot, seq, record.clone()).await {
                    match error {
                        JournalError::Occupied { next } => seq = next,
                        JournalError::Storage(reason) => panic!("{reason}"),
                    }
                }
                seq += 1;
            }
        })
    };
    let (a, b) = (write("a"), write("b"));
    a.await.unwrap();
    b.await.unwrap();
    let records = read_all(&*journal, slot).await;
    let positions: Vec<u64> = records.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(positions, (0..2 * EACH as u64).collect::<Vec<_>>());
    for name in ["a", "b"] {
        let of_one: Vec<String> = records
            .iter()
            .map(|(_, record)| String::from_utf8(record.to_vec()).unwrap())
            .filter(|record| record.starts_with(name))
            .collect();
        let expected: Vec<String> = (0..EACH).map(|n| format!("{name}{n}")).collect();
        assert_eq!(of_one, expected, "each record once, in its writer's order");
    }
}

#[tokio::test]
async fn the_journal_in_memory_conforms() {
    let journal: Arc<dyn Journal> = Arc::new(Arc::new(MemoryJournal::default()));
    conforms(journal.clone()).await;
    conforms_after_a_restart(journal).await;
}
