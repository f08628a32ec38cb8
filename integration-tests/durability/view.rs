//! sled's directory lost, cut and overwritten at random places, also while it is being rebuilt: the
//! broker starts, with the same topics, records, offsets and groups.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::{Random, from_environment, seed};
use crate::crash::{files, filled_with, see};
use crate::harness::Options;
use crate::protocol::batch::Batch;
use crate::protocol::client::Client;
use crate::protocol::requests::{append, new_producer};

/// `OTTLA_VIEWS` in a longer run.
const VIEWS: u64 = 40;

/// Does something to the view; says what.
fn damage(view: &Path, random: &mut Random) -> String {
    let files = if view.is_dir() { files(view) } else { Vec::new() };
    // Nothing is left to be damaged but the place itself.
    if files.is_empty() || random.chance(10) {
        return displace(view, random);
    }
    let file = files[random.index(files.len())].clone();
    let mut bytes = fs::read(&file).expect("a file of the view");
    let length = bytes.len();
    let at = random.index(length + 1);
    let what = match random.below(7) {
        0 => {
            fs::remove_file(&file).expect("a file of the view");
            return format!("{} was removed", name(&file));
        }
        1 => {
            bytes.truncate(at);
            format!("was cut at byte {at} of {length}")
        }
        2 => {
            let more = 1 + random.index(5_000);
            let noise = random.bytes(more);
            bytes.extend(noise);
            format!("has {more} bytes of noise behind it")
        }
        3 => {
            let flips = 1 + random.index(20);
            for _ in 0..flips.min(length) {
                let place = random.index(length);
                bytes[place] ^= 1 << random.below(8);
            }
            format!("has {flips} bits flipped")
        }
        4 => {
            let end = at + random.index(length - at + 1);
            let noise = random.bytes(end - at);
            bytes[at..end].copy_from_slice(&noise);
            format!("has noise in bytes {at}..{end}")
        }
        5 => {
            let end = at + random.index(length - at + 1);
            bytes[at..end].fill(0);
            format!("has zeros in bytes {at}..{end}")
        }
        _ => {
            let other = &files[random.index(files.len())];
            bytes = fs::read(other).expect("a file of the view");
            format!("was replaced by {}", name(other))
        }
    };
    fs::write(&file, bytes).expect("a file of the view");
    format!("{} {what}", name(&file))
}

fn displace(view: &Path, random: &mut Random) -> String {
    if view.is_dir() {
        fs::remove_dir_all(view).expect("a view");
    } else if view.exists() {
        fs::remove_file(view).expect("what is in the view's place");
    }
    match random.below(3) {
        0 => "the view was deleted".to_owned(),
        1 => {
            fs::create_dir(view).expect("an empty folder");
            "the view was emptied".to_owned()
        }
        _ => {
            let length = random.index(100);
            fs::write(view, random.bytes(length)).expect("a file");
            "the view was replaced by a file".to_owned()
        }
    }
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let place: PathBuf = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &place);
        } else {
            fs::copy(entry.path(), place).expect("a copied file");
        }
    }
}

#[test]
fn whatever_happens_to_the_view_at_rest_or_in_a_rebuild_the_broker_starts_with_all_it_had() {
    let seed = seed();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let options = Options::new().set("log.segment.bytes", 700_000).set("log.retention.ms", -1);
    let (mut broker, topics, before, (id, epoch)) = filled_with(options);
    let data_dir = broker.data_dir();
    let pristine = broker.folder().join("pristine");
    copy(&data_dir, &pristine);
    let mut killed = 0;
    for round in 0..from_environment("OTTLA_VIEWS", VIEWS) {
        fs::remove_dir_all(&data_dir).expect("the data directory");
        copy(&pristine, &data_dir);
        let view = data_dir.join("view");
        let mut story = vec![damage(&view, &mut random)];
        while random.chance(40) {
            story.push(damage(&view, &mut random));
        }
        // Ended in the middle of a start, and damaged once more.
        while random.chance(40) {
            broker.begin();
            thread::sleep(Duration::from_micros(random.below(120_000)));
            killed += u64::from(broker.kill());
            story.push("killed while starting".to_owned());
            if random.chance(60) {
                story.push(damage(&view, &mut random));
            }
        }
        let told = format!("round {round}: {}", story.join(", "));
        broker.begin();
        if let Err(reason) = broker.ready() {
            panic!("{told}: the broker does not start: {reason}");
        }
        assert!(see(&broker, &topics) == before, "{told}");
        let mut client = Client::connect(broker.kafka());
        for topic in &topics[1..] {
            let again = Batch::of([format!("{}-9", topic.name)]).by_producer(id, epoch, 9);
            assert_eq!(append(&mut client, topic, &again), (0, 9), "{told}");
        }
        assert!(new_producer(&mut client).0 > id, "{told}");
        // The view that was made is one that the next start can use, after either end.
        if random.chance(50) {
            broker.kill();
        } else {
            assert!(broker.terminate().success(), "{told}");
        }
        if random.chance(30) {
            broker.restart();
            assert!(see(&broker, &topics) == before, "{told}, and another start");
            broker.kill();
        }
    }
    println!("{killed} kills in the middle of a start");
}
