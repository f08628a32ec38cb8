//! How many bytes of answers may be in memory in the whole broker, so that clients which ask for much
//! and do not read it cannot fill it.
//!
//! The records of a fetch are charged before they are read from the log, other answers when they are
//! encoded; what was charged is given back while the answer is written to its socket. One answer gets
//! at most a sixteenth of the room that is left, so that clients that never read take a smaller share
//! each time and leave room for those that do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;

/// Answers up to this size are not charged: they never wait for others.
pub(super) const SMALL_BYTES_MAX: usize = 64 << 10;
/// An answer gets at most this share of the free room.
const SHARE: usize = 16;
/// The first records of an answer may take this much whatever the share.
const FIRST_BYTES: usize = 64 << 10;
/// For how long a client that found no room counts as waiting: a fetch that found none comes again.
const SHORT_FOR: Duration = Duration::from_secs(2);

/// The budget. Cheap to clone.
#[derive(Clone)]
pub struct AnswerBudget {
    room: Arc<Semaphore>,
    bytes_max: usize,
    origin: Instant,
    /// Milliseconds after `origin` when an answer last found no room; 0 for never.
    short_at_ms: Arc<AtomicU64>,
    /// Connections that were closed because they held answers that others needed the room of.
    closed: IntCounter,
}

/// Bytes of an answer that are charged. They are given back when it is dropped.
#[derive(Debug, Default)]
pub struct Held(Option<OwnedSemaphorePermit>);

impl AnswerBudget {
    /// A budget of `bytes_max`, and its metrics.
    pub fn register(
        bytes_max: usize,
        metrics: &Metrics,
    ) -> Result<AnswerBudget, prometheus::Error> {
        let closed = IntCounter::new(
            "ottla_connections_unread_closed_total",
            "Connections closed because their clients read no answers while others waited for the room.",
        )?;
        metrics.registry().register(Box::new(closed.clone()))?;
        let budget = AnswerBudget::new(bytes_max, closed);
        let gauge = IntGauge::new(
            "ottla_answer_bytes",
            "Bytes of large answers in memory that were not written to their sockets yet.",
        )?;
        metrics.registry().register(Box::new(BytesInUse { gauge, budget: budget.clone() }))?;
        Ok(budget)
    }

    fn new(bytes_max: usize, closed: IntCounter) -> AnswerBudget {
        let bytes_max = bytes_max.min(Semaphore::MAX_PERMITS);
        AnswerBudget {
            room: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
            origin: Instant::now(),
            short_at_ms: Arc::default(),
            closed,
        }
    }

    /// Room for the first records of an answer that wants `wanted` bytes: a share of what is left, but
    /// at least `least`, and at least 64 KiB or all that is wanted. Waits for it behind those that came
    /// before.
    pub(super) async fn take_first(&self, wanted: usize, least: usize) -> Held {
        let least = wanted.clamp(1, FIRST_BYTES).max(least).min(self.bytes_max);
        let taken = self.try_acquire(wanted.min(self.share(0)).max(least));
        if taken.0.is_some() {
            return taken;
        }
        self.note_short();
        let units = u32::try_from(least).unwrap_or(u32::MAX);
        // Nobody closes the semaphore.
        Held(self.room.clone().acquire_many_owned(units).await.ok())
    }

    /// More room for an answer that holds `held` bytes already: what there is of `wanted`, maybe none.
    pub(super) fn try_take(&self, wanted: usize, held: usize) -> Held {
        self.try_acquire(wanted.min(self.share(held)))
    }

    /// Charges what is in memory already, as far as there is room.
    pub(super) fn charge(&self, bytes: usize) -> Held {
        self.try_acquire(bytes.min(self.room.available_permits()))
    }

    /// Waits until there is any room, for an answer whose size is not known before it is made.
    pub(super) async fn any(&self) {
        if self.room.available_permits() == 0 {
            self.note_short();
            drop(self.room.acquire().await);
        }
    }

    /// Whether answers have found no room just now.
    pub fn is_short(&self) -> bool {
        let at = self.short_at_ms.load(Ordering::Relaxed);
        at > 0 && self.now_ms().saturating_sub(at) < SHORT_FOR.as_millis() as u64
    }

    /// Counts a connection that was closed to make room.
    pub fn note_closed(&self) {
        self.closed.inc();
    }

    fn note_short(&self) {
        self.short_at_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64 + 1
    }

    /// What an answer that holds `held` bytes may take more.
    fn share(&self, held: usize) -> usize {
        ((self.room.available_permits() + held) / SHARE).saturating_sub(held)
    }

    fn try_acquire(&self, bytes: usize) -> Held {
        match u32::try_from(bytes) {
            Ok(units @ 1..) => Held(self.room.clone().try_acquire_many_owned(units).ok()),
            _ => Held::default(),
        }
    }
}

impl Held {
    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Gives back up to `bytes`.
    pub fn release(&mut self, bytes: usize) {
        let Some(permit) = &mut self.0 else { return };
        match bytes < permit.num_permits() {
            true => drop(permit.split(bytes)),
            false => self.0 = None,
        }
    }

    /// Holds what `other` held, too. Both are of one budget.
    pub fn add(&mut self, other: Held) {
        match (&mut self.0, other.0) {
            (Some(permit), Some(other)) => permit.merge(other),
            (None, other) => self.0 = other,
            (Some(_), None) => {}
        }
    }

    /// Holds `bytes` from now on: gives back the rest, or takes more of `budget` as far as there is room.
    pub(super) fn resize(&mut self, bytes: usize, budget: &AnswerBudget) {
        match bytes.checked_sub(self.bytes()) {
            Some(more) => self.add(budget.charge(more)),
            None => self.release(self.bytes() - bytes),
        }
    }
}

/// The gauge, read when Prometheus asks for it.
struct BytesInUse {
    gauge: IntGauge,
    budget: AnswerBudget,
}

impl Collector for BytesInUse {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let used = self.budget.bytes_max - self.budget.room.available_permits();
        self.gauge.set(i64::try_from(used).unwrap_or(i64::MAX));
        self.gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn budget(bytes_max: usize) -> AnswerBudget {
        AnswerBudget::new(bytes_max, IntCounter::new("closed", "closed").unwrap())
    }

    #[test]
    fn those_that_never_give_back_leave_room_for_the_next() {
        let budget = budget(256 << 20);
        let mut taken: Vec<Held> = Vec::new();
        for _ in 0..60 {
            let first = budget.take_first(55 << 20, 0).now_or_never().expect("there is room");
            // An answer does not get beyond its share by asking again.
            let more = budget.try_take(55 << 20, first.bytes());
            assert!(more.bytes() <= first.bytes() / 8, "{} {}", first.bytes(), more.bytes());
            taken.extend([first, more]);
        }
        assert!(taken.iter().map(Held::bytes).sum::<usize>() <= 256 << 20);
        let next = budget.take_first(55 << 20, 0).now_or_never().expect("there is room");
        assert!(next.bytes() > 128 << 10, "{}", next.bytes());
        assert!(!budget.is_short());
    }

    #[test]
    fn who_finds_no_room_waits_in_line_and_is_told_of() {
        let budget = budget(2 << 20);
        let mut held = budget.charge(3 << 20);
        assert_eq!(held.bytes(), 2 << 20);
        let mut waiting = Box::pin(budget.take_first(3 << 20, 0));
        assert!((&mut waiting).now_or_never().is_none() && budget.is_short());
        // Who asks for little does not pass.
        held.release(FIRST_BYTES - 1);
        assert!(budget.take_first(1, 0).now_or_never().is_none());
        assert_eq!(budget.try_take(1, 0).bytes(), 0);
        held.release(1);
        assert_eq!(waiting.now_or_never().expect("there is room now").bytes(), FIRST_BYTES);
    }

    #[test]
    fn what_is_held_shrinks_and_grows_as_far_as_there_is_room() {
        let budget = budget(100);
        let mut held = budget.take_first(60, 0).now_or_never().expect("there is room");
        held.resize(10, &budget);
        assert_eq!((held.bytes(), budget.room.available_permits()), (10, 90));
        held.resize(1000, &budget);
        assert_eq!((held.bytes(), budget.room.available_permits()), (100, 0));
        assert!(budget.any().now_or_never().is_none());
        held.release(1000);
        assert_eq!((held.bytes(), budget.room.available_permits()), (0, 100));
        assert!(budget.any().now_or_never().is_some());
    }
}
