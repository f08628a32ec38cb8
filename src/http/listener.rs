//! The HTTP port: bounded connections, bounded heads and bodies, bounded time. A peer that opens
//! sockets and says nothing holds at most one place each, and not for long.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::error::HttpError;
use super::stall::StallGuard;
use super::{Front, error, guard};

/// Connections at a time; more wait in the system's queue.
const CONNECTIONS_MAX: u32 = 512;
/// Largest request body: a statement of a megabyte is already a mistake.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;
/// Longest time a request may take; what takes longer is polled for.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest time a request's head may take to arrive.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest time an answer may wait for its peer to take some of it.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
/// How long a shutdown waits for requests in flight.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound port that accepts nobody yet.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// A port that is being served.
pub struct Running {
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Listener {
    /// Binds `address`; port 0 picks a free one.
    pub async fn bind(address: SocketAddr) -> io::Result<Listener> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Listener { socket, address })
    }

    /// The address that was bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Begins to serve.
    pub fn serve(self, front: Front) -> Running {
        if !self.address.ip().is_loopback() {
            warn!(
                address = %self.address,
                "http.listen is reachable from other machines and has no authentication yet: \
                 whoever reaches it can run sql and cancel jobs"
            );
        }
        let (stop, stopped) = watch::channel(false);
        let mut router = super::router(front)
            .layer(middleware::from_fn(limit_time))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .layer(middleware::map_response(error::in_flinks_shape))
            .layer(middleware::from_fn(guard::same_origin));
        if self.address.ip().is_loopback() {
            router = router.layer(middleware::from_fn(guard::no_foreign_names));
        }
        Running { stop, serving: tokio::spawn(accept(self.socket, router, stopped)) }
    }
}

impl Running {
    /// Stops accepting, lets requests in flight end, and closes all connections.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(DRAIN_TIME_MAX, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
    }
}

/// Accepts until told to stop, then waits for the connections to end.
async fn accept(socket: TcpListener, router: Router, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
    loop {
        let accepted = async {
            // Nobody closes the semaphore.
            let place = places.clone().acquire_owned().await.ok();
            (socket.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accepted => accepted,
            // An error means that `Running` is gone: stop then, too.
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, stopped) = (router.clone(), stopped.clone());
                tokio::spawn(async move {
                    converse(stream, router, stopped).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "an http connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(socket);
    let _ = places.acquire_many(CONNECTIONS_MAX).await;
}

/// One connection, until either side closes it.
async fn converse(stream: TcpStream, router: Router, mut stopped: watch::Receiver<bool>) {
    let stream = StallGuard::new(stream, WRITE_STALL_MAX);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stopped.wait_for(|stopped| *stopped) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "an http connection broke off");
    }
}

async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => HttpError::timeout(format!(
            "the request took longer than {} s and was given up",
            REQUEST_TIME_MAX.as_secs()
        ))
        .into_response(),
    }
}
