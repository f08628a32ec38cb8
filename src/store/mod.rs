//! All sled access. sled holds the view (indexes, snapshots, positions), never the truth: the
//! directory may vanish or be corrupt at any start, and the rooms above rebuild it from the logs.

pub mod keys;
mod log_view;

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::{error, warn};

pub use log_view::{
    AbortedEntry, Anchor, IndexEntry, LogSnapshot, LogUpdate, ProducerEntry, SegmentEntry,
    SegmentId,
};

/// Why the view could not be used. Never fatal for data: the logs hold the truth.
#[derive(Debug, Error)]
pub enum StoreError {
    /// sled refused or failed.
    #[error(
        "the view in {path} failed: {reason}; stop the broker, delete that directory and start again: it is rebuilt from the logs"
    )]
    Failed {
        /// The directory.
        path: String,
        /// sled's own words.
        reason: String,
    },
}

/// How long a view that sled has not let go of yet is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Bytes that sled may keep in memory.
const CACHE_BYTES: u64 = 8 << 20;

/// A cheap handle to the view.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None`: there is no view.
    db: Option<sled::Db>,
    path: PathBuf,
    opened_empty: bool,
    /// sled panicked: its state is unknown, so it is not asked again.
    failed: AtomicBool,
}

impl Store {
    /// Opens the view in `path`; a directory that sled cannot read is set aside and begun anew,
    /// which `opened_empty` then tells.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        match open_checked(path) {
            Ok((db, opened_empty)) => Ok(Store::new(db, path, opened_empty)),
            Err(reason) => {
                let aside = set_aside(path).map_err(|e| failed(path, e.to_string()))?;
                warn!(
                    view = %path.display(), aside = %aside.display(), reason,
                    "view was unreadable and set aside, it is rebuilt from the logs"
                );
                let (db, _) = open_checked(path).map_err(|reason| failed(path, reason))?;
                Ok(Store::new(db, path, true))
            }
        }
    }

    /// Opens the view in `path` if there is one, and sets nothing aside.
    pub fn open_existing(path: &Path) -> Result<Option<Store>, StoreError> {
        if !path.join("conf").exists() {
            return Ok(None);
        }
        let (db, opened_empty) = open_checked(path).map_err(|reason| failed(path, reason))?;
        Ok(Some(Store::new(db, path, opened_empty)))
    }

    /// A view that keeps nothing, for a start that must not fail: everything is built from the
    /// logs, held in memory, and forgotten at the end.
    pub fn absent(path: &Path) -> Store {
        let failed = AtomicBool::new(true);
        let inner = Inner { db: None, path: path.to_owned(), opened_empty: true, failed };
        Store { inner: Arc::new(inner) }
    }

    /// Whether the view began empty, so that everything must be rebuilt from the logs.
    pub fn opened_empty(&self) -> bool {
        self.inner.opened_empty
    }

    /// Waits until everything put in so far is on disk.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.guarded(|db| db.flush().map(drop))
    }

    fn new(db: sled::Db, path: &Path, opened_empty: bool) -> Store {
        let failed = AtomicBool::new(false);
        let inner = Inner { db: Some(db), path: path.to_owned(), opened_empty, failed };
        Store { inner: Arc::new(inner) }
    }

    /// Runs one access. sled panics on some kinds of damage; that must cost the view, not the
    /// broker.
    fn guarded<T>(
        &self,
        access: impl FnOnce(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, StoreError> {
        let Inner { db, path, failed: is_failed, .. } = &*self.inner;
        let Some(db) = db.as_ref().filter(|_| !is_failed.load(Ordering::Relaxed)) else {
            return Err(failed(path, "it failed before".to_owned()));
        };
        match catch_unwind(AssertUnwindSafe(|| access(db))) {
            Ok(result) => result.map_err(|e| failed(path, e.to_string())),
            Err(panic) => {
                is_failed.store(true, Ordering::Relaxed);
                let reason = panic_text(&*panic);
                error!(view = %path.display(), reason, "view failed, going on without it");
                Err(failed(path, reason))
            }
        }
    }
}

#[cfg(test)]
impl Store {
    fn db(&self) -> sled::Db {
        self.inner.db.clone().expect("the view is open")
    }

    /// Everything in it.
    pub(crate) fn copy(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let pairs = self.db().iter().map(|pair| pair.expect("the view is readable"));
        pairs.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    /// Holds what `copy` has copied, and nothing else.
    pub(crate) fn put_back(&self, pairs: &[(Vec<u8>, Vec<u8>)]) {
        let db = self.db();
        let mut batch = sled::Batch::default();
        for key in db.iter().keys() {
            batch.remove(key.expect("the view is readable"));
        }
        for (key, value) in pairs {
            batch.insert(key.as_slice(), value.as_slice());
        }
        db.apply_batch(batch).expect("the view is writable");
    }
}

/// Opens sled, which its own threads may hold locked for a moment after its last handle is gone:
/// that is no damage, and what they still write must not be set aside under them.
fn open_unlocked(path: &Path) -> Result<sled::Db, String> {
    let patience_ends = Instant::now() + LOCK_PATIENCE;
    loop {
        match sled::Config::new().path(path).cache_capacity(CACHE_BYTES).open() {
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock")
                    && Instant::now() < patience_ends =>
            {
                std::thread::sleep(LOCK_LOOK_INTERVAL);
            }
            other => return other.map_err(|error| error.to_string()),
        }
    }
}

/// Opens sled and checks that it holds a view of this format, or nothing.
fn open_checked(path: &Path) -> Result<(sled::Db, bool), String> {
    let open = || -> Result<(sled::Db, bool), String> {
        let db = open_unlocked(path)?;
        match db.get(keys::format()).map_err(|e| e.to_string())? {
            Some(format) if *format == [keys::FORMAT] => Ok((db, false)),
            Some(format) => Err(format!("it has format {format:?}, not {}", keys::FORMAT)),
            None if db.is_empty() => {
                db.insert(keys::format(), &[keys::FORMAT]).map_err(|e| e.to_string())?;
                Ok((db, true))
            }
            None => Err("it has no format".to_owned()),
        }
    };
    catch_unwind(open).unwrap_or_else(|panic| Err(panic_text(&*panic)))
}

/// Renames a directory to `<name>.corrupt-<n>`; of earlier ones none is kept.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let prefix = format!("{name}.corrupt-");
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut earlier = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|n| n.strip_prefix(&prefix)?.parse().ok());
        earlier.extend(number.map(|number: u32| (number, entry.path())));
    }
    let number = earlier.iter().map(|(number, _)| number.saturating_add(1)).max().unwrap_or(1);
    let aside = parent.join(format!("{prefix}{number}"));
    fs::rename(path, &aside)?;
    for (_, path) in earlier {
        fs::remove_dir_all(path)?;
    }
    Ok(aside)
}

fn failed(path: &Path, reason: String) -> StoreError {
    StoreError::Failed { path: path.display().to_string(), reason }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asides(parent: &Path) -> usize {
        let names = fs::read_dir(parent).unwrap().map(|e| e.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().contains("corrupt")).count()
    }

    #[test]
    fn a_view_is_empty_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view");
        assert!(Store::open(&path).unwrap().opened_empty());
        assert!(!Store::open(&path).unwrap().opened_empty());
    }

    #[test]
    fn damaged_views_are_set_aside_and_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view");
        for _ in 0..3 {
            drop(Store::open(&path).unwrap());
            fs::write(path.join("db"), "this is no sled file at all, but long enough").unwrap();
            fs::write(path.join("conf"), "neither is this").unwrap();
            assert!(Store::open(&path).unwrap().opened_empty());
            assert_eq!(asides(dir.path()), 1);
        }
    }

    #[test]
    fn an_absent_view_keeps_nothing_and_says_so() {
        let store = Store::absent(Path::new("nowhere"));
        assert!(store.opened_empty());
        assert!(store.flush().unwrap_err().to_string().contains("nowhere"));
    }

    #[test]
    fn a_view_that_is_let_go_of_late_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view");
        let store = Store::open(&path).unwrap();
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(store);
        });
        assert!(!Store::open(&path).unwrap().opened_empty());
        late.join().unwrap();
        assert_eq!(asides(dir.path()), 0);
    }

    #[test]
    fn a_view_of_another_format_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view");
        let store = Store::open(&path).unwrap();
        store.guarded(|db| db.insert(keys::format(), &[keys::FORMAT + 1])).unwrap();
        store.flush().unwrap();
        drop(store);
        assert!(Store::open(&path).unwrap().opened_empty());
        assert_eq!(asides(dir.path()), 1);
    }
}
