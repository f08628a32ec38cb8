//! Orders for `shim/faults.c`: which calls of a broker on which files fail, and how.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::harness::{Options, source};

/// The layout in `faults.c`.
const SLOT_BYTES: usize = 256;
const SLOTS: u64 = 15;
const PATH_AT: usize = 24;
const DONE_AT: u64 = 12;

/// Which system calls an order is about; a sum is a set.
#[derive(Clone, Copy, Debug)]
pub struct Calls(i32);

impl Calls {
    /// write, writev, pwrite.
    pub const WRITE: Calls = Calls(1);
    /// fsync, fdatasync.
    pub const SYNC: Calls = Calls(2);
    /// open, openat.
    pub const OPEN: Calls = Calls(4);
    /// ftruncate.
    pub const TRUNCATE: Calls = Calls(8);
    /// rename.
    pub const RENAME: Calls = Calls(16);
    /// unlink.
    pub const UNLINK: Calls = Calls(32);
    /// pread.
    pub const READ: Calls = Calls(64);
}

impl std::ops::BitOr for Calls {
    type Output = Calls;

    fn bitor(self, other: Calls) -> Calls {
        Calls(self.0 | other.0)
    }
}

/// What the disk is to do instead of what it is asked for.
#[derive(Clone, Debug)]
pub struct Order {
    calls: Calls,
    path: String,
    error: i32,
    bytes: i64,
    left: i32,
}

/// Linux's numbers.
pub const EINTR: i32 = 4;
pub const EIO: i32 = 5;
pub const EMFILE: i32 = 24;
pub const ENOSPC: i32 = 28;

impl Order {
    /// Calls on files whose path holds `path` fail with `error`, for ever.
    pub fn fail(calls: Calls, path: &str, error: i32) -> Order {
        Order { calls, path: path.to_owned(), error, bytes: 0, left: -1 }
    }

    /// Reads and writes on files whose path holds `path` take half of what is asked for, for ever.
    pub fn half(calls: Calls, path: &str) -> Order {
        Order { calls, path: path.to_owned(), error: 0, bytes: -1, left: -1 }
    }

    /// The next `times` calls only.
    pub fn times(mut self, times: i32) -> Order {
        self.left = times;
        self
    }
}

/// A broker's disk and wall clock.
pub struct Shim {
    orders: File,
    folder: TempDir,
}

/// A standing order. Dropping it leaves it standing.
#[derive(Debug)]
pub struct Standing {
    slot: u64,
}

impl Shim {
    /// A disk that works.
    #[track_caller]
    pub fn new() -> Shim {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("orders");
        fs::write(&path, [0; 4096]).expect("the file of orders");
        let orders = File::options().write(true).read(true).open(path).expect("the file of orders");
        Shim { orders, folder }
    }

    /// Puts it under a broker.
    pub fn under(&self, options: Options) -> Options {
        let orders = self.folder.path().join("orders");
        options
            .env("LD_PRELOAD", library().to_str().expect("a path in UTF-8"))
            .env("OTTLA_FAULTS", orders.to_str().expect("a path in UTF-8"))
    }

    /// Gives an order. Of several that fit a call, the one given first holds.
    #[track_caller]
    pub fn order(&self, order: Order) -> Standing {
        let slot = (0..SLOTS).find(|slot| self.read(*slot, 0) == 0).expect("a free slot");
        let mut bytes = vec![0; SLOT_BYTES];
        bytes[4..8].copy_from_slice(&order.error.to_le_bytes());
        bytes[8..12].copy_from_slice(&order.left.to_le_bytes());
        bytes[16..24].copy_from_slice(&order.bytes.to_le_bytes());
        bytes[PATH_AT..PATH_AT + order.path.len()].copy_from_slice(order.path.as_bytes());
        assert_eq!(bytes.last(), Some(&0), "a path part of less than 232 bytes");
        self.write(at(slot, 0), &bytes);
        // Last: from now on it holds.
        self.write(at(slot, 0), &order.calls.0.to_le_bytes());
        Standing { slot }
    }

    /// How often an order was carried out.
    pub fn done(&self, standing: &Standing) -> i32 {
        self.read(standing.slot, DONE_AT)
    }

    /// Takes an order back; returns how often it was carried out. Panics if it never was, since
    /// then the test has shown nothing.
    #[track_caller]
    pub fn lift(&self, standing: Standing) -> i32 {
        let done = self.done(&standing);
        self.write(at(standing.slot, 0), &0_i32.to_le_bytes());
        assert!(done > 0, "no call was met by the order in slot {}", standing.slot);
        done
    }

    /// Moves the wall clock.
    pub fn set_wall_off_ms(&self, off: i64) {
        self.write(0, &off.to_le_bytes());
    }

    fn read(&self, slot: u64, offset: u64) -> i32 {
        let mut bytes = [0; 4];
        self.orders.read_exact_at(&mut bytes, at(slot, offset)).expect("an order");
        i32::from_le_bytes(bytes)
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.orders.write_all_at(bytes, at).expect("the file of orders");
    }
}

fn at(slot: u64, offset: u64) -> u64 {
    (slot + 1) * SLOT_BYTES as u64 + offset
}

/// `faults.c`, compiled once for all tests of a run.
#[track_caller]
fn library() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("faults.so");
        // Another run may be using the one that is there.
        let draft = path.with_extension(format!("so.{}", std::process::id()));
        let compiled = Command::new("cc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
            .args([&draft, &source("shim/faults.c")])
            .arg("-ldl")
            .output()
            .expect("cc is here: Rust links with it");
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "faults.c does not compile: {said}");
        fs::rename(&draft, &path).expect("the library that was just compiled");
        path
    });
    built.clone()
}
