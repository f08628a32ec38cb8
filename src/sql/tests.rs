//! Each file in `tests/` is a script of statements and, below the line `---- expect`, what the last
//! of them gives: its result as text, or its error. `UPDATE_EXPECT=1 cargo test --lib sql::`
//! writes the files anew; read the difference before you commit it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMillisecondArray};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use datafusion_common::ScalarValue;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use uuid::Uuid;

use super::gateway::rooms::Rooms;
use super::{Gateway, OperationStatus, Page, SqlError, SqlPlanner, explain, split};
use crate::config::Config;
use crate::stream::graph::Op;
use crate::stream::job::{JobError, JobId, JobStatus, NewJob, Planner};

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

/// The graph that a script's last statement submits, over the common tables.
async fn submitted(script: &str) -> NewJob {
    let (gateway, rooms) = gateway();
    let session = gateway.open_session(BTreeMap::new()).unwrap();
    for statement in split(TABLES).iter().chain(&split(script)) {
        run(&gateway, session, statement).await.unwrap();
    }
    let job = rooms.submitted.lock().unwrap().pop();
    job.unwrap()
}

/// What the first projection of a job makes of one row of `requests`.
async fn projected(items: &str, requests: &RecordBatch) -> Vec<String> {
    let sink = "CREATE TABLE out_rows (a STRING, b BIGINT, c INT) WITH
        ('connector' = 'kafka', 'topic' = 'out_rows', 'format' = 'json');";
    let script = format!("{sink} INSERT INTO out_rows SELECT {items} FROM requests");
    let graph = submitted(&script).await.graph;
    let project = graph.nodes.iter().find_map(|node| match &node.op {
        Op::Project(exprs) => Some(exprs.clone()),
        _ => None,
    });
    project
        .unwrap()
        .iter()
        .map(|expr| {
            let array = expr.evaluate(requests).unwrap().into_array(1).unwrap();
            ScalarValue::try_from_array(&array, 0).unwrap().to_string()
        })
        .collect()
}

/// One request with these values, everything else NULL.
async fn request(page: Option<&str>, took_ms: i64, bytes: i32) -> RecordBatch {
    let graph =
        submitted("INSERT INTO page_counts SELECT page, ts, ts, 1 FROM requests").await.graph;
    let schema = Arc::clone(&graph.nodes[0].schema);
    let columns = schema.fields().iter().map(|field| {
        let value = match field.name().as_str() {
            "page" => ScalarValue::Utf8(page.map(str::to_owned)),
            "took_ms" => ScalarValue::Int64(Some(took_ms)),
            "bytes" => ScalarValue::Int32(Some(bytes)),
            _ => ScalarValue::try_from(field.data_type()).unwrap(),
        };
        value.to_array().unwrap()
    });
    RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap()
}

#[tokio::test]
async fn arithmetic_is_flinks() {
    let row = request(Some("/p1"), i64::MAX, i32::MAX).await;
    // Integers wrap, a quotient is cut, a remainder has the dividend's sign.
    let items = "page, took_ms + 1, bytes + 1";
    assert_eq!(projected(items, &row).await[1..], ["-9223372036854775808", "-2147483648"]);
    let row = request(Some("/p1"), -7, 3).await;
    assert_eq!(projected("page, took_ms / 2, bytes / 2", &row).await[1..], ["-3", "1"]);
    assert_eq!(projected("page, MOD(took_ms, 3), -bytes", &row).await[1..], ["-1", "-3"]);
}

#[tokio::test]
async fn text_functions_are_flinks() {
    let row = request(Some(" äöü "), 1, 1).await;
    let items =
        "CONCAT('<', TRIM(page), '>'), CHAR_LENGTH(page), CHAR_LENGTH(SUBSTRING(page, 2, 2))";
    assert_eq!(projected(items, &row).await, ["<äöü>", "5", "2"]);
    let row = request(None, 1, 1).await;
    let items =
        "CONCAT('<', page), CASE WHEN page LIKE '%' THEN 1 ELSE 2 END, COALESCE(NULL, bytes)";
    assert_eq!(projected(items, &row).await, ["NULL", "2", "1"]);
}

#[tokio::test]
async fn a_window_before_1970_is_still_whole() {
    let script = "INSERT INTO page_counts (page, window_start, window_end)
        SELECT page, window_start, window_end
        FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '10' SECOND, INTERVAL '3' SECOND))";
    let graph = submitted(script).await.graph;
    // Below it, rows without an event time are dropped.
    let Op::Project(exprs) = &graph.nodes[2].op else { panic!("no projection") };
    let schema = Arc::clone(&graph.nodes[1].schema);
    let ts = TimestampMillisecondArray::from(vec![-1, 0, 2_999, 3_000, -7_001]);
    let page = StringArray::from(vec!["a"; 5]);
    let rows = RecordBatch::try_new(schema, vec![Arc::new(page), Arc::new(ts)]).unwrap();
    let start = exprs[1].evaluate(&rows).unwrap().into_array(5).unwrap();
    let start =
        start.as_any().downcast_ref::<TimestampMillisecondArray>().unwrap().values().to_vec();
    assert_eq!(start, [-7_000, -7_000, -7_000, 3_000, -17_000]);
}

#[tokio::test]
async fn sums_wrap_like_javas() {
    let script = "INSERT INTO page_counts
        SELECT 'x', window_start, window_end, SUM(bytes)
        FROM TABLE(TUMBLE(TABLE requests, DESCRIPTOR(seen), INTERVAL '1' HOUR))
        GROUP BY window_start, window_end";
    let graph = submitted(script).await.graph;
    let (index, exprs) = graph
        .nodes
        .iter()
        .enumerate()
        .filter_map(|(index, node)| match &node.op {
            Op::Project(exprs) => Some((index, exprs)),
            _ => None,
        })
        .next_back()
        .unwrap();
    let input = &graph.nodes[graph.nodes[index].inputs[0].from].schema;
    let sums: [i64; 4] = [2_147_483_647, 2_147_483_648, -2_147_483_649, 5_000_000_000];
    let columns = input.fields().iter().map(|field| -> ArrayRef {
        match field.data_type() {
            DataType::Int64 => Arc::new(Int64Array::from(sums.to_vec())),
            _ => Arc::new(TimestampMillisecondArray::from(vec![0; sums.len()])),
        }
    });
    let rows = RecordBatch::try_new(Arc::clone(input), columns.collect()).unwrap();
    let wrapped = exprs[3].evaluate(&rows).unwrap().into_array(sums.len()).unwrap();
    let wrapped = wrapped.as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec();
    let expected: Vec<i64> = sums.iter().map(|sum| i64::from(*sum as i32)).collect();
    assert_eq!(wrapped, expected);
}

#[tokio::test]
async fn a_persisted_job_is_planned_to_the_same_graph() {
    let script = "SET 'parallelism.default' = '2';
        SET 'execution.checkpointing.interval' = '3 s';
        INSERT INTO page_counts
        SELECT page, window_start, window_end, COUNT(*)
        FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '10' SECOND))
        GROUP BY page, window_start, window_end";
    let job = submitted(script).await;
    assert_eq!(job.name, "insert-into_page_counts");
    let planner = SqlPlanner::new(Arc::new(Config::default()));
    let (graph, options) = planner.plan(&job.definition).await.unwrap();
    assert_eq!(explain::explain(&graph), explain::explain(&job.graph));
    assert_eq!(options, job.options);
    assert_eq!((options.parallelism, options.checkpoint_interval.as_secs()), (2, 3));
    let ids: Vec<u32> = graph.nodes.iter().map(|node| node.id).collect();
    assert_eq!(ids, job.graph.nodes.iter().map(|node| node.id).collect::<Vec<_>>());
    // Tables that the job does not name are none of its business.
    assert!(!job.definition.contains("took_ms"));
    let newer = job.definition.replace("\"version\":1", "\"version\":2");
    assert!(planner.plan(&newer).await.unwrap_err().contains("version 2"));
}

#[tokio::test]
async fn hostile_statements_are_refused_without_harm() {
    let (gateway, _rooms) = gateway();
    let session = gateway.open_session(BTreeMap::new()).unwrap();
    for statement in split(TABLES) {
        run(&gateway, session, &statement).await.unwrap();
    }
    let insert =
        |value: &str| format!("INSERT INTO page_counts SELECT page, ts, ts, {value} FROM clicks");
    let hostile = [
        insert(&format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000))),
        insert(&vec!["1"; 50_000].join("+")),
        insert(&format!("1 = 1 AND {}", vec!["1 = 1"; 10_000].join(" AND "))),
        insert(&format!("{}TRUE", "NOT ".repeat(20_000))),
        insert(&format!("{}1", "CASE WHEN TRUE THEN ".repeat(5_000))),
        insert(&format!("COALESCE({}", "COALESCE(".repeat(10_000))),
        insert("99999999999999999999999999999999999999999999"),
        insert(&format!("'{}", "x".repeat(300_000))),
        format!("SELECT * FROM {}clicks", "(".repeat(10_000)),
        format!("{}SELECT 1", "SELECT * FROM (".repeat(5_000)),
        vec!["SELECT page FROM clicks"; 8_000].join(" UNION ALL "),
        format!("CREATE TABLE t (a {}INT", "ARRAY<".repeat(10_000)),
        format!("CREATE TABLE t (a INT, b AS {}a)", "- ".repeat(20_000)),
        format!("EXPLAIN {}", "EXPLAIN ".repeat(20_000)),
        "CREATE TABLE t (`a\u{0}b` INT) WITH ('connector' = 'kafka', 'topic' = '../x')".to_owned(),
        "\u{feff}SELECT".to_owned(),
        "'".to_owned(),
        ";".to_owned(),
        String::new(),
    ];
    for statement in &hostile {
        let outcome = run(&gateway, session, statement).await;
        let text = outcome.unwrap_err().to_string();
        let shown: String = statement.chars().take(60).collect();
        assert!(!text.contains("planner failed"), "{shown}: {text}");
        assert!(text.len() < 2_000, "{shown}: {} bytes of error", text.len());
    }
}

#[tokio::test]
async fn an_explain_of_an_explain_is_refused_with_its_place() {
    let (gateway, _rooms) = gateway();
    let session = gateway.open_session(BTreeMap::new()).unwrap();
    for (statement, at) in [("EXPLAIN EXPLAIN SELECT 1", 9), ("EXPLAIN PLAN FOR\texplain", 18)] {
        match run(&gateway, session, statement).await {
            Err(SqlError::Statement { message, line: Some(1), column: Some(column) }) => {
                assert!(message.contains("EXPLAIN cannot be explained"), "{message}");
                assert_eq!(column, at, "{statement}");
            }
            other => panic!("{statement}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn mutilated_statements_never_reach_the_last_resort() {
    let (gateway, _rooms) = gateway();
    let session = gateway.open_session(BTreeMap::new()).unwrap();
    for statement in split(TABLES) {
        run(&gateway, session, &statement).await.unwrap();
    }
    let seed = "EXPLAIN INSERT INTO page_counts SELECT UPPER ( page ) , window_start , window_end , \
        SUM ( CAST ( CHAR_LENGTH ( page ) AS BIGINT ) ) FROM TABLE ( TUMBLE ( TABLE clicks , \
        DESCRIPTOR ( ts ) , INTERVAL '10' SECOND ) ) AS c WHERE page LIKE '/p%' AND NOT page IN ( \
        'a' , NULL ) GROUP BY page , window_start , window_end HAVING COUNT ( * ) > 1 + 2";
    let words: Vec<&str> = seed.split_whitespace().collect();
    // xorshift64: the same statements on every run.
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..300 {
        let mut mutant = words.clone();
        for _ in 0..=random(3) {
            let (from, to) = (random(words.len()), random(mutant.len()));
            match random(3) {
                0 => mutant[to] = words[from],
                1 => mutant.insert(to, words[from]),
                _ => drop(mutant.remove(to)),
            }
        }
        let mutant = mutant.join(" ");
        if let Err(error) = run(&gateway, session, &mutant).await {
            assert!(!error.to_string().contains("planner failed"), "{mutant}: {error}");
        }
    }
}

#[tokio::test]
async fn a_session_lists_sets_resets_and_drops() {
    let (gateway, _rooms) = gateway();
    let session = gateway.open_session(BTreeMap::new()).unwrap();
    let run = async |statement: &str| match run(&gateway, session, statement).await {
        Ok(page) => text(&page),
        Err(error) => error.to_string(),
    };
    for statement in split(TABLES) {
        assert_eq!(run(&statement).await, "OK");
    }
    assert_eq!(run("SHOW TABLES").await, "clicks\npage_counts\nrequests");
    assert_eq!(run("DROP TABLE IF EXISTS nothing").await, "OK");
    assert_eq!(run("DROP TABLE `default_catalog`.`default_database`.requests").await, "OK");
    assert_eq!(run("SHOW TABLES;").await, "clicks\npage_counts");
    assert!(run("DROP TABLE requests").await.starts_with("unknown table 'requests' at line 1"));
    assert_eq!(run("SET 'pipeline.name' = 'counts'").await, "OK");
    assert_eq!(run("SET").await, "pipeline.name | counts");
    assert_eq!(gateway.session(session).unwrap()["pipeline.name"], "counts");
    assert_eq!(run("RESET").await, "OK");
    assert_eq!(run("SET").await, "");
    let stopped = run("STOP JOB 'feed' WITH SAVEPOINT").await;
    assert!(stopped.starts_with("job 'feed' does not exist"), "{stopped}");
}

#[tokio::test]
async fn results_end_with_an_empty_page_and_can_be_read_again() {
    let (gateway, _rooms) = gateway();
    let session = gateway.open_session(BTreeMap::new()).unwrap();
    let operation = gateway.execute(session, "SHOW TABLES").await.unwrap();
    let last = gateway.fetch(session, operation, 0).await.unwrap();
    assert_eq!((last.rows.len(), last.next), (0, None));
    let operation = gateway.execute(session, "SHOW JOBS; ").await.unwrap();
    gateway.fetch(session, operation, 0).await.unwrap();
    let statement = "SET 'pipeline.name' = 'x'";
    let operation = gateway.execute(session, statement).await.unwrap();
    for _ in 0..2 {
        let first = gateway.fetch(session, operation, 0).await.unwrap();
        assert_eq!((first.rows.len(), first.next), (1, Some(1)));
        let last = gateway.fetch(session, operation, 1).await.unwrap();
        assert_eq!((last.rows.len(), last.next), (0, None));
    }
    assert_eq!(gateway.status(session, operation), Ok(OperationStatus::Finished));
    let beyond = gateway.fetch(session, operation, 2).await;
    assert_eq!(beyond, Err(SqlError::UnknownToken(2)));
    gateway.close_operation(session, operation).await.unwrap();
    let gone = gateway.fetch(session, operation, 0).await;
    assert_eq!(gone, Err(SqlError::UnknownOperation(operation.to_string())));
    gateway.close_session(session).unwrap();
    assert!(matches!(gateway.session(session), Err(SqlError::UnknownSession(_))));
}

#[tokio::test]
async fn an_idle_session_expires() {
    let (gateway, _rooms) = gateway();
    let gateway = gateway.with_idle_timeout(Duration::from_millis(20));
    let idle = gateway.open_session(BTreeMap::new()).unwrap();
    // Looking for it would be a use of it, so wait for longer than it takes to expire.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if gateway.session(idle) == Err(SqlError::UnknownSession(idle.to_string())) {
            return;
        }
    }
    panic!("the session is still open");
}
