//! Each file in `tests/` is a script of statements and, below the line `---- expect`, what the last
//! of them gives: its result as text, or its error. `UPDATE_EXPECT=1 cargo test --lib sql::`
//! writes the files anew; read the difference before you commit it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use uuid::Uuid;

use super::gateway::rooms::Rooms;
use super::{Gateway, Page, SqlError, split};
use crate::config::Config;
use crate::stream::job::{JobError, JobId, JobStatus, NewJob};

const SEPARATOR: &str = "---- expect\n";

/// Topics that exist, and jobs that were submitted.
#[derive(Default)]
struct FakeRooms {
    submitted: Mutex<Vec<NewJob>>,
}

impl Rooms for FakeRooms {
    fn topics(&self) -> Vec<String> {
        vec!["clicks".to_owned(), "requests".to_owned()]
    }

    fn submit(&self, job: NewJob) -> BoxFuture<'_, Result<JobId, JobError>> {
        self.submitted.lock().unwrap().push(job);
        async { Ok(JobId("0123456789abcdef0123456789abcdef".into())) }.boxed()
    }

    fn jobs(&self) -> Vec<JobStatus> {
        Vec::new()
    }

    fn end<'a>(&'a self, id: &'a str, _checkpoint: bool) -> BoxFuture<'a, Result<(), JobError>> {
        async move { Err(JobError::Unknown(id.to_owned())) }.boxed()
    }
}

fn gateway() -> (Gateway, Arc<FakeRooms>) {
    let rooms = Arc::new(FakeRooms::default());
    let gateway = Gateway::over(Arc::clone(&rooms) as Arc<dyn Rooms>, Arc::new(Config::default()));
    (gateway, rooms)
}

async fn run(gateway: &Gateway, session: Uuid, statement: &str) -> Result<Page, SqlError> {
    let operation = gateway.execute(session, statement).await?;
    gateway.fetch(session, operation, 0).await
}

fn text(page: &Page) -> String {
    let cell = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let rows =
        page.rows.iter().map(|(_, row)| row.iter().map(cell).collect::<Vec<_>>().join(" | "));
    let rows: Vec<String> = rows.collect();
    rows.join("\n")
}

fn case_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sql/tests");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    files.sort();
    files
}

/// Tables that most cases read and write.
const TABLES: &str = include_str!("tests/tables/common.sql");

async fn outcome(script: &str) -> String {
    let (gateway, _rooms) = gateway();
    let session = gateway.open_session(BTreeMap::new()).unwrap();
    for statement in split(TABLES) {
        run(&gateway, session, &statement).await.unwrap();
    }
    let statements = split(script);
    let (last, first) = statements.split_last().unwrap();
    for statement in first {
        if let Err(error) = run(&gateway, session, statement).await {
            return format!("an earlier statement failed: {error}");
        }
    }
    match run(&gateway, session, last).await {
        Ok(page) => text(&page),
        Err(error) => format!("error: {error}"),
    }
}

#[tokio::test]
async fn each_script_gives_what_its_file_expects() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut wrong = Vec::new();
    for path in case_files() {
        let content = std::fs::read_to_string(&path).unwrap();
        let (script, expected) = content.split_once(SEPARATOR).unwrap_or((&content, ""));
        let actual = outcome(script).await + "\n";
        if actual == expected {
            continue;
        }
        if update {
            std::fs::write(&path, format!("{script}{SEPARATOR}{actual}")).unwrap();
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        wrong.push(format!("{name}\nexpected:\n{expected}\nactual:\n{actual}"));
    }
    assert!(update || wrong.is_empty(), "{}", wrong.join("\n\n"));
}
