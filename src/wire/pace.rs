//! How fast bytes go on, so that a client is found that is too slow, also one that sends or reads a few
//! bytes now and then.

use tokio::time::{Duration, Instant};

/// Counts from a moment on. The default has not begun.
#[derive(Clone, Copy, Default)]
pub(super) struct Pace(Option<Mark>);

/// How many bytes there were, and when.
#[derive(Clone, Copy)]
struct Mark {
    at: Instant,
    bytes: u64,
}

impl Pace {
    /// Whether fewer than `least` bytes came in a whole `time`, where there are `bytes` in all. It
    /// begins anew as soon as so many have come.
    pub(super) fn is_slow(&mut self, bytes: u64, least: u64, time: Duration, now: Instant) -> bool {
        let begun = *self.0.get_or_insert(Mark { at: now, bytes });
        if bytes.saturating_sub(begun.bytes) >= least.max(1) {
            self.begin(bytes, now);
            return false;
        }
        now >= begun.at + time
    }

    /// Counts from now on.
    pub(super) fn begin(&mut self, bytes: u64, now: Instant) {
        self.0 = Some(Mark { at: now, bytes });
    }

    /// When `time` will have passed since it began.
    pub(super) fn end(&self, time: Duration, now: Instant) -> Instant {
        self.0.map_or(now, |mark| mark.at) + time
    }
}
