//! Which batches belong to aborted transactions, and which markers have no batches any more: Kafka's
//! `CleanedTransactionMetadata`. Pure.

use std::collections::{HashMap, HashSet};

use crate::log::AbortedTxn;
use crate::log::format::batch::BatchHeader;
use crate::types::{Offset, ProducerId};

/// See the module's header. Must see all batches of a log, in order.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    /// The first offset and the offset of the marker of each producer's aborted transactions, in order.
    aborted: HashMap<ProducerId, Vec<(Offset, Offset)>>,
    /// Producers with batches since their last marker, including batches that this compaction drops.
    with_data: HashSet<ProducerId>,
}

impl Transactions {
    /// Knows the aborted transactions of the log.
    pub(super) fn new(aborted: &[AbortedTxn]) -> Transactions {
        let mut transactions = Transactions::default();
        for txn in aborted {
            let of_producer = transactions.aborted.entry(txn.producer).or_default();
            of_producer.push((txn.first_offset, txn.last_offset));
        }
        for of_producer in transactions.aborted.values_mut() {
            of_producer.sort_unstable();
        }
        transactions
    }

    /// Whether a batch of records belongs to an aborted transaction.
    pub(super) fn is_aborted(&self, header: &BatchHeader) -> bool {
        let Some(producer) = header.producer.filter(|_| header.transactional()) else {
            return false;
        };
        let Some(aborted) = self.aborted.get(&producer.id) else { return false };
        let before = aborted.partition_point(|(first, _)| *first <= header.base_offset);
        let last = before.checked_sub(1).and_then(|index| aborted.get(index));
        last.is_some_and(|(_, marker)| header.last_offset() <= *marker)
    }

    /// Notes a batch of records.
    pub(super) fn saw_data(&mut self, header: &BatchHeader) {
        if header.transactional() {
            self.with_data.extend(header.producer.map(|producer| producer.id));
        }
    }

    /// Notes a marker. Returns true if its transaction had no batch left before this compaction. Batches
    /// that this compaction drops still count: a reader may be in the middle of them.
    pub(super) fn saw_marker(&mut self, header: &BatchHeader) -> bool {
        header.producer.is_none_or(|producer| !self.with_data.remove(&producer.id))
    }
}
