//! Compactions that end at each step of theirs, by a crash or by a failing disk.

use std::io;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::log::object::manifest::Manifest;

/// Fails the change of this number, from 1, and every one after it.
struct Failing {
    inner: LocalRecordStore,
    changes_left: AtomicUsize,
    /// Whether the failing change itself still happens.
    happens: bool,
}

impl Failing {
    fn change(&self, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let left = self.changes_left.load(Ordering::Relaxed);
        self.changes_left.store(left.saturating_sub(1), Ordering::Relaxed);
        match left {
            0 => Err(io::Error::from_raw_os_error(28)),
            1 => {
                if self.happens {
                    change()?;
                }
                Err(io::Error::from_raw_os_error(28))
            }
            _ => change(),
        }
    }
}

impl RecordStore for Failing {
    fn append(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<Location> {
        self.inner.append(object, position, bytes)
    }

    fn read(&self, location: Location) -> io::Result<Bytes> {
        self.inner.read(location)
    }

    fn sync(&self, object: ObjectId) -> io::Result<()> {
        self.inner.sync(object)
    }

    fn truncate(&self, object: ObjectId, length: u64) -> io::Result<()> {
        self.inner.truncate(object, length)
    }

    fn delete(&self, object: ObjectId) -> io::Result<()> {
        self.change(|| self.inner.delete(object))
    }

    fn delete_log(&self, log: LogId) -> io::Result<()> {
        self.inner.delete_log(log)
    }

    fn append_draft(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(|| self.inner.append_draft(object, position, bytes))
    }

    fn publish(&self, object: ObjectId) -> io::Result<()> {
        self.change(|| self.inner.publish(object))
    }

    fn discard_drafts(&self, log: LogId) -> io::Result<()> {
        self.change(|| self.inner.discard_drafts(log))
    }

    fn put_manifests(&self, manifests: &[(LogId, Manifest)]) -> Vec<(LogId, io::Error)> {
        self.inner.put_manifests(manifests)
    }

    fn list(&self, log: LogId) -> io::Result<Listing> {
        self.inner.list(log)
    }

    fn logs(&self) -> io::Result<Vec<LogId>> {
        self.inner.logs()
    }

    fn rest(&self) {}
}

#[test]
fn whatever_step_a_compaction_ends_at_the_log_is_whole() {
    let mut completed = false;
    let mut failing_change = 1;
    while !completed {
        for (happens, view_survives) in [(false, true), (true, true), (true, false)] {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(Failing {
                inner: LocalRecordStore::open(&dir.path().join("logs"), Boot::default()).unwrap(),
                changes_left: AtomicUsize::new(failing_change),
                happens,
            });
            let log = Compacted::over(store.clone(), dir.path(), NOW);
            log.configure(|config| config.segment_bytes = 300);
            for n in 0..24 {
                let key = (n % 5).to_string();
                log.append(keyed(&[(&key, Some(&n.to_string()))], producer(1, n, false))).unwrap();
            }
            log.roll();
            let newest: Vec<Read> =
                (19..24).map(|n| read(n, &(n % 5).to_string(), &n.to_string())).collect();
            log.logs.compact_now(ROOM);
            completed = store.changes_left.load(Ordering::Relaxed) > 0;
            let holds = |log: &Compacted| {
                let left = log.uncommitted();
                assert_eq!(left[left.len() - 5..], newest, "at change {failing_change}");
                assert!(left.windows(2).all(|pair| pair[0].0 < pair[1].0));
            };
            holds(&log);
            // The writer goes as in a crash.
            drop(log);
            if !view_survives {
                std::fs::remove_dir_all(dir.path().join("view")).unwrap();
            }
            let log = Compacted::open(dir.path(), NOW);
            holds(&log);
            log.on_disk();
            let again = log.append(keyed(&[("3", Some("23"))], producer(1, 23, false))).unwrap();
            assert!(again.duplicate);
            log.compact_again();
            assert_eq!(log.uncommitted()[..5], newest);
            log.on_disk();
        }
        failing_change += 1;
    }
    assert!(failing_change > 6, "several drafts, publications and deletions");
}
