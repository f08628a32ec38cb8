//! The clock by which the age of records is measured: a wall clock that cannot jump forward while the
//! broker runs, so that a wrong clock expires no records.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::{info, warn};

use crate::types::{Clock, Timestamp};

/// If the wall clock is further than this from the expected time, somebody has set it: time
/// synchronisation moves it by less.
const JUMP_MIN: Duration = Duration::from_secs(60);

/// The earlier of two times: the wall clock, and the wall clock at the start plus the monotonic time since
/// then. If the wall clock is set forward, nothing becomes older than it is. If it is set back, everything
/// becomes younger and expires later. The broker cannot know whether the wall clock was right at the start,
/// and time in which the machine sleeps may not count.
pub(crate) struct AgeClock {
    clock: Arc<dyn Clock>,
    wall_at_start: Timestamp,
    monotonic_at_start: Duration,
    /// Whether a jump of the wall clock was found and logged.
    jumped: AtomicBool,
}

impl AgeClock {
    /// Trusts the wall clock as it is now.
    pub(crate) fn start(clock: Arc<dyn Clock>) -> AgeClock {
        let (wall_at_start, monotonic_at_start) = (clock.now(), clock.monotonic());
        AgeClock { clock, wall_at_start, monotonic_at_start, jumped: AtomicBool::new(false) }
    }

    /// Now, only for ages: records are stamped with the wall clock.
    pub(in crate::log) fn now(&self) -> Timestamp {
        let (wall, counted) = (self.clock.now(), self.counted());
        self.tell_of_a_jump(wall, counted);
        wall.min(counted)
    }

    /// The same for other rooms, without a word about a jump: the log's own look tells of it.
    pub(crate) fn peek(&self) -> Timestamp {
        self.clock.now().min(self.counted())
    }

    /// The wall clock at the start plus the monotonic time since then.
    fn counted(&self) -> Timestamp {
        let since = self.clock.monotonic().saturating_sub(self.monotonic_at_start);
        let since_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        Timestamp(self.wall_at_start.0.saturating_add(since_ms))
    }

    /// Logs once that the wall clock was set, and once that it is right again.
    fn tell_of_a_jump(&self, wall: Timestamp, counted: Timestamp) {
        let has_jumped = wall.0.abs_diff(counted.0) > JUMP_MIN.as_millis() as u64;
        if self.jumped.swap(has_jumped, Ordering::Relaxed) == has_jumped {
            return;
        }
        let ahead_ms = wall.0.saturating_sub(counted.0);
        if !has_jumped {
            info!("wall clock is back where the broker expects it");
        } else if ahead_ms > 0 {
            warn!(
                ahead_ms,
                "wall clock was set forward while the broker ran: records are kept as if it had \
                 not been, until the broker is restarted; if the new time is right, restart it"
            );
        } else {
            warn!(
                behind_ms = -ahead_ms,
                "wall clock was set back while the broker ran: records expire later, by as much"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ManualClock;

    const DAY_MS: i64 = 86_400_000;

    fn clocks(at: i64) -> (Arc<ManualClock>, AgeClock) {
        let clock = Arc::new(ManualClock::at(Timestamp(at)));
        (clock.clone(), AgeClock::start(clock))
    }

    #[test]
    fn time_passes_as_long_as_nobody_sets_the_clock() {
        let (clock, age) = clocks(1_000);
        clock.advance(Duration::from_secs(90));
        assert_eq!(age.now(), Timestamp(91_000));
        assert!(!age.jumped.load(Ordering::Relaxed));
    }

    #[test]
    fn a_clock_set_forward_makes_nothing_older() {
        for jump_ms in [DAY_MS, 365 * DAY_MS, i64::MAX / 2] {
            let (clock, age) = clocks(1_000_000);
            clock.set_wall(Timestamp(1_000_000 + jump_ms));
            assert_eq!(age.now(), Timestamp(1_000_000));
            assert!(age.jumped.load(Ordering::Relaxed));
            clock.advance(Duration::from_secs(5));
            assert_eq!(age.now(), Timestamp(1_005_000));
        }
    }

    #[test]
    fn a_clock_set_back_makes_things_younger_until_it_is_right_again() {
        let (clock, age) = clocks(400 * DAY_MS);
        for back_ms in [DAY_MS, 365 * DAY_MS, i64::MAX] {
            clock.set_wall(Timestamp(400 * DAY_MS - back_ms));
            assert_eq!(age.now(), Timestamp(400 * DAY_MS - back_ms));
            assert!(age.jumped.load(Ordering::Relaxed));
        }
        clock.set_wall(Timestamp(400 * DAY_MS + 1_000));
        assert_eq!(age.now(), Timestamp(400 * DAY_MS));
        assert!(!age.jumped.load(Ordering::Relaxed));
    }
}
