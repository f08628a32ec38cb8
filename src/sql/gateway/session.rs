//! One session: a handle that queues statements and waits for their results, and the task that runs
//! them until the session is closed or was not used for long enough.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::info;
use uuid::Uuid;

use super::rooms::Rooms;
use super::workspace::Workspace;
use crate::config::Config;
use crate::sql::fault::Fault;
use crate::sql::settings::Settings;
use crate::sql::{OperationStatus, Page, SqlError};

/// Statements waiting for their turn.
const WAITING_MAX: usize = 64;
/// Operations whose results are kept; beyond it the oldest finished one is dropped.
const OPERATIONS_MAX: usize = 256;

/// What a statement came to.
type Outcome = Result<Arc<[Page]>, SqlError>;

/// A session's handle.
pub(super) struct Session {
    statements: mpsc::Sender<Request>,
    shared: Arc<Shared>,
}

struct Request {
    statement: String,
    done: watch::Sender<Option<Outcome>>,
}

struct Shared {
    properties: ArcSwap<Settings>,
    operations: DashMap<Uuid, Operation>,
    opened: Instant,
    /// When the session was used last, in milliseconds after `opened`.
    used_ms: AtomicU64,
    numbers: AtomicU64,
}

struct Operation {
    number: u64,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// The session's owner.
pub(super) struct Task {
    statements: mpsc::Receiver<Request>,
    shared: Arc<Shared>,
    workspace: Workspace,
}

/// A result to wait for.
pub(super) struct Pending {
    operation: Uuid,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// A new session and the task to spawn for it.
pub(super) fn open(
    properties: BTreeMap<String, String>,
    rooms: Arc<dyn Rooms>,
    config: Arc<Config>,
) -> Result<(Session, Task), SqlError> {
    let workspace = Workspace::new(properties, rooms, config)?;
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let shared = Arc::new(Shared {
        properties: ArcSwap::from_pointee(workspace.settings().clone()),
        operations: DashMap::new(),
        opened: Instant::now(),
        used_ms: AtomicU64::new(0),
        numbers: AtomicU64::new(0),
    });
    let session = Session { statements: sender, shared: Arc::clone(&shared) };
    Ok((session, Task { statements: receiver, shared, workspace }))
}

impl Session {
    /// The session was used.
    pub(super) fn touch(&self, now: Instant) {
        let since = now.saturating_duration_since(self.shared.opened).as_millis();
        self.shared.used_ms.fetch_max(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn properties(&self) -> BTreeMap<String, String> {
        self.shared.properties.load().as_ref().clone()
    }

    /// Queues a statement.
    pub(super) fn execute(&self, statement: &str) -> Result<Uuid, SqlError> {
        self.make_room()?;
        let (done, outcome) = watch::channel(None);
        let request = Request { statement: statement.to_owned(), done };
        let id = Uuid::new_v4();
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        self.statements.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => crowded(format!(
                "{WAITING_MAX} statements of this session are waiting; fetch their results first"
            )),
            mpsc::error::TrySendError::Closed(_) => SqlError::UnknownSession("closed".to_owned()),
        })?;
        self.shared.operations.insert(id, Operation { number, outcome });
        Ok(id)
    }

    fn make_room(&self) -> Result<(), SqlError> {
        let operations = &self.shared.operations;
        if operations.len() < OPERATIONS_MAX {
            return Ok(());
        }
        let finished = operations
            .iter()
            .filter(|operation| operation.outcome.borrow().is_some())
            .min_by_key(|operation| operation.number)
            .map(|operation| *operation.key());
        match finished {
            Some(oldest) => {
                operations.remove(&oldest);
                Ok(())
            }
            None => {
                Err(crowded(format!("{OPERATIONS_MAX} operations of this session are running")))
            }
        }
    }

    pub(super) fn status(&self, operation: Uuid) -> Result<OperationStatus, SqlError> {
        let pending = self.outcome(operation)?;
        let outcome = pending.outcome.borrow();
        Ok(match outcome.as_ref() {
            None => OperationStatus::Running,
            Some(Ok(_)) => OperationStatus::Finished,
            Some(Err(_)) => OperationStatus::Error,
        })
    }

    pub(super) fn outcome(&self, operation: Uuid) -> Result<Pending, SqlError> {
        match self.shared.operations.get(&operation) {
            Some(entry) => Ok(Pending { operation, outcome: entry.outcome.clone() }),
            None => Err(SqlError::UnknownOperation(operation.to_string())),
        }
    }

    pub(super) fn close_operation(&self, operation: Uuid) -> Result<(), SqlError> {
        match self.shared.operations.remove(&operation) {
            Some(_) => Ok(()),
            None => Err(SqlError::UnknownOperation(operation.to_string())),
        }
    }
}

fn crowded(message: String) -> SqlError {
    SqlError::from(Fault::new(message))
}

impl Pending {
    /// A page of the result, once there is one.
    pub(super) async fn page(mut self, token: u64) -> Result<Page, SqlError> {
        let Ok(outcome) = self.outcome.wait_for(Option::is_some).await else {
            return Err(SqlError::UnknownOperation(self.operation.to_string()));
        };
        match outcome.as_ref() {
            Some(Ok(pages)) => {
                let page = usize::try_from(token).ok().and_then(|token| pages.get(token));
                page.cloned().ok_or(SqlError::UnknownToken(token))
            }
            Some(Err(error)) => Err(error.clone()),
            None => Err(SqlError::UnknownOperation(self.operation.to_string())),
        }
    }
}

impl Task {
    /// Runs statements until every handle is gone or the session was idle for too long.
    pub(super) async fn run(mut self, idle_timeout: Duration) {
        loop {
            let used = Duration::from_millis(self.shared.used_ms.load(Ordering::Relaxed));
            let expires = self.shared.opened + used + idle_timeout;
            match tokio::time::timeout_at(expires, self.statements.recv()).await {
                Ok(Some(request)) => self.answer(request).await,
                Ok(None) => return,
                Err(_) => {
                    let used_now = self.shared.used_ms.load(Ordering::Relaxed);
                    if Duration::from_millis(used_now) == used {
                        info!("sql session expired");
                        return;
                    }
                }
            }
        }
    }

    async fn answer(&mut self, request: Request) {
        let outcome = self.workspace.run(&request.statement).await;
        self.shared.properties.store(Arc::new(self.workspace.settings().clone()));
        // Nobody waits when the operation was closed meanwhile.
        request.done.send_replace(Some(outcome.map(Arc::from)));
    }
}
