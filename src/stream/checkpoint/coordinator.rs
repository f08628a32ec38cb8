//! When a checkpoint begins and what follows what: a pure state machine. The attempt's task
//! performs the effects and tells it of their outcomes.
//!
//! At most one checkpoint is under way. The next barrier waits for the markers of the last one,
//! since the epoch after it writes under the same producer ids again.

use std::collections::HashSet;

use crate::stream::operator::Barrier;

/// What the coordinator is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The interval has passed; `progress` grows with every row, offset and watermark.
    Tick {
        /// See above.
        progress: u64,
    },
    /// A subtask has passed the barrier.
    Acked {
        /// Which.
        subtask: usize,
        /// Which barrier.
        epoch: u64,
    },
    /// All appends of the epoch are on disk and its commit record is written.
    Committed {
        /// State bytes the epoch wrote.
        state_bytes: u64,
    },
    /// Its markers are written.
    Marked,
    /// Take a last checkpoint, then finish.
    Stop,
}

/// What must be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send the barrier into the sources.
    Inject(Barrier),
    /// Wait for the epoch's appends, then write its commit record.
    Commit {
        /// The epoch.
        epoch: u64,
    },
    /// Write its markers.
    Mark {
        /// The epoch.
        epoch: u64,
    },
    /// The last checkpoint is complete.
    Finish,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Aligning { epoch: u64, waiting: HashSet<usize> },
    Committing { epoch: u64 },
    Marking { epoch: u64 },
    Finished,
}

/// See the module's header.
#[derive(Clone, Debug)]
pub struct Coordinator {
    subtasks: usize,
    next_epoch: u64,
    phase: Phase,
    /// What `progress` was when the last checkpoint began; `None` before the first.
    covered: Option<u64>,
    progress: u64,
    stopping: bool,
    /// State bytes of the last full checkpoint and of those after it.
    base_bytes: Option<u64>,
    delta_bytes: u64,
    full: bool,
}

/// Changes are written on top of a full checkpoint until they outweigh it by this.
const DELTA_FACTOR: u64 = 4;
const DELTA_BYTES_MIN: u64 = 1 << 20;

impl Coordinator {
    /// Before the first barrier of an attempt. `committed` is the job's last committed epoch; with
    /// `fresh` (none yet) the first checkpoint is taken even if nothing was read, so that the
    /// places where the sources began survive.
    pub fn new(subtasks: usize, committed: u64, fresh: bool) -> Coordinator {
        Coordinator {
            subtasks,
            next_epoch: committed + 1,
            phase: Phase::Idle,
            covered: (!fresh).then_some(0),
            progress: 0,
            stopping: false,
            base_bytes: None,
            delta_bytes: 0,
            full: false,
        }
    }

    /// Takes an event and says what to do.
    pub fn apply(&mut self, event: Event) -> Vec<Effect> {
        let effects = match event {
            Event::Tick { progress } => {
                self.progress = self.progress.max(progress);
                self.begin(false)
            }
            Event::Stop => {
                self.stopping = true;
                self.begin(true)
            }
            Event::Acked { subtask, epoch } => match &mut self.phase {
                Phase::Aligning { epoch: current, waiting } if *current == epoch => {
                    waiting.remove(&subtask);
                    if waiting.is_empty() {
                        self.phase = Phase::Committing { epoch };
                        vec![Effect::Commit { epoch }]
                    } else {
                        Vec::new()
                    }
                }
                _ => Vec::new(),
            },
            Event::Committed { state_bytes } => match self.phase {
                Phase::Committing { epoch } => {
                    if self.full {
                        self.base_bytes = Some(state_bytes);
                        self.delta_bytes = 0;
                    } else {
                        self.delta_bytes += state_bytes;
                    }
                    self.phase = Phase::Marking { epoch };
                    vec![Effect::Mark { epoch }]
                }
                _ => Vec::new(),
            },
            Event::Marked => match self.phase {
                Phase::Marking { epoch } => {
                    self.next_epoch = epoch + 1;
                    self.phase = Phase::Idle;
                    // A stop that came in between still covers what was read since.
                    if self.stopping && self.covered == Some(u64::MAX) {
                        self.phase = Phase::Finished;
                        vec![Effect::Finish]
                    } else if self.stopping {
                        self.begin(true)
                    } else {
                        Vec::new()
                    }
                }
                _ => Vec::new(),
            },
        };
        self.invariants();
        effects
    }

    fn begin(&mut self, last: bool) -> Vec<Effect> {
        if self.phase != Phase::Idle || (!last && self.covered == Some(self.progress)) {
            return Vec::new();
        }
        // MAX marks the checkpoint that a stop asked for: nothing comes after it.
        self.covered = Some(if last { u64::MAX } else { self.progress });
        self.full = match self.base_bytes {
            None => true,
            Some(base) => self.delta_bytes > DELTA_BYTES_MIN + DELTA_FACTOR * base,
        };
        let barrier = Barrier { epoch: self.next_epoch, full: self.full };
        self.phase =
            Phase::Aligning { epoch: barrier.epoch, waiting: (0..self.subtasks).collect() };
        vec![Effect::Inject(barrier)]
    }

    fn invariants(&self) {
        if let Phase::Aligning { epoch, .. }
        | Phase::Committing { epoch }
        | Phase::Marking { epoch } = &self.phase
        {
            debug_assert_eq!(*epoch, self.next_epoch, "only the next epoch is under way");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(coordinator: &mut Coordinator, barrier: Barrier, bytes: u64) -> Vec<Effect> {
        let epoch = barrier.epoch;
        assert_eq!(
            coordinator.apply(Event::Acked { subtask: 0, epoch }),
            [Effect::Commit { epoch }]
        );
        assert_eq!(
            coordinator.apply(Event::Committed { state_bytes: bytes }),
            [Effect::Mark { epoch }]
        );
        coordinator.apply(Event::Marked)
    }

    fn inject(effects: Vec<Effect>) -> Barrier {
        match effects.as_slice() {
            [Effect::Inject(barrier)] => *barrier,
            other => panic!("expected a barrier, got {other:?}"),
        }
    }

    #[test]
    fn the_next_barrier_waits_for_all_subtasks_and_for_the_markers() {
        let mut coordinator = Coordinator::new(2, 4, false);
        let barrier = inject(coordinator.apply(Event::Tick { progress: 1 }));
        assert_eq!(barrier, Barrier { epoch: 5, full: true });
        assert!(coordinator.apply(Event::Acked { subtask: 1, epoch: 5 }).is_empty());
        assert!(coordinator.apply(Event::Acked { subtask: 1, epoch: 5 }).is_empty());
        assert!(coordinator.apply(Event::Acked { subtask: 0, epoch: 4 }).is_empty());
        assert!(coordinator.apply(Event::Tick { progress: 2 }).is_empty());
        assert_eq!(
            coordinator.apply(Event::Acked { subtask: 0, epoch: 5 }),
            [Effect::Commit { epoch: 5 }]
        );
        assert!(coordinator.apply(Event::Tick { progress: 3 }).is_empty());
        coordinator.apply(Event::Committed { state_bytes: 10 });
        assert!(coordinator.apply(Event::Tick { progress: 4 }).is_empty());
        coordinator.apply(Event::Marked);
        assert_eq!(inject(coordinator.apply(Event::Tick { progress: 5 })).epoch, 6);
    }

    #[test]
    fn nothing_new_means_no_checkpoint_except_the_very_first() {
        let mut coordinator = Coordinator::new(1, 0, true);
        let barrier = inject(coordinator.apply(Event::Tick { progress: 0 }));
        complete(&mut coordinator, barrier, 0);
        assert!(coordinator.apply(Event::Tick { progress: 0 }).is_empty());
        inject(coordinator.apply(Event::Tick { progress: 1 }));

        let mut restarted = Coordinator::new(1, 7, false);
        assert!(restarted.apply(Event::Tick { progress: 0 }).is_empty());
    }

    #[test]
    fn a_stop_takes_a_last_checkpoint_after_the_one_under_way() {
        let mut coordinator = Coordinator::new(1, 0, true);
        let barrier = inject(coordinator.apply(Event::Tick { progress: 0 }));
        assert!(coordinator.apply(Event::Stop).is_empty());
        let last = inject(complete(&mut coordinator, barrier, 0));
        assert_eq!(last.epoch, 2);
        assert_eq!(complete(&mut coordinator, last, 0), [Effect::Finish]);
        assert!(coordinator.apply(Event::Tick { progress: 9 }).is_empty());
    }

    #[test]
    fn all_state_is_written_anew_when_changes_outweigh_it() {
        let mut coordinator = Coordinator::new(1, 0, true);
        let first = inject(coordinator.apply(Event::Tick { progress: 0 }));
        assert!(first.full);
        complete(&mut coordinator, first, 100);
        let second = inject(coordinator.apply(Event::Tick { progress: 1 }));
        assert!(!second.full);
        complete(&mut coordinator, second, DELTA_BYTES_MIN + DELTA_FACTOR * 100 + 1);
        assert!(inject(coordinator.apply(Event::Tick { progress: 2 })).full);
    }
}
