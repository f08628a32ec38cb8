//! A job as it is persisted: its statement with everything it needs to be planned again.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::fault::{Fault, Result};
use super::parse::{self, Insert, Statement};
use super::plan::Tables;
use super::settings::{self, Settings};
use super::table::Table;
use super::{lower, planning};
use crate::config::Config;
use crate::stream::graph::Graph;
use crate::stream::job::{JobOptions, Planner};

/// Persisted as JSON in the job's journal. Never change the meaning of a field: raise `version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Definition {
    version: u32,
    /// The INSERT or the statement set.
    statement: String,
    /// The `CREATE TABLE` of each table of the session when it was submitted.
    tables: Vec<String>,
    /// The session's properties.
    options: Settings,
}

const VERSION: u32 = 1;

impl Definition {
    pub(super) fn new(statement: &str, tables: &Tables, options: &Settings) -> Definition {
        Definition {
            version: VERSION,
            statement: statement.to_owned(),
            tables: tables.values().map(|table| table.ddl.clone()).collect(),
            options: options.clone(),
        }
    }

    pub(super) fn to_json(&self) -> String {
        // Strings, numbers and lists always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    fn plan(self, config: &Config) -> Result<(Graph, JobOptions)> {
        let mut tables = Tables::new();
        for ddl in &self.tables {
            if let Statement::CreateTable(create) = parse::parse(ddl)? {
                let table = Table::resolve(*create, ddl, config)?;
                tables.insert(table.name.clone(), Arc::new(table));
            }
        }
        let inserts = parse_inserts(&self.statement)?;
        Ok((lower::inserts(inserts, &tables)?, settings::job_options(&self.options, config)?))
    }
}

fn parse_inserts(statement: &str) -> Result<Vec<Insert>> {
    match parse::parse(statement)? {
        Statement::Insert(inserts) => Ok(inserts),
        _ => Err(Fault::new("a job's statement is an INSERT")),
    }
}

/// Plans persisted jobs again after a restart.
pub struct SqlPlanner {
    config: Arc<Config>,
}

impl SqlPlanner {
    /// A planner with the broker's defaults for what a job's session did not set.
    pub fn new(config: Arc<Config>) -> SqlPlanner {
        SqlPlanner { config }
    }
}

impl Planner for SqlPlanner {
    fn plan(
        &self,
        definition: &str,
    ) -> BoxFuture<'static, std::result::Result<(Graph, JobOptions), String>> {
        let definition = read(definition);
        let config = Arc::clone(&self.config);
        async move {
            let definition = definition?;
            let planned = planning::run(move || definition.plan(&config)).await;
            planned.map_err(|fault| fault.to_string())
        }
        .boxed()
    }
}

fn read(definition: &str) -> std::result::Result<Definition, String> {
    let definition: Definition = serde_json::from_str(definition)
        .map_err(|error| format!("the job's definition cannot be read: {error}"))?;
    if definition.version != VERSION {
        return Err(format!(
            "the job's definition has version {}, this binary knows {VERSION}; start a newer one",
            definition.version
        ));
    }
    Ok(definition)
}
