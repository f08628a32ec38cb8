//! Streaming SQL inside the broker, end to end: the Java producer in, `ottla sql` in the middle,
//! kcat out; through crashes, and beside Flink running the same file over the same topic.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{
    Broker, JVM_PATIENCE, Options, PATIENCE, Program, Target, heavy, java, kcat, python, source,
    sql, until,
};

/// Clicks up to 4.9 seconds out of order, with the counts they must give. The same for each run.
struct Clicks {
    /// JSON values in the order they are sent.
    lines: Vec<String>,
    /// The rows of `page_counts`, sorted.
    rows: Vec<String>,
}

/// Milliseconds of event time between two clicks; nine windows and a bit for 20,000 of them.
const CLICK_EVERY_MS: u64 = 5;

impl Clicks {
    fn generate(count: u64) -> Clicks {
        let mut random = 42_u64;
        let mut below = |bound: u64| {
            // Knuth's MMIX generator; its high bits are good enough here.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % bound
        };
        let mut clicks = Clicks { lines: Vec::new(), rows: Vec::new() };
        let mut hits: BTreeMap<(String, u64), u64> = BTreeMap::new();
        let mut click = |page: String, at_ms: u64| {
            clicks.lines.push(json!({ "page": page, "ts": timestamp(at_ms) }).to_string());
            *hits.entry((page, at_ms / 10_000)).or_default() += 1;
        };
        for number in 0..count {
            let at_ms = 10_000 + number * CLICK_EVERY_MS;
            click(format!("/p{}", below(5)), at_ms - below(4_900));
        }
        // Moves the watermark past every window above.
        click("/end".to_owned(), 3_600_000);
        // Closes the window of `/end`: once that row is seen, no other is to come.
        clicks.lines.push(json!({ "page": "/later", "ts": timestamp(7_200_000) }).to_string());
        let row = |((page, window), hits): ((String, u64), u64)| {
            json!({
                "page": page,
                "window_start": timestamp(window * 10_000),
                "window_end": timestamp((window + 1) * 10_000),
                "hits": hits,
            })
            .to_string()
        };
        clicks.rows = hits.into_iter().map(row).collect();
        clicks.rows.sort();
        clicks
    }

    /// All but the last two, which move the watermark.
    fn counted(&self) -> &[String] {
        &self.lines[..self.lines.len() - 2]
    }

    /// The last two. Each partition needs them: the slowest one holds the watermark back.
    fn closing(&self) -> &[String] {
        &self.lines[self.lines.len() - 2..]
    }

    /// The rows when `partitions` partitions got the closing clicks.
    fn rows_over(&self, partitions: usize) -> Vec<String> {
        let closed_by_all = |row: &String| match row.contains("/end") {
            true => row.replace("\"hits\":1", &format!("\"hits\":{partitions}")),
            false => row.clone(),
        };
        self.rows.iter().map(closed_by_all).collect()
    }
}

/// Input of `ProduceLines`: a key per record, which spreads them over the partitions, and an
/// acknowledgement after every `flush` of them.
fn input(lines: &[String], flush: usize) -> String {
    let keyed: Vec<String> =
        lines.iter().enumerate().map(|(key, line)| format!("{key}\t{line}")).collect();
    keyed.chunks(flush).map(|lines| lines.join("\n") + "\n.\n").collect()
}

/// The first day of 2026 and `ms` into it, as Flink's JSON format writes a TIMESTAMP(3).
fn timestamp(ms: u64) -> String {
    let seconds = ms / 1000;
    let clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    match ms % 1000 {
        0 => format!("2026-01-01 {clock}"),
        fraction => {
            format!("2026-01-01 {clock}.{}", format!("{fraction:03}").trim_end_matches('0'))
        }
    }
}

fn sql_file(name: &str) -> PathBuf {
    source("sql").join(name)
}

#[track_caller]
fn create(broker: SocketAddr, topic: &str, partitions: u32) {
    let mut command = python("create_topic.py");
    command.args([&broker.to_string(), topic, &partitions.to_string()]);
    Program::start("create_topic.py", command).finish(PATIENCE).success();
}

#[track_caller]
fn run_sql(broker: &Broker, file: &Path) {
    let mut command = sql(broker);
    command.arg("-f").arg(file);
    Program::start("ottla sql", command).finish(PATIENCE).success();
}

fn produce_lines(broker: SocketAddr, topic: &str) -> Command {
    let mut command = java("clients", "ProduceLines");
    command.args([&broker.to_string(), topic]);
    command
}

#[track_caller]
fn produce(broker: SocketAddr, topic: &str, input: &str) {
    let _turn = heavy();
    let command = produce_lines(broker, topic);
    let producer = Program::start_with_input("ProduceLines", command, input.as_bytes());
    producer.finish(JVM_PATIENCE).success();
}

/// Produces `lines` to one partition of `clicks`.
#[track_caller]
fn produce_to(broker: SocketAddr, partition: usize, lines: &[String]) {
    let mut command = kcat(broker);
    command.args(["-P", "-t", "clicks", "-p", &partition.to_string()]);
    let input = lines.join("\n");
    Program::start_with_input("kcat -P", command, input.as_bytes()).finish(PATIENCE).success();
}

/// The committed records of `topic`, sorted. An error while it does not exist.
fn committed(broker: SocketAddr, topic: &str) -> Result<Vec<String>, String> {
    let mut command = kcat(broker);
    command.args(["-C", "-q", "-e", "-t", topic, "-o", "beginning", "-f", "%s\n"]);
    command.args(["-X", "isolation.level=read_committed"]);
    let finished = Program::start("kcat -C", command).finish(PATIENCE);
    if !finished.status.success() {
        return Err(finished.stderr);
    }
    let mut rows: Vec<String> = finished.stdout.lines().map(str::to_owned).collect();
    rows.sort();
    Ok(rows)
}

/// Waits until `topic` holds a row with `last` in it, then compares all of it with `expected`.
#[track_caller]
fn holds(broker: SocketAddr, topic: &str, last: &str, expected: &[String]) {
    let rows = until(&format!("a row with {last} in {topic}"), JVM_PATIENCE, || {
        let rows = committed(broker, topic)?;
        if rows.iter().any(|row| row.contains(last)) {
            return Ok(rows);
        }
        Err(format!("{} rows, {} expected", rows.len(), expected.len()))
    });
    if rows != expected {
        let missing: Vec<_> = expected.iter().filter(|row| !rows.contains(row)).collect();
        let unexpected: Vec<_> = rows.iter().filter(|row| !expected.contains(row)).collect();
        panic!(
            "{} rows, {} expected\nmissing: {missing:#?}\nunexpected: {unexpected:#?}",
            rows.len(),
            expected.len()
        );
    }
}

#[test]
fn sql_job_counts_pages_per_window_under_out_of_order_input() {
    let broker = Broker::start();
    let clicks = Clicks::generate(20_000);
    create(broker.kafka(), "clicks", 1);
    run_sql(&broker, &sql_file("page_counts.sql"));

    produce(broker.kafka(), "clicks", &input(&clicks.lines, 1_000));

    holds(broker.kafka(), "page_counts", "/end", &clicks.rows);
}

#[test]
fn sql_job_killed_three_times_in_the_stream_loses_and_doubles_nothing() {
    let mut broker = Broker::start_with(Options::new().set("stream.checkpoint.interval.ms", 200));
    let clicks = Clicks::generate(20_000);
    create(broker.kafka(), "clicks", 3);
    run_sql(&broker, &sql_file("page_counts.sql"));

    let turn = heavy();
    // Ten seconds of clicks, acknowledged twenty at a time.
    let mut command = produce_lines(broker.kafka(), "clicks");
    command.arg("2000");
    let paced = input(clicks.counted(), 20);
    let mut producer = Program::start_with_input("ProduceLines", command, paced.as_bytes());
    for acknowledged in [3_000, 7_000, 11_000] {
        producer.wait_for_stdout(&format!("{acknowledged} records"), JVM_PATIENCE, |stdout| {
            let last = stdout.lines().last()?.strip_prefix("flushed ")?;
            (last.parse::<u64>().ok()? >= acknowledged).then_some(())
        });
        // The job has committed results of its own, so the crash falls between its checkpoints.
        until("committed rows", PATIENCE, || {
            match committed(broker.kafka(), "page_counts")?.len() {
                0 => Err("none yet".to_owned()),
                _ => Ok(()),
            }
        });
        broker.kill();
        assert!(producer.ended().is_none(), "the producer was done before the broker was killed");
        broker.restart();
    }
    producer.finish(JVM_PATIENCE).success();
    drop(turn);
    for partition in 0..3 {
        produce_to(broker.kafka(), partition, clicks.closing());
    }

    holds(broker.kafka(), "page_counts", "/end", &clicks.rows_over(3));
}

#[test]
fn sql_job_over_three_partitions_waits_for_the_slowest() {
    let broker = Broker::start();
    let clicks = Clicks::generate(3_000);
    create(broker.kafka(), "clicks", 3);
    run_sql(&broker, &sql_file("page_counts.sql"));

    // One partition after the other: the first is through with its hours before the last begins.
    for (partition, lines) in clicks.counted().chunks(1_000).enumerate() {
        produce_to(broker.kafka(), partition, &[lines, clicks.closing()].concat());
    }

    holds(broker.kafka(), "page_counts", "/end", &clicks.rows_over(3));
}

#[test]
fn sql_job_gives_the_same_windows_as_flink() {
    // Flink's half also holds over Apache Kafka.
    let mut target = Target::start();
    let kafka = target.kafka();
    let (file, clicks) = (sql_file("page_counts.sql"), Clicks::generate(20_000));
    create(kafka, "clicks", 1);
    produce(kafka, "clicks", &input(&clicks.lines, 1_000));
    if let Some(broker) = target.ottla() {
        run_sql(broker, &file);
        holds(kafka, "page_counts", "/end", &clicks.rows);
    }

    let _turn = heavy();
    let _flink = flink(kafka, &file, "page_counts", "page_counts_by_flink");

    holds(kafka, "page_counts_by_flink", "/end", &clicks.rows);
}

#[test]
fn sql_job_projects_and_filters_as_flink_does() {
    let broker = Broker::start();
    create(broker.kafka(), "requests", 1);
    let visitors = [json!("ann"), json!("bot"), Value::Null, json!("bob \"b\" ✓")];
    let request = |number: u64| {
        json!({
            "page": format!("/{}{}", ["p", "q", "pö"][number as usize % 3], number % 7),
            "visitor": visitors[number as usize % 4],
            "took_ms": number * 37 % 1000,
            "sent": if number.is_multiple_of(5) { Value::Null } else { json!(number * 1_000) },
            "ts": timestamp(number * 997),
        })
        .to_string()
    };
    let mut requests: Vec<String> = (0..500).map(request).collect();
    requests.push(
        json!({ "page": "/p-last", "took_ms": 999, "sent": 1, "ts": timestamp(0) }).to_string(),
    );
    produce(broker.kafka(), "requests", &(requests.join("\n") + "\n.\n"));

    let file = sql_file("slow_pages.sql");
    let _turn = heavy();
    let flink = flink(broker.kafka(), &file, "slow_pages", "slow_pages_by_flink");
    let expected = until("Flink's last row", JVM_PATIENCE, || {
        let rows = committed(broker.kafka(), "slow_pages_by_flink")?;
        if rows.iter().any(|row| row.contains("/P-LAST")) { Ok(rows) } else { Err(flink.stderr()) }
    });
    assert!(expected.len() > 50, "the filter leaves something to compare: {expected:#?}");

    run_sql(&broker, &file);
    holds(broker.kafka(), "slow_pages", "/P-LAST", &expected);
}

/// Flink running an Ottla SQL file over this broker's topics, its rows in a topic of their own.
/// Hold [`heavy`] while it runs.
#[track_caller]
fn flink(broker: SocketAddr, file: &Path, sink: &str, instead: &str) -> Program {
    let mut command = java("flink", "FlinkSql");
    command.arg(broker.to_string()).arg(file).args([sink, instead]);
    let mut program = Program::start("FlinkSql", command);
    program.wait_for_stdout("a running job", JVM_PATIENCE, |stdout| {
        stdout.lines().any(|line| line == "running").then_some(())
    });
    program
}

#[test]
fn sql_statements_over_http_start_a_job_that_the_job_rest_shows() {
    let broker = Broker::start();
    create(broker.kafka(), "clicks", 1);
    let post = |path: &str, body: Value| -> Value {
        let url = format!("http://{}{path}", broker.http());
        let mut response = match ureq::post(&url).send_json(body) {
            Ok(response) => response,
            Err(error) => panic!("POST {url}: {error}"),
        };
        response.body_mut().read_json().expect("a JSON answer")
    };
    let session = post("/v1/sessions", json!({}));
    let session = session["sessionHandle"].as_str().expect("a session handle");

    let script = std::fs::read_to_string(sql_file("page_counts.sql")).expect("the SQL file");
    let mut job = None;
    for statement in script.split(';').filter(|statement| !statement.trim().is_empty()) {
        let body = json!({ "statement": statement });
        let operation = post(&format!("/v1/sessions/{session}/statements"), body);
        let operation = operation["operationHandle"].as_str().expect("an operation handle");
        let result = format!("/v1/sessions/{session}/operations/{operation}/result/0");
        let page = until("the statement's result", PATIENCE, || {
            let page: Value = serde_json::from_str(&broker.get(&result)).expect("a JSON answer");
            if page["resultType"] == "NOT_READY" { Err(page.to_string()) } else { Ok(page) }
        });
        job = page["jobID"].as_str().map(str::to_owned).or(job);
    }

    let job = job.expect("the INSERT names its job");
    let clicks = Clicks::generate(2_000);
    produce_to(broker.kafka(), 0, &clicks.lines);
    holds(broker.kafka(), "page_counts", "/end", &clicks.rows);
    until("the job to run", PATIENCE, || {
        let overview: Value =
            serde_json::from_str(&broker.get("/jobs/overview")).expect("a JSON answer");
        let jobs = overview["jobs"].as_array().cloned().unwrap_or_default();
        let running = jobs.iter().any(|found| found["jid"] == *job && found["state"] == "RUNNING");
        if running { Ok(()) } else { Err(overview.to_string()) }
    });
}
