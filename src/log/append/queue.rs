//! The byte-bounded queue in front of a writer.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that every command counts for, in addition to the bytes of its batches.
const COMMAND_OVERHEAD_BYTES: usize = 512;

/// The sending end. A sender takes `Room` for the bytes of a command before it sends the command; the room
/// is free again when the writer drops it.
pub struct Queue<C> {
    line: Arc<Line<C>>,
    room: Arc<Semaphore>,
    bytes_max: usize,
}

impl<C> Clone for Queue<C> {
    fn clone(&self) -> Queue<C> {
        Queue { line: self.line.clone(), room: self.room.clone(), bytes_max: self.bytes_max }
    }
}

struct Line<C> {
    state: Mutex<State<C>>,
    news: Condvar,
}

struct State<C> {
    commands: VecDeque<C>,
    /// The number of commands that the writer waits for; `NOTHING` if it does not wait.
    awaited: usize,
    is_closed: bool,
}

const NOTHING: usize = usize::MAX;

impl<C> Line<C> {
    // A poisoned lock still guards a valid queue: every change to it is a single call.
    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of a queue that a command occupies, free again when this is dropped.
#[derive(Debug)]
pub struct Room {
    _permit: OwnedSemaphorePermit,
}

/// The writer has ended.
#[derive(Debug)]
pub struct Closed;

/// A queue of at most `bytes_max`, and its receiving end. Dropping the `Receiver` closes it.
pub fn queue<C>(bytes_max: usize) -> (Queue<C>, Receiver<C>) {
    let bytes_max = bytes_max.clamp(COMMAND_OVERHEAD_BYTES, Semaphore::MAX_PERMITS);
    let room = Arc::new(Semaphore::new(bytes_max));
    let state = State { commands: VecDeque::new(), awaited: NOTHING, is_closed: false };
    let line = Arc::new(Line { state: Mutex::new(state), news: Condvar::new() });
    (Queue { line: line.clone(), room: room.clone(), bytes_max }, Receiver { line, room })
}

/// The receiving end.
pub struct Receiver<C> {
    line: Arc<Line<C>>,
    room: Arc<Semaphore>,
}

impl<C> Receiver<C> {
    /// The first queued command, without waiting.
    pub fn ready(&self) -> Option<C> {
        self.line.state().commands.pop_front()
    }

    /// How many commands wait.
    pub fn len(&self) -> usize {
        self.line.state().commands.len()
    }

    /// Waits until `count` commands are queued, but no longer than `patience`. Returns whether they are.
    pub fn wait_for(&self, count: usize, patience: Duration) -> bool {
        let mut state = self.line.state();
        state.awaited = count;
        let short = |state: &mut State<C>| state.commands.len() < count;
        let waited = self.line.news.wait_timeout_while(state, patience, short);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.awaited = NOTHING;
        state.commands.len() >= count
    }
}

impl<C> Drop for Receiver<C> {
    fn drop(&mut self) {
        let mut state = self.line.state();
        state.is_closed = true;
        let left = std::mem::take(&mut state.commands);
        drop(state);
        // Wakes every thread and task that waits for an answer, for room or for commands.
        drop(left);
        self.room.close();
        self.line.news.notify_all();
    }
}

impl<C> Queue<C> {
    /// Waits, in order of arrival, until `bytes` fit the queue. If they are more than the whole queue,
    /// waits until it is empty.
    pub async fn room(&self, bytes: usize) -> Result<Room, Closed> {
        let cost = bytes.saturating_add(COMMAND_OVERHEAD_BYTES).min(self.bytes_max);
        let permits = u32::try_from(cost).unwrap_or(u32::MAX);
        let permit = self.room.clone().acquire_many_owned(permits).await.map_err(|_| Closed)?;
        Ok(Room { _permit: permit })
    }

    /// Sends a command without waiting. Commands that clients can send in any number must hold `Room`;
    /// commands that come once for each log or thread need none.
    pub fn send(&self, command: C) -> Result<(), Closed> {
        let mut state = self.line.state();
        if state.is_closed {
            return Err(Closed);
        }
        state.commands.push_back(command);
        if state.commands.len() >= state.awaited {
            state.awaited = NOTHING;
            drop(state);
            self.line.news.notify_one();
        }
        Ok(())
    }

    /// Waits until a command is queued. Returns false if the queue is closed.
    pub fn wait(&self) -> bool {
        let mut state = self.line.state();
        if state.commands.is_empty() && !state.is_closed {
            state.awaited = 1;
            let idle = |state: &mut State<C>| state.commands.is_empty() && !state.is_closed;
            let waited = self.line.news.wait_while(state, idle);
            state = waited.unwrap_or_else(PoisonError::into_inner);
            state.awaited = NOTHING;
        }
        !state.is_closed
    }
}

/// Runs a future on the calling thread, for threads outside the runtime.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_makes_senders_wait_until_the_room_is_given_back() {
        let (queue, receiver) = queue::<Room>(2 * COMMAND_OVERHEAD_BYTES);
        queue.send(block_on(queue.room(0)).unwrap()).unwrap();
        queue.send(block_on(queue.room(0)).unwrap()).unwrap();
        let waiting = {
            let queue = queue.clone();
            std::thread::spawn(move || block_on(queue.room(1 << 30)).is_ok())
        };
        drop(receiver.ready());
        drop(receiver.ready());
        assert!(waiting.join().unwrap());
        assert!(receiver.ready().is_none());
    }

    #[test]
    fn who_waits_for_several_is_woken_by_the_last_of_them() {
        let (queue, receiver) = queue::<u8>(1 << 20);
        let sending = {
            let queue = queue.clone();
            std::thread::spawn(move || {
                queue.send(1).unwrap();
                queue.send(2).unwrap();
            })
        };
        assert!(receiver.wait_for(2, Duration::from_secs(60)));
        sending.join().unwrap();
        assert_eq!((receiver.ready(), receiver.ready()), (Some(1), Some(2)));
        assert!(!receiver.wait_for(1, Duration::from_millis(1)));
        assert_eq!(receiver.ready(), None);
    }

    #[test]
    fn a_gone_writer_wakes_whoever_waits() {
        let (queue, receiver) = queue::<Room>(COMMAND_OVERHEAD_BYTES);
        let held = block_on(queue.room(0)).unwrap();
        let waiting = {
            let queue = queue.clone();
            std::thread::spawn(move || block_on(queue.room(0)).is_err())
        };
        drop(receiver);
        assert!(waiting.join().unwrap());
        assert!(queue.send(held).is_err());
    }
}
