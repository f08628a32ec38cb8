//! Frames over real sockets.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::arrival::Patience;
use super::listener::serve_with;
use super::{Budgets, Listener, Running};
use crate::api::tests::fixture::{Bench, Client, sample};
use crate::config::{self, Config, Endpoint};
use crate::metadata::{BrokerScope, ConfigChange, ConfigChanges};
use crate::types::ListenerName;

pub(super) const PATIENT: Patience = Patience {
    idle: Duration::from_secs(60),
    frame: Duration::from_secs(60),
    frame_pressed: Duration::from_secs(60),
    unread: Duration::from_secs(60),
    slowest_bytes_per_second: 1 << 20,
    look: Duration::from_millis(20),
};

/// Both ends of a connection: the client's and the broker's.
pub(super) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    (client, stream)
}

/// A listener at a free port of the loopback address.
async fn listener(name: &str, connections_max: Option<usize>) -> Listener {
    let name = ListenerName::parse(name).unwrap();
    let endpoint = Endpoint { name: name.clone(), host: "127.0.0.1".to_owned(), port: 0 };
    let listener = config::Listener { name, endpoint, advertised: None, connections_max };
    Listener::bind(&listener).await.unwrap()
}

/// Room for any request.
fn budgets() -> Arc<Budgets> {
    Arc::new(Budgets::new(512 << 20))
}

struct Port {
    bench: Bench,
    running: Running,
    address: std::net::SocketAddr,
}

impl Port {
    async fn open(bench: Bench, patience: Patience) -> Port {
        let listener = listener("PLAINTEXT", None).await;
        let address = listener.local_addr();
        let running = serve_with(vec![listener], bench.ctx.clone(), budgets(), patience).unwrap();
        Port { bench, running, address }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn client(&self) -> Client {
        Client::new(self.connect().await)
    }
}

/// Waits until the broker closes the connection, and fails if it says anything before.
async fn assert_closed(mut stream: TcpStream) {
    let mut byte = [0];
    let read = timeout(Duration::from_secs(20), stream.read(&mut byte)).await;
    assert!(matches!(read.expect("connection stays open"), Ok(0) | Err(_)));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let port = Port::open(Bench::start().await, PATIENT).await;
    port.bench.topic("clicks", 1).await;
    let mut client = port.client().await;
    for correlation in 0..200 {
        let frame = match correlation % 3 {
            0 => sample::produce("clicks", -1),
            1 => sample::metadata("clicks"),
            _ => sample::api_versions(),
        };
        client.send(correlation, frame).await;
    }
    for correlation in 0..200 {
        assert_eq!(client.receive().await.0, correlation);
    }
}

#[tokio::test]
async fn impossible_lengths_are_closed_before_anything_is_allocated() {
    let port = Port::open(Bench::start().await, PATIENT).await;
    for length in [i32::MAX, -1, i32::MIN, 0, 3, 5 << 20] {
        let mut stream = port.connect().await;
        stream.write_all(&length.to_be_bytes()).await.unwrap();
        // Metadata v9: no request without records may be so large.
        let _ = stream.write_all(&[0, 3, 0, 9]).await;
        assert_closed(stream).await;
    }
}

#[tokio::test]
async fn malformed_and_unknown_requests_are_closed_after_the_answers_that_are_owed() {
    let port = Port::open(Bench::start().await, PATIENT).await;
    let unknown_api = [0, 99, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    let produce_v2 = [0, 0, 0, 2, 0, 0, 0, 1, 0xff, 0xff];
    let cut_body = [0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0, 0];
    for body in [&unknown_api[..], &produce_v2, &cut_body, &[0, 3, 0, 1, 0]] {
        let mut client = port.client().await;
        client.send(5, sample::api_versions()).await;
        client.send_raw(body).await;
        assert_eq!(client.receive().await.0, 5);
        assert_closed(client.into_inner()).await;
    }
}

#[tokio::test]
async fn frame_that_is_not_finished_in_time_is_closed() {
    let patience = Patience { frame: Duration::from_millis(50), ..PATIENT };
    let port = Port::open(Bench::start().await, patience).await;
    let mut stream = port.connect().await;
    stream.write_all(&[0, 0, 0, 50, 0, 3, 0, 1, 0]).await.unwrap();
    assert_closed(stream).await;
}

#[tokio::test]
async fn idle_connections_are_closed_but_not_while_a_request_waits() {
    let patience = Patience { idle: Duration::from_millis(50), ..PATIENT };
    let port = Port::open(Bench::start().await, patience).await;
    port.bench.topic("clicks", 1).await;
    let mut client = port.client().await;
    client.send(1, sample::long_poll("clicks", 300)).await;
    assert_eq!(client.receive().await.0, 1);
    assert_closed(client.into_inner()).await;
}

#[tokio::test]
async fn records_of_a_client_that_left_without_waiting_are_kept() {
    let port = Port::open(Bench::start().await, PATIENT).await;
    let topic = port.bench.topic("clicks", 1).await;
    let mut client = port.client().await;
    for correlation in 0..10 {
        client.send(correlation, sample::produce("clicks", 0)).await;
    }
    drop(client);
    let log = port.bench.metadata.log(topic.id, crate::types::PartitionId(0)).unwrap();
    let mut span = log.subscribe();
    let all = span.wait_for(|span| span.high_watermark.get() == 10);
    timeout(Duration::from_secs(20), all).await.expect("records are missing").unwrap();
}

fn connections_max(config: &mut Config, connections: usize) {
    *config = config.clone().starting_with(|it| it.max_connections = connections);
}

#[tokio::test]
async fn a_waiting_client_is_served_once_max_connections_is_raised() {
    let bench = Bench::with(|config| connections_max(config, 1)).await;
    let port = Port::open(bench, PATIENT).await;
    let (first_is_served, mut first) = is_served(port.address).await;
    first.send(1, sample::api_versions()).await;
    let (second_is_served, mut second) = is_served(port.address).await;
    assert!(first_is_served && !second_is_served);
    let raised = [("max.connections".to_owned(), ConfigChange::Set("2".to_owned()))].into();
    let metadata = &port.bench.metadata;
    let changes = ConfigChanges::Some(raised);
    metadata.alter_broker_configs(BrokerScope::Cluster, changes, false).await.unwrap();
    assert_eq!(second.receive().await.0, 1);
    // Lowered again, it holds for those who come: nobody is disconnected.
    let lowered = ConfigChanges::All(Default::default());
    metadata.alter_broker_configs(BrokerScope::Cluster, lowered, false).await.unwrap();
    let (third_is_served, _third) = is_served(port.address).await;
    assert!(!third_is_served);
    second.send(2, sample::api_versions()).await;
    assert_eq!(second.receive().await.0, 2);
}

#[tokio::test]
async fn clients_above_max_connections_wait_for_a_place() {
    let bench = Bench::with(|config| connections_max(config, 1)).await;
    let port = Port::open(bench, PATIENT).await;
    let mut first = port.client().await;
    first.send(1, sample::api_versions()).await;
    first.receive().await;
    let mut second = port.client().await;
    second.send(2, sample::api_versions()).await;
    assert!(timeout(Duration::from_millis(50), second.receive()).await.is_err());
    drop(first);
    assert_eq!(second.receive().await.0, 2);
}

/// Whether a client of `address` is answered, and the client.
async fn is_served(address: std::net::SocketAddr) -> (bool, Client) {
    let mut client = Client::new(TcpStream::connect(address).await.unwrap());
    client.send(1, sample::api_versions()).await;
    let is_served = timeout(Duration::from_millis(50), client.receive()).await.is_ok();
    (is_served, client)
}

#[tokio::test]
async fn a_full_listener_leaves_the_places_of_all_to_the_others() {
    let bench = Bench::with(|config| connections_max(config, 2)).await;
    let listeners = vec![listener("LAN", Some(1)).await, listener("PLAINTEXT", None).await];
    let [lan, plain] = [listeners[0].local_addr(), listeners[1].local_addr()];
    let running = serve_with(listeners, bench.ctx.clone(), budgets(), PATIENT).unwrap();
    let (_, mut first) = is_served(lan).await;
    let (second_is_served, mut second) = is_served(lan).await;
    assert!(!second_is_served, "above the limit of its listener");
    let mut other = Client::new(TcpStream::connect(plain).await.unwrap());
    other.send(7, sample::api_versions()).await;
    assert_eq!(other.receive().await.0, 7);
    let (third_is_served, mut third) = is_served(plain).await;
    assert!(!third_is_served, "above the limit of all");
    first.send(2, sample::api_versions()).await;
    drop(first);
    assert_eq!(second.receive().await.0, 1);
    drop(other);
    assert_eq!(third.receive().await.0, 1);
    running.shutdown().await;
}

#[tokio::test]
async fn the_only_place_is_for_whichever_listener_has_a_client() {
    let bench = Bench::with(|config| connections_max(config, 1)).await;
    let listeners = vec![listener("LAN", None).await, listener("PLAINTEXT", None).await];
    let addresses = [listeners[0].local_addr(), listeners[1].local_addr()];
    let _running = serve_with(listeners, bench.ctx.clone(), budgets(), PATIENT).unwrap();
    for address in [addresses, addresses].concat() {
        let mut client = Client::new(TcpStream::connect(address).await.unwrap());
        client.send(1, sample::api_versions()).await;
        assert_eq!(client.receive().await.0, 1);
    }
}

#[tokio::test]
async fn client_that_does_not_read_holds_up_nobody_else() {
    let port = Port::open(Bench::start().await, PATIENT).await;
    port.bench.topic("clicks", 1).await;
    let mut deaf = port.client().await;
    let flood = async {
        // Ends when the broker stops reading: its answers find no room.
        while timeout(Duration::from_millis(200), deaf.send(1, sample::api_versions()))
            .await
            .is_ok()
        {}
    };
    timeout(Duration::from_secs(60), flood).await.expect("the broker reads on without bound");
    let mut other = port.client().await;
    other.send(2, sample::metadata("clicks")).await;
    assert_eq!(other.receive().await.0, 2);
}

#[tokio::test]
async fn shutdown_answers_what_was_read_and_drops_long_polls() {
    let port = Port::open(Bench::start().await, PATIENT).await;
    port.bench.topic("clicks", 1).await;
    let mut idle = port.client().await;
    idle.send(1, sample::api_versions()).await;
    idle.receive().await;
    let mut polling = port.client().await;
    polling.send(1, sample::api_versions()).await;
    polling.receive().await;
    polling.send(2, sample::long_poll("clicks", 60_000)).await;
    let began = std::time::Instant::now();
    port.running.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
    assert_closed(idle.into_inner()).await;
    assert_closed(polling.into_inner()).await;
    assert!(TcpStream::connect(port.address).await.is_err());
    assert_eq!(Arc::strong_count(&port.bench.ctx), 1, "a connection outlived the shutdown");
}

#[tokio::test]
async fn a_parked_request_ends_with_its_client_whatever_was_sent_behind_it() {
    let bench = Bench::with(|config| {
        config.group_initial_rebalance_delay = Duration::from_secs(600);
    });
    let port = Port::open(bench.await, PATIENT).await;
    let without_requests = Arc::strong_count(&port.bench.ctx);
    for is_reset in [false, true] {
        // Nothing, or more than is read ahead, so that the end of the stream is not read any more. Not
        // more than the kernel takes either: else the client's end would not even arrive.
        for behind in [0, 5_000] {
            let mut client = port.client().await;
            client.send(1, sample::join_group("readers")).await;
            for correlation in 0..behind {
                client.send(2 + correlation, sample::api_versions()).await;
            }
            let parked = || Arc::strong_count(&port.bench.ctx) > without_requests + 1;
            until(parked, "the request is not parked").await;
            let stream = client.into_inner();
            if is_reset {
                stream.set_zero_linger().unwrap();
            }
            drop(stream);
            let ended = || Arc::strong_count(&port.bench.ctx) == without_requests;
            until(ended, "the request outlives its client").await;
        }
    }
}

/// Waits for what comes by itself.
async fn until(condition: impl Fn() -> bool, otherwise: &str) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), waiting).await.expect(otherwise);
}
