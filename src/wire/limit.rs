//! How many connections may be open at a time: a bound that may change while some are.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Config;

/// A bound on the connections of all listeners, or of one.
pub(super) struct ConnectionLimit {
    open: watch::Sender<usize>,
    config: Arc<Config>,
    /// The listener's own bound; `None` for what the config says of all.
    own: Option<usize>,
}

/// One connection's share of a limit, until it is dropped.
pub(super) struct Counted(Arc<ConnectionLimit>);

impl ConnectionLimit {
    /// Of all listeners: `max.connections`.
    pub(super) fn of_all(config: Arc<Config>) -> Arc<ConnectionLimit> {
        Arc::new(ConnectionLimit { open: watch::Sender::new(0), config, own: None })
    }

    /// Of one listener.
    pub(super) fn of_listener(config: Arc<Config>, connections: usize) -> Arc<ConnectionLimit> {
        Arc::new(ConnectionLimit { open: watch::Sender::new(0), config, own: Some(connections) })
    }

    /// Counts one more connection, if there may be one.
    pub(super) fn try_count(self: &Arc<ConnectionLimit>) -> Option<Counted> {
        let max = self.own.unwrap_or_else(|| self.config.connections_max());
        let mut is_counted = false;
        self.open.send_if_modified(|open| {
            is_counted = *open < max;
            *open += usize::from(is_counted);
            // Nobody waits for there to be more.
            false
        });
        is_counted.then(|| Counted(self.clone()))
    }

    /// Counts one more connection, once there may be one.
    pub(super) async fn count(self: &Arc<ConnectionLimit>) -> Counted {
        let (mut open, mut configs) = (self.open.subscribe(), self.config.dynamic.subscribe());
        loop {
            if let Some(counted) = self.try_count() {
                return counted;
            }
            // Neither sender goes before this does.
            tokio::select! {
                _ = open.changed() => {}
                _ = configs.changed() => {}
            }
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}
