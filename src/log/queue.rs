//! The byte-bounded queue in front of a writer.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What every command costs besides the bytes it holds.
const COMMAND_OVERHEAD_BYTES: usize = 512;

/// The sending end. Room for a command's bytes is taken before it is sent and given back when the
/// writer drops the command's `Room`.
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
    awaited: Awaited,
    is_closed: bool,
}

/// What a thread waits for.
#[derive(Clone, Copy, PartialEq)]
enum Awaited {
    /// Nobody waits.
    Nothing,
    /// Anything that is not sent quietly.
    News,
    /// So many commands.
    Commands(usize),
}

impl<C> Line<C> {
    // A poisoned lock still guards a valid queue: every change to it is a single call.
    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a queue that a command occupies.
#[derive(Debug)]
pub struct Room {
    _permit: OwnedSemaphorePermit,
}

/// The writer is gone.
#[derive(Debug)]
pub struct Closed;

/// A queue of at most `bytes_max`, and its receiving end. Dropping the `Receiver` closes it.
pub fn queue<C>(bytes_max: usize) -> (Queue<C>, Receiver<C>) {
    let bytes_max = bytes_max.clamp(COMMAND_OVERHEAD_BYTES, Semaphore::MAX_PERMITS);
    let room = Arc::new(Semaphore::new(bytes_max));
    let state = State { commands: VecDeque::new(), awaited: Awaited::Nothing, is_closed: false };
    let line = Arc::new(Line { state: Mutex::new(state), news: Condvar::new() });
    (Queue { line: line.clone(), room: room.clone(), bytes_max }, Receiver { line, room })
}

/// The receiving end.
pub struct Receiver<C> {
    line: Arc<Line<C>>,
    room: Arc<Semaphore>,
}

impl<C> Receiver<C> {
    /// A command that is there already.
    pub fn ready(&self) -> Option<C> {
        self.line.state().commands.pop_front()
    }

    /// The next command, if it is there and `wanted`.
    pub fn ready_if(&self, wanted: impl FnOnce(&C) -> bool) -> Option<C> {
        let mut state = self.line.state();
        if wanted(state.commands.front()?) { state.commands.pop_front() } else { None }
    }

    /// Puts a command of the receiver's own at the head; nobody is woken for it.
    pub fn put_back(&self, command: C) {
        self.line.state().commands.push_front(command);
    }

    /// Waits until `count` commands are there, but no longer than `patience`.
    pub fn wait_for(&self, count: usize, patience: Duration) {
        let mut state = self.line.state();
        state.awaited = Awaited::Commands(count);
        let short = |state: &mut State<C>| state.commands.len() < count;
        let waited = self.line.news.wait_timeout_while(state, patience, short);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.awaited = Awaited::Nothing;
    }
}

impl<C> Drop for Receiver<C> {
    fn drop(&mut self) {
        let mut state = self.line.state();
        state.is_closed = true;
        let left = std::mem::take(&mut state.commands);
        drop(state);
        // Whoever waits for an answer, for room or for commands must learn that none will come.
        drop(left);
        self.room.close();
        self.line.news.notify_all();
    }
}

impl<C> Queue<C> {
    /// Waits, in order of arrival, until `bytes` fit. A command larger than the whole queue waits
    /// until it is empty.
    pub async fn room(&self, bytes: usize) -> Result<Room, Closed> {
        let cost = bytes.saturating_add(COMMAND_OVERHEAD_BYTES).min(self.bytes_max);
        let permits = u32::try_from(cost).unwrap_or(u32::MAX);
        let permit = self.room.clone().acquire_many_owned(permits).await.map_err(|_| Closed)?;
        Ok(Room { _permit: permit })
    }

    /// Sends a command at once. One that clients can cause in numbers holds its `Room` already;
    /// those that come once per log or thread need none.
    pub fn send(&self, command: C) -> Result<(), Closed> {
        self.push(command, Awaited::News)
    }

    /// `send` that does not wake who waits for anything: whoever sends sees to the command himself, or
    /// calls `nudge`.
    pub fn send_quietly(&self, command: C) -> Result<(), Closed> {
        self.push(command, Awaited::Nothing)
    }

    fn push(&self, command: C, wakes: Awaited) -> Result<(), Closed> {
        let mut state = self.line.state();
        if state.is_closed {
            return Err(Closed);
        }
        state.commands.push_back(command);
        let is_awaited = match state.awaited {
            Awaited::Nothing => false,
            Awaited::News => wakes == Awaited::News,
            Awaited::Commands(count) => state.commands.len() >= count,
        };
        if is_awaited {
            state.awaited = Awaited::Nothing;
            drop(state);
            self.line.news.notify_one();
        }
        Ok(())
    }

    /// Wakes the thread that waits, if commands are there.
    pub fn nudge(&self) {
        let mut state = self.line.state();
        if state.awaited == Awaited::News && !state.commands.is_empty() {
            state.awaited = Awaited::Nothing;
            drop(state);
            self.line.news.notify_one();
        }
    }

    /// Waits until commands are there; false when none can come any more.
    pub fn wait(&self) -> bool {
        let mut state = self.line.state();
        if state.commands.is_empty() && !state.is_closed {
            state.awaited = Awaited::News;
            let idle = |state: &mut State<C>| state.awaited == Awaited::News && !state.is_closed;
            let waited = self.line.news.wait_while(state, idle);
            state = waited.unwrap_or_else(PoisonError::into_inner);
            state.awaited = Awaited::Nothing;
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
    fn what_is_sent_quietly_wakes_nobody_before_it_is_told() {
        let (queue, receiver) = queue::<u8>(1 << 20);
        let waiting = {
            let queue = queue.clone();
            std::thread::spawn(move || queue.wait())
        };
        while receiver.line.state().awaited != Awaited::News {
            std::thread::yield_now();
        }
        queue.send_quietly(1).unwrap();
        assert!(receiver.line.state().awaited == Awaited::News);
        queue.nudge();
        assert!(waiting.join().unwrap());
        assert_eq!(receiver.ready_if(|first| *first == 2), None);
        assert_eq!(receiver.ready_if(|first| *first == 1), Some(1));
        drop(receiver);
        assert!(!queue.wait());
    }

    #[test]
    fn who_waits_for_several_is_woken_by_the_last_of_them() {
        let (queue, receiver) = queue::<u8>(1 << 20);
        let sending = {
            let queue = queue.clone();
            std::thread::spawn(move || {
                queue.send(1).unwrap();
                queue.send_quietly(2).unwrap();
            })
        };
        receiver.wait_for(2, Duration::from_secs(60));
        sending.join().unwrap();
        assert_eq!((receiver.ready(), receiver.ready()), (Some(1), Some(2)));
        receiver.wait_for(1, Duration::from_millis(1));
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
