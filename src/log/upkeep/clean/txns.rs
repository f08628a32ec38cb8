//! Which batches belong to aborted transactions, and which markers stand alone: Kafka's
//! `CleanedTransactionMetadata`. Pure.

use std::collections::{HashMap, HashSet};

use crate::log::AbortedTxn;
use crate::log::format::batch::BatchHeader;
use crate::types::{Offset, ProducerId};

/// See the module's header. Fed with all batches of a log in their order.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    /// First offset and marker of each producer's aborted transactions, in order.
    aborted: HashMap<ProducerId, Vec<(Offset, Offset)>>,
    /// Producers with batches since their last marker, dropped ones among them.
    with_data: HashSet<ProducerId>,
}

impl Transactions {
    /// With everything that was aborted.
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

    /// Whether a batch of records was aborted.
    pub(super) fn is_aborted(&self, header: &BatchHeader) -> bool {
        let Some(producer) = header.producer.filter(|_| header.transactional()) else {
            return false;
        };
        let Some(aborted) = self.aborted.get(&producer.id) else { return false };
        let before = aborted.partition_point(|(first, _)| *first <= header.base_offset);
        let last = before.checked_sub(1).and_then(|index| aborted.get(index));
        last.is_some_and(|(_, marker)| header.last_offset() <= *marker)
    }

    /// Takes note of a batch of records.
    pub(super) fn saw_data(&mut self, header: &BatchHeader) {
        if header.transactional() {
            self.with_data.extend(header.producer.map(|producer| producer.id));
        }
    }

    /// Takes note of a marker. Whether nothing is left of its transaction: what was dropped just now
    /// still counts, since readers may be in the middle of it.
    pub(super) fn saw_marker(&mut self, header: &BatchHeader) -> bool {
        header.producer.is_none_or(|producer| !self.with_data.remove(&producer.id))
    }
}
