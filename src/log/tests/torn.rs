//! Logs with a torn tail: the last batch cut at every byte.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::compaction::compressed;
use super::*;
use crate::log::append::writer::Command;
use crate::log::config::Codec;
use crate::log::object::manifest::Manifest;
use crate::log::object::record_store::{Listing, Location, ObjectId, RecordStore};
use crate::store::{AbortedEntry, IndexEntry, LogSnapshot, LogUpdate, SegmentId};

mod flips;

/// Objects in memory, so that thousands of logs are opened in a moment.
#[derive(Default)]
struct MemoryStore {
    objects: Mutex<BTreeMap<ObjectId, Vec<u8>>>,
    manifests: Mutex<BTreeMap<LogId, Manifest>>,
    boot: Mutex<Boot>,
}

impl MemoryStore {
    fn bytes(&self, object: ObjectId) -> Vec<u8> {
        self.objects.lock().unwrap().get(&object).cloned().unwrap_or_default()
    }

    fn put(&self, object: ObjectId, bytes: Vec<u8>) {
        self.objects.lock().unwrap().insert(object, bytes);
    }
}

impl RecordStore for MemoryStore {
    fn append(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<Location> {
        let mut objects = self.objects.lock().unwrap();
        let stored = objects.entry(object).or_default();
        assert_eq!(stored.len() as u64, position, "{object} is appended to at its end");
        stored.extend_from_slice(bytes);
        Ok(Location { object, position, length: bytes.len() })
    }

    fn read(&self, location: Location) -> io::Result<Bytes> {
        let objects = self.objects.lock().unwrap();
        let stored = objects.get(&location.object).ok_or(io::ErrorKind::NotFound)?;
        let from = stored.len().min(location.position as usize);
        let to = stored.len().min(from + location.length);
        Ok(Bytes::copy_from_slice(&stored[from..to]))
    }

    fn sync(&self, _: ObjectId) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, object: ObjectId, length: u64) -> io::Result<()> {
        let mut objects = self.objects.lock().unwrap();
        objects.get_mut(&object).ok_or(io::ErrorKind::NotFound)?.truncate(length as usize);
        Ok(())
    }

    fn delete(&self, object: ObjectId) -> io::Result<()> {
        self.objects.lock().unwrap().remove(&object);
        Ok(())
    }

    fn delete_log(&self, log: LogId) -> io::Result<()> {
        self.objects.lock().unwrap().retain(|object, _| object.log != log);
        Ok(())
    }

    fn append_draft(&self, object: ObjectId, _: u64, _: &[u8]) -> io::Result<()> {
        panic!("nothing is compacted here: {object}")
    }

    fn publish(&self, object: ObjectId) -> io::Result<()> {
        panic!("nothing is compacted here: {object}")
    }

    fn discard_drafts(&self, _: LogId) -> io::Result<()> {
        Ok(())
    }

    fn put_manifests(&self, manifests: &[(LogId, Manifest)]) -> Vec<(LogId, io::Error)> {
        self.manifests.lock().unwrap().extend(manifests.iter().cloned());
        Vec::new()
    }

    fn boot(&self) -> Boot {
        *self.boot.lock().unwrap()
    }

    fn list(&self, log: LogId) -> io::Result<Listing> {
        let objects = self.objects.lock().unwrap();
        let own = objects.iter().filter(|(object, _)| object.log == log);
        let objects = own.map(|(object, bytes)| (*object, bytes.len() as u64)).collect();
        let manifest = self.manifests.lock().unwrap().get(&log).cloned();
        Ok(Listing { objects, manifest, ..Listing::default() })
    }

    fn logs(&self) -> io::Result<Vec<LogId>> {
        let mut logs: Vec<_> = self.objects.lock().unwrap().keys().map(|o| o.log).collect();
        logs.dedup();
        Ok(logs)
    }

    fn rest(&self) {}
}

/// The view of a log at some moment.
#[derive(Clone, Default)]
struct Known {
    snapshot: Option<LogSnapshot>,
    aborted: Vec<AbortedEntry>,
    index: Vec<(SegmentId, Vec<IndexEntry>)>,
}

/// A log on the disk: the bytes of each segment, by its first offset.
type Image = Vec<(u64, Vec<u8>)>;

/// One broker whose logs are made from images.
struct Bench {
    store: Arc<MemoryStore>,
    view: Store,
    logs: Logs,
    made: AtomicU32,
    _dir: tempfile::TempDir,
}

fn bench_config() -> Config {
    config().starting_with(|it| it.log_index_interval_bytes = 100)
}

fn logs_over(store: &Arc<MemoryStore>, view: &Store) -> Logs {
    let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
    let (epoch, metrics) = (LeaderEpoch(3), Metrics::default());
    Logs::over(store.clone(), view.clone(), &bench_config(), clock, epoch, &metrics).unwrap()
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::default());
        let view = Store::open(dir.path()).unwrap();
        let logs = logs_over(&store, &view);
        Bench { store, view, logs, made: AtomicU32::new(0), _dir: dir }
    }

    /// A new log with these bytes.
    fn open(&self, image: &Image, known: &Known) -> Fixture {
        let partition = PartitionId(self.made.fetch_add(1, Ordering::Relaxed));
        let id = LogId { partition, ..id() };
        for (base, bytes) in image {
            self.store.put(ObjectId::appended(id, Offset::new(*base)), bytes.clone());
        }
        if let Some(snapshot) = &known.snapshot {
            let update = LogUpdate {
                snapshot,
                index: known.index.iter().map(|(id, index)| (*id, index.as_slice())).collect(),
                aborted: &known.aborted,
                dropped: &[],
                aborted_from: Offset::ZERO,
            };
            self.view.keep_log(id, &update).unwrap();
        }
        Fixture { logs: self.logs.clone(), log: self.logs.open(id).unwrap() }
    }

    /// The log after a kill and another start.
    fn reopen(&self, fixture: &Fixture) -> Fixture {
        let id = fixture.log.id();
        let (done, gone) = tokio::sync::oneshot::channel();
        fixture.log.shared.send(Command::Forget(id, done)).unwrap();
        block_on(gone).unwrap();
        self.logs.inner.open.remove(&id);
        self.logs.refusals().forget(id);
        Fixture { logs: self.logs.clone(), log: self.logs.open(id).unwrap() }
    }

    fn image(&self, log: &Partition) -> Image {
        let objects = self.store.list(log.id()).unwrap().objects;
        let image = |(object, _): (ObjectId, u64)| (object.base.get(), self.store.bytes(object));
        objects.into_iter().map(image).collect()
    }
}

/// Writes a log in steps. Returns the bytes on the disk and the view after each step, with the broker stopped
/// after it.
fn history(steps: &[&dyn Fn(&Fixture)]) -> Vec<(Image, Known)> {
    let mut bench = Bench::new();
    let mut after = Vec::new();
    for step in steps {
        let fixture = Fixture { logs: bench.logs.clone(), log: bench.logs.open(id()).unwrap() };
        step(&fixture);
        bench.logs.shutdown();
        let snapshot = bench.view.log_snapshot(id()).unwrap().unwrap();
        let pages = |segment: SegmentId| {
            bench.view.index_page_at(id(), segment, Offset::new(u64::MAX >> 1)).unwrap()
        };
        let ids = snapshot
            .segments
            .iter()
            .map(|entry| SegmentId { base: entry.base, revision: entry.revision });
        let known = Known {
            index: ids.map(|id| (id, pages(id))).collect(),
            aborted: bench.view.log_aborted(id()).unwrap(),
            snapshot: Some(snapshot),
        };
        assert!(known.index.iter().any(|(_, index)| !index.is_empty()));
        after.push((bench.image(&fixture.log), known));
        drop(fixture);
        bench.logs = logs_over(&bench.store, &bench.view);
    }
    after
}

fn roll(fixture: &Fixture) {
    let (reply, ended) = tokio::sync::oneshot::channel();
    fixture.log.shared.send(Command::Roll(fixture.log.id(), reply)).unwrap();
    block_on(ended).unwrap().unwrap();
}

/// The kind of the last batch of a log.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain { records: usize },
    Idempotent,
    Transactional,
    Marker(Marker),
    Compressed(Codec),
    FirstOfItsSegment,
}

const KINDS: [Kind; 11] = [
    Kind::Plain { records: 1 },
    Kind::Plain { records: 9 },
    Kind::Idempotent,
    Kind::Transactional,
    Kind::Marker(Marker::Abort),
    Kind::Marker(Marker::Commit),
    Kind::Compressed(Codec::Gzip(-1)),
    Kind::Compressed(Codec::Snappy),
    Kind::Compressed(Codec::Lz4),
    Kind::Compressed(Codec::Zstd(3)),
    Kind::FirstOfItsSegment,
];

const TORN: [&str; 9] = ["to", "be", "torn", "to", "be", "torn", "to", "be", "torn"];

impl Kind {
    fn is_transactional(self) -> bool {
        matches!(self, Kind::Transactional | Kind::Marker(_))
    }

    /// The batch before the last one, by the same producer.
    fn before(self) -> Bytes {
        by(9, 0, 0, self.is_transactional(), &["the", "one", "before"])
    }

    /// Writes the last batch.
    fn write(self, fixture: &Fixture) -> Appended {
        let batch = match self {
            Kind::Plain { records } => plain(&TORN[..records]),
            Kind::Idempotent | Kind::FirstOfItsSegment => by(9, 0, 3, false, &TORN[..3]),
            Kind::Transactional => by(9, 0, 3, true, &TORN[..2]),
            Kind::Compressed(codec) => compressed(&by(9, 0, 3, false, &TORN), codec),
            Kind::Marker(marker) => return fixture.end(9, 0, marker).unwrap(),
        };
        fixture.append(batch).unwrap()
    }

    /// The log after one step, after two, and after the last batch.
    fn history(self) -> Vec<(Image, Known)> {
        history(&[
            &|fixture| {
                fixture.append(plain(&["kept"])).unwrap();
            },
            &|fixture| {
                fixture.append(self.before()).unwrap();
                if self == Kind::FirstOfItsSegment {
                    roll(fixture);
                }
            },
            &|fixture| {
                self.write(fixture);
            },
        ])
    }
}

/// Where the last batch begins: after one batch of one record, and one of three.
const LAST: u64 = 4;

/// The image with other bytes at the end of its last segment.
fn with_end(image: &Image, from: usize, end: &[u8]) -> Image {
    let mut image = image.clone();
    let (_, bytes) = image.last_mut().unwrap();
    bytes.truncate(from);
    bytes.extend_from_slice(end);
    image
}

/// Xorshift: the same numbers on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Bytes of all segments, one after the other.
fn joined(image: &Image) -> Vec<u8> {
    image.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
}

/// The records that readers get from `from` up to the end.
fn read_on(fixture: &Fixture, mut from: u64) -> Vec<u8> {
    let mut read = Vec::new();
    while from < fixture.log.span().end.get() {
        let records = fixture.read(from, Isolation::ReadUncommitted).records;
        from = records::decode(records.clone(), 1 << 20).unwrap().last().unwrap().last_offset.get()
            + 1;
        read.extend_from_slice(&records);
    }
    read
}

/// What may follow the position at which the last batch was cut.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Behind {
    Nothing,
    /// The file system has stored the length of the file, but not its bytes.
    Zeros,
    Garbage,
}

#[test]
fn an_end_torn_at_any_byte_of_any_batch_is_cut_and_written_anew() {
    let mut random = Random(42);
    for kind in KINDS {
        let bench = Bench::new();
        let steps = kind.history();
        let [(_, older), (before, newer), (whole, _)] = &steps[..] else { unreachable!() };
        let from = before.last().unwrap().1.len();
        let last = whole.last().unwrap().1[from..].to_vec();
        for cut in 0..last.len() {
            for (view, known) in [(0, &Known::default()), (1, older), (2, newer)] {
                for behind in [Behind::Nothing, Behind::Zeros, Behind::Garbage] {
                    // Each cut with one of the views, in turn.
                    if behind != Behind::Nothing && cut % 3 != view {
                        continue;
                    }
                    let mut end = last[..cut].to_vec();
                    match behind {
                        Behind::Nothing => {}
                        Behind::Zeros => end.resize(last.len() + cut % 2 * 4096, 0),
                        Behind::Garbage => end.extend(random.bytes(last.len() - cut + 100)),
                    }
                    let case = format!("{kind:?} cut at {cut}, view {view}, then {behind:?}");
                    let fixture = bench.open(&with_end(whole, from, &end), known);
                    if end.starts_with(&last) {
                        // All that was cut off were zeros.
                        assert_eq!(bench.image(&fixture.log), *whole, "{case}");
                        continue;
                    }
                    let span = fixture.log.span();
                    assert_eq!(span.end, Offset::new(LAST), "{case}");
                    let stable = if kind.is_transactional() { 1 } else { LAST };
                    assert_eq!(span.last_stable, Offset::new(stable), "{case}");
                    assert_eq!(bench.image(&fixture.log), *before, "{case}");
                    assert_eq!(read_on(&fixture, 0), joined(before), "{case}");

                    let again = fixture.append(kind.before()).unwrap();
                    assert!(again.duplicate, "{case}");
                    assert_eq!(again.base_offset, Offset::new(1), "{case}");
                    let anew = kind.write(&fixture);
                    assert!(!anew.duplicate, "{case}");
                    assert_eq!(anew.base_offset, Offset::new(LAST), "{case}");
                    assert_eq!(bench.image(&fixture.log), *whole, "{case}");

                    let again = bench.reopen(&fixture);
                    assert_eq!(again.log.span(), fixture.log.span(), "{case}");
                    assert_eq!(read_on(&again, 0), joined(whole), "{case}");
                }
            }
        }
        assert!(bench.logs.refusals().list().is_empty(), "{kind:?}");
    }
}

#[test]
fn an_end_that_was_on_the_disk_is_not_cut_and_its_offsets_are_not_given_out_again() {
    for kind in KINDS {
        let bench = Bench::new();
        let steps = kind.history();
        let [_, (before, _), (whole, known)] = &steps[..] else { unreachable!() };
        let promised = known.snapshot.as_ref().unwrap().end;
        let from = before.last().unwrap().1.len();
        let last = whole.last().unwrap().1[from..].to_vec();
        for cut in 0..last.len() {
            for behind in [Behind::Nothing, Behind::Zeros] {
                let mut end = last[..cut].to_vec();
                if behind == Behind::Zeros {
                    end.resize(last.len(), 0);
                }
                if end == last {
                    continue;
                }
                let case = format!("{kind:?} cut at {cut}, then {behind:?}");
                let left = with_end(whole, from, &end);
                let mut fixture = bench.open(&left, known);
                // The second start sees the same as the first.
                for start in 0..2 {
                    assert_eq!(fixture.log.span().end, promised, "{case}");
                    assert_eq!(read_corrupt(&fixture, LAST), Some(promised.get()), "{case}");
                    // With a whole header a start does not notice the torn body, but all others do.
                    let refused = fixture.append(plain(&["new"]));
                    assert!(matches!(refused, Err(AppendError::Storage { .. })), "{case}");
                    let read = fixture.read(1, Isolation::ReadUncommitted).records;
                    assert_eq!(read[16..], kind.before()[16..], "{case}");
                    assert!(fixture.values(promised.get()).is_empty(), "{case}");
                    assert_eq!(bench.image(&fixture.log), left, "{case}");
                    if start == 0 {
                        fixture = bench.reopen(&fixture);
                    }
                }
            }
        }
    }
}

/// The next readable offset behind the damage that a read at `from` meets.
fn read_corrupt(fixture: &Fixture, from: u64) -> Option<u64> {
    match fixture.log.read_blocking(request(from, Isolation::ReadUncommitted)) {
        Err(ReadError::Corrupt { offset, next, .. }) if offset.get() == from => {
            next.map(Offset::get)
        }
        other => panic!("offset {from}: {other:?}"),
    }
}

#[test]
fn whatever_follows_the_last_batch_is_cut_and_the_batch_stays() {
    let mut random = Random(7);
    for kind in KINDS {
        let bench = Bench::new();
        let steps = kind.history();
        let [_, (_, newer), (whole, all)] = &steps[..] else { unreachable!() };
        let length = whole.last().unwrap().1.len();
        for known in [&Known::default(), newer, all] {
            for count in [1, 11, 12, 60, 61, 100, 5000] {
                // The first bytes of a batch are likely, too: of the next one, that was not written.
                let header = joined(whole)[..count.min(61)].to_vec();
                for tail in [vec![0; count], vec![0xff; count], random.bytes(count), header] {
                    let case = format!("{kind:?}, then {:?}...", &tail[..count.min(20)]);
                    let fixture = bench.open(&with_end(whole, length, &tail), known);
                    assert_eq!(bench.image(&fixture.log), *whole, "{case}");
                    let end = fixture.log.span().end;
                    assert_eq!(end, all.snapshot.as_ref().unwrap().end, "{case}");
                    assert_eq!(fixture.append(plain(&["new"])).unwrap().base_offset, end, "{case}");
                    let read = read_on(&bench.reopen(&fixture), 0);
                    assert!(read.starts_with(&joined(whole)), "{case}");
                }
            }
        }
    }
}
