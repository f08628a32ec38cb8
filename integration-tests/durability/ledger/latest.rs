//! A compacted topic: whatever the cleaner removes meanwhile, and however often it is killed, the
//! newest record of each key is there, and what is there lies where it was acknowledged.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use kafka_protocol::messages::{FetchRequest, ProduceRequest};

use super::gate::Gate;
use crate::durability::Random;
use crate::protocol::batch::{self, Batch, Record};
use crate::protocol::client::Client;
use crate::protocol::requests::{Topic, fetch, fetched, new_producer, produce, produced};

const KEYS: u64 = 20;
const VERSION: i16 = 13;

/// A new topic of one partition that keeps the newest record of each key.
#[track_caller]
pub fn compacted_topic(client: &mut Client) -> Topic {
    let configs = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.2")];
    Topic::create_configured(client, 1, &configs)
}

/// The only producer of such a topic, which also reads it from the beginning again and again.
pub struct Keyed {
    topic: Topic,
    producer: (i64, i16),
    seed: u64,
    /// Base offset and first sequence number of each acknowledged batch; the next one may be there.
    acknowledged: Vec<(i64, i32)>,
    next_sequence: i32,
    /// The newest acknowledged batch of each key, and the record's place in it.
    newest: Vec<Option<(usize, usize)>>,
}

impl Keyed {
    #[track_caller]
    pub fn new(client: &mut Client, seed: u64) -> Keyed {
        Keyed {
            topic: compacted_topic(client),
            producer: new_producer(client),
            seed,
            acknowledged: Vec::new(),
            next_sequence: 0,
            newest: vec![None; KEYS as usize],
        }
    }

    /// Keys and values of a batch: made anew whenever they are needed.
    fn records(&self, batch: usize) -> Vec<(u64, Vec<u8>)> {
        let mut random = Random::stream(self.seed ^ 0x6b65_7973, batch as u64);
        (0..1 + random.below(12))
            .map(|at| {
                let key = random.below(KEYS);
                let mut value = format!("{batch}:{at}:").into_bytes();
                let size = random.index(900);
                value.extend(random.bytes(size));
                (key, value)
            })
            .collect()
    }

    fn encode(&self, batch: usize) -> Bytes {
        let records = self.records(batch);
        let mut encoded = Batch::of(records.iter().map(|(_, value)| value));
        for (record, (key, _)) in encoded.records.iter_mut().zip(&records) {
            record.1 = format!("key-{key}").into();
        }
        encoded.by_producer(self.producer.0, self.producer.1, self.next_sequence).encode()
    }

    /// Works through all lives of the broker until nothing new is to be sent and all is
    /// acknowledged.
    pub fn run(&mut self, broker: SocketAddr, gate: &Gate) {
        let _guard = gate.guard();
        while let Some(life) = gate.wait() {
            if gate.is_settling() {
                return;
            }
            let ended = Client::try_connect(broker)
                .and_then(|mut client| self.converse(&mut client, gate, life));
            if let Err(error) = ended {
                gate.broke(life, &error);
            }
        }
    }

    fn converse(&mut self, client: &mut Client, gate: &Gate, life: u64) -> io::Result<()> {
        while gate.lives(life) && !gate.is_settling() {
            for _ in 0..10 {
                self.append(client)?;
            }
            self.read(client)?;
        }
        Ok(())
    }

    /// Sends the next batch, again if it was sent before.
    fn append(&mut self, client: &mut Client) -> io::Result<()> {
        let batch = self.acknowledged.len();
        let request = produce(VERSION, &self.topic, 0, -1, Some(self.encode(batch)));
        let answer = produced(client.try_call::<ProduceRequest>(VERSION, &request)?);
        if answer.error_code != 0 {
            return Err(io::Error::other(format!("error {} for {batch}", answer.error_code)));
        }
        let records = self.records(batch);
        let last = self.acknowledged.last().map_or(-1, |(base, _)| *base);
        assert!(answer.base_offset > last, "offset {} was given again", answer.base_offset);
        self.acknowledged.push((answer.base_offset, self.next_sequence));
        self.next_sequence += i32::try_from(records.len()).expect("few records");
        for (at, (key, _)) in records.iter().enumerate() {
            self.newest[usize::try_from(*key).expect("a key")] = Some((batch, at));
        }
        Ok(())
    }

    /// Reads the topic from its beginning to its end, and compares; returns how many records are
    /// there, and the end.
    fn read(&self, client: &mut Client) -> io::Result<(usize, i64)> {
        let mut there = BTreeSet::new();
        let (mut offset, mut end) = (0, 1);
        while offset < end {
            let request = fetch(VERSION, &self.topic, 0, offset);
            let answer = fetched(client.try_call::<FetchRequest>(VERSION, &request)?);
            assert_eq!(answer.error_code, 0, "the compacted topic at {offset}");
            end = answer.high_watermark;
            let bytes = answer.records.unwrap_or_default();
            let next = batch::next_offset(&bytes).unwrap_or(end);
            for record in batch::read(bytes).iter().filter(|record| record.offset >= offset) {
                there.insert(self.check(record));
            }
            assert!(next > offset || end == 0, "no way on from {offset} to {end}");
            offset = next;
        }
        for (key, newest) in self.newest.iter().enumerate() {
            let Some(newest) = newest else { continue };
            let pending = self.acknowledged.len();
            let newer = there.iter().rev().take_while(|found| found.0 >= pending);
            let is_superseded = newer.clone().any(|(batch, at)| {
                self.records(*batch).get(*at).is_some_and(|(of, _)| *of == key as u64)
            });
            assert!(
                there.contains(newest) || is_superseded,
                "the newest record of key {key}, {newest:?}, is not there"
            );
        }
        Ok((there.len(), end))
    }

    /// Compares one record with what was sent; returns its batch and its place in it.
    #[track_caller]
    fn check(&self, record: &Record) -> (usize, usize) {
        let mut parts = record.value.split(|byte| *byte == b':');
        let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<usize>().ok();
        let (batch, at) = (number().expect("a batch"), number().expect("a place"));
        let sent = self.records(batch);
        assert!(batch <= self.acknowledged.len(), "batch {batch} was never sent");
        assert!(record.value == sent[at].1[..], "other bytes at offset {}", record.offset);
        if let Some((base, _)) = self.acknowledged.get(batch) {
            let expected = base + i64::try_from(at).expect("few records");
            assert_eq!(record.offset, expected, "batch {batch} has moved");
        }
        (batch, at)
    }

    /// The last look, when all is quiet: how many records were acknowledged, are there, and how
    /// many offsets were given.
    #[track_caller]
    pub fn finish(&mut self, client: &mut Client) -> (u64, u64) {
        // What may be pending is sent once more, so that nothing is in doubt.
        self.append(client).expect("an acknowledged batch");
        let (there, end) = self.read(client).expect("a readable topic");
        assert_eq!(end, i64::from(self.next_sequence), "each record was stored once");
        (end.unsigned_abs(), there as u64)
    }
}
