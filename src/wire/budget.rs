//! How many bytes of requests may be in memory in the whole broker, so that no number of clients can
//! fill it. A frame is charged for its room, which is at most eight times what of it has arrived
//! (`frame.rs`): a length that a client announces costs nothing.
//!
//! Each connection has room for one small frame that arrives and for small requests in flight
//! ([`SMALL_FRAME_BYTES_MAX`] each) without asking anybody, so a heartbeat never waits for memory.
//! What goes beyond that is charged to one of three pools by the size of its frame.
//!
//! Frames that have arrived in part cannot block each other for ever, although they may hold a whole
//! pool. Memory that is given back goes to the oldest frame that waits for some. If there is none,
//! one frame at a time may go beyond the pool's bound; it ends, then the next one may. So a pool holds
//! at most its bound and one frame. A frame that holds memory and does not use it is closed by its
//! connection (`arrival.rs`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use prometheus::IntGauge;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use crate::metrics::Metrics;

/// Request bytes of all connections in memory.
const REQUEST_BYTES_MAX: usize = 512 << 20;
/// The largest frame that waits for nobody's memory.
pub(super) const SMALL_FRAME_BYTES_MAX: usize = 64 << 10;
/// The largest frame that counts as ordinary: a producer's default `max.request.size`, and some.
const ORDINARY_FRAME_BYTES_MAX: usize = 2 << 20;

/// The broker's budget for requests.
pub struct Budgets {
    small: Arc<Pool>,
    ordinary: Arc<Pool>,
    large: Arc<Pool>,
}

impl Budgets {
    /// Budgets of 512 MiB in all, and their metric.
    pub fn register(metrics: &Metrics) -> Result<Arc<Budgets>, prometheus::Error> {
        let budgets = Arc::new(Budgets::new(REQUEST_BYTES_MAX));
        let gauge = IntGauge::new(
            "ottla_request_bytes",
            "Bytes of memory for requests that were read in part, or wait for their answers.",
        )?;
        let in_use = BytesInUse { gauge, budgets: budgets.clone() };
        metrics.registry().register(Box::new(in_use))?;
        Ok(budgets)
    }

    /// An eighth of `bytes` for small requests, half of the rest for ordinary and for large ones.
    pub(super) fn new(bytes: usize) -> Budgets {
        let small = bytes / 8;
        let each = (bytes - small) / 2;
        let [small, ordinary, large] = [small, each, each].map(|bytes| Arc::new(Pool::new(bytes)));
        Budgets { small, ordinary, large }
    }

    /// The charge for a frame of `bytes`, which is nothing yet.
    pub(super) fn charge(&self, bytes: usize) -> Charge {
        let pool = if bytes <= SMALL_FRAME_BYTES_MAX {
            &self.small
        } else if bytes <= ORDINARY_FRAME_BYTES_MAX {
            &self.ordinary
        } else {
            &self.large
        };
        Charge { pool: pool.clone(), bytes: 0, wanted: 0, age: None, is_overdrawn: false }
    }

    /// What all frames hold together.
    pub(super) fn used(&self) -> usize {
        [&self.small, &self.ordinary, &self.large].map(|pool| pool.used.load(SeqCst)).iter().sum()
    }
}

/// The gauge, read when Prometheus asks for it.
struct BytesInUse {
    gauge: IntGauge,
    budgets: Arc<Budgets>,
}

impl Collector for BytesInUse {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(i64::try_from(self.budgets.used()).unwrap_or(i64::MAX));
        self.gauge.collect()
    }
}

/// A number of bytes that many frames share.
struct Pool {
    bytes_max: usize,
    used: AtomicUsize,
    /// Frames in `line`: while there are any, nobody takes memory past them.
    waiting: AtomicUsize,
    /// The next frame's age.
    next_age: AtomicU64,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    /// By age, the oldest first.
    waiters: BTreeMap<u64, Waiter>,
    /// The age of the frame that may go beyond the bound.
    overdrawn: Option<u64>,
}

struct Waiter {
    bytes: usize,
    waker: Waker,
}

impl Pool {
    fn new(bytes_max: usize) -> Pool {
        Pool {
            bytes_max,
            used: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            next_age: AtomicU64::new(0),
            line: Mutex::default(),
        }
    }

    // A poisoned lock still guards a valid line: every change to it is a single call.
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `bytes` if they fit.
    fn fits(&self, bytes: usize) -> bool {
        let with = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        self.used.fetch_update(SeqCst, SeqCst, with).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, SeqCst);
        // Whoever begins to wait counts itself before it looks at `used` for the last time.
        if self.waiting.load(SeqCst) > 0 {
            self.serve(&mut self.line());
        }
    }

    /// Gives those that wait what there is.
    fn serve(&self, line: &mut Line) {
        self.waiting.store(line.waiters.len(), SeqCst);
        let overdrawn = line.overdrawn.and_then(|age| line.waiters.remove_entry(&age));
        if let Some((_, waiter)) = overdrawn {
            self.used.fetch_add(waiter.bytes, SeqCst);
            waiter.waker.wake();
        }
        while let Some(first) = line.waiters.first_entry() {
            let bytes = first.get().bytes;
            if !self.fits(bytes) {
                if line.overdrawn.is_some() {
                    break;
                }
                line.overdrawn = Some(*first.key());
                self.used.fetch_add(bytes, SeqCst);
            }
            first.remove().waker.wake();
        }
        self.waiting.store(line.waiters.len(), SeqCst);
    }
}

/// What one frame holds of a pool, from its first byte on until its request is answered.
pub(super) struct Charge {
    pool: Arc<Pool>,
    bytes: usize,
    /// What it waits for besides.
    wanted: usize,
    /// Its age among the pool's frames, once it has asked for something.
    age: Option<u64>,
    /// Whether it is the one that may go beyond the pool's bound.
    is_overdrawn: bool,
}

impl Charge {
    /// How many bytes it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether others wait for memory of the same pool.
    pub(super) fn is_pressed(&self) -> bool {
        self.pool.waiting.load(SeqCst) > 0
    }

    /// Raises it to `bytes` if that fits and nobody waits.
    pub(super) fn try_raise(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let is_raised = self.wanted == 0 && !self.is_pressed() && self.pool.fits(more);
        if is_raised {
            self.bytes += more;
        }
        is_raised
    }

    /// Raises it to `bytes`, or waits for its turn.
    pub(super) fn poll_raise(&mut self, bytes: usize, cx: &mut Context<'_>) -> Poll<()> {
        let age = *self.age.get_or_insert_with(|| self.pool.next_age.fetch_add(1, SeqCst));
        if self.bytes >= bytes || self.try_raise(bytes) {
            return Poll::Ready(());
        }
        let mut line = self.pool.line();
        if self.wanted == 0 {
            self.wanted = bytes - self.bytes;
            let waiter = Waiter { bytes: self.wanted, waker: cx.waker().clone() };
            line.waiters.insert(age, waiter);
            self.pool.serve(&mut line);
        }
        if let Some(waiter) = line.waiters.get_mut(&age) {
            waiter.waker.clone_from(cx.waker());
            return Poll::Pending;
        }
        self.is_overdrawn = line.overdrawn == Some(age);
        self.bytes += std::mem::take(&mut self.wanted);
        Poll::Ready(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let (pool, mut bytes) = (&self.pool, self.bytes);
        let Some(age) = self.age.filter(|_| self.wanted > 0 || self.is_overdrawn) else {
            if bytes > 0 {
                pool.give_back(bytes);
            }
            return;
        };
        let mut line = pool.line();
        if self.wanted > 0 && line.waiters.remove(&age).is_none() {
            // It was given and not fetched yet.
            bytes += self.wanted;
        }
        if line.overdrawn == Some(age) {
            line.overdrawn = None;
        }
        pool.used.fetch_sub(bytes, SeqCst);
        pool.serve(&mut line);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker_ref;

    use super::*;

    const MIB: usize = 1 << 20;

    /// Whether `charge` gets `bytes` in all.
    fn raise(charge: &mut Charge, bytes: usize) -> bool {
        charge.poll_raise(bytes, &mut Context::from_waker(noop_waker_ref())).is_ready()
    }

    #[test]
    fn small_ordinary_and_large_frames_do_not_take_each_others_memory() {
        let budgets = Budgets::new(16 * MIB);
        let mut large = budgets.charge(100 * MIB);
        assert!(raise(&mut large, 7 * MIB));
        assert!(!budgets.charge(3 * MIB).try_raise(1));
        let mut ordinary = budgets.charge(2 * MIB);
        assert!(ordinary.try_raise(2 * MIB));
        let mut small = budgets.charge(SMALL_FRAME_BYTES_MAX);
        assert!(small.try_raise(2 * MIB));
        assert!(!budgets.charge(1).try_raise(1));
        drop(small);
        assert!(budgets.charge(1).try_raise(1));
    }

    #[test]
    fn memory_that_is_given_back_goes_to_the_oldest_frame_and_not_past_it() {
        let budgets = Budgets::new(16 * MIB);
        let mut held: Vec<Charge> = (0..5).map(|_| budgets.charge(2 * MIB)).collect();
        assert!(held.iter_mut().all(|charge| raise(charge, MIB)));
        let [mut older, mut younger] = [0; 2].map(|_| budgets.charge(2 * MIB));
        assert!(raise(&mut older, MIB) && raise(&mut younger, MIB));
        // The first to wait goes beyond the bound; nobody else does.
        let mut beyond = budgets.charge(2 * MIB);
        assert!(raise(&mut beyond, 2 * MIB));
        assert!(!raise(&mut younger, 2 * MIB) && !raise(&mut older, 2 * MIB));
        assert!(older.is_pressed() && !older.try_raise(2 * MIB));
        drop(beyond);
        // Now one of them may: the older, although it came to wait later.
        assert!(!raise(&mut younger, 2 * MIB) && raise(&mut older, 2 * MIB));
        // What is given back makes up for that first.
        held.pop();
        assert!(!raise(&mut younger, 2 * MIB) && !budgets.charge(2 * MIB).try_raise(1));
        held.pop();
        assert!(raise(&mut younger, 2 * MIB) && !older.is_pressed());
        assert_eq!((older.bytes(), younger.bytes()), (2 * MIB, 2 * MIB));
    }

    #[test]
    fn a_frame_that_is_dropped_while_it_waits_leaves_nothing_behind() {
        let budgets = Budgets::new(16 * MIB);
        for is_given in [false, true] {
            let [mut held, mut more, mut beyond, mut waiting] =
                [0; 4].map(|_| budgets.charge(2 * MIB));
            assert!(raise(&mut held, 5 * MIB) && raise(&mut more, 2 * MIB));
            assert!(raise(&mut beyond, 1) && !raise(&mut waiting, MIB) && held.is_pressed());
            if is_given {
                drop(more);
                assert!(!held.is_pressed());
            }
            drop((waiting, beyond, held));
            let pool = &budgets.ordinary;
            assert_eq!(pool.waiting.load(SeqCst), 0);
            let line = pool.line();
            assert!(line.waiters.is_empty() && line.overdrawn.is_none());
        }
        assert_eq!(budgets.used(), 0);
    }

    #[test]
    fn frames_that_hold_all_memory_half_arrived_are_completed_one_after_the_other() {
        const STEP: usize = 256 << 10;
        let budgets = Budgets::new(16 * MIB);
        let pool = &budgets.ordinary;
        let mut arriving: Vec<Charge> = (0..40).map(|_| budgets.charge(2 * MIB)).collect();
        let (mut rounds, mut most) = (0, 0);
        while !arriving.is_empty() {
            rounds += 1;
            assert!(rounds < 1_000, "{} frames block each other", arriving.len());
            // The youngest ask first: all of them are half there when the memory is used up.
            for charge in arriving.iter_mut().rev() {
                let next = charge.bytes() + STEP;
                raise(charge, next);
                most = most.max(pool.used.load(SeqCst));
            }
            arriving.retain(|charge| charge.bytes() < 2 * MIB);
        }
        assert_eq!((pool.used.load(SeqCst), pool.waiting.load(SeqCst)), (0, 0));
        assert!((pool.bytes_max..=pool.bytes_max + 2 * MIB).contains(&most), "{most}");
    }
}
