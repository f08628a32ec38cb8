//! How long a failed job waits: Flink's exponential-delay strategy with its defaults, without end.

use std::time::Duration;

const INITIAL: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(60);
const MULTIPLIER: f64 = 1.5;
/// An attempt that ran this long begins the pauses anew.
const RESET_AFTER: Duration = Duration::from_secs(3600);

/// The pauses between a job's attempts.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// The pause after an attempt that ran for `ran`.
    pub(crate) fn after(&mut self, ran: Duration) -> Duration {
        let pause = match self.last {
            Some(last) if ran < RESET_AFTER => last.mul_f64(MULTIPLIER).min(MAX),
            _ => INITIAL,
        };
        self.last = Some(pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_begin_anew_after_a_long_run() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after(Duration::ZERO), INITIAL);
        assert_eq!(backoff.after(Duration::ZERO), Duration::from_millis(1500));
        for _ in 0..20 {
            backoff.after(Duration::ZERO);
        }
        assert_eq!(backoff.after(Duration::ZERO), MAX);
        assert_eq!(backoff.after(RESET_AFTER), INITIAL);
    }
}
