//! The HTTP side: health and metrics, SQL in the shape of Flink's SQL Gateway, jobs in the shape of
//! Flink's JobManager REST. Turns JSON into calls of the rooms below and back; decides nothing.
//!
//! It listens before the logs are recovered, so that a long recovery can be watched: `/healthz` and
//! `/metrics` answer at once, everything else says 503 until the broker is ready.

mod error;
mod gateway;
mod guard;
mod health;
mod jobs;
mod listener;
mod stall;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use axum::Router;
use tokio::sync::watch;

use crate::log::Refusals;
use crate::metrics::Metrics;
use crate::sql::Gateway;
use crate::stream::job::Jobs;
use crate::types::{Clock, Progress};

use self::error::HttpError;

pub use health::Phase;
pub use listener::{Listener, Running};

/// The rooms that requests are passed to.
#[derive(Clone)]
pub struct Rooms {
    /// SQL sessions.
    pub gateway: Gateway,
    /// Streaming jobs.
    pub jobs: Jobs,
    /// Time, for durations.
    pub clock: Arc<dyn Clock>,
}

/// What the handlers share with `server.rs`. Cheap to clone.
#[derive(Clone)]
pub struct Front {
    metrics: Metrics,
    progress: Progress,
    refusals: Arc<OnceLock<Refusals>>,
    phase: Arc<watch::Sender<Phase>>,
    rooms: Arc<OnceLock<Rooms>>,
    stops: Arc<jobs::Stops>,
}

impl Front {
    /// A front without rooms: everything but health and metrics answers 503. While it starts,
    /// `/readyz` tells how far `progress` is.
    pub fn new(metrics: Metrics, progress: Progress) -> Front {
        Front {
            metrics,
            progress,
            refusals: Arc::default(),
            phase: Arc::new(watch::Sender::new(Phase::Starting)),
            rooms: Arc::default(),
            stops: Arc::default(),
        }
    }

    /// Lets requests through to the rooms; only the first call counts.
    pub fn open(&self, rooms: Rooms) {
        let _ = self.rooms.set(rooms);
    }

    /// Lets `/readyz` tell which logs take no appends; only the first call counts.
    pub fn watch(&self, refusals: Refusals) {
        let _ = self.refusals.set(refusals);
    }

    /// Tells `/readyz` where start-up or shutdown stands.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    fn rooms(&self) -> Result<&Rooms, HttpError> {
        match self.phase() {
            Phase::Stopping => Err(HttpError::unavailable("the broker is stopping")),
            Phase::Starting | Phase::Ready { .. } => self
                .rooms
                .get()
                .ok_or_else(|| HttpError::unavailable("the broker is still starting, try again")),
        }
    }
}

/// All routes.
fn router(front: Front) -> Router {
    let jobs = jobs::routes();
    Router::new()
        .merge(health::routes())
        .merge(gateway::routes())
        // Flink serves its JobManager's paths with and without the version.
        .merge(jobs.clone())
        .nest("/v1", jobs)
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .with_state(front)
}
