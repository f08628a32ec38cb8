//! The frame that a connection is reading: the memory that it is charged for, and how long its client
//! may take.

use tokio::time::{Duration, Instant};

use super::budget::Charge;
use super::frame::FrameError;
use super::pace::Pace;

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Between two frames.
    pub idle: Duration,
    /// For a small frame that has begun; the time over which a large frame's rate is taken; the time
    /// for which a frame that holds memory may wait for more.
    pub frame: Duration,
    /// The time over which a large frame's rate is taken while others wait for memory.
    pub frame_pressed: Duration,
    /// For which a client may read nothing of its answers while others wait for the room that they
    /// take.
    pub unread: Duration,
    /// The slowest rate at which a large frame may come, and at which answers may be read whose room
    /// others wait for.
    pub slowest_bytes_per_second: usize,
    /// How often a connection that reads nothing for now looks whether its client has hung up.
    pub look: Duration,
}

impl Patience {
    /// How many bytes come in `time` at the slowest rate.
    pub(super) fn slowest_bytes_in(&self, time: Duration) -> u64 {
        let bytes = self.slowest_bytes_per_second as f64 * time.as_secs_f64();
        bytes as u64
    }
}

/// For whom a frame that is not whole waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum WaitsFor {
    /// Its client sends the rest.
    #[default]
    Client,
    /// Others give memory back.
    Memory,
    /// Earlier requests of the connection are answered first.
    Answers,
}

/// See the module's header. The default is a frame of which nothing is there.
#[derive(Default)]
pub(super) struct Arrival {
    pub charge: Option<Charge>,
    waits_for: WaitsFor,
    /// Since when it waits for that, if that was asked.
    since: Option<Instant>,
    /// Its rate at all times, and while others wait for memory.
    calm: Pace,
    pressed: Pace,
}

/// How long a frame may still be waited for.
pub(super) enum Wait {
    /// Until then; asked again by that time.
    Until(Instant),
    /// No longer.
    Over(FrameError),
}

impl Arrival {
    /// Says for whom it waits from now on.
    pub(super) fn wait_for(&mut self, whom: WaitsFor) {
        if self.waits_for != whom {
            self.waits_for = whom;
            self.excuse();
        }
    }

    /// The time that passed was not the client's: it has all of its time again.
    pub(super) fn excuse(&mut self) {
        (self.since, self.calm, self.pressed) = (None, Pace::default(), Pace::default());
    }

    /// Whether it holds memory that others wait for.
    pub(super) fn is_pressed(&self) -> bool {
        self.charge.as_ref().is_some_and(|charge| charge.bytes() > 0 && charge.is_pressed())
    }

    /// How long to wait for a frame that is in its beginning.
    pub(super) fn wait_for_beginning(&mut self, patience: &Patience, now: Instant) -> Wait {
        let due = *self.since.get_or_insert(now) + patience.frame;
        if due > now { Wait::Until(due) } else { Wait::Over(FrameError::Slow) }
    }

    /// How long to wait for the rest of a large frame of which `bytes` are there.
    pub(super) fn wait_for_rest(
        &mut self,
        bytes: usize,
        patience: &Patience,
        now: Instant,
    ) -> Wait {
        let holds = self.charge.as_ref().is_some_and(|charge| charge.bytes() > 0);
        match self.waits_for {
            WaitsFor::Client => {
                let is_pressed = self.is_pressed();
                let bytes = bytes as u64;
                let (calm, pressed) = (patience.frame, patience.frame_pressed);
                if self.pressed.is_slow(bytes, patience.slowest_bytes_in(pressed), pressed, now) {
                    if is_pressed {
                        return Wait::Over(FrameError::Stalled);
                    }
                    // Others may come to wait later on.
                    self.pressed.begin(bytes, now);
                }
                if self.calm.is_slow(bytes, patience.slowest_bytes_in(calm), calm, now) {
                    return Wait::Over(FrameError::Slow);
                }
                Wait::Until(self.calm.end(calm, now).min(self.pressed.end(pressed, now)))
            }
            // What holds memory and cannot go on keeps others from it.
            WaitsFor::Memory if holds => {
                let due = *self.since.get_or_insert(now) + patience.frame;
                match due > now {
                    true => Wait::Until(due.min(now + patience.look)),
                    false => Wait::Over(FrameError::NoRoom),
                }
            }
            WaitsFor::Memory | WaitsFor::Answers => Wait::Until(now + patience.look),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::super::budget::Budgets;
    use super::*;

    const PATIENCE: Patience = Patience {
        idle: Duration::from_secs(600),
        frame: Duration::from_secs(30),
        frame_pressed: Duration::from_secs(5),
        unread: Duration::from_secs(10),
        slowest_bytes_per_second: 1_000,
        look: Duration::from_secs(5),
    };
    const MIB: usize = 1 << 20;

    /// What becomes of a frame that brings `bytes_per_second`, and after how many seconds; `None` when
    /// it may go on for a minute.
    fn fate(arrival: &mut Arrival, bytes_per_second: usize) -> Option<(u64, String)> {
        let begun = Instant::now();
        (0..=60).find_map(|second| {
            let bytes = usize::try_from(second).unwrap() * bytes_per_second;
            match arrival.wait_for_rest(bytes, &PATIENCE, begun + Duration::from_secs(second)) {
                Wait::Until(_) => None,
                Wait::Over(why) => Some((second, format!("{why:?}"))),
            }
        })
    }

    #[tokio::test]
    async fn a_slow_frame_has_its_time_and_less_of_it_while_others_wait_for_its_memory() {
        let budgets = Budgets::new(16 * MIB);
        let charged = |bytes| {
            let mut charge = budgets.charge(2 * MIB);
            assert!(charge.try_raise(bytes));
            Arrival { charge: Some(charge), ..Arrival::default() }
        };
        assert_eq!(fate(&mut charged(6 * MIB), 900), Some((30, "Slow".to_owned())));
        assert_eq!(fate(&mut charged(6 * MIB), 1_000), None);
        let mut slow = charged(6 * MIB);
        let mut cx = Context::from_waker(Waker::noop());
        let [mut beyond, mut waiting] = [0; 2].map(|_| budgets.charge(2 * MIB));
        assert!(beyond.poll_raise(2 * MIB, &mut cx).is_ready());
        assert!(waiting.poll_raise(2 * MIB, &mut cx).is_pending());
        assert_eq!(fate(&mut slow, 1_000), None);
        slow.excuse();
        assert_eq!(fate(&mut slow, 900), Some((5, "Stalled".to_owned())));
        // One that holds nothing is in nobody's way.
        assert_eq!(fate(&mut Arrival::default(), 900), Some((30, "Slow".to_owned())));
    }

    #[tokio::test]
    async fn a_frame_that_waits_for_memory_gives_back_what_it_holds_in_the_end() {
        let budgets = Budgets::new(16 * MIB);
        let mut charge = budgets.charge(2 * MIB);
        assert!(charge.try_raise(MIB));
        let mut holding = Arrival { charge: Some(charge), ..Arrival::default() };
        let mut holds_nothing =
            Arrival { charge: Some(budgets.charge(2 * MIB)), ..Arrival::default() };
        for arrival in [&mut holding, &mut holds_nothing] {
            arrival.wait_for(WaitsFor::Memory);
        }
        assert_eq!(fate(&mut holding, 0), Some((30, "NoRoom".to_owned())));
        assert_eq!(fate(&mut holds_nothing, 0), None);
        // The time that it waited was not the client's.
        holding.wait_for(WaitsFor::Client);
        assert_eq!(fate(&mut holding, 0), Some((30, "Slow".to_owned())));
    }
}
