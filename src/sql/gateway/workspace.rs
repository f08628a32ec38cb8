//! A session's tables and properties, and what each statement does to them.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::pages;
use super::rooms::Rooms;
use crate::config::Config;
use crate::sql::definition::Definition;
use crate::sql::fault::{Fault, Result};
use crate::sql::parse::{self, Statement};
use crate::sql::plan::Tables;
use crate::sql::settings::{self, Settings};
use crate::sql::table::Table;
use crate::sql::types::{SqlType, datetime};
use crate::sql::{Page, SqlError, explain, lower, planning};
use crate::stream::graph::{Graph, Op};
use crate::stream::job::NewJob;

/// Tables of one session.
const TABLES_MAX: usize = 1_000;

/// What the statements of a session work on.
pub(super) struct Workspace {
    tables: Tables,
    /// What the session was opened with: RESET goes back to it.
    initial: Settings,
    settings: Settings,
    rooms: Arc<dyn Rooms>,
    config: Arc<Config>,
}

/// A statement, as far as it can be understood without the rooms.
enum Planned {
    CreateTable { table: Box<Table>, if_not_exists: bool },
    Insert { graph: Graph, sinks: Vec<String>, statement: String, mentioned: Tables },
    Explain(String),
    Simple(Statement),
}

impl Workspace {
    pub(super) fn new(
        properties: Settings,
        rooms: Arc<dyn Rooms>,
        config: Arc<Config>,
    ) -> std::result::Result<Workspace, SqlError> {
        // Flink's clients send their whole configuration: only what is known is checked.
        settings::job_options(&properties, &config)?;
        Ok(Workspace {
            tables: Tables::new(),
            settings: properties.clone(),
            initial: properties,
            rooms,
            config,
        })
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Runs one statement.
    pub(super) async fn run(
        &mut self,
        statement: &str,
    ) -> std::result::Result<Vec<Page>, SqlError> {
        let (text, tables) = (statement.to_owned(), self.tables.clone());
        let config = Arc::clone(&self.config);
        match planning::run(move || plan(text, &tables, &config)).await? {
            Planned::CreateTable { table, if_not_exists } => {
                self.create(*table, if_not_exists)?;
                Ok(pages::ok())
            }
            Planned::Insert { graph, sinks, statement, mentioned } => {
                self.submit(graph, &sinks, &statement, &mentioned).await
            }
            Planned::Explain(text) => {
                Ok(pages::table(&[("result", SqlType::STRING)], vec![vec![text.into()]]))
            }
            Planned::Simple(statement) => self.simple(statement).await,
        }
    }

    fn create(&mut self, table: Table, if_not_exists: bool) -> Result<()> {
        if self.tables.contains_key(&table.name) {
            return match if_not_exists {
                true => Ok(()),
                false => Err(Fault::new(format!("table '{}' already exists", table.name))
                    .hint("drop it first, or write CREATE TABLE IF NOT EXISTS")),
            };
        }
        if self.tables.len() >= TABLES_MAX {
            return Err(Fault::new(format!("a session has at most {TABLES_MAX} tables")));
        }
        self.tables.insert(table.name.clone(), Arc::new(table));
        Ok(())
    }

    async fn submit(
        &self,
        graph: Graph,
        sinks: &[String],
        statement: &str,
        mentioned: &Tables,
    ) -> std::result::Result<Vec<Page>, SqlError> {
        self.check_sources(&graph, statement, mentioned)?;
        let job = NewJob {
            name: settings::job_name(&self.settings, sinks),
            definition: Definition::new(statement, mentioned, &self.settings).to_json(),
            graph,
            options: settings::job_options(&self.settings, &self.config)?,
        };
        match self.rooms.submit(job).await {
            Ok(id) => Ok(pages::job(id)),
            Err(error) => Err(SqlError::Job(error.to_string())),
        }
    }

    /// A topic that is read must exist: a job over a misspelt one would wait for ever.
    fn check_sources(&self, graph: &Graph, statement: &str, mentioned: &Tables) -> Result<()> {
        let topics = self.rooms.topics();
        let known: BTreeSet<&str> = topics.iter().map(String::as_str).collect();
        for node in &graph.nodes {
            let Op::Source(source) = &node.op else { continue };
            if known.contains(source.topic.as_str()) {
                continue;
            }
            let fault = Fault::unknown("topic", &source.topic, known.iter().copied());
            let table = mentioned.values().find(|table| {
                table.options.topic == source.topic
                    && node.name == format!("Source({})", table.name)
            });
            return Err(match table {
                Some(table) => {
                    let fault = fault.within(&format!("table '{}'", table.name));
                    match parse::last_mention(statement, &table.name) {
                        Some(place) => fault.at(place),
                        None => fault,
                    }
                }
                None => fault,
            });
        }
        Ok(())
    }

    async fn simple(&mut self, statement: Statement) -> std::result::Result<Vec<Page>, SqlError> {
        match statement {
            Statement::DropTable { name, if_exists } => {
                if self.tables.remove(&name.value).is_none() && !if_exists {
                    lower::table(&name, &self.tables)?;
                }
                Ok(pages::ok())
            }
            Statement::ShowTables => {
                let rows = self.tables.keys().map(|name| vec![name.as_str().into()]).collect();
                Ok(pages::table(&[("table name", SqlType::STRING)], rows))
            }
            Statement::ShowCreateTable(name) => {
                let text = lower::table(&name, &self.tables)?.show_create();
                Ok(pages::table(&[("result", SqlType::STRING)], vec![vec![text.into()]]))
            }
            Statement::Describe(name) => Ok(describe(lower::table(&name, &self.tables)?)),
            Statement::Set(None) => {
                let rows = self.settings.iter();
                let rows = rows.map(|(k, v)| vec![k.as_str().into(), v.as_str().into()]).collect();
                Ok(pages::table(&[("key", SqlType::STRING), ("value", SqlType::STRING)], rows))
            }
            Statement::Set(Some((key, value))) => {
                settings::check(&key, &value)?;
                self.settings.insert(key, value);
                Ok(pages::ok())
            }
            Statement::Reset(None) => {
                self.settings = self.initial.clone();
                Ok(pages::ok())
            }
            Statement::Reset(Some(key)) => {
                match self.initial.get(&key) {
                    Some(value) => self.settings.insert(key, value.clone()),
                    None => self.settings.remove(&key),
                };
                Ok(pages::ok())
            }
            Statement::ShowJobs => Ok(self.jobs()),
            Statement::StopJob { id, savepoint } => match self.rooms.end(&id, savepoint).await {
                Ok(()) => Ok(pages::ok()),
                Err(error) => Err(SqlError::Job(error.to_string())),
            },
            Statement::CreateTable(_)
            | Statement::Insert(_)
            | Statement::Explain(_)
            | Statement::Query(_) => Err(Fault::new("the statement was not planned").into()),
        }
    }

    fn jobs(&self) -> Vec<Page> {
        let rows = self
            .rooms
            .jobs()
            .into_iter()
            .map(|job| {
                vec![
                    job.id.0.as_ref().into(),
                    job.name.into(),
                    job.state.name().into(),
                    datetime(job.started_at).into(),
                ]
            })
            .collect();
        let columns = [
            ("job id", SqlType::STRING),
            ("job name", SqlType::STRING),
            ("status", SqlType::STRING),
            ("start time", SqlType::TIMESTAMP_LTZ_3),
        ];
        pages::table(&columns, rows)
    }
}

/// Parses and plans a statement; runs where the stack is deep.
fn plan(text: String, tables: &Tables, config: &Config) -> Result<Planned> {
    Ok(match parse::parse(&text)? {
        Statement::CreateTable(create) => {
            let if_not_exists = create.if_not_exists;
            let table = Box::new(Table::resolve(*create, &text, config)?);
            Planned::CreateTable { table, if_not_exists }
        }
        Statement::Insert(inserts) => {
            let sinks = inserts.iter().map(|insert| insert.table.value.clone()).collect();
            let graph = lower::inserts(inserts, tables)?;
            let words = parse::words(&text);
            let mentioned =
                tables.iter().filter(|(name, _)| words.contains(*name)).map(clone_entry).collect();
            Planned::Insert { graph, sinks, statement: text, mentioned }
        }
        Statement::Explain(statement) => Planned::Explain(explain::explain(&match *statement {
            Statement::Insert(inserts) => lower::inserts(inserts, tables)?,
            Statement::Query(query) => lower::query(*query, tables)?,
            _ => return Err(Fault::new("only INSERT and SELECT can be explained")),
        })),
        Statement::Query(query) => {
            // Mistakes in the query are told first: they are in the INSERT too.
            lower::query(*query, tables)?;
            return Err(Fault::unsupported("an interactive SELECT").hint(
                "write INSERT INTO a table SELECT … and read that table's topic with a consumer",
            ));
        }
        simple => Planned::Simple(simple),
    })
}

fn clone_entry((name, table): (&String, &Arc<Table>)) -> (String, Arc<Table>) {
    (name.clone(), Arc::clone(table))
}

fn describe(table: &Table) -> Vec<Page> {
    let event_time = table.watermark.as_ref().map(|watermark| watermark.column);
    let rows = table
        .columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let is_event_time = event_time == Some(index);
            let mark = if is_event_time { " *ROWTIME*" } else { "" };
            let watermark = table.watermark.as_ref().filter(|_| is_event_time);
            vec![
                column.name.as_str().into(),
                format!("{}{mark}", column.sql_type).into(),
                column.nullable.into(),
                Value::Null,
                column.computed.as_ref().map_or(Value::Null, |text| format!("AS {text}").into()),
                watermark.map_or(Value::Null, |watermark| watermark.text.as_str().into()),
            ]
        })
        .collect();
    let columns = [
        ("name", SqlType::STRING),
        ("type", SqlType::STRING),
        ("null", SqlType::Boolean),
        ("key", SqlType::STRING),
        ("extras", SqlType::STRING),
        ("watermark", SqlType::STRING),
    ];
    pages::table(&columns, rows)
}
