//! How many bytes of requests may be in memory in the whole broker, so that no number of clients can
//! fill it.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in units of this many bytes, since a semaphore's count has 32 bits.
const UNIT_BYTES: usize = 1024;

/// A bound in bytes. Cheap to clone.
#[derive(Clone)]
struct Budget {
    semaphore: Arc<Semaphore>,
    units: u32,
}

impl Budget {
    /// A budget of `bytes`.
    fn new(bytes: usize) -> Budget {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).max(1);
        let units = units.min(Semaphore::MAX_PERMITS.try_into().unwrap_or(u32::MAX));
        Budget { semaphore: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// `bytes` of it, if they fit now.
    fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.semaphore.clone().try_acquire_many_owned(self.units_of(bytes)).ok()
    }

    /// Waits until `bytes` fit. What is larger than the whole budget waits for all of it.
    async fn take(self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = self.units_of(bytes);
        // Nobody closes the semaphore; `None` would merely leave this request uncounted.
        self.semaphore.acquire_many_owned(units).await.ok()
    }

    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units)
    }
}

/// The whole broker's budget. Large frames have one of their own, so that a few clients that
/// promise much and send it slowly keep nobody's ordinary requests waiting.
#[derive(Clone)]
pub(super) struct Budgets {
    ordinary: Budget,
    large: Budget,
}

impl Budgets {
    /// The largest frame that counts as ordinary: a producer's default `max.request.size`, and some.
    const ORDINARY_BYTES_MAX: usize = 2 << 20;

    /// Half of `bytes` for each kind.
    pub(super) fn new(bytes: usize) -> Budgets {
        Budgets { ordinary: Budget::new(bytes / 2), large: Budget::new(bytes / 2) }
    }

    /// Room for a frame of `bytes`, if there is any now. Those that wait come first.
    pub(super) fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.of(bytes).try_take(bytes)
    }

    /// Waits until a frame of `bytes` fits.
    pub(super) fn take(
        &self,
        bytes: usize,
    ) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + use<> {
        self.of(bytes).clone().take(bytes)
    }

    fn of(&self, bytes: usize) -> &Budget {
        if bytes <= Self::ORDINARY_BYTES_MAX { &self.ordinary } else { &self.large }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn what_exceeds_the_budget_waits_and_giants_take_all_of_it() {
        let budget = Budget::new(4096);
        let held = budget.try_take(3000);
        assert!(held.is_some());
        assert!(budget.try_take(2000).is_none());
        assert!(budget.clone().take(2000).now_or_never().is_none());
        drop(held);
        assert!(budget.try_take(1 << 30).is_some());
        assert!(budget.take(1 << 30).now_or_never().is_some());
    }

    #[test]
    fn large_frames_that_wait_leave_room_for_ordinary_ones() {
        let budgets = Budgets::new(8 << 20);
        let held = budgets.take(100 << 20).now_or_never();
        assert!(held.is_some());
        assert!(budgets.take(3 << 20).now_or_never().is_none());
        assert!(budgets.take(1 << 20).now_or_never().is_some());
    }
}
