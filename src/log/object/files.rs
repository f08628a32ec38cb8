//! The operations on files that the local store needs, each a single call to the operating system. They are
//! a trait, so that a simulated disk in tests can lose power between any two of them.

use std::fs;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, OFlags};
use rustix::io::ReadWriteFlags;

use crate::types::Timestamp;

const PAGE_BYTES: u64 = 4 << 10;

/// A file system. Paths are absolute or relative to where the process runs.
pub trait Files: Send + Sync + 'static {
    /// An open file.
    type File: File;

    /// Opens a file that exists, to read and write.
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file that exists, to read it with `File::read_once_at`.
    fn open_once(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file that exists, to write it in whole blocks of 4 KiB from aligned memory; past the page
    /// cache, if the file system can do that.
    fn open_blocks(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a directory for `File::sync_fs`.
    fn open_dir(&self, dir: &Path) -> io::Result<Self::File>;

    /// Opens a file that exists, to read it past the page cache: in whole blocks, into aligned memory.
    /// `InvalidInput`, here or from a read, if the file system cannot do that.
    fn open_direct(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file to read and write, creating it if it is absent.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Creates a directory and its parents, where absent.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes the entries of `dir` survive power loss: every file created, renamed or removed there.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Renames a file inside its directory; one of the new name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory with all it holds.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// When a file was written last, by the system's clock.
    fn written_at(&self, path: &Path) -> io::Result<Timestamp>;

    /// The entries of a directory, in no order. Bytes of a name that are no UTF-8 are replaced.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
}

/// A file that is open for reading and writing.
pub trait File: Send + Sync {
    /// Reads at `position`, possibly fewer bytes than fit; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// `read_at` that fails with `WouldBlock` if it would wait for the disk.
    fn read_ready_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// `read_at` for a reader that does not read the same bytes again soon: bytes that had to be read
    /// from the disk are not kept in the page cache.
    fn read_once_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Drops what the page cache holds of the file and the disk has, so that the next read asks the disk.
    /// Best effort: bytes that were not written back yet stay.
    fn drop_cached(&self);

    /// Whether the file was removed, so that only open handles keep its space.
    fn is_removed(&self) -> io::Result<bool>;

    /// Writes all of `bytes` at `position`. An error may leave part of them behind.
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;

    /// Makes the file's bytes and length survive power loss, but not its name.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes everything that was written to any file of the file system survive power loss. Fails if the
    /// write of any of them has failed since this handle was opened.
    fn sync_fs(&self) -> io::Result<()>;

    /// Cuts the file, or extends it by zeros.
    fn set_len(&self, length: u64) -> io::Result<()>;
}

/// Fills `buffer` from `position` on, with as many calls of `read` as that takes. Returns the number of bytes,
/// which is less than the buffer only at the end of the file.
pub fn fill(
    buffer: &mut [u8],
    position: u64,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match read(rest, position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A name in a directory.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The file's or directory's.
    pub name: String,
    /// The file's length.
    pub bytes: u64,
}

/// The operating system's files.
#[derive(Clone, Copy, Debug)]
pub struct Os;

impl Files for Os {
    type File = fs::File;

    fn open(&self, path: &Path) -> io::Result<fs::File> {
        fs::OpenOptions::new().read(true).write(true).open(path)
    }

    fn open_once(&self, path: &Path) -> io::Result<fs::File> {
        let file = fs::File::open(path)?;
        // Without read-ahead: pages that it brings in could not be told from pages that other readers
        // use. If the advice fails, some memory is wasted, and nothing is wrong.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
        Ok(file)
    }

    fn open_blocks(&self, path: &Path) -> io::Result<fs::File> {
        let open = |flags: OFlags| {
            let mut options = fs::OpenOptions::new();
            options.read(true).write(true).custom_flags(flags.bits().cast_signed()).open(path)
        };
        match open(OFlags::DIRECT) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => open(OFlags::empty()),
            opened => opened,
        }
    }

    fn open_dir(&self, dir: &Path) -> io::Result<fs::File> {
        fs::File::open(dir)
    }

    fn open_direct(&self, path: &Path) -> io::Result<fs::File> {
        let direct = OFlags::DIRECT.bits().cast_signed();
        fs::OpenOptions::new().read(true).custom_flags(direct).open(path)
    }

    fn create(&self, path: &Path) -> io::Result<fs::File> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).open(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn written_at(&self, path: &Path) -> io::Result<Timestamp> {
        let metadata = fs::metadata(path)?;
        Ok(Timestamp(metadata.mtime().saturating_mul(1000) + metadata.mtime_nsec() / 1_000_000))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.metadata() {
                Ok(metadata) => entries.push(Entry { name, bytes: metadata.len() }),
                // It was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }
}

impl File for fs::File {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, position)
    }

    fn read_ready_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut buffers = [IoSliceMut::new(buffer)];
        Ok(rustix::io::preadv2(self, &mut buffers, position, ReadWriteFlags::NOWAIT)?)
    }

    fn read_once_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let length = buffer.len();
        match self.read_ready_at(buffer, position) {
            Ok(read) if read == length => return Ok(read),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A file system that cannot tell: nothing is dropped.
            Err(_) => return FileExt::read_at(self, buffer, position),
        }
        let read = FileExt::read_at(self, buffer, position)?;
        let from = position - position % PAGE_BYTES;
        let to = (position + read as u64).next_multiple_of(PAGE_BYTES);
        let _ = rustix::fs::fadvise(self, from, NonZeroU64::new(to - from), Advice::DontNeed);
        Ok(read)
    }

    fn drop_cached(&self) {
        // A file system that has no such cache has nothing to drop.
        let _ = rustix::fs::fadvise(self, 0, None, Advice::DontNeed);
    }

    fn is_removed(&self) -> io::Result<bool> {
        Ok(self.metadata()?.nlink() == 0)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        fs::File::sync_data(self)
    }

    fn sync_fs(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(self)?)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        fs::File::set_len(self, length)
    }
}
