//! Producer ids: allocated in durable blocks, never twice, also after a crash.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Mutex;
use tracing::warn;

use crate::metadata::journal::{Journal, JournalError, Slot};
use crate::types::ProducerId;

/// How many ids one journal record claims: a crash wastes at most so many.
const BLOCK_IDS: i64 = 1000;
/// The format of block records. Persisted.
const VERSION: u16 = 1;

/// Why no id could be had.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProducerIdError {
    /// The block could not be claimed durably.
    #[error("a block of producer ids could not be claimed: {0}")]
    Storage(String),
}

/// `{"version":1,"change":"producer_ids_claimed","until":2000}`: every id below `until` may be in
/// use. Persisted.
#[derive(Serialize, Deserialize)]
struct Claim {
    version: u16,
    change: String,
    until: i64,
}

/// A cheap handle to the producer-id allocator.
#[derive(Clone)]
pub struct ProducerIds {
    journal: Arc<dyn Journal>,
    // An allocation is one step, and all but every thousandth is a counter; a task and a channel
    // would only add a hop.
    block: Arc<Mutex<Block>>,
}

struct Block {
    /// The next id to give.
    next: i64,
    /// The end of the claimed block.
    until: i64,
    /// The journal's next position.
    seq: u64,
}

impl ProducerIds {
    /// Reads how far ids were claimed.
    pub async fn start(journal: Arc<dyn Journal>) -> Result<ProducerIds, ProducerIdError> {
        let mut block = Block { next: 0, until: 0, seq: 0 };
        block.catch_up(&*journal).await?;
        Ok(ProducerIds { journal, block: Arc::new(Mutex::new(block)) })
    }

    /// A producer id nobody was ever given, with epoch 0.
    pub async fn allocate(&self) -> Result<ProducerId, ProducerIdError> {
        let mut block = self.block.lock().await;
        if block.next == block.until {
            block.claim(&*self.journal).await?;
        }
        let id = ProducerId(block.next);
        block.next += 1;
        Ok(id)
    }
}

impl Block {
    /// Claims the block after all claims so far.
    async fn claim(&mut self, journal: &dyn Journal) -> Result<(), ProducerIdError> {
        loop {
            // The end is only moved by what the journal holds, so a claim that was written
            // although its caller gave up is found as occupied and passed over.
            let until = self.until.saturating_add(BLOCK_IDS);
            let claim =
                Claim { version: VERSION, change: "producer_ids_claimed".to_owned(), until };
            let bytes = serde_json::to_vec(&claim).map_err(storage)?;
            match journal.append(Slot::PRODUCER_IDS, self.seq, Bytes::from(bytes)).await {
                Ok(()) => {
                    self.next = self.until;
                    self.until = until;
                    // The newest claim says all that the ones before it said.
                    if let Err(error) = journal.trim(Slot::PRODUCER_IDS, self.seq).await {
                        warn!(%error, "old claims of producer ids stay in the journal");
                    }
                    self.seq += 1;
                    return Ok(());
                }
                Err(JournalError::Occupied { .. }) => self.catch_up(journal).await?,
                Err(JournalError::Storage(reason)) => return Err(ProducerIdError::Storage(reason)),
            }
        }
    }

    /// Reads others' claims; nothing of them is ours.
    async fn catch_up(&mut self, journal: &dyn Journal) -> Result<(), ProducerIdError> {
        loop {
            let records = journal.read(Slot::PRODUCER_IDS, self.seq).await.map_err(storage)?;
            if records.is_empty() {
                self.next = self.until;
                return Ok(());
            }
            for (seq, bytes) in records {
                let claim: Claim = serde_json::from_slice(&bytes).map_err(|error| {
                    storage(format!("record {seq} of the producer ids' journal: {error}"))
                })?;
                if claim.version > VERSION {
                    return Err(storage(format!(
                        "record {seq} of the producer ids' journal has format {}, this version \
                         reads up to {VERSION}; run a newer Ottla",
                        claim.version
                    )));
                }
                self.until = self.until.max(claim.until);
                self.seq = seq + 1;
            }
        }
    }
}

fn storage(error: impl std::fmt::Display) -> ProducerIdError {
    ProducerIdError::Storage(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::metadata::tests::journal::MemoryJournal;

    fn journal() -> Arc<dyn Journal> {
        Arc::new(Arc::new(MemoryJournal::default()))
    }

    #[tokio::test]
    async fn ids_are_never_given_twice_across_restarts() {
        let journal = journal();
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let ids = ProducerIds::start(journal.clone()).await.unwrap();
            for _ in 0..=BLOCK_IDS {
                assert!(seen.insert(ids.allocate().await.unwrap()));
            }
        }
    }

    #[tokio::test]
    async fn two_allocators_over_one_journal_share_no_id() {
        let journal = journal();
        let (a, b) = (
            ProducerIds::start(journal.clone()).await.unwrap(),
            ProducerIds::start(journal.clone()).await.unwrap(),
        );
        let mut seen = BTreeSet::new();
        for _ in 0..2 * BLOCK_IDS + 1 {
            assert!(seen.insert(a.allocate().await.unwrap()));
            assert!(seen.insert(b.allocate().await.unwrap()));
        }
    }

    #[tokio::test]
    async fn the_journal_keeps_only_the_newest_claim() {
        let journal = journal();
        let ids = ProducerIds::start(journal.clone()).await.unwrap();
        let lagging = ProducerIds::start(journal.clone()).await.unwrap();
        for _ in 0..=3 * BLOCK_IDS {
            ids.allocate().await.unwrap();
        }
        let kept = journal.read(Slot::PRODUCER_IDS, 0).await.unwrap();
        assert_eq!(kept.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [3]);
        // Who has not read the claims before it learns all from the newest.
        assert_eq!(lagging.allocate().await, Ok(ProducerId(4 * BLOCK_IDS)));
        let restarted = ProducerIds::start(journal.clone()).await.unwrap();
        assert_eq!(restarted.allocate().await, Ok(ProducerId(5 * BLOCK_IDS)));
    }

    #[tokio::test]
    async fn a_newer_format_is_refused() {
        let journal = journal();
        let newer =
            Bytes::from_static(br#"{"version":9,"change":"producer_ids_claimed","until":1}"#);
        journal.append(Slot::PRODUCER_IDS, 0, newer).await.unwrap();
        let refusal = ProducerIds::start(journal).await.err().unwrap();
        assert!(refusal.to_string().contains("format 9"), "{refusal}");
    }
}
