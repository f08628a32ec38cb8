//! Clients that leave in the middle of a request or an answer: no byte of one topic is ever stored
//! in, or served from, another.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use kafka_protocol::messages::ProduceRequest;

use super::{Random, from_environment, seed};
use crate::harness::{Broker, Options};
use crate::protocol::batch::{self, Batch, Codec, Record};
use crate::protocol::client::{Client, request_frame};
use crate::protocol::requests::{Topic, fetch, fetched, produce, produced, read_partition};

const TOPICS: usize = 6;
const CLIENTS: u64 = 6;
/// What each client does; `OTTLA_CANCELS` in a longer run.
const CANCELS: u64 = 250;

/// Every byte says which topic it belongs to.
fn payload(topic: usize, random: &mut Random) -> Vec<u8> {
    let size_max = if random.chance(10) { 200_000 } else { 3_000 };
    let length = 1 + random.index(size_max);
    vec![tag(topic); length]
}

fn tag(topic: usize) -> u8 {
    b'A' + u8::try_from(topic).expect("few topics")
}

#[track_caller]
fn belong(topic: usize, records: &[Record]) {
    for record in records {
        let stranger = record.value.iter().find(|byte| **byte != tag(topic));
        assert_eq!(stranger, None, "topic {topic} holds a foreign byte at {}", record.offset);
    }
}

/// One client's life; returns how many records were acknowledged, by topic.
fn live(address: SocketAddr, topics: &[Topic], mut random: Random, steps: u64) -> [u64; TOPICS] {
    const PRODUCE: i16 = 13;
    const FETCH: i16 = 13;
    let mut acknowledged = [0; TOPICS];
    let mut client = Client::connect(address);
    for _ in 0..steps {
        let at = random.index(TOPICS);
        let topic = &topics[at];
        let codec = [Codec::None, Codec::None, Codec::Lz4, Codec::Zstd][random.index(4)];
        let values = [payload(at, &mut random), payload(at, &mut random)];
        let records = Some(Batch::of(values).compressed(codec).encode());
        let request = produce(PRODUCE, topic, 0, [1, -1][random.index(2)], records);
        let frame = request_frame(PRODUCE, 7, &request);
        let length = i32::try_from(frame.len()).expect("a short frame").to_be_bytes();
        let whole = [&length[..], &frame].concat();
        match random.below(8) {
            // Leaves in the middle of a request, sometimes before all of its length is there.
            0 | 1 => {
                let sent = random.index(whole.len());
                // The broker reads; that it may close first is fine.
                let _ = client.send_bytes(&whole[..sent]);
                client = Client::connect(address);
            }
            // Leaves after a request, before its answer.
            2 => {
                let _ = client.send_bytes(&whole);
                client = Client::connect(address);
            }
            // Leaves in the middle of an answer.
            3 => {
                for _ in 0..1 + random.below(4) {
                    client.send(FETCH, &fetch(FETCH, topic, 0, 0));
                }
                client.set_patience(Duration::from_millis(1 + random.below(5)));
                let _ = client.read_frame();
                client = Client::connect(address);
            }
            4 | 5 => {
                let answer = produced(client.call::<ProduceRequest>(PRODUCE, &request));
                assert_eq!(answer.error_code, 0);
                acknowledged[at] += 2;
            }
            _ => {
                let from = random.below(acknowledged[at] + 1).cast_signed();
                let answer = fetched(client.call(FETCH, &fetch(FETCH, topic, 0, from)));
                assert_eq!(answer.error_code, 0);
                belong(at, &batch::read(answer.records.unwrap_or_default()));
            }
        }
    }
    acknowledged
}

#[test]
fn no_byte_of_another_topic_is_ever_stored_or_served_however_clients_leave() {
    let seed = seed();
    let cancels = from_environment("OTTLA_CANCELS", CANCELS);
    println!("seed {seed}");
    let broker = Broker::start_with(Options::new().set("log.retention.ms", -1));
    let mut client = Client::connect(broker.kafka());
    let topics: Vec<Topic> = (0..TOPICS).map(|_| Topic::create(&mut client)).collect();
    let acknowledged: Vec<[u64; TOPICS]> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (random, topics) = (Random::stream(seed, number), &topics);
                let address = broker.kafka();
                scope.spawn(move || live(address, topics, random, cancels))
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client's thread")).collect()
    });
    for (at, topic) in topics.iter().enumerate() {
        let records = read_partition(&mut client, topic, 0, 0);
        belong(at, &records);
        let promised: u64 = acknowledged.iter().map(|by_topic| by_topic[at]).sum();
        assert!(promised > 0 && records.len() as u64 >= promised, "{promised} promised");
    }
    assert!(!broker.log().contains("panicked"));
}
