//! What a start concludes from a log's manifest and from the boot of the machine (docs/adr/0012).

use std::path::Path;

use super::power_loss::{Disk, Random};
use super::*;
use crate::log::data_dir::DataDir;
use crate::log::meter::wal_off;
use crate::log::object::files::{File as _, Files};
use crate::log::object::manifest::Manifest;
use crate::log::wal::WalConfig;
use crate::types::Progress;

const BOOT: Boot = Boot { id: Some(uuid::Uuid::from_u128(1)), is_same: false };
const SAME: Boot = Boot { is_same: true, ..BOOT };
const NEXT: Boot = Boot { id: Some(uuid::Uuid::from_u128(2)), is_same: false };

/// A log over a directory in a boot of the machine, with a view that knows nothing.
fn start(dir: &Path, boot: Boot) -> Fixture {
    let _ = std::fs::remove_dir_all(dir.join("view"));
    let records = LocalRecordStore::open(&dir.join("logs"), boot).unwrap();
    Fixture::over(Arc::new(records), dir, &config())
}

fn refusal(fixture: &Fixture) -> Option<String> {
    fixture.logs.refusals().list().pop().map(|refusing| refusing.refusal.reason)
}

fn stored(dir: &Path) -> Manifest {
    let store = LocalRecordStore::existing(&dir.join("logs"), Boot::default()).unwrap();
    store.list(id()).unwrap().manifest.unwrap()
}

/// The directory of a log of three batches that was killed, of which only the first is known to be on the
/// disk; and the lengths up to the end of each batch.
fn killed() -> (tempfile::TempDir, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let fixture = start(dir.path(), BOOT);
    let lengths = ["a", "b", "c"].map(|value| {
        fixture.append(plain(&[value])).unwrap();
        fixture.log.size_bytes() as usize
    });
    drop(fixture);
    assert_eq!(stored(dir.path()).end, Offset::new(1), "as of its first sync");
    (dir, lengths.to_vec())
}

fn edit(dir: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let path = segment(dir, 0);
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn bytes_that_a_process_wrote_are_cut_only_where_it_was_killed_in_a_write_or_the_machine_restarted()
{
    type Edit = fn(&mut Vec<u8>, &[usize]);
    // What became of the end, and the log's end in the same boot and in another; `None` where it is damaged.
    let cases: [(&str, Edit, Option<u64>, Option<u64>); 7] = [
        ("nothing", |_, _| (), Some(3), Some(3)),
        ("cut in the last batch", |b, at| b.truncate(at[1] + 30), Some(2), Some(2)),
        ("cut in its header's first bytes", |b, at| b.truncate(at[1] + 3), Some(2), Some(2)),
        ("a bit of the last batch", |b, at| b[at[2] - 1] ^= 1, None, Some(2)),
        ("zeros in place of the last batch", |b, at| b[at[1]..].fill(0), None, Some(2)),
        ("a hole", |b, at| b[at[0]..at[1]].fill(0), None, Some(1)),
        ("a length that is wrong", |b, at| b[at[1] + 11] ^= 4, None, None),
    ];
    for (what, change, same, other) in cases {
        for (boot, expected) in [(SAME, same), (NEXT, other), (Boot::default(), other)] {
            let (dir, lengths) = killed();
            edit(dir.path(), |bytes| change(bytes, &lengths));
            let before = std::fs::read(segment(dir.path(), 0)).unwrap();
            // The second start sees the same as the first.
            for _ in 0..2 {
                let fixture = start(dir.path(), boot);
                match expected {
                    Some(end) => {
                        assert_eq!(refusal(&fixture), None, "{what}, {boot:?}");
                        assert_eq!(fixture.log.span().end, Offset::new(end), "{what}, {boot:?}");
                    }
                    None => {
                        assert!(refusal(&fixture).is_some(), "{what}, {boot:?}");
                        assert_eq!(fixture.log.span().end, Offset::new(3), "{what}, {boot:?}");
                        let now = std::fs::read(segment(dir.path(), 0)).unwrap();
                        assert_eq!(now, before, "{what}, {boot:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_repair_gives_up_a_damaged_end_and_none_of_its_offsets_is_given_out_again() {
    let (dir, lengths) = killed();
    let identity = "format = 4\ncluster_id = \"id\"\nleader_epoch = 4\n";
    std::fs::write(dir.path().join("ottla.toml"), identity).unwrap();
    DataDir::open(dir.path()).unwrap().remember_boot().unwrap();
    let at = lengths[2] - 1;
    edit(dir.path(), |bytes| bytes[at] ^= 1);
    let claim = DataDir::inspect(dir.path()).unwrap();
    if !claim.boot().is_same {
        // The system does not tell its boot.
        return;
    }
    let at_rest = verify::AtRest::open(&claim).unwrap();
    let report = at_rest.verify(id(), &Progress::default()).unwrap();
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].next, Some(Offset::new(3)));
    at_rest.repair(id(), false, &Progress::default()).unwrap();
    assert!(at_rest.verify(id(), &Progress::default()).unwrap().findings.is_empty());
    drop(at_rest);
    let fixture = start(dir.path(), claim.boot());
    assert_eq!(fixture.append(plain(&["d"])).unwrap().base_offset, Offset::new(3));
}

#[test]
fn a_first_segment_that_is_gone_is_lost_and_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let small = config().starting_with(|it| it.log_segment_bytes = 100);
    let fixture = Fixture::with(dir.path(), &small);
    for values in [["a", "b"], ["c", "d"], ["e", "f"]] {
        fixture.append(plain(&values)).unwrap();
    }
    drop(fixture);
    let aside = dir.path().join("aside");
    std::fs::rename(segment(dir.path(), 0), &aside).unwrap();
    for _ in 0..2 {
        let fixture = start(dir.path(), Boot::default());
        let reason = refusal(&fixture).unwrap();
        assert!(reason.ends_with("is the first segment, the log starts at offset 0"), "{reason}");
        assert_eq!(fixture.values(2), ["c", "d"]);
    }
    std::fs::rename(&aside, segment(dir.path(), 0)).unwrap();
    let fixture = Fixture::with(dir.path(), &small);
    assert_eq!(refusal(&fixture), None);
    // Deleted on purpose.
    fixture.log.trim_blocking(Offset::new(2)).unwrap();
    drop(fixture);
    let fixture = start(dir.path(), Boot::default());
    assert_eq!((refusal(&fixture), fixture.log.span().start), (None, Offset::new(2)));
}

#[test]
fn a_manifest_that_cannot_be_read_stops_no_log() {
    let (dir, _) = killed();
    let path = dir.path().join(format!("logs/{}/manifest", id()));
    std::fs::write(&path, vec![7; 8192]).unwrap();
    let fixture = start(dir.path(), BOOT);
    assert_eq!((refusal(&fixture), fixture.log.span().end), (None, Offset::new(3)));
    fixture.logs.shutdown();
    assert_eq!(stored(dir.path()).end, Offset::new(3), "it is written anew");
}

#[test]
fn a_checkpoint_keeps_in_manifests_what_the_write_ahead_log_had_promised() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::default();
    let store = LocalRecordStore::open(&dir.path().join("logs"), BOOT).unwrap();
    let wal = WalConfig { writers: 1, file_bytes: 256 << 10, syncs_min: 1 };
    let store = store.with_wal(wal, wal_off(&metrics).unwrap());
    let fixture = Fixture::over(Arc::new(store), dir.path(), &config());
    let pending = || {
        let looked_at = LocalRecordStore::existing(&dir.path().join("logs"), BOOT).unwrap();
        looked_at.pending().unwrap().0
    };
    // The files are made in the background, after the first sync of a log that could have used them.
    let mut end = 0;
    while pending() == 0 {
        fixture.append(plain(&["a"])).unwrap();
        end += 1;
    }
    assert_eq!(stored(dir.path()).end, Offset::new(1), "as of the first sync");
    let inner = &fixture.logs.inner;
    let manifest = |log| crate::log::upkeep::manifest_of(&inner.open, log);
    assert!(inner.settings.store.checkpoint(true, &manifest).is_empty());
    assert_eq!(stored(dir.path()).end, Offset::new(end));
    fixture.append(plain(&["d"])).unwrap();
    drop(fixture);
    // A start empties the files, too.
    drop(LocalRecordStore::open(&dir.path().join("logs"), BOOT).unwrap());
    assert_eq!(stored(dir.path()).end, Offset::new(end + 1));
}

#[test]
fn after_a_failed_sync_what_the_page_cache_shows_is_written_again() {
    let mut whole = 0;
    for seed in 0..40 {
        let disk = Disk::new(Random::from(seed));
        let view = tempfile::tempdir().unwrap();
        let start = |boot: Boot| {
            let store = LocalRecordStore::over(disk.clone(), Path::new(""), boot).unwrap();
            let view = Store::absent(view.path());
            let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
            let metrics = Metrics::default();
            let (config, epoch) = (config(), LeaderEpoch(3));
            let logs = Logs::over(Arc::new(store), view, &config, clock, epoch, &metrics).unwrap();
            let log = logs.open(id()).unwrap();
            Fixture { logs, log }
        };
        let fixture = start(BOOT);
        fixture.append(plain(&["on the disk"])).unwrap();
        disk.fail_next_sync();
        assert!(fixture.append(plain(&["given up"])).is_err());
        drop(fixture);
        disk.restart();
        let fixture = start(SAME);
        assert_eq!(refusal(&fixture), None, "seed {seed}");
        let values = fixture.values(0);
        assert_eq!(values[0], "on the disk");
        whole += values.len() - 1;
        drop(fixture);
        // What the start has shown is on the disk now.
        disk.lose_power(false);
        assert_eq!(start(NEXT).values(0), values, "seed {seed}");
        let manifest = disk.open(&Path::new(&id().to_string()).join("manifest")).unwrap();
        let mut bytes = vec![0; 8192];
        manifest.read_at(&mut bytes, 0).unwrap();
        let newest = [0, 4096].map(|at| Manifest::decode(&bytes[at..]));
        let newest = newest.into_iter().flatten().max_by_key(|manifest| manifest.version);
        assert_eq!(newest.unwrap().failed_sync, None, "seed {seed}");
    }
    assert!((1..40).contains(&whole), "the cache kept it in some of them: {whole}");
}
