use super::*;

fn facts(epoch: i16, base_sequence: i32, offsets: u64, transactional: bool) -> BatchFacts {
    let (id, epoch) = (ProducerId(1), ProducerEpoch(epoch));
    let producer = Producer { id, epoch, base_sequence, transactional };
    BatchFacts { producer, offsets, max_timestamp: Timestamp(0), seen_ms: 0 }
}

/// A log that admits and records one batch after another.
#[derive(Default)]
struct Log {
    producers: Producers,
    end: Offset,
}

impl Log {
    fn append(&mut self, facts: BatchFacts) -> Result<Admission, AppendError> {
        let mut staged = Staged::default();
        let admission = staged.admit(&self.producers, &facts)?;
        if admission == Admission::New {
            staged.record(&self.producers, &facts, self.end);
            self.end = self.end.plus(facts.offsets);
        }
        self.producers.commit(&mut staged);
        Ok(admission)
    }

    fn end(&mut self, epoch: i16, marker: Marker) -> Result<Option<AbortedTxn>, AppendError> {
        let (id, epoch) = (ProducerId(1), ProducerEpoch(epoch));
        let mut staged = Staged::default();
        let mut aborted = None;
        if staged.may_end(&self.producers, id, epoch, 0)? {
            aborted = staged.end(&self.producers, id, epoch, marker, self.end);
            self.end = self.end.plus(1);
        }
        self.producers.commit(&mut staged);
        Ok(aborted)
    }
}

fn gap(expected: i32, sequence: i32) -> Result<Admission, AppendError> {
    Err(AppendError::OutOfOrderSequence { producer: ProducerId(1), sequence, expected })
}

#[test]
fn unknown_producers_may_begin_anywhere_and_must_go_on_without_gaps() {
    let mut log = Log::default();
    assert_eq!(log.append(facts(0, 17, 3, false)), Ok(Admission::New));
    assert_eq!(log.append(facts(0, 21, 1, false)), gap(20, 21));
    assert_eq!(log.append(facts(0, 19, 1, false)), gap(20, 19));
    assert_eq!(log.append(facts(0, 20, 1, false)), Ok(Admission::New));
}

#[test]
fn sequences_wrap_to_zero_after_the_largest_inside_and_between_batches() {
    let mut log = Log::default();
    log.append(facts(0, i32::MAX - 2, 2, false)).unwrap();
    assert_eq!(log.append(facts(0, i32::MAX, 3, false)), Ok(Admission::New));
    assert!(matches!(log.append(facts(0, i32::MAX, 3, false)), Ok(Admission::Duplicate(_))));
    assert_eq!(log.append(facts(0, 2, 1, false)), Ok(Admission::New));
    let mut log = Log::default();
    log.append(facts(0, i32::MAX, 1, false)).unwrap();
    assert_eq!(log.append(facts(0, 0, 1, false)), Ok(Admission::New));
}

#[test]
fn the_last_five_batches_are_recognised_and_the_sixth_is_not() {
    let mut log = Log::default();
    for n in 0..6 {
        log.append(facts(0, 2 * n, 2, false)).unwrap();
    }
    for n in 1..6 {
        let Ok(Admission::Duplicate(batch)) = log.append(facts(0, 2 * n, 2, false)) else {
            panic!("batch {n} was not recognised");
        };
        assert_eq!(batch.base_offset, Offset::new(2 * n as u64));
    }
    assert_eq!(log.append(facts(0, 0, 2, false)), gap(12, 0));
    // The same sequence with another length is another batch.
    assert_eq!(log.append(facts(0, 10, 1, false)), gap(12, 10));
}

#[test]
fn a_new_epoch_begins_at_zero_and_fences_the_old_one() {
    let mut log = Log::default();
    log.append(facts(0, 0, 5, false)).unwrap();
    assert_eq!(log.append(facts(1, 5, 1, false)), gap(0, 5));
    assert_eq!(log.append(facts(1, 0, 5, false)), Ok(Admission::New));
    assert!(matches!(log.append(facts(0, 5, 1, false)), Err(AppendError::Fenced { .. })));
    // Not a duplicate either: a zombie must learn that it was replaced.
    assert!(matches!(log.append(facts(0, 0, 5, false)), Err(AppendError::Fenced { .. })));
}

#[test]
fn transactions_open_with_their_first_batch_and_end_with_their_marker() {
    let mut log = Log::default();
    log.append(facts(0, 0, 2, true)).unwrap();
    log.append(facts(0, 2, 2, true)).unwrap();
    assert_eq!(log.producers.first_open(), Some(Offset::new(0)));
    assert_eq!(log.append(facts(0, 4, 1, false)), Err(AppendError::InvalidTxnState(ProducerId(1))));
    let aborted = AbortedTxn {
        producer: ProducerId(1),
        first_offset: Offset::new(0),
        last_offset: Offset::new(4),
    };
    assert_eq!(log.end(0, Marker::Abort), Ok(Some(aborted)));
    assert_eq!(log.producers.first_open(), None);
    assert_eq!(log.end(0, Marker::Abort), Ok(None));
    assert_eq!(log.end, Offset::new(5));
    // The sequence goes on in the next transaction of the same epoch.
    assert_eq!(log.append(facts(0, 4, 1, true)), Ok(Admission::New));
    assert_eq!(log.end(0, Marker::Commit), Ok(None));
}

#[test]
fn a_marker_with_a_bumped_epoch_restarts_the_sequence() {
    let mut log = Log::default();
    log.append(facts(0, 0, 2, true)).unwrap();
    log.end(1, Marker::Commit).unwrap();
    assert!(matches!(log.end(0, Marker::Abort), Err(AppendError::Fenced { .. })));
    assert_eq!(log.append(facts(1, 2, 1, true)), gap(0, 2));
    assert_eq!(log.append(facts(1, 0, 1, true)), Ok(Admission::New));
}

#[test]
fn what_was_staged_and_not_committed_never_happened() {
    let mut log = Log::default();
    log.append(facts(0, 0, 1, false)).unwrap();
    let before = log.producers.clone();
    let mut staged = Staged::default();
    staged.record(&log.producers, &facts(1, 0, 1, true), Offset::new(1));
    assert_eq!(staged.admit(&log.producers, &facts(1, 1, 1, true)), Ok(Admission::New));
    drop(staged);
    assert_eq!(log.producers, before);
    assert_eq!(log.append(facts(0, 1, 1, false)), Ok(Admission::New));
}

#[test]
fn the_view_gives_back_what_it_was_given() {
    let mut log = Log::default();
    log.append(facts(3, 9, 4, true)).unwrap();
    log.append(facts(3, 13, 1, true)).unwrap();
    let restored = Producers::from_entries(&log.producers.entries(), &[0]);
    assert_eq!(restored, log.producers);
    assert_eq!(restored.open_transactions(), log.producers.open_transactions());
}

#[test]
fn silent_producers_are_forgotten_unless_a_transaction_is_open() {
    let idle_max = Duration::from_secs(1);
    let mut log = Log::default();
    log.append(facts(0, 0, 1, false)).unwrap();
    log.producers.expire(999, idle_max);
    assert_eq!(log.append(facts(0, 5, 1, false)), gap(1, 5));
    log.producers.expire(1_000, idle_max);
    assert_eq!(log.append(facts(0, 5, 1, true)), Ok(Admission::New));
    log.producers.expire(1_000, idle_max);
    assert_eq!(log.producers.open_transactions().len(), 1);
}

#[test]
fn a_producer_may_have_been_heard_of_before_the_clock_began() {
    let mut log = Log::default();
    log.append(facts(0, 0, 1, false)).unwrap();
    log.producers.set_seen(|seen_ms| seen_ms - 600);
    log.producers.expire(399, Duration::from_secs(1));
    assert_eq!(log.append(facts(0, 5, 1, false)), gap(1, 5));
    log.producers.expire(400, Duration::from_secs(1));
    assert_eq!(log.append(facts(0, 5, 1, false)), Ok(Admission::New));
}
