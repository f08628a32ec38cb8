//! A disk in memory that loses power, with the guarantees that POSIX gives and no more:
//!
//! - A write or a change of length is seen at once by whoever reads, and survives power loss for
//!   sure only after the file's `sync_data`. Until then each sector (512 B or 4 KiB) is found as any
//!   of the writes since the last sync left it, or as that sync left it, whatever became of its
//!   neighbours; what was never written inside the file reads as zeros. The length is any of those
//!   that the file had since. Optionally a sector past the synced length is garbage.
//! - Creating, renaming and removing a name survives for sure only after the `sync_dir` of its
//!   directory, also when the file itself was synced. Until then each of them survives or not,
//!   whatever became of the others; a rename is one step.
//! - When power fails in the middle of a call, a write may be done in part, and another change may
//!   be done. Every later call fails.
//! - After a failed `sync_data` no later one makes the file's earlier writes durable, although it says so: the
//!   kernel has marked the pages clean. Only bytes that are written again will be. When the process starts again,
//!   the cache may have dropped them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Random;
use crate::log::object::files::{Entry, File, Files};
use crate::types::Timestamp;

const EIO: i32 = 5;

/// See the module's header. Clones are the same disk.
#[derive(Clone)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

struct State {
    random: Random,
    inodes: Vec<Inode>,
    /// The first one is the root.
    dirs: Vec<Dir>,
    /// Changes until power fails.
    budget: Option<u64>,
    off: bool,
    /// The next write fails with this errno after a part of it.
    write_fault: Option<i32>,
    sync_fault: bool,
    has_sync_failed: bool,
}

/// A file's contents: as last synced, and as each change since has left it.
struct Inode {
    versions: Vec<Vec<u8>>,
    /// For each byte, whether a failed sync has given it up.
    given_up: Vec<bool>,
}

impl Inode {
    fn contents(&self) -> &Vec<u8> {
        self.versions.last().unwrap()
    }

    /// Changes the contents; what is in `written` is written back by the next sync.
    fn change(&mut self, contents: Vec<u8>, written: std::ops::Range<usize>) {
        self.given_up.resize(contents.len(), false);
        self.given_up[written].fill(false);
        self.versions.push(contents);
    }

    fn sync(&mut self) {
        if !self.given_up.contains(&true) {
            self.versions.drain(..self.versions.len() - 1);
            return;
        }
        let contents = self.contents().clone();
        self.given_up.resize(contents.len(), false);
        let durable = self.versions[0].clone();
        self.versions = vec![kept(&durable, &contents, &self.given_up), contents];
        if self.versions[0] == self.versions[1] {
            self.versions.truncate(1);
        }
    }

    fn fail_sync(&mut self) {
        let durable = &self.versions[0];
        let contents = self.versions.last().unwrap();
        let is_same = |(at, byte): (usize, &u8)| durable.get(at) == Some(byte);
        let lost = contents.iter().enumerate().map(|it| !is_same(it));
        let before = self.given_up.iter().copied().chain(std::iter::repeat(false));
        self.given_up = lost.zip(before).map(|(lost, before)| lost || before).collect();
    }

    /// The cache drops what a failed sync has given up, and reads it from the disk.
    fn drop_given_up(&mut self) {
        let contents = kept(&self.versions[0], self.contents(), &self.given_up);
        self.versions.push(contents);
    }
}

/// The contents, with bytes that were given up as they are on the disk.
fn kept(durable: &[u8], contents: &[u8], given_up: &[bool]) -> Vec<u8> {
    let on_disk = |at: usize| durable.get(at).copied().unwrap_or(0);
    let is_given_up = |at: usize| given_up.get(at).copied().unwrap_or(false);
    let byte = |(at, byte): (usize, &u8)| if is_given_up(at) { on_disk(at) } else { *byte };
    contents.iter().enumerate().map(byte).collect()
}

#[derive(Default)]
struct Dir {
    durable: BTreeMap<String, Node>,
    current: BTreeMap<String, Node>,
    unsynced: Vec<Change>,
}

#[derive(Clone, Copy)]
enum Node {
    File(usize),
    Dir(usize),
}

#[derive(Clone)]
enum Change {
    Link(String, Node),
    Unlink(String),
    Rename(String, String, Node),
}

impl Change {
    fn apply(&self, entries: &mut BTreeMap<String, Node>) {
        match self {
            Change::Link(name, node) => drop(entries.insert(name.clone(), *node)),
            Change::Unlink(name) => drop(entries.remove(name)),
            Change::Rename(from, to, node) => {
                entries.remove(from);
                entries.insert(to.clone(), *node);
            }
        }
    }
}

/// An open file of the disk.
pub struct Handle {
    disk: Disk,
    inode: usize,
}

impl Disk {
    pub fn new(random: Random) -> Disk {
        let state = State {
            random,
            inodes: Vec::new(),
            dirs: vec![Dir::default()],
            budget: None,
            off: false,
            write_fault: None,
            sync_fault: false,
            has_sync_failed: false,
        };
        Disk { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Power fails, or the process ends, at the change after so many.
    pub fn fail_after(&self, changes: u64) {
        self.state().budget = Some(changes);
    }

    pub fn fail_next_write(&self, errno: i32) {
        self.state().write_fault = Some(errno);
    }

    pub fn fail_next_sync(&self) {
        self.state().sync_fault = true;
    }

    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// A fault that was asked for and is still to come does not come any more.
    pub fn call_off_faults(&self) {
        let mut state = self.state();
        state.write_fault = None;
        state.sync_fault = false;
    }

    /// The process ends; what it wrote stays as it is, unless a sync of it has failed. Returns whether the cache
    /// has dropped such bytes.
    pub fn restart(&self) -> bool {
        let mut state = self.state();
        state.off = false;
        state.budget = None;
        state.write_fault = None;
        state.sync_fault = false;
        let State { inodes, random, .. } = &mut *state;
        let mut has_dropped = false;
        for inode in inodes.iter_mut().filter(|inode| inode.given_up.contains(&true)) {
            if random.one_in(2) {
                inode.drop_given_up();
                has_dropped = true;
            }
        }
        has_dropped
    }

    /// A loss of power that was asked for and is still to come does not come any more.
    pub fn call_off(&self) {
        self.call_off_faults();
        self.state().budget = None;
    }

    /// Whether a sync has failed since the last call.
    pub fn has_sync_failed(&self) -> bool {
        std::mem::take(&mut self.state().has_sync_failed)
    }

    /// The machine loses power and starts again.
    pub fn lose_power(&self, garbage: bool) {
        self.restart();
        let mut state = self.state();
        let State { random, inodes, dirs, .. } = &mut *state;
        for dir in dirs {
            // Most machines write names in time, or none of them; a removed one comes back then.
            let fate = random.below(4);
            for change in std::mem::take(&mut dir.unsynced) {
                let survives = match fate {
                    0 => false,
                    1 => true,
                    _ => random.one_in(2),
                };
                if survives {
                    change.apply(&mut dir.durable);
                }
            }
            dir.current = dir.durable.clone();
        }
        let sector = if random.one_in(2) { 512 } else { 4096 };
        for inode in inodes {
            inode.versions = vec![left(&inode.versions, sector, garbage, random)];
            inode.given_up.clear();
        }
    }
}

/// What power loss leaves of a file.
fn left(versions: &[Vec<u8>], sector: usize, garbage: bool, random: &mut Random) -> Vec<u8> {
    let last = versions.len() - 1;
    // Most machines write everything in time, or nothing.
    match random.below(5) {
        0 => return versions[0].clone(),
        1 => return versions[random.below(versions.len())].clone(),
        _ => {}
    }
    let any = |random: &mut Random| match random.one_in(2) {
        true => &versions[last],
        false => &versions[random.below(versions.len())],
    };
    let mut image = vec![0; any(random).len()];
    let length = image.len();
    for at in (0..length).step_by(sector) {
        let end = length.min(at + sector);
        if garbage && at >= versions[0].len() && random.one_in(6) {
            image[at..end].fill_with(|| random.below(256) as u8);
            continue;
        }
        let version = any(random);
        let end = end.min(version.len());
        if at < end {
            image[at..end].copy_from_slice(&version[at..end]);
        }
    }
    image
}

impl State {
    /// Whether a change may be done: power fails at this one otherwise.
    fn change(&mut self) -> io::Result<()> {
        self.look()?;
        match &mut self.budget {
            Some(0) => {
                self.off = true;
                Err(io::Error::from_raw_os_error(EIO))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn look(&self) -> io::Result<()> {
        if self.off { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }

    fn dir(&self, path: &Path) -> io::Result<usize> {
        path.iter().try_fold(0, |dir, name| {
            match self.dirs[dir].current.get(name.to_str().unwrap()) {
                Some(Node::Dir(dir)) => Ok(*dir),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        })
    }

    /// A path's directory and name, and what is there.
    fn find(&self, path: &Path) -> io::Result<(usize, String, Option<Node>)> {
        let dir = self.dir(path.parent().unwrap())?;
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let node = self.dirs[dir].current.get(&name).copied();
        Ok((dir, name, node))
    }

    /// Changes a directory, unless power fails at that; even then it may be done.
    fn change_dir(&mut self, dir: usize, change: Change) -> io::Result<()> {
        self.look()?;
        let result = self.change();
        if result.is_ok() || self.random.one_in(2) {
            change.apply(&mut self.dirs[dir].current);
            self.dirs[dir].unsynced.push(change);
        }
        result
    }
}

impl Files for Disk {
    type File = Handle;

    fn open(&self, path: &Path) -> io::Result<Handle> {
        let state = self.state();
        state.look()?;
        match state.find(path)?.2 {
            Some(Node::File(inode)) => Ok(Handle { disk: self.clone(), inode }),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn open_once(&self, path: &Path) -> io::Result<Handle> {
        self.open(path)
    }

    fn open_blocks(&self, path: &Path) -> io::Result<Handle> {
        self.open(path)
    }

    /// It has no inode: nothing but `sync_fs` is asked of it.
    fn open_dir(&self, _dir: &Path) -> io::Result<Handle> {
        Ok(Handle { disk: self.clone(), inode: usize::MAX })
    }

    fn open_direct(&self, path: &Path) -> io::Result<Handle> {
        self.open(path)
    }

    fn create(&self, path: &Path) -> io::Result<Handle> {
        let mut state = self.state();
        state.look()?;
        let (dir, name, node) = state.find(path)?;
        let inode = match node {
            Some(Node::File(inode)) => inode,
            _ => {
                let inode = state.inodes.len();
                state.inodes.push(Inode { versions: vec![Vec::new()], given_up: Vec::new() });
                state.change_dir(dir, Change::Link(name, Node::File(inode)))?;
                inode
            }
        };
        Ok(Handle { disk: self.clone(), inode })
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.look()?;
        let (parent, name, node) = state.find(dir)?;
        if node.is_some() {
            return Ok(());
        }
        let index = state.dirs.len();
        state.dirs.push(Dir::default());
        state.change_dir(parent, Change::Link(name, Node::Dir(index)))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let dir = state.look().and_then(|()| state.dir(dir))?;
        state.change()?;
        let dir = &mut state.dirs[dir];
        dir.unsynced.clear();
        dir.durable = dir.current.clone();
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.look()?;
        let (dir, from, node) = state.find(from)?;
        let node = node.ok_or(io::ErrorKind::NotFound)?;
        let to = to.file_name().unwrap().to_str().unwrap().to_owned();
        if from == to {
            return Ok(());
        }
        state.change_dir(dir, Change::Rename(from, to, node))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.look()?;
        let (dir, name, node) = state.find(path)?;
        node.ok_or(io::ErrorKind::NotFound)?;
        state.change_dir(dir, Change::Unlink(name))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let dir = state.look().and_then(|()| state.dir(path))?;
        let names: Vec<String> = state.dirs[dir].current.keys().cloned().collect();
        for name in names {
            state.change_dir(dir, Change::Unlink(name))?;
        }
        let (parent, name, _) = state.find(path)?;
        state.change_dir(parent, Change::Unlink(name))
    }

    fn written_at(&self, _path: &Path) -> io::Result<Timestamp> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.state();
        state.look()?;
        let dir = state.dir(dir)?;
        let entry = |(name, node): (&String, &Node)| {
            let bytes = match node {
                Node::File(inode) => state.inodes[*inode].contents().len() as u64,
                Node::Dir(_) => 0,
            };
            Entry { name: name.clone(), bytes }
        };
        Ok(state.dirs[dir].current.iter().map(entry).collect())
    }
}

impl Handle {}

fn put(contents: &mut Vec<u8>, bytes: &[u8], position: u64) {
    let at = position as usize;
    contents.resize(contents.len().max(at + bytes.len()), 0);
    contents[at..at + bytes.len()].copy_from_slice(bytes);
}

impl File for Handle {
    fn drop_cached(&self) {}

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let state = self.disk.state();
        state.look()?;
        let contents = state.inodes[self.inode].contents();
        let rest = contents.get(position as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn read_ready_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.read_at(buffer, position)
    }

    fn read_once_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.read_at(buffer, position)
    }

    fn is_removed(&self) -> io::Result<bool> {
        // Nobody deletes while somebody else opens: the simulation has one thread.
        Ok(false)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.look()?;
        let fault = state.write_fault.take();
        let powerless = state.change().err();
        let failed = powerless.or(fault.map(io::Error::from_raw_os_error));
        let length = match failed {
            Some(_) => state.random.below(bytes.len() + 1),
            None => bytes.len(),
        };
        let inode = &mut state.inodes[self.inode];
        let mut contents = inode.contents().clone();
        put(&mut contents, &bytes[..length], position);
        let at = position as usize;
        inode.change(contents, at..at + length);
        failed.map_or(Ok(()), Err)
    }

    fn sync_fs(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        let failed = std::mem::take(&mut state.sync_fault);
        state.has_sync_failed |= failed;
        for inode in &mut state.inodes {
            if failed { inode.fail_sync() } else { inode.sync() }
        }
        if failed { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        let failed = std::mem::take(&mut state.sync_fault);
        state.has_sync_failed |= failed;
        let inode = &mut state.inodes[self.inode];
        if failed {
            inode.fail_sync();
            return Err(io::Error::from_raw_os_error(EIO));
        }
        inode.sync();
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        let inode = &mut state.inodes[self.inode];
        let mut contents = inode.contents().clone();
        let before = contents.len();
        contents.resize(length as usize, 0);
        inode.change(contents, before.min(length as usize)..length as usize);
        Ok(())
    }
}
