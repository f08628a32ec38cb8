//! Operations of `ottla doctor` on the files of a stopped broker, which `RecordStore` does not offer.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{
    DRAFT_SUFFIX, LocalRecordStore, START_PREFIX, SUFFIX, file_name, manifests, parse_log_id,
    parse_object,
};
use crate::log::object::files::Files;
use crate::log::object::record_store::{Location, ObjectId, RecordStore};
use crate::log::wal;
use crate::types::LogId;

const DAMAGE_INFIX: &str = ".damaged-at-";
const DAMAGE_NEXT_SUFFIX: &str = ".damaged.draft";
/// How many bytes one read copies.
const COPY_BYTES: usize = 1 << 20;

impl LocalRecordStore {
    /// Copies bytes of an object to a file of their own beside it, durably, and returns its path. A file
    /// with other bytes that an earlier call saved there is kept, and the new one gets a number.
    pub(in crate::log) fn save_damage(
        &self,
        object: ObjectId,
        position: u64,
        length: u64,
    ) -> io::Result<PathBuf> {
        let dir = self.log_dir(object.log);
        let next = dir.join(file_name(object, DAMAGE_NEXT_SUFFIX));
        let mut file = fs::File::create(&next)?;
        let end = position + length;
        let mut at = position;
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
            let bytes = self.read(Location { object, position: at, length })?;
            if bytes.is_empty() {
                break;
            }
            file.write_all(&bytes)?;
            at += bytes.len() as u64;
        }
        file.sync_all()?;
        drop(file);
        for number in 1u32.. {
            let again = if number == 1 { String::new() } else { format!("-{number}") };
            let path = dir.join(file_name(object, &format!("{DAMAGE_INFIX}{position}{again}")));
            if path.exists() && !same_bytes(&path, &next)? {
                continue;
            }
            fs::rename(&next, &path)?;
            self.files.sync_dir(&dir)?;
            return Ok(path);
        }
        Err(io::Error::other("every name for saved damage is taken"))
    }

    /// Whether the file of this name was written by `save_damage`.
    pub(in crate::log) fn is_saved_damage(name: &str) -> bool {
        name.contains(DAMAGE_INFIX)
    }

    /// The names in a log's directory that are no part of the log.
    pub(in crate::log) fn others(&self, log: LogId) -> io::Result<Vec<String>> {
        let is_part = |name: &str| {
            let stem = name.strip_suffix(SUFFIX).or_else(|| name.strip_suffix(DRAFT_SUFFIX));
            stem.is_some_and(|stem| parse_object(log, stem).is_some())
                || [manifests::NAME, manifests::DRAFT_NAME].contains(&name)
                || name.strip_prefix(START_PREFIX).is_some_and(|at| at.parse::<u64>().is_ok())
        };
        let names = self.entries(log)?.into_iter().map(|entry| entry.name);
        let mut others: Vec<String> = names.filter(|name| !is_part(name)).collect();
        others.sort_unstable();
        Ok(others)
    }

    /// The names beside the directories of logs that are neither a log nor the write-ahead log.
    pub(in crate::log) fn strangers(&self) -> io::Result<Vec<String>> {
        let names = self.files.list(&self.dir)?.into_iter().map(|entry| entry.name);
        let is_known = |name: &String| *name == wal::DIR || parse_log_id(name).is_some();
        let mut strangers: Vec<String> = names.filter(|name| !is_known(name)).collect();
        strangers.sort_unstable();
        Ok(strangers)
    }
}

fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    if fs::metadata(one)?.len() != fs::metadata(other)?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (fs::File::open(one)?, fs::File::open(other)?);
    let (mut of_one, mut of_other) = (vec![0; COPY_BYTES], vec![0; COPY_BYTES]);
    loop {
        let read = one.read(&mut of_one)?;
        if read == 0 {
            return Ok(true);
        }
        other.read_exact(&mut of_other[..read])?;
        if of_one[..read] != of_other[..read] {
            return Ok(false);
        }
    }
}
