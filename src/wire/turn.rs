//! How much of large frames a network thread reads before it looks at its other sockets again, so that
//! small requests do not queue behind the large frames of many clients.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};

use tokio::task::yield_now;

/// What all connections of a thread together read between two looks.
const ROUND_BYTES: usize = 512 << 10;

thread_local! {
    /// The number of the round, and what was read in it.
    static ROUND: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
}

/// A connection's place among the large frames that its thread reads.
#[derive(Default)]
pub(super) struct Turn {
    /// The round in which it could not read any more.
    missed: Option<u64>,
}

impl Turn {
    /// Ready when the connection may read. If not, the task is woken when its thread has looked at all
    /// sockets.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (round, spent) = ROUND.get();
        // It was woken by that look, as the first of those that missed the round.
        if self.missed.take() == Some(round) {
            ROUND.set((round + 1, 0));
        } else if spent >= ROUND_BYTES {
            self.missed = Some(round);
            // The runtime wakes whoever yields after those whose sockets have something.
            let _ = pin!(yield_now()).poll(cx);
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Counts what was read.
    pub(super) fn spend(bytes: usize) {
        let (round, spent) = ROUND.get();
        ROUND.set((round, spent.saturating_add(bytes)));
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_round_that_is_spent_goes_on_after_those_whose_sockets_have_something() {
        let mut turn = Turn::default();
        poll_fn(|cx| turn.poll(cx)).await;
        Turn::spend(ROUND_BYTES);
        let (mut polls, round) = (0, ROUND.get().0);
        let mut other = Turn::default();
        poll_fn(|cx| {
            polls += 1;
            // Nobody else may read in that round either.
            assert!(polls > 1 || other.poll(cx).is_pending());
            turn.poll(cx)
        })
        .await;
        assert_eq!((polls, ROUND.get()), (2, (round + 1, 0)));
        poll_fn(|cx| other.poll(cx)).await;
        assert_eq!(ROUND.get(), (round + 1, 0), "a round begins once");
    }
}
