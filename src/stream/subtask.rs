//! One thread of a job: its root reads, its chain computes, and barriers pass through both. A panic
//! ends the attempt, nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::chain::Chain;
use super::checkpoint::record::SourcePosition;
use super::checkpoint::state_topic::{self, StateOwner};
use super::checkpoint::transaction::{EpochAppend, TransactionalWriter};
use super::exchange::{Element, Receiver};
use super::operator::{Barrier, Failure, Output};
use super::operators::source::Source;
use crate::log::Partition;
use crate::types::Clock;

/// How long a subtask without input sleeps before it looks at the clock: Flink's default watermark
/// interval.
const TICK: Duration = Duration::from_millis(200);

/// What the attempt tells its sources.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Control {
    /// The newest barrier.
    pub(crate) barrier: Option<Barrier>,
    /// End as soon as possible.
    pub(crate) cancelled: bool,
}

/// What a subtask tells its attempt.
pub(crate) enum Report {
    /// It has passed a barrier.
    Acked(Ack),
    /// It has ended.
    Ended(Failure),
}

/// A subtask's part of a checkpoint.
pub(crate) struct Ack {
    pub(crate) subtask: usize,
    pub(crate) epoch: u64,
    pub(crate) positions: Vec<SourcePosition>,
    /// Appends of output and state that must become durable first.
    pub(crate) appends: Vec<EpochAppend>,
    pub(crate) state_bytes: u64,
}

/// Where a subtask's rows come from.
pub(crate) enum Root {
    Source(Box<Source>),
    Exchange(Receiver),
}

/// A subtask that is ready to run.
pub(crate) struct Subtask {
    /// Its number among all subtasks of the attempt.
    pub(crate) index: usize,
    /// Its number among the subtasks of its operators.
    pub(crate) shard: u32,
    pub(crate) root: Root,
    pub(crate) chain: Chain,
    pub(crate) state: StateTarget,
    pub(crate) control: watch::Receiver<Control>,
    pub(crate) reports: mpsc::Sender<Report>,
    pub(crate) runtime: Handle,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Where a subtask's state goes.
pub(crate) struct StateTarget {
    pub(crate) job: Arc<str>,
    pub(crate) attempt: u32,
    pub(crate) log: Partition,
    pub(crate) writer: TransactionalWriter,
}

impl Subtask {
    /// Runs until it fails or is told to end; reports which.
    pub(crate) fn run(mut self) {
        let reports = self.reports.clone();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.work()));
        let failure = match outcome {
            Ok(Ok(())) => Failure::Stopped,
            Ok(Err(failure)) => failure,
            Err(panic) => Failure::Panic(
                panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "without a message".to_owned()),
            ),
        };
        // Nobody listens any more when the attempt is gone already.
        let _ = reports.try_send(Report::Ended(failure));
    }

    fn work(&mut self) -> Result<(), Failure> {
        let mut passed = 0;
        loop {
            let control = *self.control.borrow_and_update();
            if control.cancelled {
                return Ok(());
            }
            let mut out = self.chain.input();
            let arrived = match &mut self.root {
                Root::Source(source) => {
                    let due = control.barrier.filter(|barrier| barrier.epoch > passed);
                    if due.is_none() {
                        source.tick(&mut out)?;
                        if !source.poll(&mut out)? {
                            let (control, source) = (&mut self.control, &mut *source);
                            self.runtime.block_on(async {
                                tokio::select! {
                                    // A closed channel means that the attempt is gone.
                                    changed = control.changed() => {
                                        changed.map_err(|_| Failure::Stopped)
                                    }
                                    changed = source.changed() => changed,
                                    () = tokio::time::sleep(TICK) => Ok(()),
                                }
                            })?;
                        }
                    }
                    due
                }
                Root::Exchange(receiver) => match receiver.next(TICK)? {
                    Some(Element::Batch(batch)) => {
                        out.batch(batch)?;
                        None
                    }
                    Some(Element::Watermark(watermark)) => {
                        out.watermark(watermark)?;
                        None
                    }
                    Some(Element::Idle) => {
                        out.idle()?;
                        None
                    }
                    Some(Element::Barrier(barrier)) => Some(barrier),
                    None => None,
                },
            };
            if let Some(barrier) = arrived {
                drop(out);
                self.pass(barrier)?;
                passed = barrier.epoch;
            }
        }
    }

    /// Ends an epoch: hands over positions, output and state.
    fn pass(&mut self, barrier: Barrier) -> Result<(), Failure> {
        let positions = match &self.root {
            Root::Source(source) => source.positions(),
            Root::Exchange(_) => Vec::new(),
        };
        let (target, now, shard) = (&mut self.state, self.clock.now(), self.shard);
        let (mut appends, mut state_bytes) = (Vec::new(), 0);
        self.chain.barrier(barrier, |node, snapshot| {
            appends.extend(snapshot.appends);
            if snapshot.state.is_empty() {
                return Ok(());
            }
            let owner =
                StateOwner { job: &target.job, attempt: target.attempt, node, subtask: shard };
            state_bytes += state_topic::write(
                &mut target.writer,
                &target.log,
                &owner,
                barrier.epoch,
                snapshot.state,
                now,
            )?;
            Ok(())
        })?;
        appends.extend(target.writer.end_epoch(barrier.epoch));
        let ack =
            Ack { subtask: self.index, epoch: barrier.epoch, positions, appends, state_bytes };
        self.reports.try_send(Report::Acked(ack)).map_err(|_| Failure::Stopped)
    }
}
