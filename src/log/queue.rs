//! The byte-bounded queue in front of a writer thread.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What every command costs besides the bytes it holds.
const COMMAND_OVERHEAD_BYTES: usize = 512;

/// The sending end. Room for a command's bytes is taken before it is sent and given back when the
/// writer drops the command's `Room`.
pub struct Queue<C> {
    sender: mpsc::Sender<C>,
    room: Arc<Semaphore>,
    bytes_max: usize,
}

impl<C> Clone for Queue<C> {
    fn clone(&self) -> Queue<C> {
        Queue { sender: self.sender.clone(), room: self.room.clone(), bytes_max: self.bytes_max }
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
    let (sender, receiver) = mpsc::channel();
    (Queue { sender, room: room.clone(), bytes_max }, Receiver { receiver, room })
}

/// The receiving end.
pub struct Receiver<C> {
    receiver: mpsc::Receiver<C>,
    room: Arc<Semaphore>,
}

impl<C> Receiver<C> {
    /// Waits for a command; `None` when every sender is gone.
    pub fn wait(&self) -> Option<C> {
        self.receiver.recv().ok()
    }

    /// A command that is there already.
    pub fn ready(&self) -> Option<C> {
        self.receiver.try_recv().ok()
    }
}

impl<C> Drop for Receiver<C> {
    fn drop(&mut self) {
        // Whoever waits for room must learn that none will come.
        self.room.close();
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
        self.sender.send(command).map_err(|_| Closed)
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
        drop(receiver.wait());
        drop(receiver.wait());
        assert!(waiting.join().unwrap());
        assert!(receiver.ready().is_none());
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
