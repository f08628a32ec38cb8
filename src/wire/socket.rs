//! The socket of a client: the one place where bytes are read from it and written to it.
//!
//! TLS is one more variant of [`Socket`] and one more arm in each of its methods: `poll_readable`
//! takes ciphertext in and is ready when there is plaintext, `poll_read` copies plaintext,
//! `try_write` encrypts and is ready again only when the ciphertext of the earlier write is out.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut;
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpStream;

/// After this long without a byte from the client the kernel asks whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Between two such probes that are not answered.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Probes without an answer after which the connection has failed: two minutes in all. While bytes
/// wait to be read by the client there are no probes, and no TCP_USER_TIMEOUT either: it would also cut
/// off consumers that are busy and read later. There `connections.max.idle.ms` decides.
const KEEPALIVE_PROBES: u32 = 4;
/// See the module's header.
pub(super) enum Socket {
    /// The Kafka protocol as it is.
    Plain(TcpStream),
}

impl Socket {
    /// Ready when reading may give something now: bytes, the end of the stream, or an error. Asked
    /// before there is a buffer, so that an idle connection needs none.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Plain(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Reads once, to the end of `room`; 0 when the client has closed its side.
    pub(super) fn poll_read<B: BufMut>(
        &mut self,
        room: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match self {
            // The future has no state of its own, so that it may be begun anew each time.
            Socket::Plain(stream) => pin!(stream.read_buf(room)).poll(cx),
        }
    }

    /// How many bytes have come and were not read, 0 where that cannot be told.
    pub(super) fn queued(&self) -> usize {
        let Socket::Plain(stream) = self;
        let queued = rustix::io::ioctl_fionread(stream).unwrap_or(0);
        usize::try_from(queued).unwrap_or(0)
    }

    /// Writes what the socket takes now; `WouldBlock` when that is nothing.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(stream) => stream.try_write(bytes),
        }
    }

    /// Like `try_write`, of several pieces with one system call.
    pub(super) fn try_write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Plain(stream) => stream.try_write_vectored(pieces),
        }
    }

    /// Ready when the socket may take more.
    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Plain(stream) => stream.poll_write_ready(cx),
        }
    }

    /// Whether the client has closed its side or the connection has failed, although bytes that
    /// came before may still be unread.
    pub(super) fn is_hung_up(&self) -> bool {
        let Socket::Plain(stream) = self;
        // The runtime keeps what the kernel has told of the socket: this is no system call.
        let mut known = pin!(stream.ready(Interest::READABLE));
        let mut nobody = Context::from_waker(std::task::Waker::noop());
        match known.as_mut().poll(&mut nobody) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }
}

/// Sets what every connection needs: answers that go out at once, and an end for a client that
/// vanished without a word (power cut, link down, a firewall that forgot the connection).
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    // Requests and answers are whole frames: waiting to fill packets only delays them.
    stream.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::pair;
    use super::*;

    #[tokio::test]
    async fn a_tuned_socket_finds_a_peer_that_vanished_within_two_minutes() {
        let (_client, stream) = pair().await;
        tune(&stream).unwrap();
        assert!(stream.nodelay().unwrap());
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), Duration::from_secs(60));
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), Duration::from_secs(15));
        assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), 4);
    }

    #[tokio::test]
    async fn a_client_that_hung_up_behind_unread_bytes_is_known() {
        use tokio::io::AsyncWriteExt;
        let (mut client, stream) = pair().await;
        let mut socket = Socket::Plain(stream);
        assert_eq!(socket.queued(), 0);
        client.write_all(b"unread").await.unwrap();
        std::future::poll_fn(|cx| socket.poll_readable(cx)).await.unwrap();
        assert_eq!(socket.queued(), 6);
        assert!(!socket.is_hung_up());
        drop(client);
        // The runtime hears of it on its own.
        let heard = async {
            while !socket.is_hung_up() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), heard).await.expect("it is not known");
    }
}
