//! A producer over all lives of a broker, and its ledger: what it was promised.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use kafka_protocol::messages::ProduceRequest;

use super::gate::Gate;
use crate::durability::Random;
use crate::protocol::batch::{Batch, Codec, Record};
use crate::protocol::client::Client;
use crate::protocol::requests::{Topic, produce, produced};

/// Requests on the way at a time: within the five that a broker remembers of a producer.
const PIPELINE: usize = 4;
const BATCH_RECORDS_MAX: u64 = 5;
/// As many records may be stored and not acknowledged.
pub const OUTSTANDING_RECORDS_MAX: i64 = PIPELINE as i64 * BATCH_RECORDS_MAX as i64;
const VERSION: i16 = 13;

/// Who a producer is.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// No other producer of the chapter has it.
    pub tag: u64,
    pub partition: i32,
    pub acks: i16,
    /// Id and epoch of an idempotent one.
    pub id: Option<(i64, i16)>,
}

/// See the module's header.
pub struct Producer {
    pub role: Role,
    seed: u64,
    /// By batch: its first sequence number, and how often it was sent.
    batches: Vec<(i32, u32)>,
    next_sequence: i32,
    /// Sent when the connection broke and not acknowledged: to be sent again, in order.
    unanswered: VecDeque<usize>,
    /// Base offset and number of each acknowledged batch, in the order of the answers.
    ledger: Vec<(i64, usize)>,
    /// Batches that were sent again after a connection broke.
    pub resent: u64,
}

impl Producer {
    pub fn new(role: Role, seed: u64) -> Producer {
        Producer {
            role,
            seed,
            batches: Vec::new(),
            next_sequence: 0,
            unanswered: VecDeque::new(),
            ledger: Vec::new(),
            resent: 0,
        }
    }

    /// The values of a batch: made anew whenever they are needed, since all of them would not fit
    /// into memory in a long run. Nobody else has the same.
    pub fn values(&self, batch: usize) -> Vec<Vec<u8>> {
        let mut random = Random::stream(self.seed ^ self.role.tag, batch as u64);
        // Now and then one that fills most of a segment; it may not be larger than that.
        let size_max = if random.chance(5) { 3_000 } else { 700 };
        (0..1 + random.below(BATCH_RECORDS_MAX))
            .map(|at| {
                let mut value = format!("{}:{batch}:{at}:", self.role.tag).into_bytes();
                let size = random.index(size_max);
                value.extend(random.bytes(size));
                value
            })
            .collect()
    }

    fn encode(&self, batch: usize) -> bytes::Bytes {
        let codec = match Random::stream(self.seed, batch as u64).below(16) {
            0 => Codec::Gzip,
            1 => Codec::Snappy,
            2 => Codec::Lz4,
            3 => Codec::Zstd,
            _ => Codec::None,
        };
        let encoded = Batch::of(self.values(batch)).compressed(codec);
        match self.role.id {
            Some((id, epoch)) => encoded.by_producer(id, epoch, self.batches[batch].0),
            None => encoded,
        }
        .encode()
    }

    fn begin(&mut self) -> usize {
        let batch = self.batches.len();
        self.batches.push((self.next_sequence, 0));
        self.next_sequence += i32::try_from(self.values(batch).len()).expect("few values");
        batch
    }

    /// Produces through all lives of the broker until the gate says to settle and all is
    /// acknowledged. `acked` counts the answers.
    pub fn run(&mut self, broker: SocketAddr, topic: &Topic, gate: &Gate, acked: &AtomicU64) {
        let _guard = gate.guard();
        while let Some(life) = gate.wait() {
            if gate.is_settling() && self.unanswered.is_empty() {
                return;
            }
            let mut on_the_way = VecDeque::new();
            let ended = match Client::try_connect(broker) {
                Ok(client) => self.converse(client, topic, gate, life, acked, &mut on_the_way),
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                gate.broke(life, &error);
            }
            // What was on the way goes before what had not been sent again yet.
            for (_, batch) in on_the_way.into_iter().rev() {
                self.unanswered.push_front(batch);
            }
        }
    }

    fn converse(
        &mut self,
        mut client: Client,
        topic: &Topic,
        gate: &Gate,
        life: u64,
        acked: &AtomicU64,
        on_the_way: &mut VecDeque<(i32, usize)>,
    ) -> io::Result<()> {
        // Why nothing more can be sent: what was answered before can be read all the same.
        let mut closed = None;
        loop {
            let may_begin = !gate.is_settling() && gate.lives(life);
            let may_send = closed.is_none() && (may_begin || !self.unanswered.is_empty());
            if may_send && on_the_way.len() < PIPELINE {
                let batch = self.unanswered.pop_front().unwrap_or_else(|| self.begin());
                self.resent += u64::from(self.batches[batch].1 > 0);
                self.batches[batch].1 += 1;
                let records = Some(self.encode(batch));
                let Role { partition, acks, .. } = self.role;
                let request = produce(VERSION, topic, partition, acks, records);
                match client.try_send(VERSION, &request) {
                    Ok(correlation_id) => on_the_way.push_back((correlation_id, batch)),
                    Err(error) => {
                        self.unanswered.push_front(batch);
                        closed = Some(error);
                    }
                }
                continue;
            }
            let Some((correlation_id, batch)) = on_the_way.front().copied() else {
                return closed.map_or(Ok(()), Err);
            };
            let answer = client.try_receive::<ProduceRequest>(VERSION, correlation_id)?;
            let answer = produced(answer);
            if answer.error_code != 0 {
                // A broker that is being stopped may refuse. What it refused is sent again.
                let said = format!("error {} for batch {batch}", answer.error_code);
                return Err(io::Error::other(said));
            }
            on_the_way.pop_front();
            self.ledger.push((answer.base_offset, batch));
            acked.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many batches and records were acknowledged.
    pub fn acknowledged(&self) -> (usize, usize) {
        let records = self.ledger.iter().map(|(_, batch)| self.values(*batch).len());
        (self.ledger.len(), records.sum())
    }

    /// Compares the ledger with all that the partition holds, by offset from `start` on; returns
    /// how many acknowledged records are missing, and how many are there more often than once,
    /// which only a producer without an id may cause.
    #[track_caller]
    pub fn check(&self, start: i64, stored: &[Record]) -> (usize, usize) {
        let Role { tag, partition, id, .. } = self.role;
        let mut lost = 0;
        for (base, batch) in &self.ledger {
            for (offset, value) in (*base..).zip(self.values(*batch)) {
                // Below the start records were removed on purpose.
                let Ok(at) = usize::try_from(offset - start) else { continue };
                match stored.get(at) {
                    Some(record) if record.value == value[..] && record.offset == offset => {}
                    Some(record) => panic!(
                        "partition {partition}: offset {offset} was acknowledged for {} and holds {}",
                        name(&value),
                        name(&record.value)
                    ),
                    None => lost += 1,
                }
            }
        }
        let ordered = self.ledger.windows(2).all(|pair| pair[0].0 < pair[1].0);
        assert!(ordered, "producer {tag}: answers were not in the order of the offsets");
        let mine: Vec<(usize, usize, &Record)> = stored
            .iter()
            .filter_map(|record| {
                let (owner, batch, at) = parse(&record.value)?;
                (owner == tag).then_some((batch, at, record))
            })
            .collect();
        let mut copies = vec![0_u32; self.batches.len()];
        let mut last: Option<(usize, usize)> = None;
        for (batch, at, record) in &mine {
            let sent = self.batches.get(*batch).unwrap_or_else(|| panic!("{batch} was never sent"));
            let values = self.values(*batch);
            let value = values.get(*at).unwrap_or_else(|| panic!("{batch} has no record {at}"));
            assert!(record.value == value[..], "other bytes in {}", name(&record.value));
            if *at == 0 {
                copies[*batch] += 1;
                let times = copies[*batch];
                assert!(times <= sent.1, "{} is there {times} times", name(value));
            }
            // A batch is whole: its records follow one another.
            let follows = match last {
                Some((before, place)) if *at > 0 => before == *batch && place + 1 == *at,
                // A log may start in the middle of a batch.
                _ => *at == 0 || record.offset == start,
            };
            assert!(follows, "{} does not follow its batch's beginning", name(value));
            last = Some((*batch, *at));
        }
        if id.is_some() {
            // Everything that it sent was acknowledged in the end: it is there once, in order.
            let batches: Vec<usize> =
                mine.iter().filter(|(_, at, _)| *at == 0).map(|(batch, _, _)| *batch).collect();
            let acknowledged: Vec<usize> = self.ledger.iter().map(|(_, batch)| *batch).collect();
            let sent: Vec<usize> = (0..self.batches.len()).collect();
            assert!(acknowledged == sent, "producer {tag}: not each batch acknowledged in order");
            let removed = self.ledger.iter().take_while(|(base, _)| *base < start).count();
            assert!(batches == sent[removed..], "producer {tag}: not each batch once, in order");
        }
        (lost, copies.iter().filter(|copies| **copies > 1).count())
    }
}

/// A value's producer, batch and place in it.
fn parse(value: &[u8]) -> Option<(u64, usize, usize)> {
    let mut parts = value.split(|byte| *byte == b':');
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
    let (tag, batch, at) = (number()?, number()?, number()?);
    Some((tag, usize::try_from(batch).ok()?, usize::try_from(at).ok()?))
}

/// The readable beginning of a value.
fn name(value: &[u8]) -> String {
    let end = value.iter().enumerate().filter(|(_, byte)| **byte == b':').nth(2);
    String::from_utf8_lossy(&value[..end.map_or(value.len().min(24), |(at, _)| at)]).into_owned()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use bytes::Bytes;

    use super::*;

    /// A producer with four acknowledged batches, and a partition that holds them.
    fn kept(id: Option<(i64, i16)>) -> (Producer, Vec<Record>) {
        let mut producer = Producer::new(Role { tag: 3, partition: 0, acks: -1, id }, 9);
        let mut stored = Vec::new();
        for _ in 0..4 {
            let batch = producer.begin();
            producer.batches[batch].1 = 1;
            producer.ledger.push((stored.len() as i64, batch));
            store(&producer, batch, &mut stored);
        }
        (producer, stored)
    }

    fn store(producer: &Producer, batch: usize, stored: &mut Vec<Record>) {
        for value in producer.values(batch) {
            let offset = stored.len() as i64;
            stored.push(Record { offset, timestamp: 0, value: value.into() });
        }
    }

    fn is_found(producer: &Producer, stored: &[Record]) -> bool {
        is_found_from(producer, 0, stored)
    }

    fn is_found_from(producer: &Producer, start: i64, stored: &[Record]) -> bool {
        catch_unwind(AssertUnwindSafe(|| producer.check(start, stored))).is_err()
    }

    #[test]
    fn the_ledger_finds_what_is_lost_altered_moved_or_doubled() {
        for id in [None, Some((1, 0))] {
            let (producer, stored) = kept(id);
            assert_eq!(producer.check(0, &stored), (0, 0));

            let (mut last_lost, mut altered, mut moved) =
                (stored.clone(), stored.clone(), stored.clone());
            last_lost.pop();
            if id.is_none() {
                assert_eq!(producer.check(0, &last_lost), (1, 0));
            }
            let mut bytes = altered[2].value.to_vec();
            *bytes.last_mut().expect("a value") ^= 1;
            altered[2].value = Bytes::from(bytes);
            assert!(is_found(&producer, &altered));
            let value = moved[1].value.clone();
            moved[1].value = std::mem::replace(&mut moved[2].value, value);
            assert!(is_found(&producer, &moved));
            // The same from the middle of the second batch on.
            let start = producer.ledger[1].0 + 1;
            let from_start = stored[start as usize..].to_vec();
            assert_eq!(producer.check(start, &from_start), (0, 0));
            assert!(is_found_from(&producer, start, &from_start[1..]));
            // Sent once, there twice.
            let mut doubled = stored.clone();
            store(&producer, 3, &mut doubled);
            assert!(is_found(&producer, &doubled));
        }
    }

    #[test]
    fn a_batch_sent_twice_may_be_there_twice_unless_its_producer_has_an_id() {
        for id in [None, Some((1, 0))] {
            let (mut producer, mut stored) = kept(id);
            producer.batches[3].1 = 2;
            store(&producer, 3, &mut stored);
            assert_eq!(is_found(&producer, &stored), id.is_some());
        }
    }
}
