//! A connection whose requests begin and end when the test says so.

use std::cell::RefCell;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::super::tests::{PATIENT, pair};
use super::*;
use crate::api::Held;
use crate::api::tests::fixture::{Bench, sample, session};
use crate::api::{Authentication, Identity};
use crate::security::Principal;

/// What all connections of a broker share.
fn shared(bench: &Bench, stop: &watch::Sender<bool>) -> Shared {
    Shared {
        ctx: bench.ctx.clone(),
        patience: PATIENT,
        budget: Arc::new(Budgets::new(1 << 20)),
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
    let mut link = Link::new(Socket::Plain(stream), session(), shared(&bench, &stop));
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
        let mut link = Link::new(Socket::Plain(stream), session(), shared(&bench, &stop));
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

/// A frame of `bytes` bytes, all 7, with its length.
fn large_frame(bytes: usize) -> Vec<u8> {
    // Produce, which may be large, and no version of it.
    [&u32::try_from(bytes).unwrap().to_be_bytes()[..], &[0, 0], &vec![7; bytes - 2]].concat()
}

/// A client of a connection that answers each request at once with one byte.
async fn client_of(shared: &Shared) -> (TcpStream, tokio::task::JoinHandle<Result<(), Reason>>) {
    let (client, stream) = pair().await;
    let mut link = Link::new(Socket::Plain(stream), session(), shared.clone());
    let served = tokio::spawn(async move {
        link.serve(|_| std::future::ready(Ok(Begun::Answered(answer(1))))).await
    });
    (client, served)
}

const MIB: usize = 1 << 20;

#[tokio::test]
async fn frames_that_stop_half_way_hold_up_no_small_one_and_large_ones_not_for_long() {
    let bench = Bench::start().await;
    let (stop, _) = watch::channel(false);
    let mut shared = shared(&bench, &stop);
    // 7 MiB of it for frames of up to 2 MiB.
    shared.budget = Arc::new(Budgets::new(16 * MIB));
    shared.patience.frame_pressed = Duration::from_secs(2);
    shared.patience.slowest_bytes_per_second = 10;
    let mut stopped = Vec::new();
    for _ in 0..7 {
        let (mut client, served) = client_of(&shared).await;
        client.write_all(&large_frame(2 * MIB)[..MIB + 4]).await.unwrap();
        stopped.push((client, served));
    }
    while shared.budget.used() < 7 * MIB {
        tokio::task::yield_now().await;
    }
    // Two more, of which one may go beyond the bound.
    let mut honest = Vec::new();
    for _ in 0..2 {
        let (mut client, _) = client_of(&shared).await;
        honest.push(tokio::spawn(async move {
            client.write_all(&large_frame(2 * MIB)).await.unwrap();
            sent(&mut client).await
        }));
    }
    let (mut small, _) = client_of(&shared).await;
    for bytes in [8, 1_000, SMALL_FRAME_BYTES_MAX] {
        small.write_all(&large_frame(bytes)).await.unwrap();
        assert_eq!(sent(&mut small).await, 1);
    }
    for honest in honest {
        assert_eq!(honest.await.unwrap(), 1);
    }
    let mut closed = 0;
    for (client, served) in stopped {
        closed += usize::from(served.is_finished());
        drop(client);
        let _ = served.await.unwrap();
    }
    assert!(closed > 0, "nobody gave memory back");
    assert_eq!(shared.budget.used(), 0);
}

#[tokio::test]
async fn frames_that_need_more_memory_together_than_there_is_are_all_answered() {
    let bench = Bench::start().await;
    let (stop, _) = watch::channel(false);
    let mut shared = shared(&bench, &stop);
    shared.budget = Arc::new(Budgets::new(16 * MIB));
    let mut clients = Vec::new();
    for _ in 0..20 {
        let (mut client, _) = client_of(&shared).await;
        client.write_all(&large_frame(2 * MIB)[..MIB]).await.unwrap_or_default();
        clients.push(client);
    }
    let rest: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                client.write_all(&large_frame(2 * MIB)[MIB..]).await.unwrap();
                sent(&mut client).await
            })
        })
        .collect();
    for answered in rest {
        assert_eq!(answered.await.unwrap(), 1);
    }
    assert_eq!(shared.budget.used(), 0);
}

#[tokio::test]
async fn a_large_frame_holds_no_memory_behind_a_request_that_waits_for_others() {
    let bench = Bench::start().await;
    let (stop, _) = watch::channel(false);
    let (mut client, stream) = pair().await;
    let shared = shared(&bench, &stop);
    let mut link = Link::new(Socket::Plain(stream), session(), shared.clone());
    let (begins, [first, second]) = Begins::of();
    let (reply, receiver) = oneshot::channel();
    let parked: Later<Reply> = Box::pin(async move { receiver.await.unwrap() });
    assert!(first.send(Begun::Pending(Order::Parked, parked)).is_ok());
    assert!(second.send(Begun::Answered(answer(2))).is_ok());
    let asking = async {
        client.write_all(&frame(1)).await.unwrap();
        while begins.0.borrow().len() == 2 {
            tokio::task::yield_now().await;
        }
        let mut rest = large_frame(MIB);
        let all = rest.split_off(100_000);
        client.write_all(&rest).await.unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(shared.budget.used(), 0);
        reply.send(answer(1)).unwrap();
        assert_eq!(sent(&mut client).await, 1);
        client.write_all(&all).await.unwrap();
        assert_eq!(sent(&mut client).await, 2);
        drop(client);
    };
    let (served, ()) = tokio::join!(link.serve(|frame| begins.begin(frame)), asking);
    assert_eq!(served, Ok(()));
}

#[tokio::test]
async fn a_muted_connection_sends_its_answers_and_begins_nothing_until_its_time_is_over() {
    const MUTED: Duration = Duration::from_millis(300);
    let bench = Bench::start().await;
    let (stop, _) = watch::channel(false);
    let (mut client, stream) = pair().await;
    let session = session();
    let mut link = Link::new(Socket::Plain(stream), session.clone(), shared(&bench, &stop));
    let (begins, [first, second, third]) = Begins::of();
    let (reply, begun) = staged();
    assert!(first.send(begun).is_ok());
    let asking = async {
        client.write_all(&[frame(1), frame(2), frame(3)].concat()).await.unwrap();
        while begins.0.borrow().len() > 1 {
            tokio::task::yield_now().await;
        }
        let muted_at = Instant::now();
        session.throttle().mute(muted_at, MUTED);
        // Where it waits for that, the third one would begin at once.
        assert!(third.send(Begun::Answered(answer(3))).is_ok());
        assert!(second.send(Begun::Answered(answer(2))).is_ok());
        reply.send(answer(1)).unwrap();
        assert_eq!((sent(&mut client).await, sent(&mut client).await), (1, 2));
        assert_eq!(sent(&mut client).await, 3);
        // The throttle counts whole milliseconds.
        assert!(muted_at.elapsed() + Duration::from_millis(1) >= MUTED);
        session.throttle().mute(Instant::now(), Duration::from_secs(3600));
        drop(client);
        stop.send_replace(true);
    };
    let (served, ()) = tokio::join!(link.serve(|frame| begins.begin(frame)), asking);
    assert_eq!(served, Ok(()));
}

#[tokio::test]
async fn a_client_that_has_yet_to_authenticate_may_send_small_frames_only() {
    let bench = Bench::start().await;
    let (stop, _) = watch::channel(false);
    let shared = shared(&bench, &stop);
    let awaited =
        Identity { principal: Principal::ANONYMOUS, authentication: Authentication::Awaited };
    let framed =
        |frame: &[u8]| [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], frame].concat();
    let large = large_frame((64 << 10) + 1);
    for (bytes, reason) in [
        (&large[..8], "frame has 65537 bytes, at most 65536"),
        (&framed(&sample::metadata("clicks")), "Metadata was asked for before"),
    ] {
        let (mut client, stream) = pair().await;
        let session = session();
        session.identify(awaited.clone());
        let mut link = Link::new(Socket::Plain(stream), session.clone(), shared.clone());
        let ctx = bench.ctx.clone();
        client.write_all(&framed(&sample::api_versions())).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let served = link.serve(|frame| api::begin(&ctx, &session, frame)).await;
        let told = served.unwrap_err().unwrap();
        assert!(told.starts_with(reason), "{told}");
        assert!(client.read_u32().await.unwrap() > 100, "ApiVersions is answered");
    }
}
