//! Rows between subtasks: hashed by key into key groups, over rings bounded in bytes. A receiver
//! takes barriers aligned and the smallest watermark of its channels.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{Array, Int8Array, UInt32Array};
use arrow::compute::{take, take_record_batch};
use prometheus::Counter;

use super::operator::{Barrier, Batch, Failure, Operator, Output, Snapshot, Watermark};
use super::state::{self, KeyEncoder};
use crate::types::Timestamp;

/// What travels through a ring.
#[derive(Clone, Debug)]
// Nearly all elements are batches: a box would be one allocation more for each.
#[allow(clippy::large_enum_variant)]
pub enum Element {
    /// Rows.
    Batch(Batch),
    /// Progress of event time.
    Watermark(Watermark),
    /// The sender expects nothing for now.
    Idle,
    /// A checkpoint's border.
    Barrier(Barrier),
}

impl Element {
    fn bytes(&self) -> usize {
        match self {
            Element::Batch(batch) => batch.rows.get_array_memory_size(),
            _ => 64,
        }
    }
}

/// The input of one subtask: a queue per sending subtask, each bounded in bytes.
pub struct Ring {
    state: Mutex<RingState>,
    readable: Condvar,
    writable: Condvar,
    bytes_max: usize,
    /// How long senders waited for room: the back-pressure of the subtask behind it.
    full_seconds: Option<Counter>,
}

struct RingState {
    channels: Vec<Channel>,
    closed: bool,
}

#[derive(Default)]
struct Channel {
    elements: VecDeque<(Element, usize)>,
    bytes: usize,
}

impl Ring {
    /// A ring with `channels` senders that holds up to `bytes_max` bytes of each.
    pub fn new(channels: usize, bytes_max: usize) -> Ring {
        Ring {
            state: Mutex::new(RingState {
                channels: (0..channels).map(|_| Channel::default()).collect(),
                closed: false,
            }),
            readable: Condvar::new(),
            writable: Condvar::new(),
            bytes_max,
            full_seconds: None,
        }
    }

    /// Adds the time that senders wait for room to `full_seconds`.
    #[must_use]
    pub fn measured(self, full_seconds: Counter) -> Ring {
        Ring { full_seconds: Some(full_seconds), ..self }
    }

    /// Adds an element; waits while the channel is full. An element larger than the bound goes
    /// through alone.
    pub fn send(&self, channel: usize, element: Element) -> Result<(), Failure> {
        let bytes = element.bytes();
        let mut state = self.lock();
        let full = |state: &RingState| {
            let channel = &state.channels[channel];
            !state.closed && channel.bytes > 0 && channel.bytes + bytes > self.bytes_max
        };
        if full(&state) {
            let since = Instant::now();
            while full(&state) {
                state = self.writable.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if let Some(full_seconds) = &self.full_seconds {
                full_seconds.inc_by(since.elapsed().as_secs_f64());
            }
        }
        if state.closed {
            return Err(Failure::Stopped);
        }
        let channel = &mut state.channels[channel];
        channel.bytes += bytes;
        channel.elements.push_back((element, bytes));
        self.readable.notify_one();
        Ok(())
    }

    /// Takes the next element of a channel that `open` allows, the channels in turn from `after`
    /// on; `None` when `timeout` passes first.
    fn receive(
        &self,
        open: &[bool],
        after: usize,
        timeout: Duration,
    ) -> Result<Option<(usize, Element)>, Failure> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if state.closed {
                return Err(Failure::Stopped);
            }
            let count = state.channels.len();
            let ready = (1..=count)
                .map(|step| (after + step) % count)
                .find(|&channel| open[channel] && !state.channels[channel].elements.is_empty());
            if let Some(index) = ready {
                let channel = &mut state.channels[index];
                if let Some((element, bytes)) = channel.elements.pop_front() {
                    channel.bytes -= bytes;
                    self.writable.notify_all();
                    return Ok(Some((index, element)));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            (state, _) =
                self.readable.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends it: senders and receiver get `Failure::Stopped`.
    pub fn close(&self) {
        self.lock().closed = true;
        self.readable.notify_all();
        self.writable.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, RingState> {
        // A panicking sender leaves whole elements behind: the queues stay usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reading end of a ring.
pub struct Receiver {
    ring: Arc<Ring>,
    /// Channels whose barrier has come wait for the others'.
    open: Vec<bool>,
    watermarks: Vec<i64>,
    idle: Vec<bool>,
    emitted_ms: i64,
    told_idle: bool,
    last: usize,
}

impl Receiver {
    /// The only receiver of `ring`, which has `channels` senders.
    pub fn new(ring: Arc<Ring>, channels: usize) -> Receiver {
        Receiver {
            ring,
            open: vec![true; channels],
            watermarks: vec![i64::MIN; channels],
            idle: vec![false; channels],
            emitted_ms: i64::MIN,
            told_idle: false,
            last: 0,
        }
    }

    /// The next thing that concerns the subtask; `None` when `timeout` passes first.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Element>, Failure> {
        loop {
            let Some((channel, element)) = self.ring.receive(&self.open, self.last, timeout)?
            else {
                return Ok(None);
            };
            self.last = channel;
            match element {
                Element::Batch(_) => {
                    self.idle[channel] = false;
                    self.told_idle = false;
                    return Ok(Some(element));
                }
                Element::Watermark(watermark) => {
                    self.idle[channel] = false;
                    self.told_idle = false;
                    self.watermarks[channel] = watermark.0.0;
                }
                Element::Idle => self.idle[channel] = true,
                Element::Barrier(barrier) => {
                    self.open[channel] = false;
                    if self.open.iter().any(|open| *open) {
                        continue;
                    }
                    self.open.fill(true);
                    return Ok(Some(Element::Barrier(barrier)));
                }
            }
            let active = self.watermarks.iter().zip(&self.idle).filter(|(_, idle)| !**idle);
            match active.map(|(watermark, _)| *watermark).min() {
                Some(smallest) if smallest > self.emitted_ms => {
                    self.emitted_ms = smallest;
                    return Ok(Some(Element::Watermark(Watermark(Timestamp(smallest)))));
                }
                None if !self.told_idle => {
                    self.told_idle = true;
                    return Ok(Some(Element::Idle));
                }
                _ => {}
            }
        }
    }
}

/// The last operator of a sending subtask.
pub struct HashSend {
    columns: Vec<usize>,
    keys: KeyEncoder,
    /// One per receiving subtask.
    rings: Vec<Arc<Ring>>,
    /// This sender's channel in each of them.
    channel: usize,
}

impl HashSend {
    /// Rows go by the hash of `columns`, encoded by `keys`.
    pub fn new(
        columns: Vec<usize>,
        keys: KeyEncoder,
        rings: Vec<Arc<Ring>>,
        channel: usize,
    ) -> HashSend {
        HashSend { columns, keys, rings, channel }
    }

    fn broadcast(&self, element: &Element) -> Result<(), Failure> {
        self.rings.iter().try_for_each(|ring| ring.send(self.channel, element.clone()))
    }
}

impl Operator for HashSend {
    fn batch(&mut self, batch: Batch, _out: &mut dyn Output) -> Result<(), Failure> {
        let columns: Vec<_> =
            self.columns.iter().map(|&column| batch.rows.column(column).clone()).collect();
        let keys = self.keys.encode(&columns)?;
        let mut targets: Vec<Vec<u32>> = vec![Vec::new(); self.rings.len()];
        for row in 0..batch.len() {
            let target = state::subtask(state::hash(keys.key(row)), self.rings.len());
            targets[target].push(row as u32);
        }
        for (ring, rows) in self.rings.iter().zip(targets) {
            if rows.is_empty() {
                continue;
            }
            let rows = UInt32Array::from(rows);
            let kinds = match &batch.kinds {
                Some(kinds) => Some(Int8Array::from(take(kinds, &rows, None)?.to_data())),
                None => None,
            };
            let rows = take_record_batch(&batch.rows, &rows)?;
            // One sender's watermarks say nothing about the others': the receiver's own counts.
            ring.send(self.channel, Element::Batch(Batch { rows, kinds, watermarks: None }))?;
        }
        Ok(())
    }

    fn watermark(&mut self, watermark: Watermark, _out: &mut dyn Output) -> Result<(), Failure> {
        self.broadcast(&Element::Watermark(watermark))
    }

    fn idle(&mut self, _out: &mut dyn Output) -> Result<(), Failure> {
        self.broadcast(&Element::Idle)
    }

    fn barrier(&mut self, barrier: Barrier, _snapshot: &mut Snapshot) -> Result<(), Failure> {
        self.broadcast(&Element::Barrier(barrier))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::operator::testing::{Kept, lines};
    use arrow::array::Int64Array;
    use arrow::datatypes::DataType;
    use arrow::record_batch::RecordBatch;

    const SOON: Duration = Duration::from_millis(10);
    const LATER: Duration = Duration::from_secs(10);

    fn numbers(values: std::ops::Range<i64>) -> Batch {
        let column = Arc::new(Int64Array::from_iter_values(values)) as _;
        Batch::inserts(RecordBatch::try_from_iter([("n", column)]).unwrap())
    }

    fn watermark(ms: i64) -> Element {
        Element::Watermark(Watermark(Timestamp(ms)))
    }

    fn barrier(epoch: u64) -> Element {
        Element::Barrier(Barrier { epoch, full: false })
    }

    fn next(receiver: &mut Receiver) -> Option<Element> {
        receiver.next(SOON).unwrap()
    }

    #[test]
    fn equal_keys_meet_in_one_ring_and_no_row_is_lost() {
        let rings: Vec<_> = (0..2).map(|_| Arc::new(Ring::new(1, 1 << 20))).collect();
        let keys = KeyEncoder::new(vec![DataType::Int64]).unwrap();
        let mut send = HashSend::new(vec![0], keys, rings.clone(), 0);
        send.batch(numbers(0..100), &mut Kept::default()).unwrap();
        send.batch(numbers(0..100), &mut Kept::default()).unwrap();
        let mut all = Vec::new();
        for ring in rings {
            let mut receiver = Receiver::new(ring, 1);
            let mut halves = Vec::new();
            while let Some(Element::Batch(batch)) = next(&mut receiver) {
                halves.push(lines(&batch.rows));
            }
            assert_eq!(halves.len(), 2);
            assert_eq!(halves[0], halves[1], "the same keys, in the order they came");
            all.extend(halves.swap_remove(0));
        }
        all.sort_by_key(|n| n.parse::<i64>().unwrap());
        assert_eq!(all, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn a_barrier_waits_for_all_channels_and_holds_what_is_behind_it() {
        let ring = Arc::new(Ring::new(2, 1 << 20));
        let mut receiver = Receiver::new(ring.clone(), 2);
        ring.send(0, barrier(1)).unwrap();
        ring.send(0, Element::Batch(numbers(0..1))).unwrap();
        assert!(next(&mut receiver).is_none(), "behind the barrier");
        ring.send(1, Element::Batch(numbers(5..7))).unwrap();
        ring.send(1, barrier(1)).unwrap();
        assert!(matches!(next(&mut receiver), Some(Element::Batch(batch)) if batch.len() == 2));
        assert!(matches!(next(&mut receiver), Some(Element::Barrier(b)) if b.epoch == 1));
        assert!(matches!(next(&mut receiver), Some(Element::Batch(batch)) if batch.len() == 1));
    }

    #[test]
    fn the_watermark_is_the_smallest_of_the_channels_that_are_not_idle() {
        let ring = Arc::new(Ring::new(2, 1 << 20));
        let mut receiver = Receiver::new(ring.clone(), 2);
        let mark = |element| match element {
            Some(Element::Watermark(watermark)) => watermark.0.0,
            other => panic!("expected a watermark, got {other:?}"),
        };
        ring.send(0, watermark(100)).unwrap();
        assert!(next(&mut receiver).is_none(), "the other channel has none yet");
        ring.send(1, watermark(50)).unwrap();
        assert_eq!(mark(next(&mut receiver)), 50);
        ring.send(1, Element::Idle).unwrap();
        assert_eq!(mark(next(&mut receiver)), 100);
        ring.send(0, Element::Idle).unwrap();
        assert!(matches!(next(&mut receiver), Some(Element::Idle)));
        ring.send(1, watermark(60)).unwrap();
        assert!(next(&mut receiver).is_none(), "it never goes back");
    }

    #[test]
    fn a_full_channel_makes_its_sender_wait_until_there_is_room() {
        let bytes = Element::Batch(numbers(0..10)).bytes();
        let full_seconds = Counter::new("full_seconds", "Time.").unwrap();
        let ring = Arc::new(Ring::new(2, bytes).measured(full_seconds.clone()));
        ring.send(0, Element::Batch(numbers(0..10))).unwrap();
        assert_eq!(full_seconds.get(), 0.0);
        let sender = ring.clone();
        let waiting = std::thread::spawn(move || sender.send(0, Element::Batch(numbers(10..20))));
        // The other channel has room of its own.
        ring.send(1, watermark(1)).unwrap();
        let mut receiver = Receiver::new(ring.clone(), 2);
        assert!(matches!(receiver.next(LATER), Ok(Some(Element::Batch(_)))));
        waiting.join().unwrap().unwrap();
        assert!(matches!(receiver.next(LATER), Ok(Some(Element::Batch(_)))));
    }

    #[test]
    fn closing_frees_who_waits() {
        let ring = Arc::new(Ring::new(1, 1));
        ring.send(0, Element::Batch(numbers(0..10))).unwrap();
        let sender = ring.clone();
        let waiting = std::thread::spawn(move || sender.send(0, Element::Batch(numbers(0..10))));
        ring.close();
        assert_eq!(waiting.join().unwrap(), Err(Failure::Stopped));
        assert!(Receiver::new(ring, 1).next(LATER).is_err());
    }
}
