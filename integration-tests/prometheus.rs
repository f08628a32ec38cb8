//! Prometheus as Debian packages it scrapes a running broker; what its query API answers is
//! compared with what was really sent, stored and read.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::clients_kcat::{consume_all, produce};
use crate::harness::{
    Broker, PATIENCE, Program, free_ports, kcat, prometheus, python, source, sql, until,
};

/// A Prometheus that scrapes one broker every second.
struct Prometheus {
    url: String,
    _program: Program,
}

impl Prometheus {
    #[track_caller]
    fn start(broker: &Broker) -> Prometheus {
        let [port] = free_ports();
        let folder = broker.folder().join("prometheus");
        std::fs::create_dir(&folder).expect("a folder for Prometheus");
        let config = folder.join("prometheus.yml");
        let scrape = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs:\n  - job_name: ottla\n    static_configs: [{{targets: ['{}']}}]\n",
            broker.http()
        );
        std::fs::write(&config, scrape).expect("writing Prometheus's configuration");
        let mut command = prometheus();
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let url = format!("http://127.0.0.1:{port}/api/v1/query");
        let prometheus = Prometheus { url, _program: Program::start("prometheus", command) };
        until("Prometheus to reach the broker", PATIENCE, || match prometheus.ask("up") {
            Ok(result) if number(&result[0]["value"]) == Some(1.0) => Ok(()),
            Ok(result) => Err(result.to_string()),
            Err(error) => Err(format!("{error}; its log: {}", prometheus._program.stderr())),
        });
        prometheus
    }

    /// The result list of a query.
    fn ask(&self, query: &str) -> Result<Value, String> {
        let answer = ureq::get(&self.url).query("query", query).call();
        let mut answer = answer.map_err(|error| format!("{query}: {error}"))?;
        let answer: Value = answer.body_mut().read_json().map_err(|error| error.to_string())?;
        Ok(answer["data"]["result"].clone())
    }

    /// The value of a query with one result; 0 without any.
    #[track_caller]
    fn value(&self, query: &str) -> f64 {
        let result = self.ask(query).unwrap_or_else(|error| panic!("{error}"));
        assert!(result.as_array().is_some_and(|found| found.len() < 2), "{query}: {result}");
        number(&result[0]["value"]).unwrap_or(0.0)
    }

    /// Waits until a query has the value that is true.
    #[track_caller]
    fn becomes(&self, query: &str, truth: f64) {
        until(&format!("{query} to be {truth}"), PATIENCE, || {
            let value = self.value(query);
            if value == truth { Ok(()) } else { Err(format!("it is {value}")) }
        });
    }

    /// Checks that `rate(series[1m])` is what the samples in that minute say.
    #[track_caller]
    fn has_true_rate(&self, series: &str) {
        // Samples first: those that come in between make the rate differ by little.
        let samples = self.ask(&format!("{series}[1m]")).unwrap_or_else(|error| panic!("{error}"));
        let samples = samples[0]["values"].as_array().cloned().unwrap_or_default();
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
            panic!("no samples of {series}");
        };
        let seconds = last[0].as_f64().unwrap_or(0.0) - first[0].as_f64().unwrap_or(0.0);
        let increase = number(last).unwrap_or(0.0) - number(first).unwrap_or(0.0);
        assert!(increase > 0.0, "{series} did not grow: {samples:?}");
        // Prometheus divides by the whole minute and extrapolates by up to a scrape at both ends.
        let rate = self.value(&format!("rate({series}[1m])")) * 60.0;
        let tolerance = increase * 3.0 / seconds.max(3.0);
        assert!(
            (rate - increase).abs() <= tolerance,
            "rate of {series}: {rate} in a minute, but it grew by {increase} in {seconds} s"
        );
    }
}

/// The value of a sample `[time, "value"]`.
fn number(sample: &Value) -> Option<f64> {
    sample[1].as_str()?.parse().ok()
}

/// The size of each partition's log files on the disk.
fn log_sizes(data_dir: &Path) -> Vec<f64> {
    let list = |folder: &Path| std::fs::read_dir(folder).expect("a readable folder");
    let partitions = list(&data_dir.join("logs")).flatten().filter(|entry| entry.path().is_dir());
    let size_of = |partition: std::fs::DirEntry| -> u64 {
        let files = list(&partition.path()).flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|kind| kind == "log"));
        logs.map(|file| file.metadata().expect("a log file's size").len()).sum()
    };
    partitions.map(|partition| size_of(partition) as f64).collect()
}

#[track_caller]
fn run(name: &str, command: Command) {
    Program::start(name, command).finish(PATIENCE).success();
}

/// Puts load on the broker until Prometheus has ten samples of `series`.
#[track_caller]
fn load_until_sampled(prometheus: &Prometheus, series: &str, mut load: impl FnMut()) {
    until("Prometheus to see ten samples under load", PATIENCE, || {
        load();
        let samples = prometheus.value(&format!("count_over_time({series}[1m])"));
        if samples >= 10.0 { Ok(()) } else { Err(format!("{samples} samples")) }
    });
}

#[test]
fn prometheus_gets_the_true_numbers_of_requests_topics_and_groups() {
    let broker = Broker::start();
    let kafka = broker.kafka();
    let prometheus = Prometheus::start(&broker);

    // Requests: each of these asks for one list of offsets, and nothing else does so far.
    produce(kafka, "orders", &[], "first\n");
    for _ in 0..5 {
        let mut command = kcat(kafka);
        command.args(["-Q", "-t", "orders:0:-1"]);
        run("kcat -Q", command);
    }
    prometheus.becomes(r#"sum(ottla_requests_total{api="ListOffsets"})"#, 5.0);
    prometheus.becomes(r#"ottla_request_seconds_count{api="ListOffsets"}"#, 5.0);

    // Records and bytes in, and what is stored: batches are stored as they come.
    let mut orders = 1.0;
    load_until_sampled(&prometheus, r#"ottla_topic_records_in_total{topic="orders"}"#, || {
        produce(kafka, "orders", &[], &"an order of some size\n".repeat(100));
        orders += 100.0;
    });
    prometheus.becomes(r#"ottla_topic_records_in_total{topic="orders"}"#, orders);
    prometheus.becomes(r#"ottla_log_end_offset{topic="orders",partition="0"}"#, orders);
    let sizes = log_sizes(&broker.data_dir());
    let size = prometheus.value(r#"ottla_log_size_bytes{topic="orders",partition="0"}"#);
    assert!(sizes.contains(&size), "ottla_log_size_bytes says {size}, the files have {sizes:?}");
    prometheus.becomes(r#"ottla_topic_bytes_in_total{topic="orders"}"#, size);
    prometheus.has_true_rate(r#"ottla_topic_bytes_in_total{topic="orders"}"#);
    prometheus.has_true_rate(r#"ottla_topic_records_in_total{topic="orders"}"#);
    prometheus.has_true_rate(r#"ottla_requests_total{api="Produce",error="NONE"}"#);

    // Bytes out: one reader of the whole topic.
    let read = consume_all(kafka, "orders", "%s\n");
    assert_eq!(read.stdout.lines().count() as f64, orders);
    prometheus.becomes(r#"ottla_topic_bytes_out_total{topic="orders"}"#, size);

    // Lag: what a group that has read sixty records still has before it.
    let mut command = python("read_some.py");
    command.args([&kafka.to_string(), "orders", "billing", "60"]);
    run("read_some.py", command);
    prometheus.becomes(
        r#"ottla_group_lag_records{group="billing",topic="orders",partition="0"}"#,
        orders - 60.0,
    );
}

#[test]
fn prometheus_gets_the_true_numbers_of_jobs() {
    let broker = Broker::start();
    let kafka = broker.kafka();
    let prometheus = Prometheus::start(&broker);
    let click = |ts: &str| format!("{{\"page\": \"/\", \"ts\": \"2026-01-01 {ts}\"}}\n");
    produce(kafka, "clicks", &[], &click("00:00:00"));
    let mut command = sql(&broker);
    command.arg("-f").arg(source("sql/page_counts.sql"));
    run("ottla sql", command);

    let mut clicks = 1.0;
    load_until_sampled(&prometheus, "ottla_job_records_in_total", || {
        produce(kafka, "clicks", &[], &click("00:00:01").repeat(100));
        clicks += 100.0;
    });
    produce(kafka, "clicks", &[], &click("01:00:00"));
    clicks += 1.0;

    // All clicks in, the closed window out, the watermark five seconds behind the last click.
    prometheus.becomes("ottla_job_records_in_total", clicks);
    prometheus.becomes("ottla_job_records_out_total", 1.0);
    prometheus.becomes("ottla_job_watermark_seconds", 1_767_225_600.0 + 3_600.0 - 5.0);
    prometheus.has_true_rate("ottla_job_records_in_total");
    assert!(prometheus.value("sum(ottla_job_checkpoint_seconds_count)") > 0.0);
}

#[test]
fn promtool_finds_nothing_to_complain_about_in_the_metrics() {
    let broker = Broker::start();
    produce(broker.kafka(), "orders", &[], "one\n");
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]);
    let metrics = broker.get("/metrics");
    let checked = Program::start_with_input("promtool", command, metrics.as_bytes());
    let checked = checked.finish(PATIENCE).success();
    assert_eq!(checked.stderr.trim(), "");
}
