//! One connection: reads ahead within its budget, begins requests in order and answers them in
//! order. A slow reader holds up nobody but itself.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::net::TcpStream;
use tokio::net::tcp::WriteHalf;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::budget::{Budget, Budgets};
use super::frame::{Frame, FrameError, FrameReader, Patience, Permits};
use crate::api::{self, Connection, Context, Later, Order, Reply};

/// Frames read ahead of the one that is being begun.
const READ_AHEAD: usize = 8;
/// Requests of one connection that wait for their answers. librdkafka sends as fast as it may.
const IN_FLIGHT_MAX: usize = 256;
/// Request bytes of one connection in memory; a single larger request has it for itself.
const IN_FLIGHT_BYTES_MAX: usize = 32 << 20;
/// Answers that are ready together go out together, up to about so many bytes.
const BYTES_PER_WRITE: usize = 64 << 10;
/// Chunks that one system call writes; Linux takes up to 1024.
const CHUNKS_PER_WRITE: usize = 64;

/// What all connections of a listener share.
#[derive(Clone)]
pub(super) struct Shared {
    pub ctx: Arc<Context>,
    pub patience: Patience,
    pub budget: Budgets,
    pub stop: watch::Receiver<bool>,
}

/// Why a connection ended, when that is worth a log line.
type Reason = Option<String>;

/// A request that took its place, and the bytes that it still accounts for.
struct InFlight {
    reply: Later<Reply>,
    _permits: Permits,
}

/// Serves `stream` until the client closes, misbehaves, or the broker stops.
pub(super) async fn serve(mut stream: TcpStream, connection: Connection, mut shared: Shared) {
    let (read, write) = stream.split();
    let (ahead, frames) = mpsc::channel(READ_AHEAD);
    let (hung_up, gone) = watch::channel(false);
    let busy = AtomicBool::new(false);
    let mut reader = FrameReader {
        socket: read,
        buffer: BytesMut::new(),
        config: shared.ctx.config.clone(),
        patience: shared.patience,
        own: Budget::new(IN_FLIGHT_BYTES_MAX),
        shared: shared.budget,
    };
    let mut server = Server {
        ctx: shared.ctx,
        connection,
        socket: write,
        staged: VecDeque::new(),
        gone,
        busy: &busy,
        write_stall_max: shared.patience.idle,
    };
    let mut serving = pin!(server.serve(frames));
    let busy = &busy;
    let reading = async move {
        let ended = async {
            while let Some(frame) = reader.next(|| busy.load(Relaxed)).await? {
                if ahead.send(frame).await.is_err() {
                    break;
                }
            }
            Ok::<(), FrameError>(())
        };
        tokio::select! {
            ended = ended => ended.err().filter(FrameError::is_misuse).map(|error| error.to_string()),
            _ = shared.stop.wait_for(|stop| *stop) => None,
        }
    };
    let reason = tokio::select! {
        reason = &mut serving => reason,
        reason = reading => {
            hung_up.send_replace(true);
            // What was read whole is still carried out: an `acks=0` producer may have left.
            serving.await.or(reason)
        }
    };
    let peer = connection.peer;
    match reason {
        Some(reason) => tracing::warn!(%peer, %reason, "connection closed"),
        None => tracing::debug!(%peer, "connection closed"),
    }
}

/// The serving half: begins requests and writes their answers.
struct Server<'a> {
    ctx: Arc<Context>,
    connection: Connection,
    socket: WriteHalf<'a>,
    staged: VecDeque<InFlight>,
    gone: watch::Receiver<bool>,
    busy: &'a AtomicBool,
    write_stall_max: Duration,
}

impl Server<'_> {
    /// Runs until the frames end or the connection must be closed.
    async fn serve(&mut self, mut frames: mpsc::Receiver<Frame>) -> Reason {
        loop {
            self.busy.store(!self.staged.is_empty(), Relaxed);
            let room = self.staged.len() < IN_FLIGHT_MAX;
            let frame = match self.staged.front_mut() {
                None => frames.recv().await,
                Some(first) => {
                    tokio::select! {
                        biased;
                        reply = &mut first.reply => {
                            self.staged.pop_front();
                            if let Err(reason) = self.write_ready(reply).await {
                                return reason;
                            }
                            continue;
                        }
                        frame = frames.recv(), if room => frame,
                    }
                }
            };
            self.busy.store(true, Relaxed);
            let Some(frame) = frame else { return self.drain().await.err().flatten() };
            if let Err(reason) = self.begin(frame).await {
                return reason;
            }
        }
    }

    async fn begin(&mut self, frame: Frame) -> Result<(), Reason> {
        let Frame { bytes, permits } = frame;
        let begun = api::begin(&self.ctx, self.connection, bytes).await;
        let begun = match begun {
            Ok(begun) => begun,
            Err(refusal) => {
                // Answers that are owed come first.
                self.drain().await?;
                return Err(Some(refusal.to_string()));
            }
        };
        if begun.order == Order::Staged {
            self.staged.push_back(InFlight { reply: begun.reply, _permits: permits });
            return Ok(());
        }
        self.drain().await?;
        let reply = match begun.order {
            Order::Parked => tokio::select! {
                reply = begun.reply => reply,
                _ = self.gone.wait_for(|gone| *gone) => return Err(None),
            },
            Order::Ordered | Order::Staged => begun.reply.await,
        };
        self.write(reply).await
    }

    /// Answers all that is staged.
    async fn drain(&mut self) -> Result<(), Reason> {
        while let Some(first) = self.staged.pop_front() {
            let reply = first.reply.await;
            self.write(reply).await?;
        }
        Ok(())
    }

    /// Writes `first` and what is answered behind it already, with as few system calls as possible:
    /// a group commit answers many requests at once.
    async fn write_ready(&mut self, first: Reply) -> Result<(), Reason> {
        let mut outgoing = Outgoing::default();
        let mut added = outgoing.add(first);
        while added.is_ok()
            && outgoing.bytes < BYTES_PER_WRITE
            && let Some(reply) =
                self.staged.front_mut().and_then(|next| (&mut next.reply).now_or_never())
        {
            self.staged.pop_front();
            added = outgoing.add(reply);
        }
        self.send(outgoing).await?;
        added
    }

    async fn write(&mut self, reply: Reply) -> Result<(), Reason> {
        let mut outgoing = Outgoing::default();
        outgoing.add(reply)?;
        self.send(outgoing).await
    }

    async fn send(&mut self, outgoing: Outgoing) -> Result<(), Reason> {
        let written = write_chunks(&mut self.socket, outgoing.chunks, self.write_stall_max).await;
        // A client that went away without waiting for its answer is no event.
        written.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => Some("client does not read its answers".to_owned()),
            _ => None,
        })
    }
}

/// Answers on their way out.
#[derive(Default)]
struct Outgoing {
    chunks: VecDeque<Bytes>,
    bytes: usize,
}

impl Outgoing {
    /// Takes an answer in, or says that the connection ends behind those before it.
    fn add(&mut self, reply: Reply) -> Result<(), Reason> {
        match reply {
            Reply::Silence => {}
            Reply::Close(reason) => return Err(Some(reason)),
            Reply::Frame(chunks) => {
                self.bytes += chunks.iter().map(Bytes::len).sum::<usize>();
                self.chunks.extend(chunks.into_iter().filter(|chunk| !chunk.is_empty()));
            }
        }
        Ok(())
    }
}

/// Writes all chunks, as many as possible per system call. Fails when nothing moves for `stall`.
async fn write_chunks(
    socket: &mut WriteHalf<'_>,
    mut chunks: VecDeque<Bytes>,
    stall: Duration,
) -> io::Result<()> {
    while !chunks.is_empty() {
        let slices: Vec<IoSlice<'_>> =
            chunks.iter().take(CHUNKS_PER_WRITE).map(|chunk| IoSlice::new(chunk)).collect();
        let mut written = match socket.try_write_vectored(&slices) {
            Ok(written) => written,
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => {
                let ready = timeout(stall, socket.writable()).await;
                ready.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                continue;
            }
            Err(error) => return Err(error),
        };
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = chunks.front_mut() {
            if written < first.len() {
                first.advance(written);
                break;
            }
            written -= first.len();
            chunks.pop_front();
        }
    }
    Ok(())
}
