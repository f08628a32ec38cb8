//! The HTTP port: bounded connections, bounded bodies, bounded time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use super::Front;
use super::error::HttpError;

/// Largest request body: a statement of a megabyte is already a mistake.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Longest time a request may take; what takes longer is polled for.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a shutdown waits for requests in flight.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

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
                 anyone who reaches it can run SQL and cancel jobs"
            );
        }
        let stop = watch::Sender::new(false);
        let mut stopped = stop.subscribe();
        let router = bounded(super::router(front));
        let serving = tokio::spawn(async move {
            let serve = axum::serve(self.socket, router).with_graceful_shutdown(async move {
                // An error means that `Running` is gone: stop then, too.
                let _ = stopped.wait_for(|stopped| *stopped).await;
            });
            if let Err(error) = serve.await {
                warn!(%error, "http listener failed");
            }
        });
        Running { stop, serving }
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

pub(super) fn bounded(router: Router) -> Router {
    router.layer(middleware::from_fn(limit_time)).layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
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
