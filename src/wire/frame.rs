//! Cuts the byte stream of a connection into frames. Each length is checked before anything is
//! allocated for it.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::budget::SMALL_FRAME_BYTES_MAX;
use super::socket::Socket;
use crate::api::{self, Session};
use crate::config::Config;

/// Bytes of the length that stands before each frame.
const LENGTH_BYTES: usize = 4;
/// Most room for one read, which grows with what a client sends: many small requests, or all of a
/// producer's default batch, come with one system call.
const READ_BYTES_MAX: usize = 64 << 10;
/// Least room for one read. A buffer with less is not read into any more.
const READ_BYTES_MIN: usize = 4 << 10;
/// Reads, one behind the other, that needed little of their room before the next ones get the least. What
/// a client sends at once may end with a small one.
const SMALL_READS_MAX: u8 = 16;
/// So much of a frame must be there before it gets room for more than its beginning.
const EARNEST_BYTES: usize = 16 << 10;
/// A large frame gets room for so many times what of it has come, and moves to a larger buffer where that
/// does not suffice. A client that sends fast has mostly sent enough for the whole by then.
const ROOM_TIMES_ARRIVED: usize = 8;
/// How much of a large frame is read with one system call.
pub(super) const STEP_BYTES: usize = 128 << 10;

/// Why no frame can be read any more.
#[derive(Debug, Error)]
pub(super) enum FrameError {
    #[error("frame length {0} is impossible")]
    Length(i32),
    #[error("frame has {bytes} bytes, at most {bytes_max} are allowed for this api and client")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("frame was not finished in time")]
    Slow,
    #[error("frame comes too slowly while others wait for the memory that it holds")]
    Stalled,
    #[error("the memory for requests is used up, and the rest of the frame got no room in time")]
    NoRoom,
}

/// What a connection has read and not begun yet.
pub(super) struct Frames {
    buffer: BytesMut,
    /// Room for the next read.
    read_bytes: usize,
    /// Reads that needed little of it since the last one that needed more.
    small_reads: u8,
}

/// What stands at the front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// Nothing.
    Nothing,
    /// The beginning of a frame, of which so many bytes must be there next.
    Beginning(usize),
    /// A large frame of so many bytes, which has come in earnest and not as a whole.
    Coming(usize),
    /// A whole frame of so many bytes.
    Whole(usize),
}

impl Frames {
    pub(super) fn new() -> Frames {
        Frames { buffer: BytesMut::new(), read_bytes: READ_BYTES_MIN, small_reads: 0 }
    }

    /// What is at the front; the sizes of frames are without their lengths.
    pub(super) fn front(&self, config: &Config, session: &Session) -> Result<Front, FrameError> {
        if self.buffer.is_empty() {
            return Ok(Front::Nothing);
        }
        let [l0, l1, l2, l3, ref rest @ ..] = self.buffer[..] else {
            return Ok(Front::Beginning(LENGTH_BYTES));
        };
        let length = i32::from_be_bytes([l0, l1, l2, l3]);
        let bytes = usize::try_from(length).map_err(|_| FrameError::Length(length))?;
        // Such a frame is over before its prefix is: waiting for the rest would be in vain.
        if bytes < api::PREFIX_BYTES {
            return Err(FrameError::Length(length));
        }
        let Some(prefix) = rest.first_chunk() else {
            return Ok(Front::Beginning(LENGTH_BYTES + api::PREFIX_BYTES));
        };
        let exceeded = api::exceeded_frame_bytes_max(*prefix, bytes, config, session);
        if let Some(bytes_max) = exceeded {
            return Err(FrameError::TooLarge { bytes, bytes_max });
        }
        // A length that is announced costs nothing yet: only a frame that really comes gets room.
        Ok(match rest.len() {
            whole if whole >= bytes => Front::Whole(bytes),
            part if part < EARNEST_BYTES => {
                Front::Beginning(LENGTH_BYTES + bytes.min(EARNEST_BYTES))
            }
            _ if bytes <= SMALL_FRAME_BYTES_MAX => Front::Beginning(LENGTH_BYTES + bytes),
            _ => Front::Coming(bytes),
        })
    }

    /// Takes the whole frame of `bytes` off the front, without its length.
    pub(super) fn take(&mut self, bytes: usize) -> Bytes {
        let whole = LENGTH_BYTES + bytes;
        let is_last = self.buffer.len() == whole;
        let frame = match is_last && self.buffer.capacity() - whole < READ_BYTES_MIN {
            // Nothing more would be read into it: whoever gets the frame has the buffer for its own.
            true => std::mem::take(&mut self.buffer),
            false => self.buffer.split_to(whole),
        };
        frame.freeze().split_off(LENGTH_BYTES)
    }

    /// Whether as much was read ahead as may be.
    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() >= READ_BYTES_MAX
    }

    /// How many bytes were read and not begun.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// How many bytes the buffer of the large frame of `bytes` at the front may have, if `queued` more of
    /// it have come than were read.
    pub(super) fn room(&self, bytes: usize, queued: usize) -> usize {
        let arrived = self.buffer.len().saturating_add(queued);
        (LENGTH_BYTES + bytes).min(arrived.saturating_mul(ROOM_TIMES_ARRIVED))
    }

    /// Moves the frame at the front to a buffer of its own with `room` bytes in all.
    pub(super) fn move_to(&mut self, room: usize) {
        // Not `reserve`, which may double what is there.
        let mut own = BytesMut::with_capacity(room);
        own.extend_from_slice(&self.buffer);
        self.buffer = own;
    }

    /// Reads once to the room that a large frame has; 0 when the client has closed.
    pub(super) fn poll_read_on(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // What the next large frame begins with will be copied to a buffer of its own.
        self.read_bytes = LENGTH_BYTES + EARNEST_BYTES;
        let room = (self.buffer.capacity() - self.buffer.len()).min(STEP_BYTES);
        socket.poll_read(&mut (&mut self.buffer).limit(room), cx)
    }

    /// Reads once, with room for what `front` needs next; 0 when the client has closed. `is_busy` says
    /// that requests are being answered. Large frames are read by [`Frames::poll_read_on`].
    pub(super) fn poll_read(
        &mut self,
        socket: &mut Socket,
        front: Front,
        is_busy: bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // An idle connection keeps no buffer; one with requests in flight, whose frames may lie in it,
        // goes on in the rest of it, if there is any: else it would only keep a frame alive.
        if self.buffer.is_empty() && (!is_busy || self.buffer.capacity() < READ_BYTES_MIN) {
            self.buffer = BytesMut::new();
        }
        ready!(socket.poll_readable(cx))?;
        self.make_room(match front {
            Front::Nothing => LENGTH_BYTES,
            Front::Beginning(bytes) | Front::Coming(bytes) => bytes,
            Front::Whole(_) => self.buffer.len() + LENGTH_BYTES,
        });
        let room = self.buffer.capacity() - self.buffer.len();
        let read = ready!(socket.poll_read(&mut self.buffer, cx))?;
        if read == room {
            self.read_bytes = (2 * self.read_bytes).min(READ_BYTES_MAX);
        }
        let is_small = read < room && read < self.read_bytes / 4;
        self.small_reads = if is_small { self.small_reads + 1 } else { 0 };
        if self.small_reads == SMALL_READS_MAX {
            (self.read_bytes, self.small_reads) = (READ_BYTES_MIN, 0);
        }
        Poll::Ready(Ok(read))
    }

    /// Gives the buffer room for `wanted` bytes in all, or for a read if that is more: what is in it may
    /// move.
    fn make_room(&mut self, wanted: usize) {
        let rest = wanted.saturating_sub(self.buffer.len());
        let room = self.buffer.capacity() - self.buffer.len();
        // A frame that is larger than a read ends with its buffer, however little is still to come.
        let least = if wanted > self.read_bytes { rest } else { rest.max(READ_BYTES_MIN) };
        if room < least {
            if rest <= self.read_bytes {
                self.buffer.reserve(self.read_bytes);
            } else {
                self.move_to(wanted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;

    use super::super::tests::pair;
    use super::*;
    use crate::api::tests::fixture::session;

    /// Reads once as a connection does. `room` is what the large frame at the front has.
    async fn read(
        frames: &mut Frames,
        socket: &mut Socket,
        front: Front,
        room: &mut usize,
    ) -> usize {
        poll_fn(|cx| {
            let Front::Coming(bytes) = front else {
                return frames.poll_read(socket, front, true, cx);
            };
            ready!(socket.poll_readable(cx))?;
            if *room <= frames.len() {
                *room = frames.room(bytes, socket.queued());
                frames.move_to(*room);
            }
            frames.poll_read_on(socket, cx)
        })
        .await
        .unwrap()
    }

    /// The size of the next frame, which is taken off.
    async fn next(frames: &mut Frames, socket: &mut Socket) -> usize {
        let (config, mut room) = (Config::default(), 0);
        loop {
            let front = frames.front(&config, &session()).unwrap();
            if let Front::Whole(bytes) = front {
                let frame = frames.take(bytes);
                // A large one has its buffer for its own.
                assert!(bytes <= READ_BYTES_MAX || frame.is_unique());
                return frame.len();
            }
            let read = read(frames, socket, front, &mut room).await;
            assert!(read > 0, "closed in the middle of a frame");
        }
    }

    #[tokio::test]
    async fn a_large_frame_keeps_no_memory_alive_behind_it_also_while_others_are_answered() {
        let (mut client, stream) = pair().await;
        let mut socket = Socket::Plain(stream);
        let mut frames = Frames::new();
        let large = 1u32 << 20;
        // Behind it a small one, whose buffer may not be the large one's.
        let sent =
            [large, 100].map(|bytes| [&bytes.to_be_bytes()[..], &vec![0; bytes as usize]].concat());
        let sent = tokio::spawn(async move {
            client.write_all(&sent.concat()).await.unwrap();
            client
        });
        assert_eq!(next(&mut frames, &mut socket).await, large as usize);
        assert!(frames.buffer.capacity() < READ_BYTES_MIN, "{}", frames.buffer.capacity());
        assert_eq!(next(&mut frames, &mut socket).await, 100);
        assert!(frames.buffer.capacity() <= READ_BYTES_MAX, "{}", frames.buffer.capacity());
        let _client = sent.await.unwrap();
        let idle = poll_fn(|cx| {
            Poll::Ready(frames.poll_read(&mut socket, Front::Nothing, false, cx).is_pending())
        });
        assert!(idle.await);
        assert_eq!(frames.buffer.capacity(), 0, "an idle connection keeps no buffer");
    }

    #[tokio::test]
    async fn the_end_of_a_large_frame_needs_no_more_room_than_it_has() {
        let (mut client, stream) = pair().await;
        let mut socket = Socket::Plain(stream);
        let (mut frames, config, mut room) = (Frames::new(), Config::default(), 0);
        let large = [&(1u32 << 20).to_be_bytes()[..], &[0; 1 << 20]].concat();
        let (most, rest) = large.split_at(large.len() - 100);
        for part in [most, rest] {
            let reading = async {
                loop {
                    let front = frames.front(&config, &session()).unwrap();
                    assert!(!matches!(front, Front::Whole(_)) || part.len() == 100);
                    let there = if part.len() == 100 { large.len() } else { most.len() };
                    if frames.buffer.len() == there {
                        break;
                    }
                    read(&mut frames, &mut socket, front, &mut room).await;
                }
            };
            let (_, sent) = tokio::join!(reading, client.write_all(part));
            sent.unwrap();
        }
        assert_eq!(frames.buffer.capacity(), large.len());
    }

    #[tokio::test]
    async fn what_comes_at_once_is_soon_read_at_once_until_less_comes() {
        let (mut client, stream) = pair().await;
        let mut socket = Socket::Plain(stream);
        let mut frames = Frames::new();
        let together = [&500u32.to_be_bytes()[..], &[0; 500]].concat().repeat(11);
        assert!((READ_BYTES_MIN..READ_BYTES_MIN * 3 / 2).contains(&together.len()));
        for _ in 0..3 {
            client.write_all(&together).await.unwrap();
            for _ in 0..11 {
                assert_eq!(next(&mut frames, &mut socket).await, 500);
            }
            // The first time takes two reads.
            assert_eq!(frames.read_bytes, 2 * READ_BYTES_MIN);
        }
        assert_eq!(frames.small_reads, 0, "one read took all");
        for small in 0..SMALL_READS_MAX {
            assert_eq!((frames.read_bytes, frames.small_reads), (2 * READ_BYTES_MIN, small));
            client.write_all(&together[..504]).await.unwrap();
            assert_eq!(next(&mut frames, &mut socket).await, 500);
        }
        assert_eq!((frames.read_bytes, frames.small_reads), (READ_BYTES_MIN, 0));
    }

    #[test]
    fn a_frame_is_told_by_what_of_it_is_there() {
        let front = |bytes: &[u8]| {
            Frames { buffer: BytesMut::from(bytes), ..Frames::new() }
                .front(&Config::default(), &session())
                .unwrap()
        };
        let large = [&(1u32 << 20).to_be_bytes()[..], &[0; 1 << 20]].concat();
        assert_eq!(front(&[]), Front::Nothing);
        assert_eq!(front(&large[..3]), Front::Beginning(4));
        assert_eq!(front(&large[..7]), Front::Beginning(8));
        assert_eq!(front(&large[..8]), Front::Beginning(4 + EARNEST_BYTES));
        assert_eq!(front(&large[..4 + EARNEST_BYTES]), Front::Coming(1 << 20));
        assert_eq!(front(&large), Front::Whole(1 << 20));
        assert_eq!(front(&[0, 0, 0, 5, 0, 0, 0, 9]), Front::Beginning(9));
        assert_eq!(front(&[0, 0, 0, 5, 0, 0, 0, 9, 1, 7]), Front::Whole(5));
    }

    #[test]
    fn a_frame_has_room_for_a_multiple_of_what_has_come_and_never_for_more_than_itself() {
        let mut frames = Frames::new();
        frames.buffer.extend_from_slice(&[0; 20_000]);
        assert_eq!(frames.room(100 << 20, 0), 8 * 20_000);
        assert_eq!(frames.room(100 << 20, 30_000), 8 * 50_000);
        assert_eq!(frames.room(100_000, 30_000), LENGTH_BYTES + 100_000);
        frames.move_to(8 * 20_000);
        assert_eq!((frames.buffer.capacity(), frames.len()), (8 * 20_000, 20_000));
    }
}
