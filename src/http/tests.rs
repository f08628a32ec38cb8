//! The HTTP side over a real socket, without the rooms behind it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::json;

use super::*;
use crate::log::Refusal;
use crate::types::{ListenerName, LogId, PartitionId, TopicId};

/// A front on a free port; requests run on this thread, the server on the runtime's.
struct Served {
    runtime: tokio::runtime::Runtime,
    front: Front,
    running: Running,
    address: SocketAddr,
}

impl Served {
    fn start() -> Served {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let metrics = Metrics::default();
        metrics.register_process().unwrap();
        let progress = Progress::default();
        progress.begin("opening partition logs", 10_000);
        progress.advance();
        let front = Front::new(metrics, progress);
        let (running, address) = runtime.block_on(async {
            let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
            let address = listener.local_addr();
            (listener.serve(front.clone()), address)
        });
        Served { runtime, front, running, address }
    }

    /// Status line and body of one request.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

#[test]
fn a_starting_broker_is_alive_but_not_ready() {
    let served = Served::start();
    assert_eq!(served.ask("GET", "/healthz", "").0, 200);
    let (status, body) = served.ask("GET", "/readyz", "");
    assert_eq!(status, 503);
    assert_eq!(body, r#"{"status":"starting","reason":"opening partition logs 1/10000"}"#);

    let address = served.address;
    served
        .front
        .enter(Phase::Ready { kafka: vec![(ListenerName::plaintext(), address)], http: address });
    let (status, body) = served.ask("GET", "/readyz", "");
    assert_eq!(status, 200);
    assert!(body.contains(&format!("\"kafka\":\"{address}\"")), "{body}");

    served.front.enter(Phase::Stopping);
    assert_eq!(served.ask("GET", "/readyz", "").0, 503);
}

#[test]
fn a_ready_broker_names_the_first_logs_that_take_no_appends_and_counts_all() {
    let served = Served::start();
    let address = served.address;
    served
        .front
        .enter(Phase::Ready { kafka: vec![(ListenerName::plaintext(), address)], http: address });
    let refusals = Refusals::default();
    served.front.watch(refusals.clone());
    let told = || {
        let (status, body) = served.ask("GET", "/readyz", "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<serde_json::Value>(&body).unwrap()
    };
    assert_eq!((&told()["refusing_total"], &told()["refusing"]), (&json!(0), &json!([])));
    let refusal = Refusal { reason: "a sync failed".to_owned(), next_step: "check the disk" };
    for partition in 0..150 {
        let topic = TopicId(uuid::Uuid::from_u128(1));
        refusals.add(LogId { topic, partition: PartitionId(partition) }, Some("t"), &refusal);
    }
    let body = told();
    assert_eq!(body["refusing_total"], 150);
    assert_eq!(body["refusing"].as_array().unwrap().len(), 100);
    let last = json!({
        "topic": "t", "partition": 99, "reason": "a sync failed", "next_step": "check the disk",
    });
    assert_eq!(body["refusing"][99], last);
}

#[test]
fn every_refusal_has_flinks_shape() {
    let served = Served::start();
    let large = "a".repeat((1 << 20) + 1);
    for (method, path, body, status) in [
        ("GET", "/jobs/%ff", "", 400),
        ("GET", "/v1/sessions/s/operations/o/result/x", "", 400),
        ("POST", "/v1/sessions", large.as_str(), 413),
        ("GET", "/nothing", "", 404),
        ("PUT", "/readyz", "", 405),
    ] {
        let (told, answer) = served.ask(method, path, body);
        assert_eq!(told, status, "{path}");
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert!(!answer["errors"][0].as_str().unwrap().is_empty(), "{path}");
    }
}

#[test]
fn metrics_are_prometheus_text_and_each_has_help_and_prefix() {
    let (status, body) = Served::start().ask("GET", "/metrics", "");
    assert_eq!(status, 200);
    let mut helped = std::collections::HashSet::new();
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap();
            assert!(!text.is_empty(), "{name} has no help");
            helped.insert(name.to_owned());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let name = kind.split(' ').next().unwrap();
            assert!(helped.contains(name), "{name} has no help");
            assert!(name.starts_with("ottla_") || name.starts_with("process_"), "{name}");
        }
    }
    assert!(helped.contains("ottla_build_info"));
}

#[test]
fn without_rooms_sql_and_jobs_say_that_the_broker_is_starting() {
    let served = Served::start();
    for (method, path) in [("POST", "/v1/sessions"), ("GET", "/jobs/overview"), ("GET", "/v1/jobs")]
    {
        let (status, body) = served.ask(method, path, "");
        assert_eq!(status, 503, "{path}");
        assert!(body.contains("still starting"), "{body}");
    }
    assert_eq!(served.ask("GET", "/v1/info", "").0, 200);
}

#[test]
fn wrong_paths_methods_and_bodies_are_told_as_flink_does() {
    let served = Served::start();
    let (status, body) = served.ask("GET", "/nothing", "");
    assert_eq!(status, 404);
    assert!(body.starts_with(r#"{"errors":["there is nothing at /nothing"#), "{body}");
    assert_eq!(served.ask("DELETE", "/v1/info", "").0, 405);
    let (status, body) = served.ask("POST", "/v1/sessions", "{not json");
    assert_eq!(status, 400);
    assert!(body.contains("the body is not the JSON asked for"), "{body}");
    let (status, body) = served.ask("POST", "/v1/sessions/x/statements", r#"{"statement": " "}"#);
    assert_eq!((status, body.as_str()), (400, r#"{"errors":["the body has no statement"]}"#));
    let body = r#"{"statement": "SELECT 1", "executionTimeout": 5}"#;
    assert_eq!(served.ask("POST", "/v1/sessions/x/statements", body).0, 400);
}

#[test]
fn web_pages_of_others_are_kept_out() {
    let served = Served::start();
    for head in ["host: evil.example", "host: localhost\r\norigin: https://evil.example"] {
        let mut stream = TcpStream::connect(served.address).unwrap();
        write!(stream, "POST /v1/sessions HTTP/1.1\r\n{head}\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 403"), "{head}: {answer}");
    }
}

#[test]
fn bodies_are_bounded() {
    let served = Served::start();
    let statement = "x".repeat((1 << 20) + 1);
    let mut stream = TcpStream::connect(served.address).unwrap();
    let length = statement.len();
    write!(
        stream,
        "POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n"
    )
    .unwrap();
    // The broker may close before everything is sent: that is the point.
    let _ = stream.write_all(statement.as_bytes());
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 413");
}

#[test]
fn shutdown_does_not_wait_for_idle_connections() {
    let served = Served::start();
    let mut idle = TcpStream::connect(served.address).unwrap();
    write!(idle, "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");

    let began = std::time::Instant::now();
    served.runtime.block_on(served.running.shutdown());
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
    assert!(TcpStream::connect(served.address).is_err());
}
