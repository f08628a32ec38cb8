//! Flink SQL: parse, bind, plan, lower to the streaming graph; sessions and operations in the shape
//! of Flink's SQL Gateway. Knows no HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use thiserror::Error;
use uuid::Uuid;

use crate::catalog::Catalog;
use crate::config::Config;
use crate::stream::job::{JobId, Jobs};
use crate::stream::operator::RowKind;

/// A statement or a request to the gateway that failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SqlError {
    /// With the place in the statement and what to do.
    #[error("{message}")]
    Statement {
        /// What is wrong, where (`at line 3, column 8`), and the next step.
        message: String,
        /// 1-based line, if known.
        line: Option<u64>,
        /// 1-based column, if known.
        column: Option<u64>,
    },
    /// No such session.
    #[error("session '{0}' does not exist or has expired; open a new one")]
    UnknownSession(String),
    /// No such operation in the session.
    #[error("operation '{0}' does not exist in this session")]
    UnknownOperation(String),
    /// A result page that was already dropped or is not there yet.
    #[error("result token {0} is not available")]
    UnknownToken(u64),
    /// The job behind the statement failed.
    #[error("{0}")]
    Job(String),
}

/// A result column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Flink's type: `BIGINT`, `VARCHAR`, `TIMESTAMP_WITHOUT_TIME_ZONE`, … with its parameters as
    /// the REST API's logicalType fields.
    pub logical_type: Value,
}

/// One page of an operation's results.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// `SUCCESS` when false: nothing but `OK` to show.
    pub has_content: bool,
    /// Whether the statement was a query.
    pub is_query: bool,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its rows.
    pub rows: Vec<(RowKind, Vec<Value>)>,
    /// The job the statement started.
    pub job: Option<JobId>,
    /// The next page's token; `None` at the end.
    pub next: Option<u64>,
}

/// Where an operation stands, by Flink's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationStatus {
    /// `RUNNING`.
    Running,
    /// `FINISHED`.
    Finished,
    /// `CANCELED`.
    Canceled,
    /// `ERROR`.
    Error,
}

/// Sessions and their operations. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {}

impl Gateway {
    /// A gateway over the broker's topics and jobs.
    pub fn new(catalog: Catalog, jobs: Jobs, config: Arc<Config>) -> Gateway {
        let _ = (catalog, jobs, config);
        todo!("sql helper")
    }

    /// Opens a session with `SET`-like properties.
    pub fn open_session(&self, properties: BTreeMap<String, String>) -> Result<Uuid, SqlError> {
        let _ = properties;
        todo!("sql helper")
    }

    /// The session's properties.
    pub fn session(&self, session: Uuid) -> Result<BTreeMap<String, String>, SqlError> {
        let _ = session;
        todo!("sql helper")
    }

    /// Closes it with its tables; its jobs run on.
    pub fn close_session(&self, session: Uuid) -> Result<(), SqlError> {
        let _ = session;
        todo!("sql helper")
    }

    /// Runs one statement; its failure is told by `fetch`.
    pub async fn execute(&self, session: Uuid, statement: &str) -> Result<Uuid, SqlError> {
        let _ = (session, statement);
        todo!("sql helper")
    }

    /// Where an operation stands.
    pub fn status(&self, session: Uuid, operation: Uuid) -> Result<OperationStatus, SqlError> {
        let _ = (session, operation);
        todo!("sql helper")
    }

    /// A page of results, from token 0 on.
    pub async fn fetch(
        &self,
        session: Uuid,
        operation: Uuid,
        token: u64,
    ) -> Result<Page, SqlError> {
        let _ = (session, operation, token);
        todo!("sql helper")
    }

    /// Ends an operation; a query's job is cancelled.
    pub async fn close_operation(&self, session: Uuid, operation: Uuid) -> Result<(), SqlError> {
        let _ = (session, operation);
        todo!("sql helper")
    }
}

/// Splits a script into statements at `;`, minding quotes and comments; empty ones are dropped.
pub fn split(script: &str) -> Vec<String> {
    let _ = script;
    todo!("sql helper")
}
