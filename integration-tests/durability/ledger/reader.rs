//! A reader over all lives of a broker. What anybody has read must stay as it was read.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::FetchPartition;

use super::gate::Gate;
use crate::durability::Random;
use crate::protocol::batch::{self, Record};
use crate::protocol::client::Client;
use crate::protocol::requests::{Topic, fetch_topic};

const VERSION: i16 = 13;

/// What has been read of each partition, by offset: a digest of timestamp and value.
pub struct Witness {
    partitions: Vec<Mutex<Vec<u64>>>,
}

impl Witness {
    pub fn new(partitions: i32) -> Witness {
        Witness { partitions: (0..partitions).map(|_| Mutex::default()).collect() }
    }

    /// Compares records that begin at `position` with what was read there before.
    #[track_caller]
    pub fn see(&self, partition: i32, position: i64, records: &[Record]) {
        let place = usize::try_from(partition).expect("a partition");
        let mut seen = self.partitions[place].lock().unwrap_or_else(PoisonError::into_inner);
        for (expected, record) in (position..).zip(records) {
            assert_eq!(record.offset, expected, "partition {partition} skips or repeats an offset");
            let at = usize::try_from(expected).expect("an offset");
            match seen.get(at) {
                Some(before) => assert_eq!(
                    digest(record),
                    *before,
                    "partition {partition}: offset {expected} reads differently than before"
                ),
                None => {
                    // Another reader may be ahead, never a hole between.
                    assert_eq!(seen.len(), at, "partition {partition}");
                    seen.push(digest(record));
                }
            }
        }
    }

    /// How many records of a partition somebody has read.
    pub fn read(&self, partition: i32) -> usize {
        let place = usize::try_from(partition).expect("a partition");
        self.partitions[place].lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn digest(record: &Record) -> u64 {
    let mut hasher = DefaultHasher::new();
    (record.offset, record.timestamp, &record.value[..]).hash(&mut hasher);
    hasher.finish()
}

/// See the module's header.
pub struct Reader {
    /// 0 reads all that is published, 1 stops at the last stable offset.
    pub isolation: i8,
    /// Where it reads on, by partition.
    positions: Vec<i64>,
    random: Random,
}

impl Reader {
    pub fn new(isolation: i8, partitions: i32, random: Random) -> Reader {
        Reader { isolation, positions: (0..partitions).map(|_| 0).collect(), random }
    }

    /// Reads every partition through all lives of the broker until the gate says that all is over.
    pub fn run(&mut self, broker: SocketAddr, topic: &Topic, gate: &Gate, witness: &Witness) {
        let _guard = gate.guard();
        while let Some(life) = gate.wait() {
            // Sometimes a long way back: what lies in old segments is found by the index.
            for position in &mut self.positions {
                if *position > 0 && self.random.chance(20) {
                    *position = self.random.below(position.unsigned_abs()).cast_signed();
                }
            }
            let ended = Client::try_connect(broker)
                .and_then(|client| self.converse(client, topic, gate, life, witness));
            if let Err(error) = ended {
                gate.broke(life, &error);
            }
        }
    }

    fn converse(
        &mut self,
        mut client: Client,
        topic: &Topic,
        gate: &Gate,
        life: u64,
        witness: &Witness,
    ) -> io::Result<()> {
        while gate.lives(life) && !gate.is_over() {
            let answer = client.try_call(VERSION, &self.request(topic))?;
            assert_eq!(answer.error_code, 0);
            for of_partition in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
                let partition = of_partition.partition_index;
                let position = &mut self.positions[usize::try_from(partition).expect("a number")];
                let reading = format!("partition {partition} at {position}");
                assert_eq!(of_partition.error_code, 0, "{reading}");
                let high_watermark = of_partition.high_watermark;
                // What was shown to a reader once is there for good.
                assert!(high_watermark >= *position, "{reading}: the end is {high_watermark}");
                assert_eq!(of_partition.last_stable_offset, high_watermark, "{reading}");
                let mut records = batch::read(of_partition.records.unwrap_or_default());
                records.retain(|record| record.offset >= *position);
                witness.see(partition, *position, &records);
                if let Some(last) = records.last() {
                    assert!(last.offset < high_watermark, "{reading}: more than was published");
                    *position = last.offset + 1;
                }
            }
        }
        Ok(())
    }

    fn request(&mut self, topic: &Topic) -> FetchRequest {
        let partitions = (0..)
            .zip(&self.positions)
            .map(|(partition, position)| {
                FetchPartition::default()
                    .with_partition(partition)
                    .with_fetch_offset(*position)
                    .with_partition_max_bytes(64 << 10)
            })
            .collect();
        FetchRequest::default()
            .with_max_wait_ms(50)
            .with_min_bytes(1)
            .with_max_bytes(1 << 20)
            .with_isolation_level(self.isolation)
            .with_session_epoch(-1)
            .with_topics(vec![fetch_topic(VERSION, topic, partitions)])
    }
}
