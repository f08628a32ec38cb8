//! Where statements are parsed and planned: on a thread of its own with a deep stack, so that no
//! statement can exhaust a server thread's, and a panic in a planner ends that statement alone.

use std::thread;

use tokio::sync::oneshot;

use super::fault::{Fault, Result};

/// Planners recurse into nested expressions; the parser bounds how deep. Only touched pages count.
const STACK_BYTES: usize = 256 << 20;

/// Runs `plan` without blocking the calling task.
pub(super) async fn run<T, F>(plan: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let (done, outcome) = oneshot::channel();
    // The receiver is only gone when the session was closed meanwhile: no one waits then.
    thread::Builder::new()
        .name("sql-plan".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || drop(done.send(plan())))
        .map_err(|error| Fault::new(format!("no thread could be started to plan on: {error}")))?;
    outcome.await.unwrap_or_else(|_| Err(panicked()))
}

fn panicked() -> Fault {
    Fault::new("the planner failed on this statement; the broker's log has the reason")
        .hint("please report the statement")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_that_statements_error() {
        let outcome: Result<()> = run(|| std::panic::resume_unwind(Box::new("planner bug"))).await;
        assert_eq!(outcome, Err(panicked()));
    }
}
