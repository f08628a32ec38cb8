//! SIGTERM under load: requests in flight are answered, the stop is bounded and clean, and offsets
//! and groups are there afterwards.

use std::time::Duration;

use super::ledger::chapter;
use super::{Random, seed};
use crate::harness::{Broker, Options};

/// `OTTLA_STOPS` in a longer run.
const STOPS: u64 = 100;
/// What a stop may take: connections have ten seconds, jobs and logs their own bounds.
const STOP_TIME_MAX: Duration = Duration::from_secs(25);

#[test]
fn sigterm_under_load_ends_with_0_answers_what_it_carried_out_and_keeps_everything() {
    let stops = super::from_environment("OTTLA_STOPS", STOPS);
    let seed = seed();
    println!("seed {seed}");
    let options = Options::new().set("log.segment.bytes", 16 << 10).set("log.retention.ms", -1);
    let mut broker = Broker::start_with(options);
    let mut random = Random::stream(seed, 7);
    let tally = chapter::run(&mut broker, seed, |scene, _| {
        for _ in 0..stops {
            scene.stop(&mut random, STOP_TIME_MAX);
        }
    });
    println!("{stops} stops, {tally:?}");
    assert_eq!(tally.records_lost, 0);
    // A batch that was carried out was answered, too: or a producer without an id, which sends
    // what was not answered again, would have made a second one.
    assert_eq!(tally.batches_doubled, 0);
    assert_eq!(tally.records_stored, tally.records_acknowledged);
    assert!(tally.offsets_committed > 0);
    let log = broker.log();
    assert!(!log.contains("connections were cut"), "requests were given up");
    assert!(!log.contains("torn"), "a clean stop left a torn tail");
}
