//! How far something long has come: counted by whoever does it, read by whoever tells people.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A cheap handle; all clones count the same work.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    stage: Mutex<&'static str>,
    done: AtomicU64,
    total: AtomicU64,
    scanned_bytes: AtomicU64,
}

/// How far it is at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// What is being done, as a verb phrase: `opening partition logs`.
    pub what: &'static str,
    /// Parts of it that are done.
    pub done: u64,
    /// All its parts; 0 when it has no parts to count.
    pub total: u64,
    /// Bytes read, over all stages so far.
    pub scanned_bytes: u64,
}

impl Progress {
    /// Begins a stage of `total` parts; 0 when they cannot be counted.
    pub fn begin(&self, what: &'static str, total: u64) {
        let mut stage = self.inner.stage.lock().unwrap_or_else(PoisonError::into_inner);
        *stage = what;
        self.inner.done.store(0, Ordering::Relaxed);
        self.inner.total.store(total, Ordering::Relaxed);
    }

    /// One more part is done.
    pub fn advance(&self) {
        self.inner.done.fetch_add(1, Ordering::Relaxed);
    }

    /// So many more bytes were read.
    pub fn scanned(&self, bytes: u64) {
        self.inner.scanned_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        // Under the lock, so that a stage is never told with the numbers of another.
        let what = self.inner.stage.lock().unwrap_or_else(PoisonError::into_inner);
        Stage {
            what: *what,
            done: self.inner.done.load(Ordering::Relaxed),
            total: self.inner.total.load(Ordering::Relaxed),
            scanned_bytes: self.inner.scanned_bytes.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Display for Stage {
    /// `opening partition logs 312/10000`, or the verb phrase alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.total {
            0 => f.write_str(self.what),
            total => write!(f, "{} {}/{total}", self.what, self.done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_tells_its_parts_only_when_it_has_some() {
        let progress = Progress::default();
        progress.begin("reading the metadata", 0);
        progress.scanned(5);
        assert_eq!(progress.stage().to_string(), "reading the metadata");
        let elsewhere = progress.clone();
        elsewhere.begin("opening partition logs", 3);
        elsewhere.advance();
        assert_eq!(progress.stage().to_string(), "opening partition logs 1/3");
        assert_eq!(progress.stage().scanned_bytes, 5);
    }
}
