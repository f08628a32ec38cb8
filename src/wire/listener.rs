//! The Kafka port: accepts connections, and drains them when the broker stops.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::arrival::Patience;
use super::budget::Budgets;
use super::connection::{self, Shared};
use super::socket;
use super::threads::Threads;
use crate::api::{Context, Session};
use crate::types::ListenerName;

/// Request bytes of all connections in memory.
const REQUEST_BYTES_MAX: usize = 512 << 20;
/// A small frame that has begun must be whole after this time; a large one must come at the slowest
/// rate, taken over this time.
const FRAME_TIME_MAX: Duration = Duration::from_secs(30);
/// Over this time while others wait for the memory that the frame holds.
const FRAME_TIME_PRESSED: Duration = Duration::from_secs(5);
const SLOWEST_BYTES_PER_SECOND: usize = 64 << 10;
/// How often a connection that has read all it may looks whether its client has hung up.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long accepting pauses when the machine has no descriptors or memory left for a socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// A port that is full says so this often, however many clients come and go.
const FULL_WARNING_EVERY: Duration = Duration::from_secs(60);
/// How long requests that were read may still take when the broker stops.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a connection that was cut may take to end.
const CUT_TIME_MAX: Duration = Duration::from_secs(1);

/// A bound port that accepts nobody yet.
pub struct Listener {
    name: ListenerName,
    socket: TcpListener,
    address: SocketAddr,
}

/// A port that is being served. Dropping it stops accepting at once, without a drain.
pub struct Running {
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Listener {
    /// Binds the listener `name` to `address`; port 0 picks a free one.
    pub async fn bind(name: ListenerName, address: SocketAddr) -> io::Result<Listener> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Listener { name, socket, address })
    }

    /// The address that was bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Begins to serve: accepts on the runtime of the caller, and drives the connections on network
    /// threads, which may not be had.
    pub fn serve(self, ctx: Arc<Context>) -> io::Result<Running> {
        let patience = Patience {
            idle: ctx.config.connections_max_idle,
            frame: FRAME_TIME_MAX,
            frame_pressed: FRAME_TIME_PRESSED,
            slowest_bytes_per_second: SLOWEST_BYTES_PER_SECOND,
            look: LOOK_EVERY,
        };
        self.serve_with(ctx, patience)
    }

    pub(super) fn serve_with(self, ctx: Arc<Context>, patience: Patience) -> io::Result<Running> {
        let (stop, stopping) = watch::channel(false);
        let budget = Arc::new(Budgets::new(REQUEST_BYTES_MAX));
        let shared = Shared { ctx, patience, budget, stop: stopping };
        let threads = Threads::start()?;
        Ok(Running {
            stop,
            accepting: tokio::spawn(accept(self.name, self.socket, threads, shared)),
        })
    }
}

impl Running {
    /// Stops accepting and reading, answers the requests that were read, and closes all
    /// connections: after ten seconds at the latest.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.accepting.await {
            tracing::error!(%error, "listener failed");
        }
    }
}

async fn accept(name: ListenerName, listening: TcpListener, threads: Threads, shared: Shared) {
    let places =
        Arc::new(Semaphore::new(shared.ctx.config.max_connections.min(Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    let mut warned = None;
    let mut stop = shared.stop.clone();
    loop {
        tokio::select! {
            // A dropped sender stops the listener too.
            _ = stop.wait_for(|stop| *stop) => break,
            Some(ended) = connections.join_next() => report(ended),
            (place, stream, peer) = next(&listening, &places, &mut warned) => {
                let Ok(local) = stream.local_addr() else { continue };
                if let Err(error) = socket::tune(&stream) {
                    tracing::debug!(%peer, %error, "a socket option was refused");
                }
                let Ok(stream) = stream.into_std() else { continue };
                let shared = shared.clone();
                let session = Session::plaintext(name.clone(), peer, local);
                threads.spawn(&mut connections, move || async move {
                    let _place = place;
                    // It fails where a socket fails: the client is as good as gone.
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        connection::serve(stream, session, shared).await;
                    }
                });
            }
        }
    }
    drop(listening);
    let drained = tokio::time::timeout(DRAIN_TIME_MAX, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        let open = connections.len();
        tracing::warn!(open, "connections were cut: their requests took too long to finish");
        connections.abort_all();
        // One that hangs in a call to a sick disk cannot be cut, and is left behind.
        let cut = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(CUT_TIME_MAX, cut).await;
    }
}

/// The next connection, once there is a place for it. Above `max.connections` clients wait in the
/// kernel's backlog, as with Kafka.
async fn next(
    socket: &TcpListener,
    places: &Arc<Semaphore>,
    warned: &mut Option<Instant>,
) -> (Option<OwnedSemaphorePermit>, TcpStream, SocketAddr) {
    let place = match places.clone().try_acquire_owned() {
        Ok(place) => Some(place),
        Err(_) => {
            if warned.is_none_or(|at| at.elapsed() >= FULL_WARNING_EVERY) {
                *warned = Some(Instant::now());
                tracing::warn!("max.connections is reached, new clients wait until others leave");
            }
            // Nobody closes the semaphore.
            places.clone().acquire_owned().await.ok()
        }
    };
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => return (place, stream, peer),
            Err(error) if is_of_one_client(&error) => {
                tracing::debug!(%error, "a client left before it was accepted");
            }
            Err(error) => {
                // Out of descriptors or memory: the socket stays readable, so accepting again at
                // once would only spin.
                tracing::warn!(%error, "accepting pauses, raise the limit of open files");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection was closed by a fault of the broker");
    }
}
