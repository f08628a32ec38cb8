//! What a person gets wrong: a clear error that names the thing and the next step, exit code 1, and
//! nothing changed or lost.

use std::fs;
use std::path::Path;

use crate::harness::{Broker, Finished, Options, PATIENCE, Program, sql};
use crate::protocol::batch::Batch;
use crate::protocol::client::Client;
use crate::protocol::requests::{Topic, append, read_from};

/// Runs `ottla` until it ends.
#[track_caller]
fn ottla(arguments: &[&str]) -> Finished {
    Program::start("ottla", Broker::ottla(arguments)).finish(PATIENCE)
}

/// `ottla serve` on free ports with more arguments.
#[track_caller]
fn serve(data_dir: &Path, more: &[&str]) -> Finished {
    let data_dir = data_dir.to_str().expect("a path in UTF-8");
    let mut arguments = vec!["serve", "--data-dir", data_dir];
    for (flag, address) in [("--kafka-listen", "127.0.0.1:0"), ("--http-listen", "127.0.0.1:0")] {
        if !more.contains(&flag) {
            arguments.extend([flag, address]);
        }
    }
    arguments.extend(more);
    ottla(&arguments)
}

/// It ended with 1, printed nothing to stdout, and one line on stderr holds all of `words`.
#[track_caller]
fn refused(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    assert!(!finished.stdout.contains("ready"), "{finished:?}");
    let says_so =
        |line: &str| line.starts_with("ottla: ") && words.iter().all(|word| line.contains(word));
    let count = finished.stderr.lines().filter(|line| says_so(line)).count();
    assert_eq!(count, 1, "no line says {words:?}: {}", finished.stderr);
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
}

#[test]
fn a_port_in_use_is_named_and_no_directory_is_made() {
    let broker = Broker::start();
    let data_dir = broker.folder().join("second");
    for (flag, config, address) in [
        ("--kafka-listen", "kafka.listen", broker.kafka()),
        ("--http-listen", "http.listen", broker.http()),
    ] {
        let finished = serve(&data_dir, &[flag, &address.to_string()]);
        refused(&finished, &["in use", &address.port().to_string(), config, flag]);
        assert!(!data_dir.exists(), "a start that failed left {}", data_dir.display());
    }
    Client::connect(broker.kafka()).api_versions();
}

#[test]
fn a_directory_that_cannot_be_made_or_written_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    fs::write(&file, b"mine").expect("a file");
    // Permissions do not stop root, so: a file where a directory should be, and a file system that
    // takes no directories.
    for path in [file.clone(), file.join("below"), "/proc/ottla".into()] {
        let finished = serve(&path, &[]);
        refused(&finished, &[&path.display().to_string(), "--data-dir"]);
    }
    assert_eq!(fs::read(&file).expect("the file"), b"mine");
}

#[test]
fn a_foreign_directory_is_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("thesis.txt"), b"mine").expect("a file");
    let name = folder.path().display().to_string();
    refused(&serve(folder.path(), &[]), &[&name, "not made by Ottla", "--data-dir"]);
    refused(&ottla(&["doctor", &name]), &[&name, "not made by Ottla"]);
    let left: Vec<_> = fs::read_dir(folder.path()).expect("the folder").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(fs::read(left[0].path()).expect("the file"), b"mine");
}

#[test]
fn a_directory_in_use_stays_with_the_process_that_has_it() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.kafka());
    let topic = Topic::create(&mut client);
    assert_eq!(append(&mut client, &topic, &Batch::of(["before"])), (0, 0));
    let data_dir = broker.data_dir();
    let finished = serve(&data_dir, &[]);
    refused(&finished, &[&data_dir.display().to_string(), "in use by another process"]);
    assert_eq!(append(&mut client, &topic, &Batch::of(["after"])), (0, 1));
    assert_eq!(read_from(&mut client, &topic, 0).len(), 2);
}

#[test]
fn a_directory_of_a_newer_version_is_left_as_it_is() {
    let mut broker = Broker::start();
    assert!(broker.terminate().success());
    let identity = broker.data_dir().join("ottla.toml");
    let written = fs::read_to_string(&identity).expect("the directory's identity");
    let is_format = |line: &&str| line.starts_with("format = ");
    let format = written.lines().find(is_format).expect("the directory's format");
    let newer = written.replace(format, "format = 99");
    fs::write(&identity, &newer).expect("the directory's identity");
    let finished = serve(&broker.data_dir(), &[]);
    refused(&finished, &["format 99", "run a newer Ottla"]);
    assert_eq!(fs::read_to_string(&identity).expect("the directory's identity"), newer);
    fs::write(&identity, &written).expect("the directory's identity");
    broker.restart();
}

#[test]
fn a_directory_with_a_damaged_identity_is_refused_by_name() {
    let mut broker = Broker::start();
    assert!(broker.terminate().success());
    let identity = broker.data_dir().join("ottla.toml");
    for damaged in ["", "format = ", "cluster_id = 7\n", "\u{0}\u{0}\u{0}"] {
        fs::write(&identity, damaged).expect("the directory's identity");
        refused(&serve(&broker.data_dir(), &[]), &["ottla.toml"]);
        assert_eq!(fs::read_to_string(&identity).expect("the identity"), damaged);
    }
}

#[test]
fn a_wrong_config_key_is_named_with_the_nearest_right_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data_dir = folder.path().join("data");
    refused(
        &serve(&data_dir, &["--set", "num.partition=4"]),
        &["'num.partition'", "did you mean 'num.partitions'"],
    );
    refused(
        &serve(&data_dir, &["--set", "mesage.max.byte=4"]),
        &["'mesage.max.byte'", "did you mean 'message.max.bytes'"],
    );
    refused(&serve(&data_dir, &["--set", "num.partitions"]), &["num.partitions", "key=value"]);
    let file = folder.path().join("ottla.toml");
    let name = file.to_str().expect("a path in UTF-8");
    fs::write(&file, "num.partitions = 3\nlog.segment.byte = 5\n").expect("a config file");
    refused(
        &serve(&data_dir, &["--config", name]),
        &[name, "line 2", "'log.segment.byte'", "did you mean 'log.segment.bytes'"],
    );
    fs::write(&file, "num.partitions = = 3\n").expect("a config file");
    refused(&serve(&data_dir, &["--config", name]), &[name, "line 1"]);
    let absent = format!("{name}.absent");
    refused(&serve(&data_dir, &["--config", &absent]), &[&absent]);
    assert!(!data_dir.exists());
}

#[test]
fn a_wrong_config_value_is_named_with_what_it_may_be() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data_dir = folder.path().join("data");
    for (setting, words) in [
        ("num.partitions=many", ["'num.partitions'", "'many'", "whole number"]),
        ("num.partitions=0", ["'num.partitions'", "'0'", "from 1"]),
        ("num.partitions=-1", ["'num.partitions'", "'-1'", "from 1"]),
        ("durability=maybe", ["'durability'", "'maybe'", "page-cache"]),
        ("auto.create.topics.enable=2", ["'auto.create.topics.enable'", "'2'", "true"]),
    ] {
        refused(&serve(&data_dir, &["--set", setting]), &words);
    }
    let finished = serve(&data_dir, &["--kafka-listen", "nowhere"]);
    refused(&finished, &["--kafka-listen", "'nowhere'", "127.0.0.1:9092"]);
    assert!(!data_dir.exists());
}

#[test]
fn a_command_line_that_does_not_parse_ends_with_2() {
    for arguments in [&["sevre"][..], &["serve", "--data"], &["sql", "-e"], &["doctor"]] {
        let finished = ottla(arguments);
        assert_eq!(finished.status.code(), Some(2), "{finished:?}");
        assert!(finished.stderr.contains("Usage") || finished.stderr.contains("--help"));
    }
}

/// Two tables: `clicks` over a topic that is there, `counts` over one of its own.
const TABLES: &str = "CREATE TABLE clicks (page STRING, n INT) WITH ('connector' = 'kafka', \
                      'topic' = 'clicks', 'format' = 'json', \
                      'scan.startup.mode' = 'earliest-offset');
CREATE TABLE counts (page STRING, n INT) WITH ('connector' = 'kafka', 'topic' = 'counts', \
                      'format' = 'json');";

#[track_caller]
fn statement(broker: &Broker, statement: &str) -> Finished {
    let mut command = sql(broker);
    command.args(["-e", statement]);
    Program::start("ottla sql", command).finish(PATIENCE)
}

#[test]
fn sql_that_cannot_be_planned_names_its_place() {
    let broker = Broker::start_with(Options::new().set("auto.create.topics.enable", false));
    let mut client = Client::connect(broker.kafka());
    let topic = Topic::create_named(&mut client, "clicks", 1);
    assert_eq!(append(&mut client, &topic, &Batch::of([r#"{"page":"a","n":1}"#])), (0, 0));
    let cases: [(&str, &[&str]); 8] = [
        ("SELEC 1", &["'SELEC'", "line 1", "column 1", "did you mean 'SELECT'"]),
        ("INSERT INTO counts\nSELECT page n FROM WHERE clicks", &["line 2"]),
        (
            "INSERT INTO counts SELECT page, n FROM clicks WHERE (n > 1",
            &["expected: )", "line 1", "column 59"],
        ),
        ("INSERT INTO counts\nSELECT * FROM nowhere", &["table 'nowhere'", "line 2", "column 15"]),
        (
            "INSERT INTO clickz SELECT * FROM clicks",
            &["'clickz'", "line 1", "column 13", "did you mean 'clicks'"],
        ),
        (
            "INSERT INTO counts\n  SELECT pag, n FROM clicks",
            &["column 'pag'", "line 2", "column 10", "did you mean 'page'"],
        ),
        ("INSERT INTO counts SELECT UPPER(n, n) FROM clicks", &["line 1"]),
        ("INSERT INTO counts SELECT page FROM clicks", &["column"]),
    ];
    for (wrong, words) in cases {
        let finished = statement(&broker, &format!("{TABLES}\n{wrong}"));
        assert_eq!(finished.status.code(), Some(1), "{wrong}: {finished:?}");
        for word in words {
            assert!(finished.stderr.contains(word), "{wrong}: '{word}' in {}", finished.stderr);
        }
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    }
    let unknown_topic = TABLES.replace("'topic' = 'clicks'", "'topic' = 'click'");
    let finished =
        statement(&broker, &format!("{unknown_topic}\nINSERT INTO counts SELECT * FROM clicks"));
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    for word in ["table 'clicks'", "topic 'click'", "line 1", "column 34"] {
        assert!(finished.stderr.contains(word), "'{word}' in {}", finished.stderr);
    }
    // Nothing was started and nothing was written.
    let jobs = ottla(&["job", "list", "--url", &format!("http://{}", broker.http())]).success();
    assert!(!jobs.stdout.contains("INSERT") && !jobs.stdout.contains("RUNNING"), "{jobs:?}");
    assert_eq!(read_from(&mut client, &topic, 0).len(), 1);
}

#[test]
fn without_a_broker_the_command_line_says_how_to_get_one() {
    let url = "http://127.0.0.1:1";
    for arguments in [
        &["sql", "--url", url, "-e", "SHOW TABLES"][..],
        &["job", "list", "--url", url],
        &["job", "cancel", "0", "--url", url],
    ] {
        refused(&ottla(arguments), &["no broker answers", url, "ottla serve"]);
    }
    let broker = Broker::start();
    let url = format!("http://{}", broker.http());
    refused(&ottla(&["job", "show", "nope", "--url", &url]), &["'nope'", "ottla job list"]);
    refused(&ottla(&["sql", "--url", &url, "-f", "absent.sql"]), &["absent.sql"]);
    refused(&ottla(&["doctor", "absent"]), &["absent"]);
}
