//! A connection whose requests begin and end when the test says so.

use std::cell::RefCell;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::super::tests::{PATIENT, pair};
use super::*;
use crate::api::Held;
use crate::api::tests::fixture::Bench;

/// What all connections of a broker share.
fn shared(bench: &Bench, stop: &watch::Sender<bool>) -> Shared {
    Shared {
        ctx: bench.ctx.clone(),
        patience: PATIENT,
        budget: Budgets::new(1 << 20),
        stop: stop.subscribe(),
    }
}

/// A frame of eight bytes that all have the value `byte`.
fn frame(byte: u8) -> [u8; 12] {
    let mut frame = [byte; 12];
    frame[..4].copy_from_slice(&8u32.to_be_bytes());
    frame
}

fn answer(byte: u8) -> Reply {
    Reply::Frame(BytesMut::from(&[byte][..]), Vec::new(), Held::default())
}

/// The next byte that the connection sends.
async fn sent(client: &mut (impl AsyncReadExt + Unpin)) -> u8 {
    timeout(Duration::from_secs(20), client.read_u8()).await.expect("no answer").unwrap()
}

/// Requests that begin one by one when the test says so, each with what is sent for it.
struct Begins(RefCell<VecDeque<oneshot::Receiver<Begun>>>);

impl Begins {
    fn of<const N: usize>() -> (Begins, [oneshot::Sender<Begun>; N]) {
        let mut receivers = VecDeque::new();
        let senders = std::array::from_fn(|_| {
            let (sender, receiver) = oneshot::channel();
            receivers.push_back(receiver);
            sender
        });
        (Begins(RefCell::new(receivers)), senders)
    }

    async fn begin(&self, _frame: Bytes) -> Result<Begun, Refusal> {
        let next = self.0.borrow_mut().pop_front();
        Ok(next.expect("a request that the test knows").await.unwrap())
    }
}

/// A request whose answer comes when the test says so.
fn staged() -> (oneshot::Sender<Reply>, Begun) {
    let (reply, receiver) = oneshot::channel();
    let later = Box::pin(async move { receiver.await.unwrap() });
    (reply, Begun::Pending(Order::Staged, later))
}

#[tokio::test]
async fn a_request_that_waits_while_it_begins_does_not_hold_up_ready_answers() {
    let bench = Bench::start().await;
    let (stop, _) = watch::channel(false);
    let (mut client, stream) = pair().await;
    let mut link = Link::new(Socket::Plain(stream), shared(&bench, &stop));
    let (begins, [first, second]) = Begins::of();
    let (reply, begun) = staged();
    assert!(first.send(begun).is_ok());
    let asking = async {
        client.write_all(&[frame(1), frame(2)].concat()).await.unwrap();
        // By then the second one is on its way.
        while !begins.0.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        reply.send(answer(1)).unwrap();
        assert_eq!(sent(&mut client).await, 1);
        assert!(second.send(Begun::Answered(answer(2))).is_ok());
        assert_eq!(sent(&mut client).await, 2);
        drop(client);
    };
    let (served, ()) = tokio::join!(link.serve(|frame| begins.begin(frame)), asking);
    assert_eq!(served, Ok(()));
}

#[tokio::test]
async fn a_request_that_has_begun_is_not_cut_short_when_its_client_leaves_or_an_answer_fails() {
    for fails in [false, true] {
        let bench = Bench::start().await;
        let (stop, _) = watch::channel(false);
        let (mut client, stream) = pair().await;
        let mut link = Link::new(Socket::Plain(stream), shared(&bench, &stop));
        let (begins, [first, second]) = Begins::of();
        let (reply, begun) = staged();
        assert!(first.send(begun).is_ok());
        let asking = async {
            client.write_all(&[frame(1), frame(2)].concat()).await.unwrap();
            while !begins.0.borrow().is_empty() {
                tokio::task::yield_now().await;
            }
            // So that writing the answer fails.
            client.set_zero_linger().unwrap();
            drop(client);
            reply.send(if fails { Reply::Close("no".to_owned()) } else { answer(1) }).unwrap();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            // Somebody still waits for it.
            assert!(second.send(Begun::Answered(answer(2))).is_ok());
        };
        let (served, ()) = tokio::join!(link.serve(|frame| begins.begin(frame)), asking);
        assert!(served.is_err() || !fails);
    }
}
