//! Buffers for large reads, used again and again: memory that was not touched for a while is dear.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// The size of a buffer: what consumers ask of a partition by default.
const BUFFER_BYTES: usize = 1 << 20;
/// Smaller reads get memory of their own: they would keep much more alive than they have.
const BYTES_MIN: usize = BUFFER_BYTES / 2;
/// Most buffers that are kept for the next reads.
const IDLE_MAX: usize = 8;

/// Buffers that nobody uses. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Buffers {
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A buffer on loan; it comes back when the bytes made of it are dropped.
pub(super) struct Loan {
    bytes: Vec<u8>,
    length: usize,
    owner: Buffers,
}

impl Buffers {
    /// A buffer of `length` bytes, whatever they are.
    pub(super) fn lend(&self, length: usize) -> Loan {
        let bytes = match length {
            // The one that came back last: it is the most likely to be in the processor's cache.
            BYTES_MIN..=BUFFER_BYTES => self.idle().pop().unwrap_or_else(|| vec![0; BUFFER_BYTES]),
            _ => vec![0; length],
        };
        Loan { bytes, length, owner: self.clone() }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loan {
    /// All of it.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let length = self.length;
        &mut self.bytes[..length]
    }

    /// Its first `length` bytes, for whoever reads them.
    pub(super) fn filled(mut self, length: usize) -> Bytes {
        self.length = self.length.min(length);
        Bytes::from_owner(self)
    }
}

/// `part` of `whole`, by itself where it would keep much more alive than it has.
pub(super) fn part_of(whole: &Bytes, part: Bytes) -> Bytes {
    if part.len() < whole.len() / 2 { Bytes::copy_from_slice(&part) } else { part }
}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut idle = self.owner.idle();
        if self.bytes.len() == BUFFER_BYTES && idle.len() < IDLE_MAX {
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
        let bytes = loan.filled(3);
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!((&part[..], buffers.idle().len()), (&[7, 7][..], 0));
        drop(part);
        assert_eq!(buffers.idle().len(), 1);
        assert_eq!(buffers.lend(BUFFER_BYTES).bytes_mut().len(), BUFFER_BYTES);
        // Others are not kept.
        drop((buffers.lend(BYTES_MIN - 1), buffers.lend(BUFFER_BYTES + 1)));
        assert_eq!(buffers.idle().len(), 1);
        drop((0..20).map(|_| buffers.lend(BUFFER_BYTES)).collect::<Vec<_>>());
        assert_eq!(buffers.idle().len(), IDLE_MAX);
    }
}
