//! The Kafka port: accepts connections, and drains them when the broker stops.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::api::Context;

/// A bound port that accepts nobody yet.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// A port that is being served.
pub struct Running {
    stop: watch::Sender<bool>,
    accepting: tokio::task::JoinHandle<()>,
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
    pub fn serve(self, ctx: Arc<Context>) -> Running {
        let _ = (ctx, self.socket);
        todo!("api helper")
    }
}

impl Running {
    /// Stops accepting and reading, answers the requests that were read, and closes all
    /// connections: after ten seconds at the latest.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        let _ = self.accepting.await;
    }
}
