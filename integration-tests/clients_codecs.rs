//! Topics with a `compression.type` of their own: what clients write uncompressed or under another
//! codec is stored under the topic's, and every client reads it.

use std::net::SocketAddr;

use crate::clients_kcat::{consume_all, produce, stored_codecs};
use crate::harness::{JVM_PATIENCE, PATIENCE, Program, Target, heavy, java, python};
use crate::protocol::batch::Codec;
use crate::protocol::client::Client;
use crate::protocol::requests::Topic;

/// Keys and values: short ones, one of which most is a repetition at every distance and that fills
/// several blocks of each codec, one that hardly any codec makes smaller, and a last short one.
fn records(prefix: &str) -> Vec<(String, String)> {
    let mut state = 0x9e37_79b9_u32;
    let mut letter = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'A' + (state >> 24) as u8 % 57)
    };
    let noise: String = std::iter::repeat_with(&mut letter).take(150_000).collect();
    let long: String = (0..400).map(|n| format!("{} {} ", &noise[n..n * 7], n % 10)).collect();
    let short = (0..200).map(|n| format!("value {n}"));
    let values = short.chain([long, noise, "last".to_owned()]);
    values.enumerate().map(|(n, value)| (format!("{prefix}{n}"), value)).collect()
}

fn lines(records: &[(String, String)]) -> String {
    records.iter().map(|(key, value)| format!("{key}:{value}\n")).collect()
}

/// Produces `input` with confluent-kafka under `codec`, then reads the whole topic with it.
#[track_caller]
fn append_and_read_with_python(
    broker: SocketAddr,
    topic: &str,
    codec: &str,
    input: &str,
) -> Vec<String> {
    let mut command = python("append_and_read.py");
    command.args([&broker.to_string(), topic, codec]);
    let read = Program::start_with_input("append_and_read.py", command, input.as_bytes())
        .finish(3 * PATIENCE)
        .success();
    read.lines().into_iter().map(String::from).collect()
}

#[track_caller]
fn read_with_java(broker: SocketAddr, topic: &str, count: usize) -> Vec<String> {
    let mut command = java("clients", "Consume");
    command.args([&broker.to_string(), &count.to_string(), topic]);
    let _turn = heavy();
    let consumed = Program::start("Consume", command).finish(JVM_PATIENCE).success();
    consumed.lines().into_iter().map(String::from).collect()
}

/// kcat sends uncompressed, confluent-kafka under `sent`.
#[track_caller]
fn every_client_reads_what_is_stored_under(name: &str, codec: Codec, sent: &str) {
    let target = Target::start();
    let broker = target.kafka();
    let configs = [("compression.type", name)];
    let topic = Topic::create_configured(&mut Client::connect(broker), 1, &configs).name;
    let (first, second) = (records("kcat"), records("python"));
    let all = first.iter().chain(&second).enumerate();
    let expected: Vec<String> =
        all.map(|(offset, (key, value))| format!("0 {offset} {key} {value}")).collect();

    produce(broker, &topic, &["-K:", "-z", "none"], &lines(&first));
    let python = append_and_read_with_python(broker, &topic, sent, &lines(&second));
    same("confluent-kafka", &python, &expected);
    let codecs = stored_codecs(broker, &topic);
    assert!(codecs.len() > 1 && codecs.iter().all(|found| *found == codec as u8), "{codecs:?}");
    same("kcat", &consume_all(broker, &topic, "%p %o %k %s\n").lines(), &expected);
    same("Java", &read_with_java(broker, &topic, expected.len()), &expected);
}

/// Says what differs first, cut short: some lines are long.
#[track_caller]
fn same(reader: &str, found: &[impl AsRef<str>], expected: &[String]) {
    assert_eq!(found.len(), expected.len(), "records that {reader} read");
    for (found, expected) in found.iter().zip(expected) {
        let found = found.as_ref();
        assert!(
            found == expected,
            "{reader} read {} bytes, {found:.60}, for {}, {expected:.60}",
            found.len(),
            expected.len()
        );
    }
}

#[test]
fn every_client_reads_what_is_stored_with_gzip() {
    every_client_reads_what_is_stored_under("gzip", Codec::Gzip, "lz4");
}

#[test]
fn every_client_reads_what_is_stored_with_snappy() {
    every_client_reads_what_is_stored_under("snappy", Codec::Snappy, "zstd");
}

#[test]
fn every_client_reads_what_is_stored_with_lz4() {
    every_client_reads_what_is_stored_under("lz4", Codec::Lz4, "snappy");
}

#[test]
fn every_client_reads_what_is_stored_with_zstd() {
    every_client_reads_what_is_stored_under("zstd", Codec::Zstd, "gzip");
}

#[test]
fn every_client_reads_what_is_stored_uncompressed() {
    every_client_reads_what_is_stored_under("uncompressed", Codec::None, "lz4");
}
