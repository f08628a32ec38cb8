//! Bounded waiting, and names that no other test uses.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Polls `condition` until it yields a value. Panics with `what` and the last thing that was
/// missing when `limit` has passed.
#[track_caller]
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(missing) if start.elapsed() >= limit => {
                panic!("waited {limit:?} for {what}: {missing}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// `prefix` with a suffix that no other test or run has: a reference Kafka outlives the run.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let run = uuid::Uuid::new_v4().simple().to_string();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{number}", &run[..8])
}
