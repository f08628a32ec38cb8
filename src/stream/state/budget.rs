//! How much memory a job's state may take: shared by the stateful operators of an attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::stream::operator::Failure;

/// See the module's header.
#[derive(Clone, Debug)]
pub struct StateBudget {
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl StateBudget {
    /// Up to `bytes_max` bytes of state.
    pub fn new(bytes_max: usize) -> StateBudget {
        StateBudget { bytes: Arc::default(), bytes_max }
    }

    /// A piece of state has grown or shrunk. An error when all of them are too large together.
    pub fn resize(&self, from: usize, to: usize) -> Result<(), Failure> {
        if to <= from {
            self.bytes.fetch_sub(from - to, Ordering::Relaxed);
            return Ok(());
        }
        let bytes = self.bytes.fetch_add(to - from, Ordering::Relaxed) + (to - from);
        if bytes <= self.bytes_max {
            return Ok(());
        }
        Err(Failure::Rows(format!(
            "the job's state takes {bytes} bytes, more than stream.state.bytes.max = {}; raise it, \
             use shorter windows or fewer keys, or see which partition's watermark holds windows \
             open",
            self.bytes_max
        )))
    }
}
