//! Many partitions: what their recovery shows, and what they cost while nobody uses them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::{CreateTopicsRequest, FetchRequest, ProduceRequest};

use crate::harness::{Broker, PATIENCE, Program, free_ports, unique, until};
use crate::protocol::batch::Batch;
use crate::protocol::client::Client;
use crate::protocol::requests::{
    Topic, append, creatable, create_topics, fetch, fetch_topic, produce, produced,
};

/// The most copies of one log that a test makes before it gives up waiting for a slow start.
const COPIES_MAX: i32 = 3_200;

/// A killed broker's directory: a topic of `partitions` logs, each with all the records of the
/// first, and no view, so that the next start reads them all.
struct ToRecover {
    broker: Broker,
    /// All its logs: the topic's and those of `__consumer_offsets`.
    logs: i32,
}

/// Kafka's default for `offsets.topic.num.partitions`.
const OFFSETS_PARTITIONS: i32 = 50;

impl ToRecover {
    fn new(partitions: i32) -> ToRecover {
        let mut broker = Broker::start();
        let mut client = Client::connect(broker.kafka());
        let topic = Topic::create_with(&mut client, partitions);
        for _ in 0..16 {
            assert_eq!(append(&mut client, &topic, &Batch::of_size(1_000_000)).0, 0);
        }
        broker.kill();
        let logs = broker.data_dir().join("logs");
        let first = logs.join(format!("{}-0", topic.id));
        for partition in 1..partitions {
            let other = logs.join(format!("{}-{partition}", topic.id));
            fs::create_dir_all(&other).expect("a log's folder");
            for segment in fs::read_dir(&first).expect("the first log").flatten() {
                // Recovery reads whole logs and writes nothing, so all may share the same bytes.
                fs::hard_link(segment.path(), other.join(segment.file_name())).expect("a link");
            }
        }
        let to_recover = ToRecover { broker, logs: partitions + OFFSETS_PARTITIONS };
        to_recover.lose_view();
        to_recover
    }

    fn lose_view(&self) {
        fs::remove_dir_all(self.data_dir().join("view")).expect("a view");
    }

    fn data_dir(&self) -> PathBuf {
        self.broker.data_dir()
    }

    /// `ottla serve` over the directory.
    fn serve(&self) -> (Command, String) {
        let [kafka, http] = free_ports().map(|port| format!("127.0.0.1:{port}"));
        let mut command = Broker::ottla(["serve", "--data-dir"]);
        command.arg(self.data_dir());
        command.args(["--kafka-listen", &kafka, "--http-listen", &http]);
        (command, http)
    }
}

/// Recovers more and more logs until `shown` says that a start was long enough to show something.
#[track_caller]
fn recover_until_shown(shown: impl Fn(&ToRecover) -> Result<(), String>) {
    let mut partitions = 200;
    loop {
        let to_recover = ToRecover::new(partitions);
        match shown(&to_recover) {
            Ok(()) => return,
            Err(missing) if partitions >= COPIES_MAX => panic!("{partitions} logs: {missing}"),
            Err(_) => partitions *= 4,
        }
    }
}

fn ready(program: &mut Program) {
    program.wait_for_stdout("the ready line", 4 * PATIENCE, |stdout| {
        stdout.contains("ottla ready ").then_some(())
    });
}

#[test]
fn a_long_recovery_says_how_far_it_is_in_the_log_and_in_readyz() {
    recover_until_shown(|to_recover| {
        let (command, http) = to_recover.serve();
        let program = Program::start("ottla serve", command);
        let mut reasons = Vec::new();
        until("the end of the recovery", 4 * PATIENCE, || {
            let url = format!("http://{http}/readyz");
            let agent: ureq::Agent =
                ureq::Agent::config_builder().http_status_as_error(false).build().into();
            if let Ok(mut answer) = agent.get(&url).call() {
                let body = answer.body_mut().read_to_string().unwrap_or_default();
                let body: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
                reasons.extend(body["reason"].as_str().map(str::to_owned));
            }
            if program.stdout().contains("ottla ready ") { Ok(()) } else { Err(program.stderr()) }
        });
        let log = program.stderr();
        let is_shown =
            |line: &str| line.contains("opening partition logs") && line.contains("done=");
        let Some(line) = log.lines().find(|line| is_shown(line)) else {
            return Err(format!("no line tells how far it is:\n{log}"));
        };
        assert!(line.contains("scanned_bytes=") && line.contains("bytes_per_second="), "{line}");
        assert!(line.contains("total="), "{line}");
        let told = format!("/{}", to_recover.logs);
        let is_told = |reason: &String| {
            reason.starts_with("opening partition logs ") && reason.ends_with(&told)
        };
        if !reasons.iter().any(is_told) {
            return Err(format!("/readyz said {reasons:?}"));
        }
        // One line for all of them, not one for each.
        let recovered = log.lines().filter(|line| line.contains("recovered")).count();
        assert_eq!(recovered, 0, "{log}");
        let summary = log.lines().filter(|line| line.contains("opened all partition logs")).count();
        assert_eq!(summary, 1, "{log}");
        Ok(())
    });
}

/// Runs `command` on a terminal of its own, by the `script` of util-linux.
fn on_terminal(command: &Command) -> Command {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let mut on_terminal = Command::new("script");
    on_terminal.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
    on_terminal.env("TERM", "xterm").env_remove("OTTLA_DATA_DIR").env_remove("NO_COLOR");
    on_terminal
}

/// What a terminal was sent, line by line as a person saw it: what overwrites a line or clears it
/// begins a new one.
fn seen_lines(sent: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut rest = sent.chars().peekable();
    while let Some(char) = rest.next() {
        match char {
            '\n' | '\r' => lines.push(String::new()),
            '\u{1b}' => {
                let mut sequence = String::new();
                for next in rest.by_ref() {
                    sequence.push(next);
                    if next.is_ascii_alphabetic() {
                        break;
                    }
                }
                // Colours leave the cursor where it is, everything else moves it or clears.
                if !sequence.ends_with('m') {
                    lines.push(String::new());
                }
            }
            char => {
                if let Some(line) = lines.last_mut() {
                    line.push(char);
                }
            }
        }
    }
    lines
}

#[test]
fn a_long_recovery_draws_a_bar_on_a_terminal_which_log_lines_do_not_tear() {
    recover_until_shown(|to_recover| {
        let (command, _) = to_recover.serve();
        let mut program = Program::start("ottla serve on a terminal", on_terminal(&command));
        ready(&mut program);
        let sent = program.stdout();
        program.terminate();
        let lines = seen_lines(&sent);
        let bar = format!("/{} ", to_recover.logs);
        let is_bar =
            |line: &&String| line.contains("opening partition logs [") && line.contains(&bar);
        if lines.iter().filter(is_bar).count() < 2 {
            return Err(format!("no bar moved: {lines:#?}"));
        }
        for line in lines.iter().filter(|line| line.contains(" INFO ") || line.contains(" WARN ")) {
            let is_timestamp = line.starts_with(|char: char| char.is_ascii_digit());
            assert!(is_timestamp && !line.contains('['), "a log line was torn: {line:?}");
        }
        let summary = |line: &String| line.contains("opened all partition logs");
        assert!(lines.iter().any(summary), "{lines:#?}");
        // A bar says it already, and it goes when the broker is ready.
        assert!(!lines.iter().any(|line| line.contains("done=")), "{lines:#?}");
        let last = lines.iter().rposition(|line| line.contains("opening partition logs ["));
        let ready = lines.iter().position(|line| line.contains("ottla ready "));
        assert!(last < ready, "{lines:#?}");
        Ok(())
    });
}

#[test]
fn the_doctor_says_how_far_it_is_in_a_large_directory() {
    recover_until_shown(|to_recover| {
        let mut doctor = Broker::ottla(["doctor"]);
        doctor.arg(to_recover.data_dir());
        let examined = Program::start("ottla doctor", doctor).finish(4 * PATIENCE).success();
        let is_shown = |line: &&str| line.contains("verifying logs") && line.contains("done=");
        if !examined.stderr.lines().any(|line| is_shown(&line)) {
            return Err(format!("no line tells how far it is:\n{}", examined.stderr));
        }
        let mut doctor = Broker::ottla(["doctor"]);
        doctor.arg(to_recover.data_dir());
        let mut program = Program::start("ottla doctor on a terminal", on_terminal(&doctor));
        program.wait(4 * PATIENCE);
        let lines = seen_lines(&program.stdout());
        let bars = lines.iter().filter(|line| line.contains("verifying logs [")).count();
        if bars < 2 {
            return Err(format!("no bar moved: {lines:#?}"));
        }
        let verdict = lines.iter().any(|line| line.starts_with("verified "));
        assert!(verdict, "{lines:#?}");
        Ok(())
    });
}

const TOPICS: usize = 10;
const PARTITIONS: i32 = 1_000;
/// Every so many partitions one has a record.
const WRITTEN_STEP: i32 = 50;

/// Files of partition logs that a process has open.
fn open_log_files(broker: &Broker) -> Vec<PathBuf> {
    let logs = broker.data_dir().join("logs");
    // These are there once, however many logs there are.
    let is_shared = |path: &Path| *path == logs || path.starts_with(logs.join("redo"));
    let handles = fs::read_dir(format!("/proc/{}/fd", broker.id())).expect("its file handles");
    handles
        .flatten()
        // A handle may be closed while it is looked at.
        .filter_map(|handle| fs::read_link(handle.path()).ok())
        .filter(|path| path.starts_with(&logs) && !is_shared(path))
        .collect()
}

/// Asks for everything in a topic, from the start: offsets as each partition's high watermark.
fn high_watermarks(client: &mut Client, topic: &Topic) -> Vec<i64> {
    let version = client.latest::<FetchRequest>();
    let partitions = (0..PARTITIONS)
        .map(|index| {
            FetchPartition::default().with_partition(index).with_partition_max_bytes(1 << 10)
        })
        .collect();
    let mut request = fetch(version, topic, 0, 0);
    request.topics = vec![fetch_topic(version, topic, partitions)];
    let mut answers = client.call(version, &request).responses.remove(0).partitions;
    answers.sort_by_key(|partition| partition.partition_index);
    assert_eq!(answers.len(), usize::try_from(PARTITIONS).expect("a small number"));
    answers
        .iter()
        .map(|partition| {
            assert_eq!(partition.error_code, 0, "{partition:?}");
            partition.high_watermark
        })
        .collect()
}

#[test]
fn ten_thousand_idle_partitions_are_served_and_hold_no_file_open() {
    let mut broker = Broker::start();
    let mut client = Client::connect(broker.kafka());
    let names: Vec<String> = (0..TOPICS).map(|_| unique("many")).collect();
    let version = client.latest::<CreateTopicsRequest>();
    let wanted = names.iter().map(|name| creatable(name, PARTITIONS)).collect();
    let created = client.call(version, &create_topics(wanted)).topics;
    let topics: Vec<Topic> = created
        .iter()
        .map(|topic| {
            assert_eq!(topic.error_code, 0, "{topic:?}");
            Topic { name: topic.name.to_string(), id: topic.topic_id }
        })
        .collect();
    let version = client.latest::<ProduceRequest>();
    let is_written = |partition: i32| partition % WRITTEN_STEP == 0;
    for topic in &topics {
        for partition in (0..PARTITIONS).filter(|partition| is_written(*partition)) {
            let records = Batch::of(["a record"]).encode();
            let request = produce(version, topic, partition, -1, Some(records));
            assert_eq!(produced(client.call(version, &request)).error_code, 0);
        }
    }
    for (appended, ends_by_kill) in (0..).zip([false, true]) {
        if ends_by_kill {
            broker.kill();
        } else {
            assert!(broker.terminate().success());
        }
        broker.restart();
        // Not even those that recovery has read: nobody has asked for them yet.
        assert_eq!(open_log_files(&broker), Vec::<PathBuf>::new(), "killed: {ends_by_kill}");
        let mut client = Client::connect(broker.kafka());
        for (number, topic) in topics.iter().enumerate() {
            let mut written: Vec<i64> =
                (0..PARTITIONS).map(|at| i64::from(is_written(at))).collect();
            if number == TOPICS - 1 {
                *written.last_mut().expect("a partition") += appended;
            }
            assert!(high_watermarks(&mut client, topic) == written, "killed: {ends_by_kill}");
        }
        // And they can be written to.
        let records = Batch::of(["another"]).encode();
        let request = produce(version, &topics[TOPICS - 1], PARTITIONS - 1, -1, Some(records));
        let answer = produced(client.call(version, &request));
        assert_eq!((answer.error_code, answer.base_offset), (0, appended));
        assert!(!open_log_files(&broker).is_empty(), "an open file is not seen");
    }
}
