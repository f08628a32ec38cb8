//! The most recent bytes of each log, kept in memory for readers at the tail. Each writer thread
//! bounds the sum over its logs and forgets the oldest bytes first.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::log::format::batch::BatchHeader;
use crate::log::partition::Shared;
use crate::types::Offset;

/// Bytes that a chunk counts for, in addition to the bytes of its batches.
const CHUNK_OVERHEAD_BYTES: usize = 128;

/// Consecutive whole batches.
#[derive(Debug)]
struct Chunk {
    base: Offset,
    bytes: Bytes,
    /// Size of the buffer that the bytes lie in, together with other chunks.
    buffer_bytes: usize,
}

/// One log's recent bytes, without gaps up to the log's end.
#[derive(Debug, Default)]
pub struct Tail {
    chunks: VecDeque<Chunk>,
    /// How many of the oldest chunks were emptied by `forget_before`.
    gone: usize,
}

/// Which batches a reader may take.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// First offset wanted.
    pub from: Offset,
    /// No batch at or after this offset.
    pub limit: Offset,
    /// Stop before this many bytes.
    pub bytes_max: usize,
    /// Return one batch even when it is larger.
    pub at_least_one: bool,
}

/// Which of some batches a window covers, as byte positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Where the first wanted batch begins.
    pub from: usize,
    /// Where the last wanted batch ends.
    pub to: usize,
    /// Whether the walk ended because the limit or the byte bound was met.
    pub full: bool,
}

impl Window {
    /// Which of the whole batches at the start of `bytes` the window wants. `already` bytes were
    /// taken before.
    pub fn over(&self, bytes: &[u8], already: usize) -> Taken {
        let mut position = 0;
        let mut first = None;
        let mut full = false;
        while let Some(Ok(header)) = bytes.get(position..).map(BatchHeader::parse) {
            let end = position + header.bytes;
            if end > bytes.len() {
                break;
            }
            if header.last_offset() >= self.from {
                let taken = already + end - first.unwrap_or(position);
                let is_first = already == 0 && first.is_none();
                let fits = taken <= self.bytes_max || (is_first && self.at_least_one);
                if header.base_offset >= self.limit || !fits {
                    full = true;
                    break;
                }
                first.get_or_insert(position);
            }
            position = end;
        }
        Taken { from: first.unwrap_or(position), to: position, full }
    }
}

impl Tail {
    /// Adds bytes at the log's end. They lie in a buffer of `buffer_bytes`.
    pub fn push(&mut self, base: Offset, bytes: Bytes, buffer_bytes: usize) {
        self.chunks.push_back(Chunk { base, bytes, buffer_bytes });
    }

    /// Forgets the bytes before `offset`, where a chunk begins. The chunks stay in the queue, without
    /// bytes, until the budget that counts them forgets them.
    pub fn forget_before(&mut self, offset: Offset) {
        self.gone = self.gone.max(self.chunks.partition_point(|chunk| chunk.base < offset));
        for chunk in self.chunks.iter_mut().take(self.gone) {
            chunk.bytes = Bytes::new();
        }
    }

    /// Forgets the oldest chunk.
    pub fn forget_oldest(&mut self) {
        self.chunks.pop_front();
        self.gone = self.gone.saturating_sub(1);
    }

    /// Whole batches from the window's offset on, or `None` when that lies before the tail.
    pub fn read(&self, window: Window) -> Option<Bytes> {
        let first =
            self.chunks.partition_point(|chunk| chunk.base <= window.from).checked_sub(1)?;
        if first < self.gone {
            return None;
        }
        let mut slices: Vec<Bytes> = Vec::new();
        let (mut bytes, mut buffer_bytes) = (0, 0);
        for chunk in self.chunks.range(first..) {
            let taken = window.over(&chunk.bytes, bytes);
            if taken.to > taken.from {
                slices.push(chunk.bytes.slice(taken.from..taken.to));
                bytes += taken.to - taken.from;
                buffer_bytes = chunk.buffer_bytes;
            }
            if taken.full {
                break;
            }
        }
        match slices.len() {
            0 => Some(Bytes::new()),
            // A slice keeps its whole buffer in memory, so a small part of one is copied.
            1 if 2 * bytes >= buffer_bytes => slices.pop(),
            // Join the chunks: a fetch after many small appends should return all of them, not one.
            _ => {
                let mut joined = BytesMut::with_capacity(bytes);
                for slice in slices {
                    joined.extend_from_slice(&slice);
                }
                Some(joined.freeze())
            }
        }
    }
}

/// The bound on all tails of one writer's logs together.
pub struct TailBudget {
    pushed: VecDeque<(Arc<Shared>, usize)>,
    bytes: usize,
    bytes_max: usize,
}

impl TailBudget {
    /// At most `bytes_max` over all logs.
    pub fn new(bytes_max: usize) -> TailBudget {
        TailBudget { pushed: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Counts a chunk that was pushed to a log's tail, and forgets the oldest chunks above the bound.
    pub fn pushed(&mut self, log: &Arc<Shared>, bytes: usize) {
        let cost = bytes + CHUNK_OVERHEAD_BYTES;
        self.pushed.push_back((log.clone(), cost));
        self.bytes += cost;
        while self.bytes > self.bytes_max {
            let Some((oldest, cost)) = self.pushed.pop_front() else { break };
            self.bytes -= cost;
            oldest.readable_mut().tail.forget_oldest();
        }
    }

    /// Clears the tail of a deleted log, which readers may still hold, and stops counting it.
    pub fn forget(&mut self, log: &Arc<Shared>) {
        log.readable_mut().tail = Tail::default();
        self.pushed.retain(|(other, _)| !Arc::ptr_eq(other, log));
        self.bytes = self.pushed.iter().map(|(_, cost)| cost).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::batch::{self, NewRecord};

    #[test]
    fn a_small_part_of_an_append_does_not_keep_all_of_it_in_memory() {
        let record = NewRecord { value: Some(vec![7; 1000].into()), ..NewRecord::default() };
        let mut append = BytesMut::new();
        for offset in 0..10 {
            let mut batch = batch::encode(std::slice::from_ref(&record), None).to_vec();
            batch::patch(&mut batch, Offset::new(offset), crate::types::LeaderEpoch(0));
            append.extend_from_slice(&batch);
        }
        let append = append.freeze();
        let batch_bytes = append.len() / 10;
        let mut tail = Tail::default();
        for (chunk, from) in [(0..2, 0), (2..10, 2)] {
            let bytes = append.slice(chunk.start * batch_bytes..chunk.end * batch_bytes);
            tail.push(Offset::new(from), bytes, append.len());
        }
        let read = |from, batches| {
            let window = Window {
                from: Offset::new(from),
                limit: Offset::new(10),
                bytes_max: batches * batch_bytes,
                at_least_one: true,
            };
            tail.read(window).unwrap()
        };
        let is_slice = |bytes: &Bytes| append.as_ptr_range().contains(&bytes.as_ptr());
        for (from, batches, expected) in [(0, 1, false), (1, 1, false), (2, 5, true), (2, 4, false)]
        {
            let bytes = read(from, batches);
            assert_eq!(bytes.len(), batches * batch_bytes);
            assert_eq!(is_slice(&bytes), expected, "{batches} batches from {from}");
        }
    }
}
