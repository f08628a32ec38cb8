//! Answers on their way out. Those that are ready together go out together: small ones as one piece,
//! records as they lie in the log.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};

use super::socket::Socket;
use crate::api::Held;

/// Answers go out when there are so many bytes of them, about.
const BYTES_PER_WRITE: usize = 64 << 10;
/// Chunks that one system call writes; Linux takes up to 1024.
const CHUNKS_PER_WRITE: usize = 64;
/// A buffer that was of more use than this is not kept.
const KEPT_BYTES_MAX: usize = 4 << 10;
/// See the module's header.
#[derive(Default)]
pub(super) struct Outgoing {
    /// Before `small`.
    chunks: VecDeque<Bytes>,
    /// What has no records, one behind the other.
    small: BytesMut,
    bytes: usize,
    /// Bytes that the socket has taken since the connection began.
    taken_bytes: u64,
    /// What is charged for them.
    held: Held,
    /// Bytes of the first chunk that are written.
    written: usize,
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether there is enough for a write.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= BYTES_PER_WRITE
    }

    /// Adds a frame: its head, then records; and what is charged for them.
    pub(super) fn add(&mut self, head: BytesMut, records: Vec<Bytes>, held: Held) {
        self.held.add(held);
        self.bytes += head.len();
        if self.small.is_empty() && (!records.is_empty() || head.len() > KEPT_BYTES_MAX) {
            self.chunks.push_back(head.freeze());
        } else {
            self.small.extend_from_slice(&head);
        }
        for chunk in records {
            self.bytes += chunk.len();
            if !self.small.is_empty() {
                self.chunks.push_back(self.small.split().freeze());
            }
            if !chunk.is_empty() {
                self.chunks.push_back(chunk);
            }
        }
    }

    /// Writes all, as much as possible per system call; pending while the socket takes nothing. What
    /// is added meanwhile is written behind it.
    pub(super) fn poll_write(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.chunks.is_empty() {
            // By far the most answers: one piece that fits the socket's buffer.
            match socket.try_write(&self.small) {
                Ok(written) => {
                    self.taken_bytes += written as u64;
                    self.small.advance(written);
                }
                Err(full) if full.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if !self.small.is_empty() {
            self.chunks.push_back(self.small.split().freeze());
        }
        while !self.chunks.is_empty() {
            let slices = self.chunks.iter().take(CHUNKS_PER_WRITE);
            let slices: Vec<IoSlice<'_>> = slices.map(|chunk| IoSlice::new(chunk)).collect();
            match socket.try_write_vectored(&slices) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    self.taken_bytes += written as u64;
                    self.advance(written);
                }
                Err(full) if full.kind() == io::ErrorKind::WouldBlock => {
                    if socket.poll_writable(cx)?.is_pending() {
                        return Poll::Pending;
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.bytes = 0;
        self.held = Held::default();
        self.small.clear();
        if self.small.capacity() > KEPT_BYTES_MAX {
            self.small = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// What is charged for what is not written yet.
    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// How many bytes the socket has taken since the connection began.
    pub(super) fn taken_bytes(&self) -> u64 {
        self.taken_bytes
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.chunks.front_mut() {
            if written < first.len() {
                first.advance(written);
                self.written += written;
                return;
            }
            written -= first.len();
            // Its memory is free only now.
            self.held.release(std::mem::take(&mut self.written) + first.len());
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;

    use super::super::tests::pair;
    use super::*;

    #[tokio::test]
    async fn everything_goes_out_in_the_order_in_which_it_was_added() {
        let (mut client, stream) = pair().await;
        let mut socket = Socket::Plain(stream);
        let mut out = Outgoing::default();
        let mut expected = Vec::new();
        for round in 0..40u8 {
            let head = vec![round; 20];
            // More than the socket's buffers hold.
            let records = vec![Bytes::from(vec![round ^ 0x80; 100_000]), Bytes::new()];
            let records = if round % 3 == 1 { records } else { Vec::new() };
            expected.extend_from_slice(&head);
            records.iter().for_each(|chunk| expected.extend_from_slice(chunk));
            out.add(BytesMut::from(&head[..]), records, Held::default());
        }
        assert!(out.is_full());
        let bytes = expected.len();
        let reading = tokio::spawn(async move {
            let mut read = vec![0; bytes];
            client.read_exact(&mut read).await.unwrap();
            (client, read)
        });
        poll_fn(|cx| out.poll_write(&mut socket, cx)).await.unwrap();
        assert!(out.is_empty());
        let (mut client, read) = reading.await.unwrap();
        assert!(read == expected);
        for piece in [&b"one"[..], b"two"] {
            out.add(BytesMut::from(piece), Vec::new(), Held::default());
        }
        poll_fn(|cx| out.poll_write(&mut socket, cx)).await.unwrap();
        let mut read = [0; 6];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"onetwo");
    }
}
