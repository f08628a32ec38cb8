//! Cuts the byte stream of a connection into frames. Each length is checked before anything is
//! allocated for it, and a frame that has begun must be finished in time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::ReadHalf;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use super::budget::{Budget, Budgets};
use crate::api;
use crate::config::Config;

/// Bytes of the length that stands before each frame.
const LENGTH_BYTES: usize = 4;
/// Room for one read: many small requests, or all of a producer's default batch, come with one
/// system call.
const READ_BYTES: usize = 64 << 10;
/// A buffer with less room than this is not read into any more.
const READ_BYTES_MIN: usize = 4 << 10;
/// So much of a large frame must be there before the rest takes its share of the budgets.
const EARNEST_BYTES: usize = 16 << 10;

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Between two frames.
    pub idle: Duration,
    /// For a frame that has begun, besides `slowest_bytes_per_second`.
    pub frame: Duration,
    /// The slowest rate at which a large frame may come.
    pub slowest_bytes_per_second: usize,
}

/// What a frame takes of the budgets, until its request is answered.
pub(super) type Permits = [Option<OwnedSemaphorePermit>; 2];

/// A whole frame without its length.
pub(super) struct Frame {
    pub bytes: Bytes,
    pub permits: Permits,
}

/// Why no frame can be read any more.
#[derive(Debug, Error)]
pub(super) enum FrameError {
    #[error("frame length {0} is impossible")]
    Length(i32),
    #[error("frame has {bytes} bytes, at most {bytes_max} are allowed for this api")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("frame was not finished in time")]
    Slow,
    #[error("connection was idle for too long")]
    Idle,
    #[error("connection ended in the middle of a frame")]
    Torn,
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
}

impl FrameError {
    /// Whether the client broke the protocol, rather than merely went away.
    pub(super) fn is_misuse(&self) -> bool {
        match self {
            FrameError::Length(_) | FrameError::TooLarge { .. } | FrameError::Slow => true,
            FrameError::Idle | FrameError::Torn | FrameError::Io(_) => false,
        }
    }
}

/// The reading half of a connection.
pub(super) struct FrameReader<'a> {
    pub socket: ReadHalf<'a>,
    pub buffer: BytesMut,
    pub config: Arc<Config>,
    pub patience: Patience,
    /// The connection's own budget.
    pub own: Budget,
    /// The whole broker's.
    pub shared: Budgets,
}

impl FrameReader<'_> {
    /// The next frame, `None` when the client has closed. `busy` tells whether requests are still
    /// being answered: then silence is not idleness.
    pub(super) async fn next(
        &mut self,
        busy: impl Fn() -> bool,
    ) -> Result<Option<Frame>, FrameError> {
        if self.buffer.is_empty() {
            // An idle connection keeps no buffer; one with requests in flight, whose frames may lie in
            // it, goes on in the rest of it, if there is any: else it would only keep a frame alive.
            if !busy() || self.buffer.capacity() < READ_BYTES_MIN {
                self.buffer = BytesMut::new();
            }
            while timeout(self.patience.idle, self.socket.readable()).await.is_err() {
                if !busy() {
                    return Err(FrameError::Idle);
                }
            }
            self.make_room(LENGTH_BYTES);
            // Readiness may be spurious: wait for the first byte under the same clock.
            match timeout(self.patience.idle, self.socket.read_buf(&mut self.buffer)).await {
                Err(_) => return Err(FrameError::Idle),
                Ok(Err(error)) => return Err(error.into()),
                Ok(Ok(0)) => return Ok(None),
                Ok(Ok(_)) => {}
            }
        }
        let begun = Instant::now();
        self.fill(LENGTH_BYTES, begun + self.patience.frame).await?;
        let [l0, l1, l2, l3, ..] = self.buffer[..] else {
            return Err(FrameError::Torn);
        };
        let length = i32::from_be_bytes([l0, l1, l2, l3]);
        let bytes = usize::try_from(length).map_err(|_| FrameError::Length(length))?;
        // Such a frame is over before its prefix is: waiting for the rest would be in vain.
        if bytes < api::PREFIX_BYTES {
            return Err(FrameError::Length(length));
        }
        self.fill(LENGTH_BYTES + api::PREFIX_BYTES, begun + self.patience.frame).await?;
        let [_, _, _, _, p0, p1, p2, p3, ..] = self.buffer[..] else {
            return Err(FrameError::Torn);
        };
        let bytes_max = api::frame_bytes_max([p0, p1, p2, p3], &self.config);
        if bytes > bytes_max {
            return Err(FrameError::TooLarge { bytes, bytes_max });
        }
        // A promise costs nothing yet: only a frame that really comes takes its share.
        let beginning = LENGTH_BYTES + bytes.min(EARNEST_BYTES);
        self.fill(beginning, begun + self.patience.frame).await?;
        let permits = [self.own.take(bytes).await, self.shared.take(bytes).await];
        let allowance =
            Duration::from_secs((bytes / self.patience.slowest_bytes_per_second) as u64);
        self.fill(LENGTH_BYTES + bytes, Instant::now() + self.patience.frame + allowance).await?;
        let mut frame = self.buffer.split_to(LENGTH_BYTES + bytes).freeze();
        let _length = frame.split_to(LENGTH_BYTES);
        Ok(Some(Frame { bytes: frame, permits }))
    }

    /// Gives the buffer room for `wanted` bytes in all, once for a frame: what is in it may move. A
    /// large frame gets no more than its own size, so that nothing behind it is copied for the next.
    fn make_room(&mut self, wanted: usize) {
        let rest = wanted - self.buffer.len();
        let room = self.buffer.capacity() - self.buffer.len();
        if room >= rest.max(READ_BYTES_MIN) {
            return;
        }
        if rest <= READ_BYTES {
            self.buffer.reserve(READ_BYTES);
        } else {
            // Not `reserve`, which may double what is there: the rest of it would outlive the frame.
            let mut own = BytesMut::with_capacity(wanted);
            own.extend_from_slice(&self.buffer);
            self.buffer = own;
        }
    }

    /// Reads until the buffer holds `wanted` bytes.
    async fn fill(&mut self, wanted: usize, deadline: Instant) -> Result<(), FrameError> {
        if self.buffer.len() < wanted {
            self.make_room(wanted);
        }
        while self.buffer.len() < wanted {
            match timeout_at(deadline, self.socket.read_buf(&mut self.buffer)).await {
                Err(_) => return Err(FrameError::Slow),
                Ok(Err(error)) => return Err(error.into()),
                Ok(Ok(0)) => return Err(FrameError::Torn),
                Ok(Ok(_)) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const PATIENT: Patience = Patience {
        idle: Duration::from_secs(60),
        frame: Duration::from_secs(60),
        slowest_bytes_per_second: 1 << 20,
    };

    #[tokio::test]
    async fn a_large_frame_keeps_no_memory_alive_behind_it_also_while_others_are_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut reader = FrameReader {
            socket: stream.split().0,
            buffer: BytesMut::new(),
            config: Arc::new(Config::default()),
            patience: PATIENT,
            own: Budget::new(32 << 20),
            shared: Budgets::new(64 << 20),
        };
        let large = 1u32 << 20;
        // Behind it a small one, whose buffer may not be the large one's.
        let frames =
            [large, 100].map(|bytes| [&bytes.to_be_bytes()[..], &vec![0; bytes as usize]].concat());
        let sent = tokio::spawn(async move {
            client.write_all(&frames.concat()).await.unwrap();
            client
        });
        assert_eq!(reader.next(|| true).await.unwrap().unwrap().bytes.len(), large as usize);
        assert!(reader.buffer.capacity() < READ_BYTES_MIN, "{}", reader.buffer.capacity());
        assert_eq!(reader.next(|| true).await.unwrap().unwrap().bytes.len(), 100);
        assert!(reader.buffer.capacity() <= READ_BYTES, "{}", reader.buffer.capacity());
        let _client = sent.await.unwrap();
        let waited = timeout(Duration::from_millis(20), reader.next(|| false)).await;
        assert!(waited.is_err());
        assert_eq!(reader.buffer.capacity(), 0, "an idle connection keeps no buffer");
    }
}
