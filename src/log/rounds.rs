//! Work that comes around: a thread that does it at intervals, and ends in the middle of it when the
//! broker stops.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// A thread that works in rounds; dropping it waits for the work to notice and end.
pub(super) struct Rounds {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the work asks whether to go on.
pub(super) struct Pace {
    stopped: Receiver<()>,
    /// Rests are added up here instead of being taken.
    #[cfg(test)]
    counted: Option<std::cell::Cell<Duration>>,
}

impl Rounds {
    /// Starts a thread called `name` that waits for `first`, does `work` and waits for as long as
    /// that says.
    pub(super) fn start(
        name: &str,
        first: Duration,
        mut work: impl FnMut(&Pace) -> Duration + Send + 'static,
    ) -> io::Result<Rounds> {
        let (stop, stopped) = mpsc::channel();
        let pace = Pace::new(stopped);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let mut rest = first;
            while pace.rest(rest) {
                rest = work(&pace);
            }
        })?;
        Ok(Rounds { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread of the log's upkeep panicked");
        }
    }
}

impl Pace {
    fn new(stopped: Receiver<()>) -> Pace {
        Pace {
            stopped,
            #[cfg(test)]
            counted: None,
        }
    }

    /// For work in the foreground: it goes on until what is returned besides is dropped.
    #[cfg(test)]
    pub(super) fn free() -> (Sender<()>, Pace) {
        let (stop, stopped) = mpsc::channel();
        (stop, Pace::new(stopped))
    }

    /// How long `work` would have rested.
    #[cfg(test)]
    pub(super) fn rests_of(work: impl FnOnce(&Pace)) -> Duration {
        let (_stop, mut pace) = Pace::free();
        pace.counted = Some(std::cell::Cell::default());
        work(&pace);
        pace.counted.map(std::cell::Cell::into_inner).unwrap_or_default()
    }

    /// Waits; whether the work should go on.
    pub(super) fn rest(&self, time: Duration) -> bool {
        #[cfg(test)]
        if let Some(rests) = &self.counted {
            rests.set(rests.get() + time);
            return true;
        }
        matches!(self.stopped.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }

    /// Whether the work should go on.
    pub(super) fn goes_on(&self) -> bool {
        self.rest(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_come_again_until_they_are_dropped() {
        let (tell, told) = mpsc::channel();
        let rounds = Rounds::start("rounds", Duration::ZERO, move |pace| {
            // The receiver is gone when the test ends.
            let _ = tell.send(());
            pace.goes_on();
            Duration::ZERO
        });
        for _ in 0..3 {
            told.recv().unwrap();
        }
        drop(rounds.unwrap());
        while told.try_recv().is_ok() {}
        assert!(told.recv().is_err());
    }

    #[test]
    fn a_stop_ends_a_long_rest() {
        let rounds =
            Rounds::start("rounds", Duration::from_secs(3600), |_| Duration::ZERO).unwrap();
        drop(rounds);
    }
}
