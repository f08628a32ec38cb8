//! A topic that loses its beginning all the time, by retention and by DeleteRecords: a start that was
//! shown or acknowledged never goes back, offsets are never given again, and everything acknowledged
//! from the start on is there.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use kafka_protocol::messages::{DeleteRecordsRequest, FetchRequest, ListOffsetsRequest};

use super::chapter::Tally;
use super::gate::Gate;
use super::producer::{OUTSTANDING_RECORDS_MAX, Producer, Role};
use crate::durability::Random;
use crate::protocol::batch::{Record, read};
use crate::protocol::client::Client;
use crate::protocol::code;
use crate::protocol::requests::{
    Topic, delete_records, fetch, fetched, list_offsets, new_producer,
};

/// What retention leaves: more than all that a producer may have to send again, or the broker could
/// not know it as sent before.
const RETENTION_BYTES: usize = 64 << 10;

/// Of this one the caller deletes all that may not have to be sent again.
const DELETED: i32 = 0;
/// This one is retention's alone.
const RETAINED: i32 = 1;
/// Of this one the caller deletes everything.
const EMPTIED: i32 = 2;
const PARTITIONS: i32 = 3;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const HIGH_WATERMARK: i64 = -1;
const FETCH_VERSION: i16 = 13;
const LIST_VERSION: i16 = 7;
const DELETE_VERSION: i16 = 2;

/// See the module's header.
pub struct Trimmed {
    pub topic: Topic,
    pub producers: Vec<Producer>,
    pub trimmer: Trimmer,
}

/// Who deletes, and what is known of the starts of the partitions.
pub struct Trimmer {
    random: Random,
    /// Where each partition was last seen to start: never below that again.
    starts: [i64; PARTITIONS as usize],
    /// The highest offset below which records of `DELETED` may have been deleted on request.
    asked: i64,
    sent: u64,
    acknowledged: u64,
}

impl Trimmed {
    #[track_caller]
    pub fn new(client: &mut Client, seed: u64) -> Trimmed {
        let configs = [("retention.bytes", &*RETENTION_BYTES.to_string())];
        let topic = Topic::create_configured(client, PARTITIONS, &configs);
        let producers = (0..PARTITIONS)
            .map(|partition| {
                let tag = 100 + u64::from(partition.unsigned_abs());
                let id = (partition == DELETED).then(|| new_producer(client));
                Producer::new(Role { tag, partition, acks: -1, id }, seed)
            })
            .collect();
        let trimmer = Trimmer {
            random: Random::stream(seed, 300),
            starts: [0; PARTITIONS as usize],
            asked: 0,
            sent: 0,
            acknowledged: 0,
        };
        Trimmed { topic, producers, trimmer }
    }

    /// The last look, when nothing more is sent.
    #[track_caller]
    pub fn finish(&mut self, client: &mut Client, tally: &mut Tally) {
        for producer in &self.producers {
            let partition = producer.role.partition;
            let (start, stored) = read_all(client, &self.topic, partition);
            self.trimmer.see(partition, start);
            for (offset, record) in (start..).zip(&stored) {
                assert_eq!(record.offset, offset, "partition {partition} skips an offset");
            }
            let (lost, doubled) = producer.check(start, &stored);
            tally.records_lost += lost as u64;
            tally.batches_doubled += doubled as u64;
            tally.batches_resent += producer.resent;
            tally.records_trimmed += start.unsigned_abs();
            if partition == RETAINED {
                tally.records_expired += start.unsigned_abs();
            }
            // What a request did not ask for went by retention, which leaves this much.
            let by_retention = match partition {
                DELETED => start > self.trimmer.asked,
                RETAINED => start > 0,
                _ => false,
            };
            // A record takes less than a hundred bytes besides its value, also with its header.
            let bytes: usize = stored.iter().map(|record| record.value.len() + 100).sum();
            assert!(
                !by_retention || bytes >= RETENTION_BYTES,
                "retention has left {bytes} bytes in partition {partition}"
            );
        }
        tally.trims_acknowledged += self.trimmer.acknowledged;
        tally.trims_interrupted += self.trimmer.sent - self.trimmer.acknowledged;
    }
}

impl Trimmer {
    /// Deletes through all lives of the broker until the gate says that all is over.
    pub fn run(&mut self, broker: SocketAddr, topic: &Topic, gate: &Gate) {
        let _guard = gate.guard();
        while let Some(life) = gate.wait() {
            let ended = Client::try_connect(broker)
                .and_then(|mut client| self.converse(&mut client, topic, gate, life));
            if let Err(error) = ended {
                gate.broke(life, &error);
            }
        }
    }

    fn converse(
        &mut self,
        client: &mut Client,
        topic: &Topic,
        gate: &Gate,
        life: u64,
    ) -> io::Result<()> {
        for partition in 0..PARTITIONS {
            self.see(partition, list(client, topic, partition, EARLIEST)?);
        }
        while gate.lives(life) && !gate.is_over() {
            let end = list(client, topic, DELETED, LATEST)?;
            let (start, most) = (self.starts[0], end - OUTSTANDING_RECORDS_MAX);
            assert!(end >= start, "the log that starts at {start} ends at {end}");
            if let Ok(room) = u64::try_from(most - start) {
                let offset = start + self.random.below(room + 1).cast_signed();
                self.asked = self.asked.max(offset);
                self.delete(client, topic, DELETED, offset)?;
            }
            self.delete(client, topic, EMPTIED, HIGH_WATERMARK)?;
            self.see(RETAINED, list(client, topic, RETAINED, EARLIEST)?);
            // Or nothing but deletions would be under way.
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn delete(
        &mut self,
        client: &mut Client,
        topic: &Topic,
        partition: i32,
        offset: i64,
    ) -> io::Result<()> {
        let request = delete_records(&topic.name, partition, offset);
        self.sent += 1;
        let mut answer = client.try_call::<DeleteRecordsRequest>(DELETE_VERSION, &request)?;
        let answer = answer.topics.remove(0).partitions.remove(0);
        if answer.error_code != code::NONE {
            return Err(io::Error::other(format!("error {} of DeleteRecords", answer.error_code)));
        }
        assert!(answer.low_watermark >= offset, "partition {partition}: {answer:?}");
        self.see(partition, answer.low_watermark);
        self.acknowledged += 1;
        Ok(())
    }

    #[track_caller]
    fn see(&mut self, partition: i32, start: i64) {
        let seen = &mut self.starts[usize::try_from(partition).expect("a partition")];
        assert!(start >= *seen, "partition {partition} started at {seen} and starts at {start}");
        *seen = start;
    }
}

fn list(client: &mut Client, topic: &Topic, partition: i32, timestamp: i64) -> io::Result<i64> {
    let request = list_offsets(topic, partition, timestamp);
    let mut answer = client.try_call::<ListOffsetsRequest>(LIST_VERSION, &request)?;
    let answer = answer.topics.remove(0).partitions.remove(0);
    match answer.error_code {
        code::NONE => Ok(answer.offset),
        error => Err(io::Error::other(format!("error {error} of ListOffsets"))),
    }
}

/// Where a partition starts and all that it holds, at one moment: retention may still be at work.
#[track_caller]
fn read_all(client: &mut Client, topic: &Topic, partition: i32) -> (i64, Vec<Record>) {
    'anew: loop {
        let start = list(client, topic, partition, EARLIEST).expect("a start");
        let (mut offset, mut records) = (start, Vec::new());
        loop {
            let request = fetch(FETCH_VERSION, topic, partition, offset);
            let answer = fetched(client.call::<FetchRequest>(FETCH_VERSION, &request));
            if answer.error_code == code::OFFSET_OUT_OF_RANGE {
                continue 'anew;
            }
            assert_eq!(answer.error_code, code::NONE, "partition {partition} at {offset}");
            let mut found = read(answer.records.unwrap_or_default());
            found.retain(|record| record.offset >= offset);
            let Some(last) = found.last() else {
                assert!(offset >= answer.high_watermark, "an empty answer before the end");
                return (start, records);
            };
            offset = last.offset + 1;
            records.append(&mut found);
        }
    }
}
