//! Buffers for large reads. They are reused, since the first touch of fresh memory is expensive, and they are
//! aligned so that a disk can read into them past the page cache.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Positions, lengths and memory addresses of reads and writes past the page cache must be multiples of this.
/// No common disk needs more.
pub(in crate::log) const BLOCK_BYTES: usize = 4 << 10;
/// The size of a buffer: what a consumer asks of a partition by default (1 MiB), extended to whole blocks.
const BUFFER_BYTES: usize = (1 << 20) + 2 * BLOCK_BYTES;
/// The size of its memory: one block more, so that the buffer can be aligned in it.
const MEMORY_BYTES: usize = BUFFER_BYTES + BLOCK_BYTES;
/// A smaller read gets memory of its own size, without alignment: in a buffer it would keep much more memory
/// alive than it has bytes.
pub(in crate::log) const BYTES_MIN: usize = 512 << 10;
/// Most idle buffers that are kept for later reads.
const IDLE_MAX: usize = 8;

/// The idle buffers. Cheap to clone.
#[derive(Clone, Default)]
pub(in crate::log) struct Buffers {
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A buffer in use; it becomes idle again when the `Bytes` made from it are dropped.
pub(in crate::log) struct Loan {
    bytes: Vec<u8>,
    /// Where the buffer begins in `bytes`.
    from: usize,
    length: usize,
    owner: Buffers,
}

impl Buffers {
    /// A buffer of `length` bytes with arbitrary contents; aligned unless it is smaller than `BYTES_MIN`.
    pub(in crate::log) fn lend(&self, length: usize) -> Loan {
        let bytes = match length {
            0..BYTES_MIN => vec![0; length],
            // The most recently used one, which is the most likely to be in the processor's cache.
            BYTES_MIN..=BUFFER_BYTES => self.idle().pop().unwrap_or_else(|| vec![0; MEMORY_BYTES]),
            _ => vec![0; length + BLOCK_BYTES],
        };
        let from = bytes.as_ptr().align_offset(BLOCK_BYTES).min(bytes.len() - length);
        Loan { bytes, from, length, owner: self.clone() }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loan {
    /// The whole buffer, to read into.
    pub(in crate::log) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + self.length]
    }

    /// The first `length` bytes of the buffer, as `Bytes`; a copy if they are much less than the memory
    /// that they would keep.
    pub(in crate::log) fn filled(mut self, length: usize) -> Bytes {
        self.length = self.length.min(length);
        // `part_of` goes by the length: it must be about that of the memory, or of the half of a buffer.
        let length_min = match self.bytes.len() {
            ..MEMORY_BYTES => 0,
            MEMORY_BYTES => MEMORY_BYTES / 2 - 2 * BLOCK_BYTES,
            memory => memory - 4 * BLOCK_BYTES,
        };
        if self.length < length_min {
            return Bytes::copy_from_slice(self.as_ref());
        }
        Bytes::from_owner(self)
    }
}

/// `part` of `whole`, or a copy of it if it is less than half of the memory that it would keep alive: that of
/// `whole`, or of the buffer in which `whole` lies.
pub(in crate::log) fn part_of(whole: &Bytes, part: Bytes) -> Bytes {
    let memory = if whole.len() < BYTES_MIN { whole.len() } else { whole.len().max(2 * BYTES_MIN) };
    if part.len() < memory / 2 { Bytes::copy_from_slice(&part) } else { part }
}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.from..self.from + self.length]
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut idle = self.owner.idle();
        if self.bytes.len() == MEMORY_BYTES && idle.len() < IDLE_MAX {
            idle.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_come_back_when_the_last_bytes_of_them_go() {
        let buffers = Buffers::default();
        let mut loan = buffers.lend(BYTES_MIN);
        loan.bytes_mut().fill(7);
        let bytes = loan.filled(BYTES_MIN);
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!((part[0], buffers.idle().len()), (7, 0));
        drop(part);
        assert_eq!(buffers.idle().len(), 1);
        assert_eq!(buffers.lend(BUFFER_BYTES).bytes_mut().len(), BUFFER_BYTES);
        // Others are not kept.
        drop((buffers.lend(BYTES_MIN - 1), buffers.lend(BUFFER_BYTES + 1)));
        assert_eq!(buffers.idle().len(), 1);
        drop((0..20).map(|_| buffers.lend(BUFFER_BYTES)).collect::<Vec<_>>());
        assert_eq!(buffers.idle().len(), IDLE_MAX);
    }

    #[test]
    fn bytes_keep_at_most_about_twice_their_size_in_memory() {
        let lengths = [1, BYTES_MIN - 1, BYTES_MIN, BUFFER_BYTES, BUFFER_BYTES + 1, 8 << 20];
        for length in lengths {
            for filled in [1, 1000, length / 3, length / 2 + 1, length] {
                let filled = filled.clamp(1, length);
                for part in [1, filled / 3, filled / 2, filled] {
                    let part = part.clamp(1, filled);
                    let buffers = Buffers::default();
                    let loan = buffers.lend(length);
                    let memory = loan.bytes.len();
                    let whole = loan.filled(filled);
                    let part = part_of(&whole, whole.slice(..part));
                    drop(whole);
                    // Only a copy has no other owner than these bytes.
                    let kept = if part.is_unique() { part.len() } else { memory };
                    let kept_max = 2 * part.len() + 5 * BLOCK_BYTES;
                    let is_small = memory < MEMORY_BYTES;
                    assert!(is_small || kept <= kept_max, "{length} {filled} {}", part.len());
                }
            }
        }
    }

    #[test]
    fn large_buffers_begin_at_a_block() {
        let buffers = Buffers::default();
        for length in [BYTES_MIN, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES] {
            let mut loan = buffers.lend(length);
            assert_eq!(loan.bytes_mut().len(), length);
            assert!(loan.bytes_mut().as_ptr().addr().is_multiple_of(BLOCK_BYTES));
        }
        for length in [0, 1, BYTES_MIN - 1] {
            assert_eq!(buffers.lend(length).bytes_mut().len(), length);
        }
    }
}
