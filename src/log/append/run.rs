//! What one cycle stages for one log: batches that are written together, the states that become true
//! with them, and the callers that wait for it.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::producer::Staged;
use super::queue::Room;
use crate::log::format::batch::{self, BatchHeader};
use crate::log::outcome::{AbortedTxn, AppendError, Appended, Durable};
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// Bytes of one chunk of the tail, about: small ones are forgotten one by one.
const TAIL_CHUNK_BYTES: usize = 64 << 10;
/// A batch of so many bytes is patched where it is, if nobody else has a part of its buffer. Whoever
/// brings it sees to it that it is most of that buffer, which the tail then keeps.
pub(crate) const OWN_BYTES_MIN: usize = 32 << 10;
/// A log keeps room for so many batches; many are idle most of the time.
pub(in crate::log) const KEPT_BATCHES_MAX: usize = 8;

/// Batches that will be written together, and what becomes true when they are.
#[derive(Default)]
pub(in crate::log) struct Run {
    pub(in crate::log) staged: Staged,
    /// The batches as they came, and what they are stamped with.
    batches: Vec<(Bytes, Option<Timestamp>)>,
    /// Bytes of all of them.
    pub(in crate::log) bytes: usize,
    /// One for each batch, with the base offset that it gets.
    pub(in crate::log) headers: Vec<BatchHeader>,
    pub(in crate::log) offsets: u64,
    pub(in crate::log) aborted: Vec<AbortedTxn>,
    pub(in crate::log) waiting: Vec<Waiting>,
}

/// A caller and the outcome it gets when the bytes are safe.
pub(in crate::log) struct Waiting {
    pub(in crate::log) reply: Reply,
    pub(in crate::log) durable: Durable,
    pub(in crate::log) outcome: Appended,
    /// Given back when the caller is answered: the bytes leave the queue then.
    pub(in crate::log) _room: Room,
}

pub(in crate::log) enum Reply {
    Append(oneshot::Sender<Result<Appended, AppendError>>),
    End(oneshot::Sender<Result<Option<Appended>, AppendError>>),
}

impl Reply {
    pub(in crate::log) fn send(self, outcome: Result<Appended, AppendError>) {
        // A caller that stopped waiting does not undo its append.
        match self {
            Reply::Append(reply) => drop(reply.send(outcome)),
            Reply::End(reply) => drop(reply.send(outcome.map(Some))),
        }
    }
}

impl Run {
    /// Adds a batch at the run's end, which will have its header's base offset, and the broker's time
    /// if there is one to stamp it with.
    pub(in crate::log) fn stage(
        &mut self,
        batch: Bytes,
        header: &BatchHeader,
        stamp: Option<Timestamp>,
    ) {
        debug_assert_eq!(batch.len(), header.bytes);
        self.bytes += batch.len();
        self.batches.push((batch, stamp));
        // The segment's age goes by it before the bytes say so.
        let max_timestamp = stamp.unwrap_or(header.max_timestamp);
        self.headers.push(BatchHeader { max_timestamp, ..*header });
        self.offsets += header.offsets();
    }

    /// Empties it, and keeps what little room the next one is likely to need.
    pub(in crate::log) fn clear(&mut self) {
        self.staged.clear();
        (self.bytes, self.offsets) = (0, 0);
        self.batches.clear();
        self.batches.shrink_to(KEPT_BATCHES_MAX);
        self.headers.clear();
        self.headers.shrink_to(KEPT_BATCHES_MAX);
        self.aborted.clear();
    }

    /// The batches one behind the other as they are written, each patched to its offset and `epoch`.
    /// Small ones are copied here, for the one time on their way to the disk.
    pub(in crate::log) fn assemble(&mut self, epoch: LeaderEpoch) -> Bytes {
        if let ([(batch, stamp)], [header]) = (&mut self.batches[..], &mut self.headers[..])
            && batch.len() >= OWN_BYTES_MIN
        {
            match std::mem::take(batch).try_into_mut() {
                Ok(mut own) if own.capacity() <= 2 * own.len() => {
                    patch(&mut own, header, epoch, *stamp);
                    return own.freeze();
                }
                // It would keep much more alive than it has.
                Ok(roomy) => *batch = roomy.freeze(),
                // Others hold on to the buffer that it lies in.
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

/// Puts in what the broker says of a batch.
fn patch(batch: &mut [u8], header: &mut BatchHeader, epoch: LeaderEpoch, stamp: Option<Timestamp>) {
    batch::patch(batch, header.base_offset, epoch);
    if let Some(now) = stamp {
        batch::stamp(batch, header, now);
    }
}

/// Cuts a run into pieces of whole batches for the tail.
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
