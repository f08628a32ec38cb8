//! A Flink job with Flink's own Kafka connector, in Flink's local mini-cluster.

use crate::clients_java::produce;
use crate::clients_kcat::consume_all;
use crate::harness::{JVM_PATIENCE, Program, Target, heavy, java, unique};

#[test]
fn flink_reads_a_topic_prints_it_and_writes_it_to_another_topic() {
    let target = Target::start();
    let topic = if target.is_reference() { unique("test") } else { "test".to_owned() };
    produce("clients", target.kafka(), &topic);

    let mut command = java("flink", "FlinkCopy");
    command.args([&target.kafka().to_string(), &topic, "--bounded"]);
    let printed = {
        let _turn = heavy();
        Program::start("FlinkCopy", command).finish(JVM_PATIENCE).success()
    };

    let values: Vec<String> = (0..10).map(|number| format!("value{number}")).collect();
    assert_eq!(printed.lines(), values);
    let copied = consume_all(target.kafka(), &format!("{topic}-copy"), "%s\n");
    assert_eq!(copied.lines(), values);
}
