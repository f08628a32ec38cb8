//! How long a client may take to read the answers that it is sent.

use tokio::time::Instant;

use super::arrival::Patience;
use super::pace::Pace;

/// Answers that a client has to read before it is sent more. The default has not begun.
///
/// What counts as read is what the socket takes. It takes nothing for a while from a client that reads
/// slowly, then much at once, as the kernel has buffers of up to some MiB: so the rate is taken over
/// the long time in which a large frame's is.
#[derive(Default)]
pub(super) struct Departure {
    idle: Pace,
    unread: Pace,
    slow: Pace,
    pressed: Pace,
}

/// Whether a connection keeps something from others while its answers are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// It holds nothing of that kind.
    Nothing,
    /// Nobody waits for it now.
    Spare,
    /// Others wait for it.
    Wanted,
}

/// How long to wait for a client that reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Until then; asked again by that time.
    Until(Instant),
    /// No longer: it has read nothing for as long as a client may be idle, or keeps others from the
    /// memory of the frame behind its answers.
    Stalled,
    /// No longer: it keeps others from the room of its answers.
    Unread,
}

impl Departure {
    /// How long to wait, where the socket has taken `bytes` of answers in all and takes no more now.
    /// The connection holds room for `answers`, and memory for a `frame` that has arrived behind them.
    pub(super) fn wait(
        &mut self,
        bytes: u64,
        [answers, frame]: [Holds; 2],
        patience: &Patience,
        now: Instant,
    ) -> Reading {
        if self.idle.is_slow(bytes, 1, patience.idle, now) {
            return Reading::Stalled;
        }
        let mut until = self.idle.end(patience.idle, now);
        let slowest = patience.slowest_bytes_in(patience.frame);
        let either = if answers == Holds::Nothing { frame } else { answers };
        let is_wanted = answers == Holds::Wanted || frame == Holds::Wanted;
        let either = if is_wanted { Holds::Wanted } else { either };
        for (pace, holds, least, time) in [
            (&mut self.unread, answers, 1, patience.unread),
            (&mut self.pressed, frame, 1, patience.frame_pressed),
            (&mut self.slow, either, slowest, patience.frame),
        ] {
            if holds == Holds::Nothing {
                *pace = Pace::default();
                continue;
            }
            if pace.is_slow(bytes, least, time, now) {
                if holds == Holds::Wanted {
                    let is_of_answers = answers == Holds::Wanted;
                    return if is_of_answers { Reading::Unread } else { Reading::Stalled };
                }
                // Others may come to wait later on.
                pace.begin(bytes, now);
            }
            until = until.min(pace.end(time, now));
        }
        Reading::Until(until)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Duration;

    use super::*;

    const PATIENCE: Patience = Patience {
        idle: Duration::from_secs(600),
        frame: Duration::from_secs(30),
        frame_pressed: Duration::from_secs(5),
        unread: Duration::from_secs(10),
        slowest_bytes_per_second: 1_000,
        look: Duration::from_secs(5),
    };

    /// After how many seconds a client is given up of whose answers the socket has taken
    /// `taken(second)` bytes, and why; `None` when it may go on for 20 minutes.
    fn fate(holds: [Holds; 2], taken: impl Fn(u64) -> u64) -> Option<(u64, Reading)> {
        let (mut departure, begun) = (Departure::default(), Instant::now());
        (0..=1200).find_map(|second| {
            let now = begun + Duration::from_secs(second);
            match departure.wait(taken(second), holds, &PATIENCE, now) {
                Reading::Until(due) => {
                    assert!(due > now, "the alarm is set for a time that has passed");
                    None
                }
                over => Some((second, over)),
            }
        })
    }

    #[test]
    fn a_client_that_reads_a_few_bytes_now_and_then_keeps_no_room_that_others_wait_for() {
        use Holds::{Nothing, Spare, Wanted};
        let answers = [Wanted, Nothing];
        let unread = |second| Some((second, Reading::Unread));
        assert_eq!(fate(answers, |_| 0), unread(10));
        // A byte a second, a little every 9 s, and nearly the slowest rate.
        assert_eq!(fate(answers, |second| second), unread(30));
        assert_eq!(fate(answers, |second| second / 9 * 3_000), unread(30));
        assert_eq!(fate(answers, |second| second * 900), unread(30));
        // Steadily, or much at once as large buffers make it.
        assert_eq!(fate(answers, |second| second * 1_000), None);
        assert_eq!(fate(answers, |second| second / 9 * 30_000), None);
        // Nobody waits.
        assert_eq!(fate([Spare, Nothing], |second| second), None);
        assert_eq!(fate([Nothing, Nothing], |second| second), None);
        for holds in [Nothing, Spare] {
            assert_eq!(fate([holds, Nothing], |_| 0), Some((600, Reading::Stalled)));
        }
    }

    #[test]
    fn a_client_that_reads_slowly_keeps_no_frame_behind_its_answers_in_memory_for_long() {
        use Holds::{Nothing, Spare, Wanted};
        let frame = [Nothing, Wanted];
        assert_eq!(fate(frame, |_| 0), Some((5, Reading::Stalled)));
        assert_eq!(fate(frame, |second| second), Some((30, Reading::Stalled)));
        assert_eq!(fate(frame, |second| second * 1_000), None);
        assert_eq!(fate([Spare, Spare], |second| second), None);
        assert_eq!(fate([Spare, Wanted], |second| second), Some((30, Reading::Stalled)));
    }

    #[test]
    fn a_client_has_a_whole_time_when_others_come_to_wait_after_it_has_stopped() {
        let (mut departure, begun) = (Departure::default(), Instant::now());
        let mut wait = |second, answers| {
            let now = begun + Duration::from_secs(second);
            departure.wait(0, [answers, Holds::Nothing], &PATIENCE, now)
        };
        for second in 0..=20 {
            assert!(matches!(wait(second, Holds::Spare), Reading::Until(_)), "{second}");
        }
        for second in 21..30 {
            assert!(matches!(wait(second, Holds::Wanted), Reading::Until(_)), "{second}");
        }
        assert_eq!(wait(30, Holds::Wanted), Reading::Unread);
    }
}
