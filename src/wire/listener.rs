//! The ports of the Kafka protocol: one accepts the connections of each listener, and drains them
//! when the broker stops.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::arrival::Patience;
use super::budget::Budgets;
use super::connection::{self, Shared};
use super::limit::{ConnectionLimit, Counted};
use super::socket;
use super::threads::Threads;
use crate::api::{Context, Session};
use crate::config;
use crate::types::ListenerName;

/// A small frame that has begun must be whole after this time; a large one must come at the slowest
/// rate, taken over this time.
const FRAME_TIME_MAX: Duration = Duration::from_secs(30);
/// Over this time while others wait for the memory that the frame holds.
const FRAME_TIME_PRESSED: Duration = Duration::from_secs(5);
/// How long a client may read nothing of what it is sent while others wait for the room that it takes.
const UNREAD_TIME_MAX: Duration = Duration::from_secs(10);
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
    connections_max: Option<usize>,
}

/// Ports that are being served. Dropping it stops accepting at once, without a drain.
pub struct Running {
    stop: watch::Sender<bool>,
    accepting: Vec<JoinHandle<()>>,
}

impl Listener {
    /// Binds a listener; port 0 picks a free one.
    pub async fn bind(listener: &config::Listener) -> io::Result<Listener> {
        let config::Listener { name, endpoint, connections_max, .. } = listener;
        let socket = match endpoint.host.as_str() {
            "" => bind_every_address(endpoint.port).await?,
            host => {
                let mut addresses: Vec<_> = lookup_host((host, endpoint.port)).await?.collect();
                // Of a name's addresses Java takes an IPv4 one.
                addresses.sort_by_key(SocketAddr::is_ipv6);
                TcpListener::bind(addresses.as_slice()).await?
            }
        };
        let address = socket.local_addr()?;
        Ok(Listener { name: name.clone(), socket, address, connections_max: *connections_max })
    }

    /// Its name.
    pub fn name(&self) -> &ListenerName {
        &self.name
    }

    /// The address that was bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// Binds IPv6's and IPv4's addresses, or IPv4's alone where the machine has no IPv6.
async fn bind_every_address(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        bound => bound,
    }
}

/// Begins to serve: accepts on the runtime of the caller, and drives the connections of all
/// listeners on the same network threads, which may not be had. `budgets` are for their requests.
pub fn serve(
    listeners: Vec<Listener>,
    ctx: Arc<Context>,
    budgets: Arc<Budgets>,
) -> io::Result<Running> {
    let patience = Patience {
        idle: ctx.config.connections_max_idle,
        frame: FRAME_TIME_MAX,
        frame_pressed: FRAME_TIME_PRESSED,
        unread: UNREAD_TIME_MAX,
        slowest_bytes_per_second: SLOWEST_BYTES_PER_SECOND,
        look: LOOK_EVERY,
    };
    serve_with(listeners, ctx, budgets, patience)
}

pub(super) fn serve_with(
    listeners: Vec<Listener>,
    ctx: Arc<Context>,
    budget: Arc<Budgets>,
    patience: Patience,
) -> io::Result<Running> {
    let (stop, stopping) = watch::channel(false);
    let config = ctx.config.clone();
    let all = ConnectionLimit::of_all(config.clone());
    let shared = Shared { ctx, patience, budget, stop: stopping };
    let threads = Arc::new(Threads::start()?);
    let accepting = listeners.into_iter().map(|listener| {
        let own = listener.connections_max;
        let own = own.map(|connections| ConnectionLimit::of_listener(config.clone(), connections));
        let limits = Limits { own, all: all.clone(), warned: None };
        tokio::spawn(accept(listener, limits, threads.clone(), shared.clone()))
    });
    Ok(Running { stop, accepting: accepting.collect() })
}

impl Running {
    /// Stops accepting and reading, answers the requests that were read, and closes all
    /// connections: after ten seconds at the latest.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        for accepting in self.accepting {
            if let Err(error) = accepting.await {
                tracing::error!(%error, "listener failed");
            }
        }
    }
}

/// What limits the connections of a listener: its own bound, and `max.connections` for all.
struct Limits {
    own: Option<Arc<ConnectionLimit>>,
    all: Arc<ConnectionLimit>,
    warned: Option<Instant>,
}

impl Limits {
    /// Counts one more connection of the listener, once there may be one.
    async fn count(&mut self, name: &ListenerName) -> [Option<Counted>; 2] {
        let own = match &self.own {
            Some(own) => {
                let limit = "listener.name.<listener>.max.connections";
                Some(count(own, limit, name, &mut self.warned).await)
            }
            None => None,
        };
        [own, Some(count(&self.all, "max.connections", name, &mut self.warned).await)]
    }
}

async fn count(
    connections: &Arc<ConnectionLimit>,
    limit: &str,
    listener: &ListenerName,
    warned: &mut Option<Instant>,
) -> Counted {
    if let Some(counted) = connections.try_count() {
        return counted;
    }
    if warned.is_none_or(|at| at.elapsed() >= FULL_WARNING_EVERY) {
        *warned = Some(Instant::now());
        tracing::warn!(%listener, limit, "the limit of connections is reached, new clients wait until others leave");
    }
    connections.count().await
}

async fn accept(listener: Listener, mut limits: Limits, threads: Arc<Threads>, shared: Shared) {
    let Listener { name, socket: listening, .. } = listener;
    // A connection that was accepted and may not be served yet. It is the only one: while it waits, the
    // clients behind it do so in the kernel's backlog, as with Kafka. One that is counted before there
    // is a client would be missing to the other listeners.
    let mut waiting: Option<(TcpStream, SocketAddr)> = None;
    let mut connections = JoinSet::new();
    let mut stop = shared.stop.clone();
    loop {
        tokio::select! {
            // A dropped sender stops the listener too.
            _ = stop.wait_for(|stop| *stop) => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = next(&listening), if waiting.is_none() => waiting = Some(accepted),
            counted = limits.count(&name), if waiting.is_some() => {
                let Some((stream, peer)) = waiting.take() else { continue };
                let Ok(local) = stream.local_addr() else { continue };
                if let Err(error) = socket::tune(&stream) {
                    tracing::debug!(%peer, %error, "a socket option was refused");
                }
                let Ok(stream) = stream.into_std() else { continue };
                let shared = shared.clone();
                let session = Session::plaintext(name.clone(), peer, local);
                threads.spawn(&mut connections, move || async move {
                    let _counted = counted;
                    // It fails where a socket fails: the client is as good as gone.
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        connection::serve(stream, session, shared).await;
                    }
                });
            }
        }
    }
    drop((listening, waiting));
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

/// The next client.
async fn next(socket: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match socket.accept().await {
            Ok(accepted) => return accepted,
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
