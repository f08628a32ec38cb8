//! What every journal must do, whatever keeps it: one suite over `dyn Journal`, and a journal in
//! memory for the tests of the rooms above.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::catalog::journal::{Journal, JournalError, SLOTS, Slot};

/// A journal that forgets everything when it is dropped.
pub(crate) struct MemoryJournal {
    slots: Vec<Mutex<Vec<Bytes>>>,
    written: watch::Sender<()>,
}

impl Default for MemoryJournal {
    fn default() -> MemoryJournal {
        let slots = (0..SLOTS).map(|_| Mutex::default()).collect();
        MemoryJournal { slots, written: watch::Sender::new(()) }
    }
}

impl MemoryJournal {
    fn len(&self, slot: Slot) -> u64 {
        self.slots[usize::from(slot.0)].lock().unwrap().len() as u64
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
            let mut records = journal.slots[usize::from(slot.0)].lock().unwrap();
            let next = records.len() as u64;
            if seq != next {
                return Err(JournalError::Occupied { next });
            }
            records.push(record);
            drop(records);
            journal.written.send_replace(());
            Ok(())
        })
    }

    fn read(
        &self,
        slot: Slot,
        from: u64,
    ) -> BoxFuture<'static, Result<Vec<(u64, Bytes)>, JournalError>> {
        let records = self.slots[usize::from(slot.0)].lock().unwrap().clone();
        let numbered = (0..).zip(records).skip(from as usize).collect();
        Box::pin(async move { Ok(numbered) })
    }

    fn trim(&self, _: Slot, _: u64) -> BoxFuture<'static, Result<(), JournalError>> {
        Box::pin(async { Ok(()) })
    }

    fn watch(&self, slot: Slot, from: u64) -> BoxFuture<'static, Result<(), JournalError>> {
        let journal = self.clone();
        Box::pin(async move {
            let mut written = journal.written.subscribe();
            while journal.len(slot) <= from {
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

/// The suite. `journal` must be empty.
pub(crate) async fn conforms(journal: Arc<dyn Journal>) {
    positions_are_claimed_in_order(&*journal, Slot(3)).await;
    slots_are_independent(&*journal).await;
    a_watcher_wakes_when_its_position_is_written(journal.clone(), Slot(7)).await;
    two_racing_writers_share_the_positions(journal.clone(), Slot(9)).await;
    assert_eq!(journal.trim(Slot(3), 1).await, Ok(()));
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
    conforms(Arc::new(Arc::new(MemoryJournal::default()))).await;
}
