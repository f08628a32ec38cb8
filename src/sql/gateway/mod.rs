//! Sessions with tables and properties, operations with result pages. Each session's task owns its
//! tables and runs its statements one after the other; handles only send and wait.

mod pages;
pub(super) mod rooms;
mod session;
mod workspace;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::Instant;
use uuid::Uuid;

use self::rooms::{BrokerRooms, Rooms};
use self::session::Session;
use super::definition::SqlPlanner;
use super::{OperationStatus, Page, SqlError};
use crate::config::Config;
use crate::metadata::Metadata;
use crate::stream::job::{Jobs, Planner};

/// Sessions open at a time.
const SESSIONS_MAX: usize = 256;
/// `sql-gateway.session.idle-timeout`'s default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Sessions and their operations. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    rooms: Arc<dyn Rooms>,
    config: Arc<Config>,
    sessions: Arc<DashMap<Uuid, Arc<Session>>>,
    idle_timeout: Duration,
}

impl Gateway {
    /// A gateway over the broker's topics and jobs.
    pub fn new(metadata: Metadata, jobs: Jobs, config: Arc<Config>) -> Gateway {
        Gateway::over(Arc::new(BrokerRooms { metadata, jobs }), config)
    }

    /// A gateway over any rooms.
    pub(super) fn over(rooms: Arc<dyn Rooms>, config: Arc<Config>) -> Gateway {
        Gateway { rooms, config, sessions: Arc::default(), idle_timeout: IDLE_TIMEOUT }
    }

    /// The same sessions; those opened from here on expire after this time without use.
    #[cfg(test)]
    pub(super) fn with_idle_timeout(self, idle_timeout: Duration) -> Gateway {
        Gateway { idle_timeout, ..self }
    }

    /// What plans persisted jobs again after a restart.
    pub fn planner(&self) -> Arc<dyn Planner> {
        Arc::new(SqlPlanner::new(Arc::clone(&self.config)))
    }

    /// Opens a session with `SET`-like properties. Those of Flink's clients that mean nothing here
    /// are kept and shown, without effect.
    pub fn open_session(&self, properties: BTreeMap<String, String>) -> Result<Uuid, SqlError> {
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(SqlError::Statement {
                message: format!(
                    "{SESSIONS_MAX} sessions are open, which is as many as there may be; close one"
                ),
                line: None,
                column: None,
            });
        }
        let id = Uuid::new_v4();
        let (session, task) =
            session::open(properties, Arc::clone(&self.rooms), Arc::clone(&self.config))?;
        self.sessions.insert(id, Arc::new(session));
        let sessions = Arc::clone(&self.sessions);
        let idle_timeout = self.idle_timeout;
        tokio::spawn(async move {
            task.run(idle_timeout).await;
            sessions.remove(&id);
        });
        Ok(id)
    }

    /// The session's properties.
    pub fn session(&self, session: Uuid) -> Result<BTreeMap<String, String>, SqlError> {
        Ok(self.find(session)?.properties())
    }

    /// Closes it with its tables; its jobs run on.
    pub fn close_session(&self, session: Uuid) -> Result<(), SqlError> {
        match self.sessions.remove(&session) {
            Some(_) => Ok(()),
            None => Err(SqlError::UnknownSession(session.to_string())),
        }
    }

    /// Runs one statement; its failure is told by `fetch`.
    pub async fn execute(&self, session: Uuid, statement: &str) -> Result<Uuid, SqlError> {
        self.find(session)?.execute(statement)
    }

    /// Where an operation stands.
    pub fn status(&self, session: Uuid, operation: Uuid) -> Result<OperationStatus, SqlError> {
        self.find(session)?.status(operation)
    }

    /// A page of results, from token 0 on; waits until the statement has run.
    pub async fn fetch(
        &self,
        session: Uuid,
        operation: Uuid,
        token: u64,
    ) -> Result<Page, SqlError> {
        let handle = self.find(session)?;
        let outcome = handle.outcome(operation)?;
        // The handle must not keep a closed session's task alive while this waits.
        drop(handle);
        outcome.page(token).await
    }

    /// Ends an operation and drops its results.
    pub async fn close_operation(&self, session: Uuid, operation: Uuid) -> Result<(), SqlError> {
        self.find(session)?.close_operation(operation)
    }

    /// A session, now used.
    fn find(&self, session: Uuid) -> Result<Arc<Session>, SqlError> {
        let found = self.sessions.get(&session).map(|entry| Arc::clone(entry.value()));
        let found = found.ok_or_else(|| SqlError::UnknownSession(session.to_string()))?;
        found.touch(Instant::now());
        Ok(found)
    }
}
