//! The official Java producer and consumer at their default settings, newest 4.x and 3.9.

use std::io::Write;
use std::net::SocketAddr;

use crate::harness::{
    Finished, JVM_PATIENCE, PATIENCE, Program, Target, heavy, java, unique, until,
};
use crate::protocol::batch::Batch;
use crate::protocol::client::Client;
use crate::protocol::code;
use crate::protocol::requests::{Topic, append};

/// The topic and group `test` that the programs use by themselves; on a shared reference Kafka one
/// of this test's own.
fn topic(target: &Target) -> String {
    if target.is_reference() { unique("test") } else { "test".to_owned() }
}

#[track_caller]
pub fn produce(module: &str, broker: SocketAddr, topic: &str) -> Finished {
    let mut command = java(module, "Produce");
    command.args([&broker.to_string(), topic]);
    let _turn = heavy();
    Program::start("Produce", command).finish(JVM_PATIENCE).success()
}

#[track_caller]
fn consume(module: &str, broker: SocketAddr, topic: &str, count: usize) -> Finished {
    let mut command = java(module, "Consume");
    command.args([&broker.to_string(), &count.to_string(), topic]);
    let _turn = heavy();
    Program::start("Consume", command).finish(JVM_PATIENCE).success()
}

/// `partition offset key value`, as `Consume` prints each of `Produce`'s records.
fn records(offsets: std::ops::Range<usize>) -> Vec<String> {
    offsets.map(|offset| format!("0 {offset} key{0} value{0}", offset % 10)).collect()
}

#[track_caller]
fn produces_to_a_new_topic_and_consumes_in_order_over_restarts(module: &str) {
    let target = Target::start();
    let (broker, topic) = (target.kafka(), topic(&target));

    let produced = produce(module, broker, &topic);
    let acknowledged: Vec<String> = (0..10).map(|offset| format!("{topic}-0@{offset}")).collect();
    assert_eq!(produced.lines(), acknowledged);

    assert_eq!(consume(module, broker, &topic, 4).lines(), records(0..4));
    assert_eq!(consume(module, broker, &topic, 6).lines(), records(4..10));

    // What arrives while no consumer runs is read by the next one, and nothing before it.
    produce(module, broker, &topic);
    assert_eq!(consume(module, broker, &topic, 10).lines(), records(10..20));
}

#[test]
fn java_4_produces_to_a_new_topic_and_consumes_in_order_over_restarts() {
    produces_to_a_new_topic_and_consumes_in_order_over_restarts("clients");
}

#[test]
fn java_3_9_produces_to_a_new_topic_and_consumes_in_order_over_restarts() {
    produces_to_a_new_topic_and_consumes_in_order_over_restarts("clients-3.9");
}

#[test]
fn java_consumer_goes_on_where_it_stopped_after_the_broker_was_killed() {
    let mut target = Target::start();
    let (address, topic) = (target.kafka(), topic(&target));
    produce("clients", address, &topic);
    assert_eq!(consume("clients", address, &topic, 7).lines(), records(0..7));

    if let Some(broker) = target.ottla() {
        broker.kill();
        broker.restart();
    }

    assert_eq!(consume("clients", address, &topic, 3).lines(), records(7..10));
}

/// One of Apache Kafka's own command-line tools.
#[track_caller]
fn tool(class: &str, broker: SocketAddr, arguments: &[&str]) -> Finished {
    let mut command = java("reference-kafka", class);
    command.args(["--bootstrap-server", &broker.to_string()]).args(arguments);
    let _turn = heavy();
    Program::start(class, command).finish(JVM_PATIENCE)
}

#[test]
fn java_kafka_configs_changes_a_topic_and_kafka_delete_records_cuts_it() {
    const CONFIGS: &str = "kafka.admin.ConfigCommand";
    const DELETE_RECORDS: &str = "org.apache.kafka.tools.DeleteRecordsCommand";
    let target = Target::start();
    let (broker, topic) = (target.kafka(), unique("tools"));
    produce("clients", broker, &topic);
    let entity = ["--entity-type", "topics", "--entity-name", &topic];
    let alter = |change: [&str; 2]| {
        tool(CONFIGS, broker, &[&["--alter"], &entity[..], &change[..]].concat())
    };
    alter(["--add-config", "cleanup.policy=[delete,compact],max.message.bytes=2000"]).success();
    alter(["--delete-config", "cleanup.policy"]).success();
    let described = tool(CONFIGS, broker, &[&["--describe"], &entity[..]].concat()).success();
    let synonyms = "synonyms={DYNAMIC_TOPIC_CONFIG:max.message.bytes=2000, DEFAULT_CONFIG:message.max.bytes=1048588}";
    assert!(described.stdout.contains(synonyms), "{}", described.stdout);
    assert!(!described.stdout.contains("cleanup.policy"), "{}", described.stdout);
    let refused = alter(["--add-config", "retention.ms=soon"]);
    assert!(!refused.status.success());

    let mut offsets = tempfile::NamedTempFile::new().expect("a temporary file");
    let partition = format!(r#"{{"topic":"{topic}","partition":0,"offset":4}}"#);
    let json = format!(r#"{{"version":1,"partitions":[{partition}]}}"#);
    offsets.write_all(json.as_bytes()).expect("room for a line");
    let file = offsets.path().to_str().expect("a path in UTF-8");
    let deleted = tool(DELETE_RECORDS, broker, &["--offset-json-file", file]).success();
    assert!(deleted.stdout.contains("low_watermark: 4"), "{}", deleted.stdout);
    assert_eq!(consume("clients", broker, &topic, 6).lines(), records(4..10));
}

#[test]
fn java_kafka_topics_describes_a_topic_by_its_id() {
    const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
    let target = Target::start();
    let (broker, topic) = (target.kafka(), unique("tools"));
    let create = ["--create", "--topic", &topic, "--partitions", "2"];
    tool(TOPICS, broker, &create).success();
    let by_name = tool(TOPICS, broker, &["--describe", "--topic", &topic]).success();
    let words: Vec<_> = by_name.stdout.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "TopicId:").expect("its id is told");
    // The admin client sends the id with an empty name.
    let by_id = tool(TOPICS, broker, &["--describe", "--topic-id", words[at + 1]]).success();
    // Behind the first line, the other request says nothing of eligible leader replicas.
    assert_eq!(by_id.stdout.lines().next(), by_name.stdout.lines().next());
    assert_eq!(by_id.stdout.lines().count(), 3, "{}", by_id.stdout);
}

/// Raises the largest batch of a running broker, which a topic that is written follows at once.
#[test]
fn java_kafka_configs_changes_a_running_broker() {
    const CONFIGS: &str = "kafka.admin.ConfigCommand";
    const CLUSTER: &[&str] = &["--entity-default"];
    const OWN: &[&str] = &["--entity-name", "1"];
    let mut target = Target::start_alone();
    let broker = target.kafka();
    let run = |entity: &[&str], what: &[&str]| {
        tool(CONFIGS, broker, &[&["--entity-type", "brokers"], entity, what].concat())
    };
    let shown = |entity: &[&str], line: &str| {
        until("the broker's configs", JVM_PATIENCE, || {
            let described = run(entity, &["--describe"]).success().stdout;
            if described.contains(line) { Ok(()) } else { Err(format!("no {line} in {described}")) }
        });
    };
    let mut client = Client::connect(broker);
    let topic = Topic::create(&mut client);
    let large = Batch::of_size(1_500_000);
    let until_answer = |client: &mut Client, expected: i16| {
        until("the new bound", PATIENCE, || {
            let (error, _) = append(client, &topic, &large);
            if error == expected { Ok(()) } else { Err(format!("error {error}")) }
        });
    };
    until_answer(&mut client, code::MESSAGE_TOO_LARGE);
    let pairs = "message.max.bytes=2000000,log.cleaner.delete.retention.ms=7";
    run(CLUSTER, &["--alter", "--add-config", pairs]).success();
    until_answer(&mut client, code::NONE);
    let of_cluster = "DYNAMIC_DEFAULT_BROKER_CONFIG:message.max.bytes=2000000";
    shown(CLUSTER, &format!("message.max.bytes=2000000 sensitive=false synonyms={{{of_cluster}}}"));

    // The broker's own beats the cluster's, also after a restart.
    run(OWN, &["--alter", "--add-config", "message.max.bytes=1200000"]).success();
    until_answer(&mut client, code::MESSAGE_TOO_LARGE);
    if let Some(broker) = target.ottla() {
        broker.kill();
        broker.restart();
        client = Client::connect(broker.kafka());
        until_answer(&mut client, code::MESSAGE_TOO_LARGE);
    }
    let own = "DYNAMIC_BROKER_CONFIG:message.max.bytes=1200000";
    let default = "DEFAULT_CONFIG:message.max.bytes=1048588";
    shown(
        OWN,
        &format!(
            "message.max.bytes=1200000 sensitive=false synonyms={{{own}, {of_cluster}, {default}}}"
        ),
    );

    for wrong in ["num.partitions=2", "message.max.bytes=many"] {
        assert!(!run(CLUSTER, &["--alter", "--add-config", wrong]).status.success(), "{wrong}");
    }
    let names = "message.max.bytes,log.cleaner.delete.retention.ms";
    run(CLUSTER, &["--alter", "--delete-config", names]).success();
    run(OWN, &["--alter", "--delete-config", "message.max.bytes"]).success();
    until_answer(&mut client, code::MESSAGE_TOO_LARGE);
    let described = run(OWN, &["--describe"]).success().stdout;
    assert!(!described.contains("message.max.bytes"), "{described}");
}
