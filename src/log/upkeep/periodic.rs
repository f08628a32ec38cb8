//! A thread that works at intervals. When the broker stops, it ends in the middle of its work.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A thread that works at intervals; dropping it waits for the work to notice and end.
pub(in crate::log) struct Periodic {
    line: Arc<Line>,
    thread: Option<JoinHandle<()>>,
}

/// Wakes the thread before its interval is over. Cheap to clone.
#[derive(Clone)]
pub(in crate::log) struct Alarm(Arc<Line>);

/// Tells the work when to rest and whether to continue.
pub(in crate::log) struct Pace {
    line: Arc<Line>,
    /// In tests: rests are added up here instead of being taken.
    #[cfg(test)]
    counted: Option<std::cell::Cell<Duration>>,
}

/// The last message to the thread, and the signal that there is one.
#[derive(Default)]
struct Line {
    told: Mutex<Told>,
    news: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    Begin,
    Stop,
}

impl Periodic {
    /// Starts a thread called `name`. It waits for `first`, calls `work`, waits for as long as `work`
    /// returned, and calls it again.
    pub(in crate::log) fn start(
        name: &str,
        first: Duration,
        mut work: impl FnMut(&Pace) -> Duration + Send + 'static,
    ) -> io::Result<Periodic> {
        let line = Arc::<Line>::default();
        let pace = Pace::new(line.clone());
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let mut rest = first;
            while pace.rest(rest) {
                rest = work(&pace);
            }
        })?;
        Ok(Periodic { line, thread: Some(thread) })
    }

    /// Lets another thread wake this one when there is work.
    pub(in crate::log) fn alarm(&self) -> Alarm {
        Alarm(self.line.clone())
    }
}

impl Drop for Periodic {
    fn drop(&mut self) {
        self.line.tell(Told::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread of the log's upkeep panicked");
        }
    }
}

impl Alarm {
    /// Starts the next round now, or as soon as the current one is over.
    pub(in crate::log) fn wake(&self) {
        self.0.tell(Told::Begin);
    }
}

impl Line {
    // The lock guards a single value, which a panic cannot leave half changed.
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, word: Told) {
        let mut told = self.told();
        if *told != Told::Stop {
            *told = word;
        }
        self.news.notify_all();
    }
}

impl Pace {
    fn new(line: Arc<Line>) -> Pace {
        Pace {
            line,
            #[cfg(test)]
            counted: None,
        }
    }

    /// A pace that never tells the work to end, for work on the calling thread.
    #[cfg(test)]
    pub(in crate::log) fn free() -> Pace {
        Pace::new(Arc::default())
    }

    /// How long `work` would have rested.
    #[cfg(test)]
    pub(in crate::log) fn rests_of(work: impl FnOnce(&Pace)) -> Duration {
        let mut pace = Pace::free();
        pace.counted = Some(std::cell::Cell::default());
        work(&pace);
        pace.counted.map(std::cell::Cell::into_inner).unwrap_or_default()
    }

    /// Rests for `time`, or until the thread is woken. Returns whether the work should continue.
    pub(in crate::log) fn rest(&self, time: Duration) -> bool {
        #[cfg(test)]
        if let Some(rests) = &self.counted {
            rests.set(rests.get() + time);
            return true;
        }
        let told = self.line.told();
        let waited = self.line.news.wait_timeout_while(told, time, |told| *told == Told::Nothing);
        let (mut told, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *told == Told::Begin {
            *told = Told::Nothing;
        }
        *told != Told::Stop
    }

    /// Whether the work should continue.
    pub(in crate::log) fn goes_on(&self) -> bool {
        *self.line.told() != Told::Stop
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn periodic_work_comes_again_until_it_is_dropped() {
        let (tell, told) = mpsc::channel();
        let periodic = Periodic::start("periodic", Duration::ZERO, move |pace| {
            // The receiver is gone when the test ends.
            let _ = tell.send(());
            pace.goes_on();
            Duration::ZERO
        });
        for _ in 0..3 {
            told.recv().unwrap();
        }
        drop(periodic.unwrap());
        while told.try_recv().is_ok() {}
        assert!(told.recv().is_err());
    }

    #[test]
    fn an_alarm_and_a_stop_end_a_long_rest() {
        let (tell, told) = mpsc::channel();
        let hour = Duration::from_secs(3600);
        let periodic = Periodic::start("periodic", hour, move |_| {
            let _ = tell.send(());
            hour
        })
        .unwrap();
        let alarm = periodic.alarm();
        for _ in 0..2 {
            alarm.wake();
            told.recv().unwrap();
        }
        drop(periodic);
        alarm.wake();
        assert!(told.recv().is_err());
    }
}
