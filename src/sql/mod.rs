//! Flink SQL: parse, bind, plan, lower to the streaming graph; sessions and operations in the shape
//! of Flink's SQL Gateway. Knows no HTTP.

mod compile;
mod definition;
mod explain;
mod fault;
mod functions;
mod gateway;
mod lower;
mod options;
mod parse;
mod plan;
mod planning;
mod settings;
mod table;
mod types;

pub use self::definition::SqlPlanner;
pub use self::gateway::Gateway;

use serde_json::Value;
use thiserror::Error;

use crate::stream::job::JobId;
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

/// Splits a script into statements at `;`, minding quotes and comments; empty ones are dropped.
pub fn split(script: &str) -> Vec<String> {
    parse::split(script)
}

#[cfg(test)]
mod tests;
