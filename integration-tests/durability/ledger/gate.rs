//! Whether the broker is up, told to the clients of a chapter, and when they are done.

use std::io::{Error, ErrorKind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// One gate for all threads of a chapter.
#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_up: bool,
    /// Counts the times that the broker came up.
    life: u64,
    is_settling: bool,
    is_over: bool,
    has_failed: bool,
}

impl Gate {
    /// The broker serves.
    pub fn open(&self) {
        let mut state = self.lock();
        state.is_up = true;
        state.life += 1;
        self.changed.notify_all();
    }

    /// The broker is about to be ended: from now on connections may break.
    pub fn close(&self) {
        self.lock().is_up = false;
    }

    /// Nothing new is to be sent; what was sent is to be acknowledged.
    pub fn settle(&self) {
        self.lock().is_settling = true;
    }

    /// Everybody is to end.
    pub fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Whether nothing new is to be sent.
    pub fn is_settling(&self) -> bool {
        self.lock().is_settling
    }

    /// Whether everybody is to end, since the chapter is over or somebody has failed.
    pub fn is_over(&self) -> bool {
        let state = self.lock();
        state.is_over || state.has_failed
    }

    /// Waits until the broker serves: which of its lives this is, or `None` when all is over.
    pub fn wait(&self) -> Option<u64> {
        let mut state = self.lock();
        loop {
            if state.is_over || state.has_failed {
                return None;
            }
            if state.is_up {
                return Some(state.life);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether that life goes on.
    pub fn lives(&self, life: u64) -> bool {
        let state = self.lock();
        state.is_up && state.life == life
    }

    /// A connection of `life` broke. Panics if the broker was not ended, and if what came was not
    /// the answer to the request.
    #[track_caller]
    pub fn broke(&self, life: u64, error: &Error) {
        assert_ne!(error.kind(), ErrorKind::InvalidData, "{error}");
        let ended = !self.lives(life) || self.is_over();
        assert!(ended, "a connection broke before the broker was ended: {error}");
    }

    /// To be held by each thread: a panic ends all others.
    pub fn guard(&self) -> impl Drop + use<'_> {
        struct Guard<'a>(&'a Gate);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.lock().has_failed = true;
                    self.0.changed.notify_all();
                }
            }
        }
        Guard(self)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
