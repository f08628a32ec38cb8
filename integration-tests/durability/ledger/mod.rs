//! The ledger: producers write down what the broker acknowledged, the broker is killed at random
//! moments, and in the end all that was acknowledged is there: once (from producers without an id
//! at least once), in order, at its offset, with its bytes.
//!
//! `scripts/ledger --kills 10000` is the same for as long as one likes.

pub mod chapter;
mod committer;
pub mod gate;
mod latest;
pub mod producer;
pub mod reader;
mod trimmed;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use chapter::Tally;

use super::{Random, from_environment, seed};
use crate::harness::{Broker, Options, PATIENCE, Program};

/// Kills in the usual run; the goal is two hundred.
const KILLS: u64 = 210;
/// Kills after which a chapter's topic is compared as a whole and a new one begun, so that a long
/// run needs no more memory and disk than a short one.
const KILLS_IN_A_CHAPTER_MAX: u64 = 105;
/// Brokers at work: while one starts, the other one is under load.
const LANES: u64 = 2;

#[test]
fn nothing_acknowledged_is_lost_doubled_or_moved_by_kill_9() {
    let seed = seed();
    let kills = from_environment("OTTLA_LEDGER_KILLS", KILLS);
    let lanes = from_environment("OTTLA_LEDGER_LANES", LANES).max(1);
    println!("seed {seed}, {kills} kills, {lanes} brokers");
    let (began, next) = (Instant::now(), AtomicU64::new(0));
    let total = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for lane in 0..lanes {
            let (total, next) = (&total, &next);
            scope.spawn(move || {
                lane_of_chapters(lane, seed, kills, next, |of_chapter| {
                    let mut total = total.lock().expect("no lane has failed");
                    *total += of_chapter;
                    let took = began.elapsed().as_secs();
                    println!(
                        "{:>5} of {kills} kills, {} records acknowledged, {} lost, {}:{:02}",
                        total.kills(),
                        total.records_acknowledged,
                        total.records_lost,
                        took / 60,
                        took % 60,
                    );
                });
            });
        }
    });
    let total = total.into_inner().expect("no lane has failed");
    println!("seed {seed}");
    for (name, count) in total.rows() {
        println!("{count:>12}  {name}");
    }
    assert_eq!(total.records_lost, 0);
    assert!(total.kills() >= kills, "{} of {kills} kills", total.kills());
    // Or the kills came between the requests and show nothing.
    assert!(total.batches_resent >= total.kills_under_load / 2, "{total:?}");
    assert!(total.records_compacted_away > total.records_with_keys / 4, "{total:?}");
    assert!(total.records_expired > 0 && total.trims_acknowledged > 0, "{total:?}");
    assert!(total.trims_interrupted > total.kills_under_load / 10, "{total:?}");
    assert!(total.records_witnessed > total.records_stored / 10, "{total:?}");
}

/// Chapters over one broker and its directory until, over all lanes, enough kills are begun.
fn lane_of_chapters(
    lane: u64,
    seed: u64,
    kills: u64,
    next: &AtomicU64,
    mut ended: impl FnMut(Tally),
) {
    // kill -9 leaves the page cache alone, so without syncing nothing may be lost either.
    let durability = if lane.is_multiple_of(2) { "disk" } else { "page-cache" };
    let options = Options::new()
        .set("durability", durability)
        .set("log.writer.threads", 1 + lane % 3)
        // The records carry a time long ago.
        .set("log.retention.ms", -1)
        .set("log.initial.task.delay.ms", 0)
        .set("log.retention.check.interval.ms", 5)
        .set("log.cleaner.backoff.ms", 20)
        // Small enough that many a kill meets the end of a segment, and the view its updates.
        .set("log.segment.bytes", 16 << 10);
    let mut broker = Keeping(Broker::start_with(options));
    let mut random = Random::stream(seed, lane);
    loop {
        let begun = next.fetch_add(KILLS_IN_A_CHAPTER_MAX, Ordering::Relaxed);
        let chapter = kills.saturating_sub(begun).min(KILLS_IN_A_CHAPTER_MAX);
        if chapter == 0 {
            break;
        }
        let mut moments = Random::new(random.next());
        ended(chapter::run(&mut broker.0, random.next(), |scene, tally| {
            scene.kill(&mut moments, chapter, tally);
        }));
    }
    assert!(broker.0.terminate().success());
    // What the clients saw is also what lies on the disk.
    let doctor = Broker::ottla([std::ffi::OsStr::new("doctor"), broker.0.data_dir().as_os_str()]);
    let examined = Program::start("ottla doctor", doctor).finish(PATIENCE * 4);
    assert_eq!(examined.status.code(), Some(0), "{examined:?}");
}

/// A broker whose directory is kept when the test fails and `OTTLA_KEEP` is set.
struct Keeping(Broker);

impl Drop for Keeping {
    fn drop(&mut self) {
        if thread::panicking() && std::env::var_os("OTTLA_KEEP").is_some() {
            eprintln!("the data directory is kept in {}", self.0.keep_folder().display());
        }
    }
}
