//! The network threads: each drives its share of the connections alone, from socket to answer, on a
//! runtime of its own. So a request wakes one thread, where threads that share their tasks wake each
//! other for every one of them.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Threads that may wait for a disk, over all network threads.
const BLOCKING_THREADS_MAX: usize = 512;

/// A fixed number of threads. Dropping them ends them, with whatever they still drive.
pub(super) struct Threads {
    threads: Vec<NetworkThread>,
}

struct NetworkThread {
    runtime: Handle,
    /// How many connections it drives.
    connections: Arc<AtomicUsize>,
    /// Ends the thread when it is dropped.
    _stop: oneshot::Sender<()>,
}

/// A connection's share in the count of its thread.
struct Assigned(Arc<AtomicUsize>);

impl Drop for Assigned {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Threads {
    /// Starts one thread per core.
    pub(super) fn start() -> io::Result<Threads> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let blocking = (BLOCKING_THREADS_MAX / count).max(1);
        let threads = (0..count).map(|number| NetworkThread::start(number, blocking));
        let threads = threads.collect::<io::Result<_>>()?;
        Ok(Threads { threads })
    }

    /// Drives `connection` on the thread that has the fewest; it is made there, since a socket
    /// belongs to the runtime that it was made in.
    pub(super) fn spawn<F>(
        &self,
        tasks: &mut JoinSet<()>,
        connection: impl FnOnce() -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let busy = |thread: &&NetworkThread| thread.connections.load(Ordering::Relaxed);
        let Some(thread) = self.threads.iter().min_by_key(busy) else { return };
        thread.connections.fetch_add(1, Ordering::Relaxed);
        let assigned = Assigned(thread.connections.clone());
        let driven = async move {
            let _assigned = assigned;
            connection().await;
        };
        tasks.spawn_on(driven, &thread.runtime);
    }
}

impl NetworkThread {
    fn start(number: usize, blocking: usize) -> io::Result<NetworkThread> {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_all().max_blocking_threads(blocking).build()?;
        let (handle, connections) = (runtime.handle().clone(), Arc::default());
        let (stop, stopped) = oneshot::channel();
        let drive = move || {
            // An error is how a dropped sender shows.
            let _ = runtime.block_on(stopped);
            // Reads that are still on their way to a connection that was cut are not waited for.
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name(format!("network-{number}")).spawn(drive)?;
        Ok(NetworkThread { runtime: handle, connections, _stop: stop })
    }
}
