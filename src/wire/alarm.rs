//! A deadline that moves with every request without a timer that does: only a timer that rings too
//! early is set again.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Context;

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// See the module's header. For one task, since it wakes the one that asked first.
#[derive(Default)]
pub(super) struct Alarm {
    /// Set once a deadline was asked about.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Whether `due` has come; if not, the task is woken then, or before.
    pub(super) fn is_due(&mut self, due: Instant, cx: &mut Context<'_>) -> bool {
        if let Some(timer) = &self.timer
            && !timer.is_elapsed()
            && timer.deadline() <= due
        {
            return false;
        }
        if due <= Instant::now() {
            return true;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        timer.as_mut().reset(due);
        // It is not polled again before it rings: a task that has used up its share of the thread must
        // not keep it from being heard.
        pin!(unconstrained(timer.as_mut())).poll(cx).is_ready()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    use tokio::task::coop::consume_budget;

    use super::*;

    #[tokio::test]
    async fn a_task_that_has_used_up_its_share_of_the_thread_hears_it_all_the_same() {
        let (mut alarm, due) = (Alarm::default(), Instant::now() + Duration::from_millis(30));
        let mut is_spent = false;
        poll_fn(|cx| {
            while !is_spent {
                is_spent = pin!(consume_budget()).poll(cx).is_pending();
            }
            if alarm.is_due(due, cx) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        assert!(Instant::now() >= due);
    }

    #[tokio::test]
    async fn a_deadline_that_moves_on_is_kept_and_one_that_comes_nearer_too() {
        let (mut alarm, begun) = (Alarm::default(), Instant::now());
        // Far apart, so that a thread that is held up for a moment does not change their order.
        let mut dues = [300, 900, 600].map(|ms| begun + Duration::from_millis(ms)).into_iter();
        let mut due = dues.next().unwrap();
        // The first poll asks for 300 ms, then for 900; when the first rings, the third is 600.
        poll_fn(|cx| {
            for _ in 0..2 {
                if alarm.is_due(due, cx) {
                    return Poll::Ready(());
                }
                due = dues.next().unwrap_or(due);
            }
            Poll::Pending
        })
        .await;
        assert_eq!(due, begun + Duration::from_millis(600));
        assert_eq!(alarm.timer.unwrap().deadline(), due);
        assert!(begun.elapsed() >= Duration::from_millis(600));
    }
}
