//! How many bytes of requests may be in memory, per connection and in the whole broker, so that no
//! number of clients can fill it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in units of this many bytes, since a semaphore's count has 32 bits.
const UNIT_BYTES: usize = 1024;

/// A bound in bytes. Cheap to clone.
#[derive(Clone)]
pub(super) struct Budget {
    semaphore: Arc<Semaphore>,
    units: u32,
}

impl Budget {
    /// A budget of `bytes`.
    pub(super) fn new(bytes: usize) -> Budget {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).max(1);
        let units = units.min(Semaphore::MAX_PERMITS.try_into().unwrap_or(u32::MAX));
        Budget { semaphore: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Waits until `bytes` fit. What is larger than the whole budget waits for all of it.
    pub(super) async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units);
        // Nobody closes the semaphore; `None` would merely leave this request uncounted.
        self.semaphore.clone().acquire_many_owned(units).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn what_exceeds_the_budget_waits_and_giants_take_all_of_it() {
        let budget = Budget::new(4096);
        let held = budget.take(3000).now_or_never();
        assert!(held.is_some());
        assert!(budget.take(2000).now_or_never().is_none());
        drop(held);
        assert!(budget.take(1 << 30).now_or_never().is_some());
    }
}
