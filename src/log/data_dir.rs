//! The data directory: its lock, format version, cluster id and leader epoch.
//!
//! Layout: `ottla.toml` (format, cluster id, epoch), `lock`, `logs/` (the truth), `view/` (sled).

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::types::LeaderEpoch;

/// Why a directory cannot be served.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// It cannot be created, read or written.
    #[error(
        "data directory {path}: {action}: {source}; choose another with --data-dir or mend its permissions"
    )]
    Io {
        /// The directory or a file in it.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Another process serves it.
    #[error(
        "data directory {0} is in use by another process; stop that one or choose another with --data-dir"
    )]
    Locked(PathBuf),
    /// It holds something else.
    #[error(
        "{0} is not empty and was not made by Ottla; choose an empty or new directory with --data-dir"
    )]
    Foreign(PathBuf),
    /// A newer Ottla wrote it.
    #[error(
        "data directory {path} has format {found}, this version reads up to {supported}; run a newer Ottla"
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        supported: u32,
    },
}

/// An opened and locked directory; dropping it unlocks.
pub struct DataDir {}

impl DataDir {
    /// Creates or opens `path`, locks it, checks its format and durably raises the leader epoch.
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        let _ = path;
        todo!("log helper")
    }

    /// The cluster's id: 22 characters of URL-safe base64, made once.
    pub fn cluster_id(&self) -> &str {
        todo!("log helper")
    }

    /// This start's leader epoch.
    pub fn epoch(&self) -> LeaderEpoch {
        todo!("log helper")
    }

    /// Where the logs lie.
    pub fn logs(&self) -> PathBuf {
        todo!("log helper")
    }

    /// Where sled lies.
    pub fn view(&self) -> PathBuf {
        todo!("log helper")
    }
}
