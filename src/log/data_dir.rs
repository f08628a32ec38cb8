//! The data directory: its lock, format version, cluster id and leader epoch.
//!
//! Layout: `ottla.toml` (format, cluster id, epoch), `lock`, `logs/` (the truth), `view/` (sled).

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;
use uuid::Uuid;

use crate::log::boot::Boot;
use crate::log::object::files::{Files, Os};
use crate::log::object::local_store::create_dir;
use crate::types::LeaderEpoch;

/// Why a directory cannot be served.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// It cannot be created, read or written.
    #[error(
        "data directory {path}: {action}: {source}; choose another directory or mend its permissions"
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
        "data directory {0} is in use by another process; stop that one or choose another directory"
    )]
    Locked(PathBuf),
    /// It holds something else.
    #[error(
        "{0} is not empty and was not made by Ottla; name a directory of Ottla's, or an empty or new one to serve from"
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
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    boot: Boot,
    /// Held, not read: the lock lives as long as the file is open.
    _lock: File,
}

/// What `ottla.toml` keeps.
#[derive(Clone, Debug, Deserialize)]
struct Identity {
    format: u32,
    cluster_id: String,
    leader_epoch: i32,
    /// The boot of the machine in which every log was opened last.
    boot_id: Option<String>,
}

/// The format that this version writes, and the newest that it reads. Since 2, logs may have start notes and
/// segments with revisions: an older binary would ignore them and bring deleted records back. Since 3, the
/// write-ahead log may hold appends that a power loss has taken from the segments. Since 4, logs have manifests,
/// and files of the write-ahead log that did not fit their logs are kept: an older binary would ignore the starts
/// of logs in the former, and acknowledged records in the latter. Since 5, the metadata's journal is binary.
const FORMAT: u32 = 5;
const IDENTITY: &str = "ottla.toml";
const IDENTITY_NEXT: &str = "ottla.toml.next";
const LOCK: &str = "lock";
/// What a directory may hold before Ottla's first start in it has succeeded.
const UNCLAIMED: [&str; 3] = [LOCK, IDENTITY_NEXT, "lost+found"];

impl DataDir {
    /// Creates or opens `path`, locks it, checks its format and durably raises the leader epoch.
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        let failed =
            |action| move |source| DataDirError::Io { path: path.to_owned(), action, source };
        create_dir(path).map_err(failed("create"))?;
        let claimed = path.join(IDENTITY).try_exists().map_err(failed("read"))?;
        if !claimed && !is_unclaimed(path).map_err(failed("read"))? {
            return Err(DataDirError::Foreign(path.to_owned()));
        }
        let lock = lock(path)?;
        // Read under the lock: a first start beside this one may have claimed it meanwhile.
        let mut identity = match fs::read_to_string(path.join(IDENTITY)) {
            Ok(text) => parse(path, &text)?,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let cluster_id = new_cluster_id();
                Identity { format: FORMAT, cluster_id, leader_epoch: -1, boot_id: None }
            }
            Err(source) => return Err(failed("read ottla.toml")(source)),
        };
        identity.format = FORMAT;
        identity.leader_epoch = identity.leader_epoch.saturating_add(1);
        let boot = Boot::now(identity.boot_id.as_deref());
        write_identity(path, &identity).map_err(failed("write ottla.toml"))?;
        Ok(DataDir { path: path.to_owned(), identity, boot, _lock: lock })
    }

    /// Remembers that every log was opened in this boot of the machine, whatever a power loss before it had left
    /// of them: until the next boot, a start expects no such thing.
    pub fn remember_boot(&self) -> io::Result<()> {
        if self.boot.is_same {
            return Ok(());
        }
        let boot_id = self.boot.id.map(|id| id.to_string());
        write_identity(&self.path, &Identity { boot_id, ..self.identity.clone() })
    }

    /// Locks an existing directory and checks its format, but begins no new epoch: for tools that
    /// look at a stopped broker's files.
    pub fn inspect(path: &Path) -> Result<DataDir, DataDirError> {
        let failed =
            |action| move |source| DataDirError::Io { path: path.to_owned(), action, source };
        fs::read_dir(path).map_err(failed("read"))?;
        let identity = match fs::read_to_string(path.join(IDENTITY)) {
            Ok(text) => parse(path, &text)?,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(DataDirError::Foreign(path.to_owned()));
            }
            Err(source) => return Err(failed("read ottla.toml")(source)),
        };
        let lock = lock(path)?;
        let boot = Boot::now(identity.boot_id.as_deref());
        Ok(DataDir { path: path.to_owned(), identity, boot, _lock: lock })
    }

    /// The boot of the machine.
    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// The cluster's id: 22 characters of URL-safe base64, made once.
    pub fn cluster_id(&self) -> &str {
        &self.identity.cluster_id
    }

    /// This start's leader epoch.
    pub fn epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.identity.leader_epoch)
    }

    /// What lies in the directory besides what an Ottla puts there.
    pub fn strangers(&self) -> io::Result<Vec<String>> {
        let mut strangers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let is_known = UNCLAIMED.contains(&&*name)
                || [IDENTITY, "logs", "view"].contains(&&*name)
                || name.starts_with("view.corrupt-");
            if !is_known {
                strangers.push(name);
            }
        }
        strangers.sort_unstable();
        Ok(strangers)
    }

    /// Where the logs lie.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Where sled lies.
    pub fn view(&self) -> PathBuf {
        self.path.join("view")
    }
}

/// Claims the directory for this process, for as long as the file is open.
fn lock(path: &Path) -> Result<File, DataDirError> {
    let failed = |action| move |source| DataDirError::Io { path: path.to_owned(), action, source };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(LOCK))
        .map_err(failed("create lock file"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataDirError::Locked(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed("lock")(source)),
    }
}

fn is_unclaimed(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if !UNCLAIMED.iter().any(|known| name == *known) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn parse(path: &Path, text: &str) -> Result<Identity, DataDirError> {
    let invalid = |e: toml::de::Error| DataDirError::Io {
        path: path.to_owned(),
        action: "parse ottla.toml",
        source: io::Error::new(ErrorKind::InvalidData, e.message().to_owned()),
    };
    // The format alone first: a newer one may have other fields.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format: found } = toml::from_str(text).map_err(invalid)?;
    if found > FORMAT {
        return Err(DataDirError::Newer { path: path.to_owned(), found, supported: FORMAT });
    }
    toml::from_str(text).map_err(invalid)
}

/// Replaces the file in one step, so that a crash leaves the old one or the new one.
fn write_identity(path: &Path, identity: &Identity) -> io::Result<()> {
    let Identity { format, cluster_id, leader_epoch, boot_id } = identity;
    let boot = boot_id.as_ref().map(|id| format!("boot_id = \"{id}\"\n")).unwrap_or_default();
    let text = format!(
        "# Written by Ottla at each start; not meant for editing.\n\
         format = {format}\ncluster_id = \"{cluster_id}\"\nleader_epoch = {leader_epoch}\n{boot}"
    );
    let next = path.join(IDENTITY_NEXT);
    let mut file = File::create(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&next, path.join(IDENTITY))?;
    Os.sync_dir(path)
}

/// 16 random bytes in URL-safe base64. One that starts with a dash would read as a flag in shells.
fn new_cluster_id() -> String {
    loop {
        let id = base64_url(Uuid::new_v4().as_bytes());
        if !id.starts_with('-') {
            return id;
        }
    }
}

/// URL-safe base64 without padding (RFC 4648, section 5).
fn base64_url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let group = three.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for digit in 0..=three.len() {
            out.push(char::from(ALPHABET[(group >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_stays_and_epoch_rises_with_each_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        let first = DataDir::open(&path).unwrap();
        let id = first.cluster_id().to_owned();
        assert_eq!((id.len(), first.epoch()), (22, LeaderEpoch(0)));
        drop(first);
        let second = DataDir::open(&path).unwrap();
        assert_eq!((second.cluster_id(), second.epoch()), (&*id, LeaderEpoch(1)));
    }

    #[test]
    fn a_directory_is_served_by_one_broker_only() {
        let dir = tempfile::tempdir().unwrap();
        let _first = DataDir::open(dir.path()).unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::Locked(_))));
    }

    #[test]
    fn foreign_and_newer_directories_are_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "do not lose").unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::Foreign(_))));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let newer = format!("format = {}\nshard = 7\n", FORMAT + 1);
        fs::write(dir.path().join(IDENTITY), &newer).unwrap();
        let refused = DataDir::open(dir.path());
        let Err(DataDirError::Newer { found, supported: FORMAT, .. }) = refused else {
            panic!("a newer directory was opened");
        };
        assert_eq!(found, FORMAT + 1);
        assert_eq!(fs::read_to_string(dir.path().join(IDENTITY)).unwrap(), newer);
    }

    #[test]
    fn a_directory_of_an_older_format_is_kept_from_older_binaries_once_it_was_served() {
        for format in 1..FORMAT {
            let dir = tempfile::tempdir().unwrap();
            let identity = dir.path().join(IDENTITY);
            let text = format!("format = {format}\ncluster_id = \"id\"\nleader_epoch = 4\n");
            fs::write(&identity, &text).unwrap();
            let inspected = DataDir::inspect(dir.path()).unwrap();
            assert!(!inspected.boot().is_same, "it tells of no boot");
            drop(inspected);
            assert_eq!(fs::read_to_string(&identity).unwrap(), text);
            let opened = DataDir::open(dir.path()).unwrap();
            assert_eq!((opened.cluster_id(), opened.epoch()), ("id", LeaderEpoch(5)));
            assert!(
                fs::read_to_string(&identity).unwrap().contains(&format!("format = {FORMAT}\n"))
            );
        }
    }

    #[test]
    fn a_boot_is_remembered_only_when_every_log_was_opened_in_it() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            assert!(!DataDir::open(dir.path()).unwrap().boot().is_same);
        }
        let opened = DataDir::open(dir.path()).unwrap();
        opened.remember_boot().unwrap();
        drop(opened);
        let again = DataDir::open(dir.path()).unwrap();
        // Where the system tells no boot, none is ever the same.
        assert_eq!(again.boot().is_same, again.boot().id.is_some());
        assert_eq!(again.epoch(), LeaderEpoch(3));
        drop(again);
        let identity = dir.path().join(IDENTITY);
        let text = fs::read_to_string(&identity).unwrap();
        let other = text.lines().filter(|line| !line.starts_with("boot_id"));
        let other = other.chain(["boot_id = \"00000000-0000-0000-0000-000000000001\""]);
        fs::write(&identity, other.collect::<Vec<_>>().join("\n")).unwrap();
        assert!(!DataDir::open(dir.path()).unwrap().boot().is_same);
    }

    #[test]
    fn a_start_that_crashed_before_its_identity_was_written_is_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK), "").unwrap();
        fs::write(dir.path().join(IDENTITY_NEXT), "form").unwrap();
        assert_eq!(DataDir::open(dir.path()).unwrap().epoch(), LeaderEpoch(0));
    }

    #[test]
    fn base64_follows_its_rfc() {
        assert_eq!(base64_url(b"foobar"), "Zm9vYmFy");
        assert_eq!(base64_url(b"foob"), "Zm9vYg");
        assert_eq!(base64_url(&[0xff, 0xfe]), "__4");
    }
}
