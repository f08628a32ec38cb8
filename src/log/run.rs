//! What one cycle stages for one log: batches that are written together, the states that become true
//! with them, and the callers that wait for it.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::batch::{self, BatchHeader};
use super::outcome::{AbortedTxn, AppendError, Appended, Durable};
use super::producer::Staged;
use super::queue::Room;
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// Bytes of one chunk of the tail, about: small ones are forgotten one by one.
const TAIL_CHUNK_BYTES: usize = 64 << 10;

/// Batches that will be written together, and what becomes true when they are.
#[derive(Default)]
pub(super) struct Run {
    pub(super) staged: Staged,
    pub(super) bytes: Vec<u8>,
    pub(super) headers: Vec<BatchHeader>,
    pub(super) offsets: u64,
    pub(super) aborted: Vec<AbortedTxn>,
    pub(super) waiting: Vec<Waiting>,
}

/// A caller and the outcome it gets when the bytes are safe.
pub(super) struct Waiting {
    pub(super) reply: Reply,
    pub(super) durable: Durable,
    pub(super) outcome: Appended,
    /// Given back when the caller is answered: the bytes leave the queue then.
    pub(super) _room: Room,
}

pub(super) enum Reply {
    Append(oneshot::Sender<Result<Appended, AppendError>>),
    End(oneshot::Sender<Result<Option<Appended>, AppendError>>),
}

impl Reply {
    pub(super) fn send(self, outcome: Result<Appended, AppendError>) {
        // A caller that stopped waiting does not undo its append.
        match self {
            Reply::Append(reply) => drop(reply.send(outcome)),
            Reply::End(reply) => drop(reply.send(outcome.map(Some))),
        }
    }
}

impl Run {
    /// Adds a batch at the run's end, patched to its header's base offset, and stamped with the
    /// broker's time if there is one to stamp it with.
    pub(super) fn stage(
        &mut self,
        batch: &[u8],
        header: &mut BatchHeader,
        epoch: LeaderEpoch,
        stamp: Option<Timestamp>,
    ) {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(batch);
        let staged = &mut self.bytes[from..];
        batch::patch(staged, header.base_offset, epoch);
        if let Some(now) = stamp {
            batch::stamp(staged, header, now);
        }
        self.headers.push(*header);
        self.offsets += header.offsets();
    }
}

/// Cuts a run into pieces of whole batches for the tail.
pub(super) fn chunks(
    headers: &[BatchHeader],
    bytes: &Bytes,
    first: Offset,
) -> Vec<(Offset, Bytes)> {
    let mut chunks = Vec::new();
    let (mut from, mut to, mut base) = (0, 0, first);
    for header in headers {
        to += header.bytes;
        if to - from >= TAIL_CHUNK_BYTES {
            chunks.push((base, bytes.slice(from..to)));
            from = to;
            base = header.next_offset();
        }
    }
    if to > from {
        chunks.push((base, bytes.slice(from..to)));
    }
    chunks
}
