//! A run: what one cycle stages for one log. It holds batches that are written with one write, the changes
//! of state that become true with that write, and the callers that wait for it.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::producer::Staged;
use super::queue::Room;
use crate::log::format::batch::{self, BatchHeader};
use crate::log::outcome::{AbortedTxn, AppendError, Appended, Durable};
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// About how many bytes one chunk of the tail has. Chunks are forgotten one by one, so they are small.
const TAIL_CHUNK_BYTES: usize = 64 << 10;
/// A single batch of at least this many bytes is not copied but patched in its own buffer, if nobody else
/// holds a part of that buffer. The tail then keeps the whole buffer alive, so the caller should make sure
/// that the batch is most of it.
pub(crate) const OWN_BYTES_MIN: usize = 32 << 10;
/// The allocated room of a run that is kept for the next one. Most logs are idle most of the time, so it
/// is small.
pub(in crate::log) const KEPT_BATCHES_MAX: usize = 8;

/// See the module's header.
#[derive(Default)]
pub(in crate::log) struct Run {
    pub(in crate::log) staged: Staged,
    /// The batches as they came, each with the append time to stamp it with, if any.
    batches: Vec<(Bytes, Option<Timestamp>)>,
    /// Bytes of all batches.
    pub(in crate::log) bytes: usize,
    /// The header of each batch, with the base offset that the batch gets.
    pub(in crate::log) headers: Vec<BatchHeader>,
    pub(in crate::log) offsets: u64,
    pub(in crate::log) aborted: Vec<AbortedTxn>,
    pub(in crate::log) waiting: Vec<Waiting>,
}

/// A caller, and the outcome that it gets once the bytes are as durable as it asked for.
pub(in crate::log) struct Waiting {
    pub(in crate::log) reply: Reply,
    pub(in crate::log) durable: Durable,
    pub(in crate::log) outcome: Appended,
    /// Dropped when the caller is answered: only then do the bytes no longer count for the queue.
    pub(in crate::log) _room: Room,
}

pub(in crate::log) enum Reply {
    Append(oneshot::Sender<Result<Appended, AppendError>>),
    End(oneshot::Sender<Result<Option<Appended>, AppendError>>),
}

impl Reply {
    pub(in crate::log) fn send(self, outcome: Result<Appended, AppendError>) {
        // A send fails if the caller stopped waiting, which does not undo its append.
        match self {
            Reply::Append(reply) => drop(reply.send(outcome)),
            Reply::End(reply) => drop(reply.send(outcome.map(Some))),
        }
    }
}

impl Run {
    /// Adds a batch to the run. It gets the base offset of `header`, and `stamp` as its append time, if
    /// there is one.
    pub(in crate::log) fn stage(
        &mut self,
        batch: Bytes,
        header: &BatchHeader,
        stamp: Option<Timestamp>,
    ) {
        debug_assert_eq!(batch.len(), header.bytes);
        self.bytes += batch.len();
        self.batches.push((batch, stamp));
        // The bytes are stamped only when the run is written, but the segment's age needs the time now.
        let max_timestamp = stamp.unwrap_or(header.max_timestamp);
        self.headers.push(BatchHeader { max_timestamp, ..*header });
        self.offsets += header.offsets();
    }

    /// Empties the run, and keeps as much allocated room as the next one is likely to need.
    pub(in crate::log) fn clear(&mut self) {
        self.staged.clear();
        (self.bytes, self.offsets) = (0, 0);
        self.batches.clear();
        self.batches.shrink_to(KEPT_BATCHES_MAX);
        self.headers.clear();
        self.headers.shrink_to(KEPT_BATCHES_MAX);
        self.aborted.clear();
    }

    /// The bytes to write: all batches, without gaps, each patched with its offset and `epoch`. This is
    /// the only place where batches are copied on their way to the disk; a single large batch is not.
    pub(in crate::log) fn assemble(&mut self, epoch: LeaderEpoch) -> Bytes {
        if let ([(batch, stamp)], [header]) = (&mut self.batches[..], &mut self.headers[..])
            && batch.len() >= OWN_BYTES_MIN
        {
            match std::mem::take(batch).try_into_mut() {
                Ok(mut own) if own.capacity() <= 2 * own.len() => {
                    patch(&mut own, header, epoch, *stamp);
                    return own.freeze();
                }
                // The buffer is much larger than the batch: the tail would keep all of it alive.
                Ok(roomy) => *batch = roomy.freeze(),
                // Somebody else holds a part of the buffer.
                Err(shared) => *batch = shared,
            }
        }
        let mut bytes = Vec::with_capacity(self.bytes);
        for ((batch, stamp), header) in self.batches.drain(..).zip(&mut self.headers) {
            let from = bytes.len();
            bytes.extend_from_slice(&batch);
            patch(&mut bytes[from..], header, epoch, stamp);
        }
        Bytes::from(bytes)
    }
}

/// Writes the fields of a batch that the broker decides.
fn patch(batch: &mut [u8], header: &mut BatchHeader, epoch: LeaderEpoch, stamp: Option<Timestamp>) {
    batch::put(batch, header, epoch);
    if let Some(now) = stamp {
        batch::stamp(batch, header, now);
    }
}

/// Cuts a run into chunks of whole batches for the tail.
pub(in crate::log) fn chunks<'a>(
    headers: &'a [BatchHeader],
    bytes: &'a Bytes,
    first: Offset,
) -> impl Iterator<Item = (Offset, Bytes)> + 'a {
    let (mut headers, mut from, mut base) = (headers.iter(), 0, first);
    std::iter::from_fn(move || {
        let (begin, mut to, mut next) = (from, from, base);
        for header in headers.by_ref() {
            to += header.bytes;
            next = header.next_offset();
            if to - begin >= TAIL_CHUNK_BYTES {
                break;
            }
        }
        let chunk = (to > begin).then(|| (base, bytes.slice(begin..to)));
        (from, base) = (to, next);
        chunk
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::batch::{NewRecord, encode};

    #[test]
    fn a_large_batch_is_patched_where_it_is_unless_somebody_else_has_a_part_of_its_buffer() {
        let value = Some(Bytes::from(vec![7; OWN_BYTES_MIN]));
        let record = || NewRecord { value: value.clone(), ..NewRecord::default() };
        let unpatched = encode(&[record()], None);
        let assembled = |batch: Bytes| {
            let header = BatchHeader::parse(&batch).unwrap();
            let mut run = Run::default();
            run.stage(batch, &BatchHeader { base_offset: Offset::new(9), ..header }, None);
            run.assemble(LeaderEpoch(3))
        };
        let own = Bytes::from(unpatched.to_vec());
        let place = own.as_ptr();
        let patched = assembled(own);
        assert_eq!(patched.as_ptr(), place);
        assert_eq!(BatchHeader::parse(&patched).unwrap().base_offset, Offset::new(9));
        let shared = Bytes::from([&unpatched[..], b"rest"].concat());
        let copy = assembled(shared.slice(..unpatched.len()));
        assert!(copy == patched);
        assert!(shared[..unpatched.len()] == unpatched);
    }
}
