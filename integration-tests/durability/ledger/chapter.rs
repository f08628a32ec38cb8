//! A chapter: one topic, its producers and readers, and kills until there were enough of them. At
//! its end everything is read and compared.

use std::fs;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::committer::Committer;
use super::gate::Gate;
use super::latest::Keyed;
use super::producer::{Producer, Role};
use super::reader::{Reader, Witness};
use super::trimmed::Trimmed;
use crate::durability::Random;
use crate::harness::{Broker, PATIENCE, until};
use crate::protocol::client::Client;
use crate::protocol::requests::{Topic, new_producer, read_partition};

const PARTITIONS: i32 = 4;

/// What was done and what was found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub kills_under_load: u64,
    pub kills_in_start: u64,
    pub kills_in_stop: u64,
    pub views_deleted: u64,
    pub batches_acknowledged: u64,
    pub records_acknowledged: u64,
    pub batches_resent: u64,
    pub records_stored: u64,
    pub records_witnessed: u64,
    pub offsets_committed: u64,
    pub records_with_keys: u64,
    pub records_compacted_away: u64,
    pub trims_acknowledged: u64,
    pub trims_interrupted: u64,
    pub records_trimmed: u64,
    pub records_expired: u64,
    pub batches_doubled: u64,
    pub records_lost: u64,
}

impl Tally {
    pub fn kills(&self) -> u64 {
        self.kills_under_load + self.kills_in_start + self.kills_in_stop
    }

    /// The rows of the summary.
    pub fn rows(&self) -> [(&'static str, u64); 19] {
        [
            ("kills", self.kills()),
            ("  under load", self.kills_under_load),
            ("  during start and recovery", self.kills_in_start),
            ("  during stop", self.kills_in_stop),
            ("views deleted", self.views_deleted),
            ("batches acknowledged", self.batches_acknowledged),
            ("records acknowledged", self.records_acknowledged),
            ("batches sent again", self.batches_resent),
            ("batches stored twice (producers without an id)", self.batches_doubled),
            ("records stored", self.records_stored),
            ("records seen by readers meanwhile", self.records_witnessed),
            ("offsets committed", self.offsets_committed),
            ("records acknowledged in compacted topics", self.records_with_keys),
            ("  compacted away", self.records_compacted_away),
            ("deletions of a log's beginning acknowledged", self.trims_acknowledged),
            ("  interrupted by a kill", self.trims_interrupted),
            ("records below a log's start", self.records_trimmed),
            ("  by retention alone", self.records_expired),
            ("records lost", self.records_lost),
        ]
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.kills_under_load += other.kills_under_load;
        self.kills_in_start += other.kills_in_start;
        self.kills_in_stop += other.kills_in_stop;
        self.views_deleted += other.views_deleted;
        self.batches_acknowledged += other.batches_acknowledged;
        self.records_acknowledged += other.records_acknowledged;
        self.batches_resent += other.batches_resent;
        self.records_stored += other.records_stored;
        self.records_witnessed += other.records_witnessed;
        self.offsets_committed += other.offsets_committed;
        self.records_with_keys += other.records_with_keys;
        self.records_compacted_away += other.records_compacted_away;
        self.trims_acknowledged += other.trims_acknowledged;
        self.trims_interrupted += other.trims_interrupted;
        self.records_trimmed += other.records_trimmed;
        self.records_expired += other.records_expired;
        self.batches_doubled += other.batches_doubled;
        self.records_lost += other.records_lost;
    }
}

/// Ends `broker`, which runs, as often as `faults` does while clients work on a topic of their own,
/// and compares what is there in the end with what they were promised.
#[track_caller]
pub fn run(
    broker: &mut Broker,
    seed: u64,
    faults: impl FnOnce(&mut Scene<'_>, &mut Tally),
) -> Tally {
    let mut client = Client::connect(broker.kafka());
    let topic = Topic::create_with(&mut client, PARTITIONS);
    // Two producers for each partition: idempotent, patient for acks=all and content with acks=1.
    let mut producers: Vec<Producer> = (0..)
        .zip([(-1, true), (-1, true), (1, false), (-1, false), (1, true), (-1, false), (1, false)])
        .map(|(tag, (acks, is_idempotent))| {
            let id = is_idempotent.then(|| new_producer(&mut client));
            let partition = i32::try_from(tag).expect("few producers") % PARTITIONS;
            Producer::new(Role { tag, partition, acks, id }, seed)
        })
        .collect();
    let mut keyed = Keyed::new(&mut client, seed);
    let mut trimmed = Trimmed::new(&mut client, seed);
    drop(client);
    let mut readers: Vec<Reader> = (0..2)
        .map(|at: i8| Reader::new(at, PARTITIONS, Random::stream(seed, 100 + at as u64)))
        .collect();
    let mut committer = Committer::default();
    let witness = Witness::new(PARTITIONS);
    let (gate, acked) = (Gate::default(), AtomicU64::new(0));
    let mut tally = Tally::default();
    let address = broker.kafka();
    thread::scope(|scope| {
        let _guard = gate.guard();
        let Trimmed { topic: shrinking, producers: of_shrinking, trimmer } = &mut trimmed;
        let shrinking = &*shrinking;
        let working: Vec<_> = producers
            .iter_mut()
            .map(|producer| (producer, &topic))
            .chain(of_shrinking.iter_mut().map(|producer| (producer, shrinking)))
            .map(|(producer, topic)| {
                let (gate, acked) = (&gate, &acked);
                scope.spawn(move || producer.run(address, topic, gate, acked))
            })
            .collect();
        scope.spawn(|| trimmer.run(address, shrinking, &gate));
        for reader in &mut readers {
            let (topic, gate, witness) = (&topic, &gate, &witness);
            scope.spawn(move || reader.run(address, topic, gate, witness));
        }
        let keeping = scope.spawn(|| keyed.run(address, &gate));
        scope.spawn(|| committer.run(address, &topic, &gate));
        gate.open();
        let start_took = Duration::from_millis(100);
        faults(&mut Scene { broker, gate: &gate, acked: &acked, start_took }, &mut tally);
        gate.settle();
        until("every batch to be acknowledged", PATIENCE * 2, || {
            let left = working.iter().filter(|worker| !worker.is_finished()).count();
            if left == 0 && keeping.is_finished() {
                Ok(())
            } else {
                Err(format!("{left} producers are not done"))
            }
        });
        gate.end();
    });
    let mut client = Client::connect(broker.kafka());
    for partition in 0..PARTITIONS {
        let stored = read_partition(&mut client, &topic, partition, 0);
        tally.records_witnessed += witness.read(partition) as u64;
        assert!(stored.len() >= witness.read(partition), "partition {partition} has shrunk");
        witness.see(partition, 0, &stored);
        for producer in producers.iter().filter(|producer| producer.role.partition == partition) {
            let (lost, doubled) = producer.check(0, &stored);
            let (batches, records) = producer.acknowledged();
            tally.batches_acknowledged += batches as u64;
            tally.records_acknowledged += records as u64;
            tally.batches_resent += producer.resent;
            tally.batches_doubled += doubled as u64;
            tally.records_lost += lost as u64;
        }
        tally.records_stored += stored.len() as u64;
    }
    trimmed.finish(&mut client, &mut tally);
    let (with_keys, kept) = keyed.finish(&mut client);
    tally.records_with_keys += with_keys;
    tally.records_compacted_away += with_keys - kept;
    tally.offsets_committed += committer.acknowledged().unsigned_abs();
    tally
}

/// A broker with clients at work.
pub struct Scene<'a> {
    broker: &'a mut Broker,
    gate: &'a Gate,
    acked: &'a AtomicU64,
    /// How long the last start took, to choose moments within one.
    start_took: Duration,
}

impl Scene<'_> {
    /// kill -9, `kills` times or once more, at moments of all kinds. Leaves the broker running.
    pub fn kill(&mut self, random: &mut Random, kills: u64, tally: &mut Tally) {
        while tally.kills() < kills {
            // The moment is a number of answers, not a time, and then a little more.
            self.wait_for_answers(1 + random.below(40));
            thread::sleep(Duration::from_micros(random.below(6_000)));
            self.gate.close();
            if random.chance(10) {
                self.broker.ask_to_stop();
                thread::sleep(Duration::from_micros(random.below(20_000)));
                tally.kills_in_stop += u64::from(self.broker.kill());
            } else {
                tally.kills_under_load += u64::from(self.broker.kill());
            }
            // A rebuild takes longer than a recovery, so a kill during it is the more likely.
            if random.chance(10) {
                fs::remove_dir_all(self.broker.data_dir().join("view")).expect("there is a view");
                tally.views_deleted += 1;
            }
            while random.chance(50) {
                let moment = self.start_took.mul_f64(random.below(1_200) as f64 / 1_000.0);
                self.broker.begin();
                thread::sleep(moment);
                tally.kills_in_start += u64::from(self.broker.kill());
            }
            self.restart();
        }
    }

    /// SIGTERM under load, and a start.
    #[track_caller]
    pub fn stop(&mut self, random: &mut Random, limit: Duration) {
        self.wait_for_answers(1 + random.below(40));
        thread::sleep(Duration::from_micros(random.below(6_000)));
        self.gate.close();
        let status = self.broker.terminate_within(limit);
        assert_eq!(status.code(), Some(0));
        self.restart();
    }

    fn restart(&mut self) {
        let began = Instant::now();
        self.broker.restart();
        self.start_took = began.elapsed();
        self.gate.open();
    }

    fn wait_for_answers(&self, count: u64) {
        let enough = self.acked.load(Ordering::Relaxed) + count;
        until("enough acknowledged batches", PATIENCE, || {
            assert!(!self.gate.is_over(), "a client of the chapter has failed");
            let batches = self.acked.load(Ordering::Relaxed);
            if batches >= enough { Ok(()) } else { Err(format!("{batches} of {enough}")) }
        });
    }
}
