//! What a log knows of its producers: the last five batches of each, their epochs and transactions
//! (KIP-98). Pure: fed by live appends and by recovery alike, no clock and no disk inside.
//!
//! The rules are those of Kafka's `ProducerAppendInfo`: a producer without state may begin at any
//! sequence, since retention may have taken its earlier batches.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::log::format::batch::{BatchHeader, Producer};
use crate::log::{AbortedTxn, AppendError, Marker, OpenTxn};
use crate::store::ProducerEntry;
use crate::types::{IdHash, Offset, ProducerEpoch, ProducerId, Timestamp};

/// How many of a producer's last batches are remembered, so that a duplicate of one is recognised.
pub const REMEMBERED_BATCHES: usize = 5;

/// One of a producer's last batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RememberedBatch {
    /// Sequence of its first record.
    pub first_sequence: i32,
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
}

/// One producer as this log knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerState {
    /// Its current epoch.
    pub epoch: ProducerEpoch,
    /// Its last batches of that epoch, oldest first, at most `REMEMBERED_BATCHES`.
    pub batches: VecDeque<RememberedBatch>,
    /// First offset of its open transaction.
    pub txn_first: Option<Offset>,
    /// Largest timestamp of its last batch.
    pub last_timestamp: Timestamp,
    /// When it last appended, in milliseconds of the monotonic clock; negative if that was before the clock
    /// began. During recovery: in the log's time (`recover/log_time.rs`).
    pub seen_ms: i64,
}

/// How a batch fits the producer's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is the next one.
    New,
    /// It is one of the last five.
    Duplicate(RememberedBatch),
}

/// Every producer of one log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    states: HashMap<ProducerId, ProducerState, IdHash>,
    /// Open transactions by first offset.
    open: BTreeSet<(Offset, ProducerId)>,
}

/// Changes to a `Producers` that take effect only when the bytes that they belong to are written.
#[derive(Clone, Debug, Default)]
pub struct Staged {
    states: HashMap<ProducerId, ProducerState, IdHash>,
}

/// A batch as producer state sees it.
#[derive(Clone, Copy, Debug)]
pub struct BatchFacts {
    /// Who wrote it.
    pub producer: Producer,
    /// Number of offsets it takes, at least 1.
    pub offsets: u64,
    /// Its largest timestamp.
    pub max_timestamp: Timestamp,
    /// Now, by the clock of `ProducerState::seen_ms`.
    pub seen_ms: i64,
}

impl BatchFacts {
    /// `None` for a batch without a producer.
    pub fn of(header: &BatchHeader, seen_ms: i64) -> Option<BatchFacts> {
        Some(BatchFacts {
            producer: header.producer?,
            offsets: header.offsets(),
            max_timestamp: header.max_timestamp,
            seen_ms,
        })
    }
}

impl Producers {
    /// Every producer as the view stores it, in no order.
    pub fn entries(&self) -> Vec<ProducerEntry> {
        let entry = |(id, state): (&ProducerId, &ProducerState)| ProducerEntry {
            id: *id,
            epoch: state.epoch,
            last_timestamp: state.last_timestamp,
            txn_first: state.txn_first,
            batches: state
                .batches
                .iter()
                .map(|b| (b.first_sequence, b.last_sequence, b.base_offset, b.last_offset))
                .collect(),
        };
        self.states.iter().map(entry).collect()
    }

    /// The producers from the view, each with when it was last heard of.
    pub fn from_entries(entries: &[ProducerEntry], seen_ms: &[i64]) -> Producers {
        let mut producers = Producers::default();
        for (entry, seen_ms) in entries.iter().zip(seen_ms) {
            let batch = |&(first_sequence, last_sequence, base_offset, last_offset): &(
                i32,
                i32,
                Offset,
                Offset,
            )| RememberedBatch {
                first_sequence,
                last_sequence,
                base_offset,
                last_offset,
            };
            let state = ProducerState {
                epoch: entry.epoch,
                batches: entry.batches.iter().map(batch).collect(),
                txn_first: entry.txn_first,
                last_timestamp: entry.last_timestamp,
                seen_ms: *seen_ms,
            };
            producers.restore(entry.id, state);
        }
        producers
    }

    /// Puts in a producer's state, in place of the one it had.
    fn restore(&mut self, id: ProducerId, state: ProducerState) {
        let first = state.txn_first;
        let before = self.states.insert(id, state).and_then(|before| before.txn_first);
        if before != first {
            self.open.extend(first.map(|first| (first, id)));
            if let Some(before) = before {
                self.open.remove(&(before, id));
            }
        }
    }

    /// First offset of the earliest open transaction.
    pub fn first_open(&self) -> Option<Offset> {
        self.open.first().map(|(first, _)| *first)
    }

    /// Transactions without a marker, by first offset.
    pub fn open_transactions(&self) -> Vec<OpenTxn> {
        let open = self.open.iter().filter_map(|(first, id)| {
            let epoch = self.states.get(id)?.epoch;
            Some(OpenTxn { producer: *id, epoch, first_offset: *first })
        });
        open.collect()
    }

    /// Forgets producers that appended nothing for `idle_max` and have no open transaction. In an open log
    /// the monotonic clock counts, so that neither a wall clock that is set forward nor old record
    /// timestamps make all producers unknown at once.
    pub fn expire(&mut self, now_ms: i64, idle_max: Duration) {
        let is_idle = |state: &ProducerState| {
            let idle_ms = now_ms.saturating_sub(state.seen_ms);
            u128::try_from(idle_ms).is_ok_and(|idle_ms| idle_ms >= idle_max.as_millis())
        };
        self.states.retain(|_, state| state.txn_first.is_some() || !is_idle(state));
    }

    /// Replaces the time at which each producer last appended: converts it to another clock.
    pub fn set_seen(&mut self, seen_ms: impl Fn(i64) -> i64) {
        for state in self.states.values_mut() {
            state.seen_ms = seen_ms(state.seen_ms);
        }
    }

    /// Applies the staged changes, and empties `staged`.
    pub fn commit(&mut self, staged: &mut Staged) {
        for (id, state) in staged.states.drain() {
            self.restore(id, state);
        }
    }

    /// Applies a batch that is already in the log, without checks, during recovery.
    pub fn replay(&mut self, facts: &BatchFacts, base_offset: Offset) {
        let mut staged = Staged::default();
        staged.record(self, facts, base_offset);
        self.commit(&mut staged);
    }

    /// Applies a marker that is already in the log. Returns the transaction if it was aborted.
    pub fn replay_marker(
        &mut self,
        id: ProducerId,
        epoch: ProducerEpoch,
        marker: Marker,
        offset: Offset,
        seen_ms: i64,
    ) -> Option<AbortedTxn> {
        let mut staged = Staged::default();
        let aborted = staged.end(self, id, epoch, marker, offset);
        staged.state_mut(self, id, epoch).seen_ms = seen_ms;
        self.commit(&mut staged);
        aborted
    }
}

impl Staged {
    /// Forgets all changes.
    pub fn clear(&mut self) {
        self.states.clear();
    }

    fn state<'a>(&'a self, base: &'a Producers, id: ProducerId) -> Option<&'a ProducerState> {
        self.states.get(&id).or_else(|| base.states.get(&id))
    }

    fn state_mut(
        &mut self,
        base: &Producers,
        id: ProducerId,
        epoch: ProducerEpoch,
    ) -> &mut ProducerState {
        self.states.entry(id).or_insert_with(|| {
            base.states.get(&id).cloned().unwrap_or_else(|| ProducerState {
                epoch,
                batches: VecDeque::new(),
                txn_first: None,
                last_timestamp: Timestamp::default(),
                seen_ms: 0,
            })
        })
    }

    /// Checks a batch against the producer's state, without changing it.
    pub fn admit(&self, base: &Producers, facts: &BatchFacts) -> Result<Admission, AppendError> {
        let Producer { id, epoch, base_sequence, transactional } = facts.producer;
        let Some(state) = self.state(base, id) else {
            return Ok(Admission::New);
        };
        if epoch == state.epoch {
            let last_sequence = advance(base_sequence, facts.offsets - 1);
            let same = |batch: &&RememberedBatch| {
                batch.first_sequence == base_sequence && batch.last_sequence == last_sequence
            };
            if let Some(batch) = state.batches.iter().find(same) {
                return Ok(Admission::Duplicate(*batch));
            }
        }
        if epoch < state.epoch {
            return Err(AppendError::Fenced { producer: id, epoch, current: state.epoch });
        }
        let expected = match state.batches.back() {
            Some(last) if epoch == state.epoch => advance(last.last_sequence, 1),
            // A new epoch begins with sequence 0, and so does an epoch without batches so far.
            _ => 0,
        };
        if base_sequence != expected {
            return Err(AppendError::OutOfOrderSequence {
                producer: id,
                sequence: base_sequence,
                expected,
            });
        }
        if state.txn_first.is_some() && !transactional {
            return Err(AppendError::InvalidTxnState(id));
        }
        Ok(Admission::New)
    }

    /// Records an admitted batch at its offset.
    pub fn record(&mut self, base: &Producers, facts: &BatchFacts, base_offset: Offset) {
        let Producer { id, epoch, base_sequence, transactional } = facts.producer;
        let state = self.state_mut(base, id, epoch);
        if epoch != state.epoch {
            state.epoch = epoch;
            state.batches.clear();
        }
        if state.batches.len() == REMEMBERED_BATCHES {
            state.batches.pop_front();
        }
        state.batches.push_back(RememberedBatch {
            first_sequence: base_sequence,
            last_sequence: advance(base_sequence, facts.offsets - 1),
            base_offset,
            last_offset: base_offset.plus(facts.offsets - 1),
        });
        state.last_timestamp = facts.max_timestamp;
        state.seen_ms = facts.seen_ms;
        if transactional && state.txn_first.is_none() {
            state.txn_first = Some(base_offset);
        }
    }

    /// Whether a marker may end the producer's transaction; `Ok(false)` if none is open. In both cases the
    /// producer's lower epochs are fenced from now on.
    pub fn may_end(
        &mut self,
        base: &Producers,
        id: ProducerId,
        epoch: ProducerEpoch,
        seen_ms: i64,
    ) -> Result<bool, AppendError> {
        let state = self.state_mut(base, id, epoch);
        state.seen_ms = seen_ms;
        if epoch < state.epoch {
            return Err(AppendError::Fenced { producer: id, epoch, current: state.epoch });
        }
        if epoch > state.epoch && state.txn_first.is_none() {
            state.epoch = epoch;
            state.batches.clear();
        }
        Ok(state.txn_first.is_some())
    }

    /// Ends the producer's transaction by a marker at `offset`. Returns the transaction if it was aborted,
    /// since readers must skip it.
    pub fn end(
        &mut self,
        base: &Producers,
        id: ProducerId,
        epoch: ProducerEpoch,
        marker: Marker,
        offset: Offset,
    ) -> Option<AbortedTxn> {
        let state = self.state_mut(base, id, epoch);
        if epoch > state.epoch {
            state.epoch = epoch;
            state.batches.clear();
        }
        let first_offset = state.txn_first.take()?;
        match marker {
            Marker::Commit => None,
            Marker::Abort => Some(AbortedTxn { producer: id, first_offset, last_offset: offset }),
        }
    }
}

/// The sequence `by` further on; after `i32::MAX` comes 0.
fn advance(sequence: i32, by: u64) -> i32 {
    ((i64::from(sequence) + by as i64) & i64::from(i32::MAX)) as i32
}

#[cfg(test)]
mod tests;
