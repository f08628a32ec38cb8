//! Operators of one subtask, pushed in one call stack: what an operator puts out is taken by the
//! next one before the first returns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::operator::{Barrier, Batch, Failure, Operator, Output, Snapshot, StateEntry, Watermark};

/// Rows through one node, over all its subtasks.
#[derive(Debug, Default)]
pub(crate) struct OperatorCounters {
    pub(crate) records_in: AtomicU64,
    pub(crate) records_out: AtomicU64,
}

/// One operator in a chain.
pub(crate) struct Stage {
    /// The node's id, which names its state.
    pub(crate) node: u32,
    /// The operator.
    pub(crate) operator: Box<dyn Operator>,
    /// Positions in the chain of those that take its output; all greater than its own.
    pub(crate) targets: Vec<usize>,
    /// Shared with the node's other subtasks.
    pub(crate) counters: Arc<OperatorCounters>,
}

/// A subtask's operators in topological order; the first ones take what the root reads.
pub(crate) struct Chain {
    stages: Vec<Stage>,
    roots: Vec<usize>,
}

impl Chain {
    /// `roots` are the positions that the subtask's input feeds.
    pub(crate) fn new(stages: Vec<Stage>, roots: Vec<usize>) -> Chain {
        Chain { stages, roots }
    }

    /// Where the subtask's input goes.
    pub(crate) fn input(&mut self) -> impl Output + '_ {
        Downstream { rest: &mut self.stages, base: 0, targets: &self.roots, records_out: None }
    }

    /// Passes a barrier: nothing is under way inside a chain, so every operator is at the same
    /// place in the stream.
    pub(crate) fn barrier(
        &mut self,
        barrier: Barrier,
        mut each: impl FnMut(u32, Snapshot) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for stage in &mut self.stages {
            let mut snapshot = Snapshot::default();
            stage.operator.barrier(barrier, &mut snapshot)?;
            each(stage.node, snapshot)?;
        }
        Ok(())
    }

    /// Gives every operator its node's state back.
    pub(crate) fn restore<'a>(
        &mut self,
        entries: impl Fn(u32) -> &'a [StateEntry],
    ) -> Result<(), Failure> {
        for stage in &mut self.stages {
            stage.operator.restore(entries(stage.node))?;
        }
        Ok(())
    }
}

struct Downstream<'a> {
    /// The stages after the one that puts out; the first has position `base`.
    rest: &'a mut [Stage],
    base: usize,
    targets: &'a [usize],
    records_out: Option<&'a AtomicU64>,
}

impl Downstream<'_> {
    fn each(
        &mut self,
        mut push: impl FnMut(
            &mut dyn Operator,
            &mut dyn Output,
            &OperatorCounters,
        ) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for &target in self.targets {
            let at = target - self.base;
            let (head, tail) = self.rest.split_at_mut(at + 1);
            let stage = &mut head[at];
            let mut out = Downstream {
                rest: tail,
                base: target + 1,
                targets: &stage.targets,
                records_out: Some(&stage.counters.records_out),
            };
            push(stage.operator.as_mut(), &mut out, &stage.counters)?;
        }
        Ok(())
    }
}

impl Output for Downstream<'_> {
    fn batch(&mut self, batch: Batch) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        let rows = batch.len() as u64;
        if let Some(records_out) = self.records_out {
            records_out.fetch_add(rows, Ordering::Relaxed);
        }
        self.each(|operator, out, counters| {
            counters.records_in.fetch_add(rows, Ordering::Relaxed);
            operator.batch(batch.clone(), out)
        })
    }

    fn watermark(&mut self, watermark: Watermark) -> Result<(), Failure> {
        self.each(|operator, out, _| operator.watermark(watermark, out))
    }

    fn idle(&mut self) -> Result<(), Failure> {
        self.each(|operator, out, _| operator.idle(out))
    }
}
