//! A disk that is really full: a small tmpfs that the test mounts for itself.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{Broker, Options, PATIENCE, until};
use crate::protocol::batch::Batch;
use crate::protocol::client::Client;
use crate::protocol::code::{KAFKA_STORAGE_ERROR, NONE};
use crate::protocol::requests::{Topic, append, new_producer, read_from};

const DISK_BYTES: u64 = 24 << 20;

/// A small file system. Dropping it unmounts it.
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    /// Mounts one; `Err` says why this machine cannot.
    fn mount() -> Result<Disk, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let size = format!("size={DISK_BYTES}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "ottla-full-disk"])
            .arg(folder.path())
            .output()
            .map_err(|error| format!("mount: {error}"))?;
        if mounted.status.success() {
            Ok(Disk { folder })
        } else {
            Err(String::from_utf8_lossy(&mounted.stderr).trim().to_owned())
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Fills it to the last byte; removing the file makes room.
    pub fn fill(&self) -> PathBuf {
        let path = self.folder.path().join("filler");
        let mut file = File::create(&path).expect("a file on the small disk");
        for size in [1 << 20, 4_096, 1] {
            loop {
                match file.write_all(&vec![0; size]) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => panic!("the small disk: {error}"),
                }
            }
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whatever is still open on it goes with its last user.
        let unmounted = Command::new("umount").arg("-l").arg(self.folder.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.folder.path().display());
        }
    }
}

/// The disk, or a loud word why the test cannot be: `scripts/test` shows lines that begin so.
pub fn disk() -> Option<Disk> {
    match Disk::mount() {
        Ok(disk) => Some(disk),
        Err(reason) => {
            // Past the test harness, which keeps the output of a test that passes to itself.
            let line =
                format!("SKIPPED durability::full: no small disk can be mounted: {reason}\n");
            let stderr = Path::new("/proc/self/fd/2");
            let shown = fs::OpenOptions::new().append(true).open(stderr);
            if shown.and_then(|mut stderr| stderr.write_all(line.as_bytes())).is_err() {
                eprint!("{line}");
            }
            None
        }
    }
}

/// A producer to two topics, and what it was promised.
struct Scene {
    broker: Broker,
    client: Client,
    producer: (i64, i16),
    topics: [Topic; 2],
    kept: [Vec<Vec<u8>>; 2],
    made: u8,
    // Last: it is unmounted when the broker has ended.
    disk: Disk,
}

impl Scene {
    fn start(disk: Disk) -> Scene {
        let data_dir = disk.folder.path().join("data");
        let options = Options::new()
            .data_dir(&data_dir)
            .set("log.segment.bytes", 1 << 20)
            .set("log.retention.ms", -1);
        let broker = Broker::start_with(options);
        let mut client = Client::connect(broker.kafka());
        let topics = [Topic::create(&mut client), Topic::create(&mut client)];
        let producer = new_producer(&mut client);
        Scene { disk, broker, client, producer, topics, kept: Default::default(), made: 0 }
    }

    /// An append to one of the topics: whether it was acknowledged, right behind the rest.
    #[track_caller]
    fn append(&mut self, at: usize, bytes: usize) -> bool {
        self.made = self.made.wrapping_add(1);
        let value = vec![self.made; bytes];
        let sequence = i32::try_from(self.kept[at].len()).expect("few records");
        let (id, epoch) = self.producer;
        let batch = Batch::of([&value]).by_producer(id, epoch, sequence);
        match append(&mut self.client, &self.topics[at], &batch) {
            (NONE, offset) => {
                assert_eq!(offset, i64::from(sequence));
                self.kept[at].push(value);
                true
            }
            answer => {
                assert_eq!(answer, (KAFKA_STORAGE_ERROR, -1));
                false
            }
        }
    }

    #[track_caller]
    fn holds_what_it_acknowledged(&mut self) {
        for (topic, kept) in self.topics.iter().zip(&self.kept) {
            let read = read_from(&mut self.client, topic, 0);
            let is_same =
                read.iter().map(|record| &record.value[..]).eq(kept.iter().map(|v| &v[..]));
            assert!(is_same, "{} records read of {topic:?}, {} kept", read.len(), kept.len());
        }
    }

    #[track_caller]
    fn appends_go_on(&mut self) {
        for at in [0, 1] {
            until("appends to go on", PATIENCE, || {
                if self.append(at, 100) { Ok(()) } else { Err("refused".to_owned()) }
            });
        }
    }
}

#[test]
fn on_a_full_disk_reads_go_on_and_writes_resume_when_space_returns() {
    let Some(disk) = disk() else { return };
    let reserve = disk.folder.path().join("reserve");
    fs::write(&reserve, vec![0; 8 << 20]).expect("a file on the small disk");
    let mut scene = Scene::start(disk);
    for round in 0..4 {
        // Full by its own records the first time, by somebody else's the next times.
        let filler = if round == 0 { reserve.clone() } else { scene.disk.fill() };
        let mut refused = 0;
        while refused < 20 {
            // Sizes that leave less and less of the disk.
            let bytes = if refused < 10 { 70_000 } else { 300 };
            refused += usize::from(!scene.append(usize::from(scene.made) % 2, bytes));
        }
        scene.holds_what_it_acknowledged();
        if round == 3 {
            // Who is killed now may not find room to start, but finds everything later.
            scene.broker.kill();
            scene.broker.begin();
            if let Err(reason) = scene.broker.ready() {
                assert!(reason.contains("No space left"), "{reason}");
                fs::remove_file(&filler).expect("the filler");
                scene.broker.restart();
            } else {
                fs::remove_file(&filler).expect("the filler");
            }
            scene.client = Client::connect(scene.broker.kafka());
        } else {
            fs::remove_file(&filler).expect("the filler");
        }
        scene.appends_go_on();
        scene.holds_what_it_acknowledged();
        if round % 2 == 0 {
            scene.broker.kill();
        } else {
            assert!(scene.broker.terminate().success());
        }
        scene.broker.restart();
        scene.client = Client::connect(scene.broker.kafka());
        scene.holds_what_it_acknowledged();
        scene.appends_go_on();
    }
    let log = scene.broker.log();
    assert!(!log.contains("damaged") && !log.contains("panicked"), "{log}");
    assert!(scene.broker.terminate().success());
}
