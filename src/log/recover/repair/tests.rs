//! Damaged directories and what a repair makes of them.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::log::data_dir::DataDir;
use crate::log::format::batch::NewRecord;
use crate::store::{LogSnapshot, LogUpdate, Store};
use crate::types::{PartitionId, TopicId};

const SEGMENTS: u64 = 3;
const BATCHES: u64 = 3;
const RECORDS: u64 = 2;

fn log() -> LogId {
    LogId { topic: TopicId(Uuid::from_u128(5)), partition: PartitionId(4) }
}

fn a_batch(base: u64) -> Vec<u8> {
    let record = |at: u64| NewRecord {
        value: Some(format!("value {:02}", base + at).into()),
        ..NewRecord::default()
    };
    let records: Vec<NewRecord> = (0..RECORDS).map(record).collect();
    let mut bytes = batch::encode(&records, None).to_vec();
    batch::patch(&mut bytes, Offset::new(base), LeaderEpoch(7));
    bytes
}

/// A stopped broker's directory: three segments of three batches of two records.
struct Directory {
    dir: TempDir,
}

impl Directory {
    fn new() -> Directory {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        let directory = Directory { dir };
        directory.reset();
        directory
    }

    /// Makes the log whole as on its first day.
    fn reset(&self) {
        let directory = self;
        fs::remove_dir_all(directory.log_dir()).ok();
        fs::create_dir_all(directory.log_dir()).unwrap();
        for segment in 0..SEGMENTS {
            let base = segment * BATCHES * RECORDS;
            let bytes: Vec<u8> = (0..BATCHES).flat_map(|at| a_batch(base + at * RECORDS)).collect();
            fs::write(directory.segment(base), bytes).unwrap();
        }
    }

    fn log_dir(&self) -> PathBuf {
        self.dir.path().join("logs").join(log().to_string())
    }

    fn segment(&self, base: u64) -> PathBuf {
        self.log_dir().join(format!("{base:020}.log"))
    }

    fn with<T>(&self, look: impl FnOnce(&AtRest) -> T) -> T {
        look(&AtRest::open(&DataDir::inspect(self.dir.path()).unwrap()).unwrap())
    }

    fn repair(&self) -> Vec<Mended> {
        self.with(|logs| logs.repair(log(), false, &Progress::default()).unwrap())
    }

    fn findings(&self) -> usize {
        self.with(|logs| logs.verify(log(), &Progress::default()).unwrap().findings.len())
    }

    /// Base offset, number of offsets and records of every batch.
    fn batches(&self) -> Vec<(u64, u64, i32)> {
        let batches = self.with(|logs| logs.batches(log()).unwrap());
        let header = |bytes: &Bytes| {
            let header = BatchHeader::parse(bytes).unwrap();
            if header.record_count > 0 {
                assert_eq!(bytes[..], a_batch(header.base_offset.get())[..]);
            }
            assert_eq!(batch::leader_epoch(bytes), LeaderEpoch(7));
            (header.base_offset.get(), header.offsets(), header.record_count)
        };
        batches.iter().map(header).collect()
    }

    /// Tells the view that the log was on the disk up to `end`.
    fn promise(&self, end: u64) {
        let view = Store::open(&self.dir.path().join("view")).unwrap();
        let snapshot = LogSnapshot {
            start: Offset::ZERO,
            end: Offset::new(end),
            anchor: None,
            cleaned_to: Offset::ZERO,
            segments: Vec::new(),
            producers: Vec::new(),
        };
        let update = LogUpdate {
            snapshot: &snapshot,
            index: Vec::new(),
            aborted: &[],
            dropped: &[],
            aborted_from: Offset::ZERO,
        };
        view.keep_log(log(), &update).unwrap();
        view.flush().unwrap();
    }
}

/// The batches of an undamaged log, with `lost` ones without records.
fn all_but(lost: &[u64]) -> Vec<(u64, u64, i32)> {
    (0..SEGMENTS * BATCHES)
        .map(|at| at * RECORDS)
        .map(|base| (base, RECORDS, if lost.contains(&base) { 0 } else { RECORDS as i32 }))
        .collect()
}

fn saved(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[test]
fn a_whole_log_is_left_alone() {
    let directory = Directory::new();
    assert_eq!(directory.repair(), []);
    assert_eq!(directory.batches(), all_but(&[]));
}

#[test]
fn any_flipped_byte_costs_its_own_batch_at_most_and_its_bytes_are_kept() {
    let bytes = a_batch(0).len();
    let directory = Directory::new();
    // The first segment's middle batch, and the last one of a segment that is not the last.
    for (batch, base) in [(1, RECORDS), (2, 2 * RECORDS)] {
        for at in 0..bytes {
            directory.reset();
            let mut damaged = fs::read(directory.segment(0)).unwrap();
            damaged[batch * bytes + at] ^= 0x10;
            fs::write(directory.segment(0), &damaged).unwrap();
            let done = directory.repair();
            // The leader epoch is neither covered by the CRC nor proven by anything.
            if (12..16).contains(&at) {
                assert_eq!(done, [], "byte {at}");
                continue;
            }
            let (from, to) = (Offset::new(base), Offset::new(base + RECORDS));
            let is_header = at < 12 || at == 16;
            match &done[..] {
                [Mended::Restored { from: f, to: t, saved: path }] if is_header => {
                    assert_eq!((*f, *t), (from, to), "byte {at}");
                    assert_eq!(saved(path), &damaged[batch * bytes..(batch + 1) * bytes]);
                    assert_eq!(directory.batches(), all_but(&[]), "byte {at}");
                }
                [Mended::GivenUp { from: f, to: t, saved: Some(path) }] if !is_header => {
                    assert_eq!((*f, *t), (from, to), "byte {at}");
                    assert_eq!(saved(path), &damaged[batch * bytes..(batch + 1) * bytes]);
                    assert_eq!(directory.batches(), all_but(&[base]), "byte {at}");
                }
                other => panic!("byte {at}: {other:?}"),
            }
            assert_eq!(directory.findings(), 0, "byte {at}");
            assert_eq!(directory.repair(), [], "byte {at}");
            assert!(!directory.segment(0).exists(), "byte {at}");
        }
    }
}

#[test]
fn damage_at_several_places_of_one_segment_is_repaired_at_once() {
    let directory = Directory::new();
    let bytes = a_batch(0).len();
    let mut damaged = fs::read(directory.segment(6)).unwrap();
    // All of the first batch, and the payload of the last.
    damaged[..bytes].fill(0xff);
    damaged[3 * bytes - 1] ^= 1;
    fs::write(directory.segment(6), &damaged).unwrap();
    assert_eq!(directory.repair().len(), 2);
    assert_eq!(directory.batches(), all_but(&[6, 10]));
    assert_eq!((directory.findings(), directory.repair()), (0, vec![]));
}

#[test]
fn a_missing_segment_becomes_a_gap_without_records() {
    for is_empty in [false, true] {
        let directory = Directory::new();
        if is_empty {
            fs::write(directory.segment(6), b"").unwrap();
        } else {
            fs::remove_file(directory.segment(6)).unwrap();
        }
        let lost = Mended::GivenUp { from: Offset::new(6), to: Offset::new(12), saved: None };
        assert_eq!(directory.repair(), [lost]);
        let batches = directory.batches();
        assert!(batches.contains(&(6, 6, 0)), "{batches:?}");
        assert_eq!(batches.len(), 7);
        assert_eq!((directory.findings(), directory.repair()), (0, vec![]));
    }
}

#[test]
fn a_torn_end_is_cut_and_its_bytes_are_kept() {
    let directory = Directory::new();
    let path = directory.segment(12);
    let mut torn = fs::read(&path).unwrap();
    torn.truncate(torn.len() - 5);
    fs::write(&path, &torn).unwrap();
    let bytes = a_batch(0).len();
    match &directory.repair()[..] {
        [Mended::Cut { end, saved: path }] => {
            assert_eq!(*end, Offset::new(16));
            assert_eq!(saved(path), &torn[2 * bytes..]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(&path).unwrap(), &torn[..2 * bytes]);
    assert_eq!((directory.findings(), directory.repair()), (0, vec![]));
}

#[test]
fn an_end_that_was_on_the_disk_once_is_filled_up_to_where_it_was() {
    let bytes = a_batch(0).len();
    for keep in [3 * bytes - 5, 2 * bytes, 0] {
        let directory = Directory::new();
        let path = directory.segment(12);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..keep]).unwrap();
        directory.promise(18);
        assert_eq!(directory.findings(), 1, "{keep} bytes");
        assert!(matches!(&directory.repair()[..], [Mended::GivenUp { .. }]), "{keep} bytes");
        let end = directory.with(|logs| logs.verify(log(), &Progress::default()).unwrap().end);
        assert_eq!(end, Offset::new(18), "{keep} bytes");
        assert_eq!((directory.findings(), directory.repair()), (0, vec![]), "{keep} bytes");
    }
}

#[test]
fn a_log_whose_files_are_gone_goes_on_where_it_ended() {
    let directory = Directory::new();
    directory.promise(18);
    fs::remove_dir_all(directory.log_dir()).unwrap();
    assert_eq!(directory.with(|logs| logs.logs().unwrap()), [log()]);
    assert_eq!(directory.findings(), 1);
    let lost = Mended::GivenUp { from: Offset::ZERO, to: Offset::new(18), saved: None };
    assert_eq!(directory.repair(), [lost]);
    assert_eq!((directory.findings(), directory.repair()), (0, vec![]));
}

#[test]
fn a_lossless_repair_restores_headers_and_refuses_the_rest() {
    let bytes = a_batch(0).len();
    let lossless = |directory: &Directory| {
        directory.with(|logs| logs.repair(log(), true, &Progress::default()).is_ok())
    };
    let directory = Directory::new();
    let mut damaged = fs::read(directory.segment(0)).unwrap();
    damaged[bytes + 3] ^= 1;
    fs::write(directory.segment(0), &damaged).unwrap();
    assert!(lossless(&directory));
    assert_eq!(directory.batches(), all_but(&[]));

    let directory = Directory::new();
    damaged[bytes + 70] ^= 1;
    fs::write(directory.segment(0), &damaged).unwrap();
    assert!(!lossless(&directory));
    assert_eq!(fs::read(directory.segment(0)).unwrap(), damaged);
    assert_eq!(fs::read_dir(directory.log_dir()).unwrap().count(), 3);
}

#[test]
fn a_repair_that_was_interrupted_is_taken_up() {
    let directory = Directory::new();
    let bytes = a_batch(0).len();
    let mut damaged = fs::read(directory.segment(0)).unwrap();
    damaged[bytes + 70] ^= 1;
    fs::write(directory.segment(0), &damaged).unwrap();
    // Before its publication: a draft. After it: the old segment beside the new one.
    fs::write(directory.log_dir().join(format!("{:020}-1.log.draft", 0)), b"half").unwrap();
    assert_eq!(directory.repair().len(), 1);
    fs::write(directory.segment(0), &damaged).unwrap();
    assert_eq!((directory.findings(), directory.repair()), (0, vec![]));
    assert_eq!(directory.batches(), all_but(&[2]));
}
