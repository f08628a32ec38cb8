//! All sled access. sled holds the view (indexes, snapshots, positions), never the truth: the
//! directory may vanish or be corrupt at any start, and the rooms above rebuild it from the logs.

use std::path::Path;

use thiserror::Error;

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

/// A cheap handle to the view.
#[derive(Clone)]
pub struct Store {
    db: sled::Db,
    opened_empty: bool,
}

impl Store {
    /// Opens the view in `path`; a directory that sled cannot read is set aside and begun anew,
    /// which `opened_empty` then tells.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let db = sled::Config::new().path(path).cache_capacity(8 << 20).open().map_err(|e| {
            StoreError::Failed { path: path.display().to_string(), reason: e.to_string() }
        })?;
        let opened_empty = db.is_empty();
        Ok(Store { db, opened_empty })
    }

    /// Whether the view began empty, so that everything must be rebuilt from the logs.
    pub fn opened_empty(&self) -> bool {
        self.opened_empty
    }
}
