//! Growing pauses between attempts that keep failing. Pure: the time is an argument.

use std::time::Duration;

/// The longest pause, unless the first one is longer.
const PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// How long something is not attempted again, by the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backoff {
    pause: Duration,
    until: Duration,
}

impl Backoff {
    /// After a failure at `now`: pauses for `first`, and for twice as long as `before` if the
    /// attempt before failed as well.
    pub(super) fn after(before: Option<Backoff>, first: Duration, now: Duration) -> Backoff {
        let doubled = before.map_or(first, |before| before.pause.saturating_mul(2));
        let pause = doubled.min(PAUSE_MAX.max(first));
        Backoff { pause, until: now.saturating_add(pause) }
    }

    /// How long the pause is in all.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// Whether the pause is not over at `now`.
    pub(super) fn holds(&self, now: Duration) -> bool {
        now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_quarter_of_an_hour_unless_the_first_is_longer() {
        let second = Duration::from_secs(1);
        let pauses = |first: Duration| {
            let mut before = None;
            let mut now = Duration::ZERO;
            let mut pauses = Vec::new();
            for _ in 0..12 {
                let backoff = Backoff::after(before, first, now);
                assert!(backoff.holds(now + backoff.pause() - Duration::from_nanos(1)));
                assert!(!backoff.holds(now + backoff.pause()));
                now += backoff.pause();
                before = Some(backoff);
                pauses.push(backoff.pause().as_secs());
            }
            pauses
        };
        assert_eq!(pauses(15 * second), [15, 30, 60, 120, 240, 480, 900, 900, 900, 900, 900, 900]);
        assert_eq!(pauses(3600 * second), [3600; 12]);
        let ever = Backoff::after(None, Duration::MAX, second);
        assert!(Backoff::after(Some(ever), Duration::MAX, second).holds(3600 * second));
    }
}
