//! How many bytes of answers may be in memory in the whole broker, so that clients which ask for much
//! and do not read it cannot fill it.
//!
//! The budget has two parts, and no answer waits for the other part: fifteen sixteenths are for the
//! records of fetches, one sixteenth is for all other large answers. Answers of up to 64 KiB without
//! records are not charged and never wait; a connection has one of them at a time.
//!
//! The records of a fetch are charged before they are read from the log, other answers when they are
//! encoded; what was charged is given back while the answer is written to its socket. One fetch gets
//! at most a sixteenth of the room that is left, so that clients that never read take a smaller share
//! each time and leave room for those that do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;

/// Answers without records of up to this size are not charged: they never wait for others.
pub(super) const SMALL_BYTES_MAX: usize = 64 << 10;
/// A fetch gets at most this share of the free room.
const SHARE: usize = 16;
/// The share of the budget that is for answers without records.
const PLAIN_SHARE: usize = 16;
/// The first records of an answer may take this much whatever the share.
const FIRST_BYTES: usize = 64 << 10;
/// For how long a client that found no room counts as waiting: a fetch that found none comes again.
const SHORT_FOR: Duration = Duration::from_secs(2);

/// The budget. Cheap to clone.
#[derive(Clone)]
pub struct AnswerBudget {
    records: Part,
    plain: Part,
    origin: Instant,
    /// Connections that were closed because they held answers that others needed the room of.
    closed: IntCounter,
}

/// A part of the budget.
#[derive(Clone)]
struct Part {
    room: Arc<Semaphore>,
    bytes_max: usize,
    /// Answers that wait for room.
    waiting: Arc<AtomicUsize>,
    /// Milliseconds after `origin` when an answer last waited for room; 0 for never.
    short_at_ms: Arc<AtomicU64>,
}

/// Bytes of an answer that are charged. They are given back when it is dropped.
#[derive(Debug, Default)]
pub struct Held {
    records: Option<OwnedSemaphorePermit>,
    plain: Option<OwnedSemaphorePermit>,
}

impl AnswerBudget {
    /// A budget of `bytes_max`, and its metrics.
    pub fn register(
        bytes_max: usize,
        metrics: &Metrics,
    ) -> Result<AnswerBudget, prometheus::Error> {
        let closed = IntCounter::new(
            "ottla_connections_unread_closed_total",
            "Connections closed because their clients read their answers too slowly while others waited for the room.",
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
        let plain = bytes_max / PLAIN_SHARE;
        AnswerBudget {
            records: Part::new(bytes_max - plain),
            plain: Part::new(plain),
            origin: Instant::now(),
            closed,
        }
    }

    /// Room for the first records of an answer that wants `wanted` bytes: a share of what is left, but
    /// at least `least`, and at least 64 KiB or all that is wanted. Waits for it behind those that came
    /// before.
    pub(super) async fn take_first(&self, wanted: usize, least: usize) -> Held {
        let least = wanted.clamp(1, FIRST_BYTES).max(least).min(self.records.bytes_max);
        let wanted = wanted.min(self.share(0)).max(least);
        let records = match self.records.try_acquire(wanted) {
            None => self.acquire(&self.records, least).await,
            taken => taken,
        };
        Held { records, plain: None }
    }

    /// More room for the records of an answer that holds `held` bytes already: what there is of
    /// `wanted`, maybe none.
    pub(super) fn try_take(&self, wanted: usize, held: usize) -> Held {
        let records = self.records.try_acquire(wanted.min(self.share(held)));
        Held { records, plain: None }
    }

    /// Room for a large answer of `bytes` without records, if there is some now.
    pub(super) fn try_take_plain(&self, bytes: usize) -> Option<Held> {
        let plain = self.plain.try_acquire(bytes.min(self.plain.bytes_max))?;
        Some(Held { records: None, plain: Some(plain) })
    }

    /// Waits until there is room for a large answer of `bytes` without records. One that is larger than
    /// its whole part of the budget waits until it has the part for itself.
    pub(super) async fn take_plain(&self, bytes: usize) -> Held {
        if let Some(held) = self.try_take_plain(bytes) {
            return held;
        }
        let plain = self.acquire(&self.plain, bytes.min(self.plain.bytes_max)).await;
        Held { records: None, plain }
    }

    /// Waits until there is any room for an answer without records.
    pub(super) async fn any_plain(&self) {
        if self.plain.room.available_permits() == 0 {
            drop(self.acquire(&self.plain, 1).await);
        }
    }

    /// Whether others find no room for answers just now in a part of the budget that `held` is of.
    pub fn is_short_of(&self, held: &Held) -> bool {
        let (records, plain) = (held.records.is_some(), held.plain.is_some());
        (records && self.is_short(&self.records)) || (plain && self.is_short(&self.plain))
    }

    /// Counts a connection that was closed to make room.
    pub fn note_closed(&self) {
        self.closed.inc();
    }

    fn is_short(&self, part: &Part) -> bool {
        let at = part.short_at_ms.load(Ordering::Relaxed);
        part.waiting.load(Ordering::Relaxed) > 0
            || at > 0 && ms_since(self.origin).saturating_sub(at) < SHORT_FOR.as_millis() as u64
    }

    /// Notes that there is no room, and waits for it.
    async fn acquire(&self, part: &Part, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let _waiting = Waiting::begin(part, self.origin);
        let units = u32::try_from(bytes).unwrap_or(u32::MAX);
        // Nobody closes the semaphore.
        part.room.clone().acquire_many_owned(units).await.ok()
    }

    /// What a fetch that holds `held` bytes may take more.
    fn share(&self, held: usize) -> usize {
        ((self.records.room.available_permits() + held) / SHARE).saturating_sub(held)
    }
}

impl Part {
    fn new(bytes_max: usize) -> Part {
        let bytes_max = bytes_max.min(Semaphore::MAX_PERMITS);
        Part {
            room: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
            waiting: Arc::default(),
            short_at_ms: Arc::default(),
        }
    }

    /// All of `bytes`, or nothing.
    fn try_acquire(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes).ok().filter(|units| *units > 0)?;
        self.room.clone().try_acquire_many_owned(units).ok()
    }

    /// `bytes`, or what there is.
    fn charge(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.try_acquire(bytes.min(self.room.available_permits()))
    }

    fn used(&self) -> usize {
        self.bytes_max - self.room.available_permits()
    }
}

impl Held {
    /// How many bytes.
    pub fn bytes(&self) -> usize {
        bytes_of(&self.records) + bytes_of(&self.plain)
    }

    /// Gives back up to `bytes`, of records first.
    pub fn release(&mut self, bytes: usize) {
        let rest = bytes.saturating_sub(bytes_of(&self.records));
        release(&mut self.records, bytes);
        release(&mut self.plain, rest);
    }

    /// Holds what `other` held, too. Both are of one budget.
    pub fn add(&mut self, other: Held) {
        add(&mut self.records, other.records);
        add(&mut self.plain, other.plain);
    }

    /// Holds `bytes` for records from now on: gives back the rest, or takes more of `budget` as far as
    /// there is room.
    pub(super) fn resize(&mut self, bytes: usize, budget: &AnswerBudget) {
        resize(&mut self.records, bytes, &budget.records);
    }

    /// Holds `bytes` for an answer without records from now on, like `resize`.
    pub(super) fn resize_plain(&mut self, bytes: usize, budget: &AnswerBudget) {
        resize(&mut self.plain, bytes, &budget.plain);
    }
}

fn bytes_of(held: &Option<OwnedSemaphorePermit>) -> usize {
    held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
}

fn release(held: &mut Option<OwnedSemaphorePermit>, bytes: usize) {
    let Some(permit) = held else { return };
    match bytes < permit.num_permits() {
        true => drop(permit.split(bytes)),
        false => *held = None,
    }
}

fn add(held: &mut Option<OwnedSemaphorePermit>, other: Option<OwnedSemaphorePermit>) {
    match (held, other) {
        (Some(permit), Some(other)) => permit.merge(other),
        (held @ None, other) => *held = other,
        (Some(_), None) => {}
    }
}

fn resize(held: &mut Option<OwnedSemaphorePermit>, bytes: usize, part: &Part) {
    match bytes.checked_sub(bytes_of(held)) {
        Some(more) => add(held, part.charge(more)),
        None => release(held, bytes_of(held) - bytes),
    }
}

/// An answer that waits for room. Dropped when it has some, or when its request is given up.
struct Waiting<'a> {
    part: &'a Part,
    origin: Instant,
}

impl Waiting<'_> {
    fn begin(part: &Part, origin: Instant) -> Waiting<'_> {
        part.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting { part, origin }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.part.short_at_ms.store(ms_since(self.origin), Ordering::Relaxed);
        self.part.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Milliseconds since `origin`, never 0.
fn ms_since(origin: Instant) -> u64 {
    origin.elapsed().as_millis() as u64 + 1
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
        let used = self.budget.records.used() + self.budget.plain.used();
        self.gauge.set(i64::try_from(used).unwrap_or(i64::MAX));
        self.gauge.collect()
    }
}

#[cfg(test)]
impl AnswerBudget {
    /// Takes all that there is for records.
    pub(super) fn take_all_of_records(&self) -> Held {
        Held { records: self.records.charge(usize::MAX), plain: None }
    }

    /// Takes all that there is for answers without records.
    pub(super) fn take_all_of_plain(&self) -> Held {
        Held { records: None, plain: self.plain.charge(usize::MAX) }
    }

    /// How many answers wait for room.
    pub(super) fn waiting(&self) -> usize {
        let waiting = |part: &Part| part.waiting.load(Ordering::Relaxed);
        waiting(&self.records) + waiting(&self.plain)
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
        assert!(taken.iter().map(Held::bytes).sum::<usize>() <= 240 << 20);
        let next = budget.take_first(55 << 20, 0).now_or_never().expect("there is room");
        assert!(next.bytes() > 128 << 10, "{}", next.bytes());
        assert!(!budget.is_short_of(&next));
    }

    #[test]
    fn who_finds_no_room_waits_in_line_and_is_told_of() {
        let budget = budget(2 << 20);
        let mut held = budget.take_all_of_records();
        assert_eq!(held.bytes(), 15 << 17);
        let mut waiting = Box::pin(budget.take_first(3 << 20, 0));
        assert!((&mut waiting).now_or_never().is_none() && budget.is_short_of(&held));
        // Who asks for little does not pass.
        held.release(FIRST_BYTES - 1);
        assert!(budget.take_first(1, 0).now_or_never().is_none());
        assert_eq!(budget.try_take(1, 0).bytes(), 0);
        held.release(1);
        assert_eq!(waiting.now_or_never().expect("there is room now").bytes(), FIRST_BYTES);
    }

    #[test]
    fn what_is_held_shrinks_and_grows_as_far_as_there_is_room() {
        let budget = budget(160);
        let mut held = budget.take_first(60, 0).now_or_never().expect("there is room");
        held.resize(10, &budget);
        assert_eq!((held.bytes(), budget.records.room.available_permits()), (10, 140));
        held.resize(1000, &budget);
        assert_eq!((held.bytes(), budget.records.room.available_permits()), (150, 0));
        held.release(1000);
        assert_eq!((held.bytes(), budget.records.room.available_permits()), (0, 150));
    }

    #[test]
    fn unread_records_take_no_room_of_other_answers_and_these_none_of_records() {
        let budget = budget(16 << 20);
        let records = budget.take_all_of_records();
        let mut fetch = Box::pin(budget.take_first(1, 0));
        assert!((&mut fetch).now_or_never().is_none() && budget.is_short_of(&records));
        // As large as its part, or larger.
        let mut plain = budget.take_plain(2 << 20).now_or_never().expect("it has room of its own");
        assert_eq!(plain.bytes(), 1 << 20);
        assert!(!budget.is_short_of(&plain), "nobody waits for this part");
        let mut waiting = Box::pin(budget.take_plain(100_000));
        assert!((&mut waiting).now_or_never().is_none() && budget.is_short_of(&plain));
        assert!(budget.any_plain().now_or_never().is_none());
        plain.release(100_000);
        assert_eq!(waiting.now_or_never().expect("there is room now").bytes(), 100_000);
        drop(records);
        assert_eq!(fetch.now_or_never().expect("there is room now").bytes(), 1);
    }

    #[test]
    fn an_answer_that_waits_for_long_counts_as_waiting_all_that_time() {
        let mut budget = budget(16 << 20);
        let plain = budget.take_all_of_plain();
        let mut waiting = Box::pin({
            let budget = budget.clone();
            async move { budget.take_plain(1).await }
        });
        assert!((&mut waiting).now_or_never().is_none());
        // An hour later.
        budget.origin -= Duration::from_secs(3600);
        assert!(budget.is_short_of(&plain));
        drop(waiting);
        assert_eq!(budget.waiting(), 0);
    }

    #[test]
    fn a_connection_gives_back_what_it_held_of_both_parts() {
        let budget = budget(16 << 20);
        let mut held = budget.take_plain(1_000).now_or_never().expect("there is room");
        held.add(budget.try_take(500, 0));
        held.release(600);
        assert_eq!((held.bytes(), budget.records.used(), budget.plain.used()), (900, 0, 900));
        held.resize_plain(100, &budget);
        assert_eq!(budget.plain.used(), 100);
        held.release(100);
        assert_eq!((held.bytes(), budget.plain.used()), (0, 0));
    }
}
