//! Listeners by Kafka's names: the clients of each are told its own address.

use std::net::SocketAddr;

use kafka_protocol::messages::{
    DescribeClusterRequest, FindCoordinatorRequest, MetadataRequest, metadata_request,
};
use kafka_protocol::protocol::StrBytes;
use serde_json::Value;

use crate::clients_kcat::{consume_all, produce};
use crate::harness::{Broker, Options, PATIENCE, Program, free_ports, kcat};
use crate::protocol::client::Client;

/// What kcat is told of the broker at `bootstrap`.
#[track_caller]
fn told_to_kcat(bootstrap: &str) -> String {
    let mut command = kcat(bootstrap);
    command.args(["-L", "-J"]);
    let listed = Program::start("kcat -L", command).finish(PATIENCE).success();
    let listed: Value = serde_json::from_str(&listed.stdout).expect("kcat -J prints JSON");
    let brokers = listed["brokers"].as_array().expect("brokers");
    assert_eq!(brokers.len(), 1, "{listed}");
    brokers[0]["name"].as_str().expect("a name").to_owned()
}

/// What Metadata, FindCoordinator and DescribeCluster tell at `address`: they must agree.
#[track_caller]
fn told(address: SocketAddr) -> (String, i32) {
    let mut client = Client::connect(address);
    let none: Vec<metadata_request::MetadataRequestTopic> = Vec::new();
    let metadata = client.call(12, &MetadataRequest::default().with_topics(Some(none)));
    let broker = metadata.brokers.first().expect("a broker");
    let by_metadata = (broker.host.to_string(), broker.port);
    let key = StrBytes::from_static_str("group");
    let found = client.call(2, &FindCoordinatorRequest::default().with_key(key));
    assert_eq!((found.host.to_string(), found.port), by_metadata);
    let cluster = client.call(0, &DescribeClusterRequest::default());
    let broker = cluster.brokers.first().expect("a broker");
    assert_eq!((broker.host.to_string(), broker.port), by_metadata);
    by_metadata
}

#[test]
fn the_clients_of_each_listener_are_told_its_own_address_and_share_the_topics() {
    let broker = Broker::start_with(
        Options::new()
            .set("listeners", "INTERNAL://127.0.0.1:0,EXTERNAL://localhost:0,MAPPED://0.0.0.0:0")
            .set(
                "listener.security.protocol.map",
                "INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT,MAPPED:PLAINTEXT",
            )
            .set(
                "advertised.listeners",
                "INTERNAL://127.0.0.1:0,EXTERNAL://localhost:0,MAPPED://broker.example:19092",
            ),
    );
    let [internal, external, mapped] =
        ["INTERNAL", "EXTERNAL", "MAPPED"].map(|name| broker.listener(name));
    assert_eq!(broker.kafka(), internal);
    assert_eq!(told(internal), ("127.0.0.1".to_owned(), i32::from(internal.port())));
    assert_eq!(told(external), ("localhost".to_owned(), i32::from(external.port())));
    let through = SocketAddr::from(([127, 0, 0, 1], mapped.port()));
    assert_eq!(told(through), ("broker.example".to_owned(), 19092));

    assert_eq!(told_to_kcat(&internal.to_string()), internal.to_string());
    let by_name = format!("localhost:{}", external.port());
    assert_eq!(told_to_kcat(&by_name), by_name);
    assert_eq!(told_to_kcat(&through.to_string()), "broker.example:19092");

    produce(internal, "shared", &[], "one\n");
    assert_eq!(consume_all(external, "shared", "%s").stdout, "one");
}

#[test]
fn a_port_that_a_container_maps_is_told_to_clients() {
    let [bound, mapped] = free_ports();
    let broker = Broker::start_with(
        Options::new()
            .set("listeners", format!("PLAINTEXT://0.0.0.0:{bound}"))
            .set("advertised.listeners", format!("PLAINTEXT://127.0.0.1:{mapped}")),
    );
    // One listener: the ready line is as ever.
    assert_eq!(broker.kafka(), SocketAddr::from(([0, 0, 0, 0], bound)));
    let local = SocketAddr::from(([127, 0, 0, 1], bound));
    assert_eq!(told(local), ("127.0.0.1".to_owned(), i32::from(mapped)));
}

#[test]
fn a_listener_of_ipv6_is_reached_and_told_as_such() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this machine has no IPv6");
        return;
    }
    let broker = Broker::start_with(Options::new().set("listeners", "PLAINTEXT://[::1]:0"));
    let address = broker.kafka();
    assert!(address.is_ipv6(), "{address}");
    assert_eq!(told(address), ("::1".to_owned(), i32::from(address.port())));
    produce(address, "six", &[], "one\n");
    assert_eq!(consume_all(address, "six", "%s").stdout, "one");
}

#[test]
fn an_empty_host_listens_everywhere_and_tells_the_machines_name() {
    let broker = Broker::start_with(Options::new().set("listeners", "PLAINTEXT://:0"));
    let port = broker.kafka().port();
    let (host, told_port) = told(SocketAddr::from(([127, 0, 0, 1], port)));
    assert_eq!(told_port, i32::from(port));
    assert!(!["", "0.0.0.0", "::"].contains(&&*host), "{host}");
    if broker.kafka().is_ipv6() {
        assert_eq!(told(format!("[::1]:{port}").parse().expect("an address")).0, host);
    }
}

#[test]
fn a_listener_that_is_not_advertised_tells_of_no_broker() {
    let broker = Broker::start_with(
        Options::new()
            .set("listeners", "A://127.0.0.1:0,B://127.0.0.1:0")
            .set("listener.security.protocol.map", "A:PLAINTEXT,B:PLAINTEXT")
            .set("advertised.listeners", "A://127.0.0.1:0"),
    );
    produce(broker.listener("A"), "clicks", &[], "one\n");
    let mut client = Client::connect(broker.listener("B"));
    let metadata = client.call(12, &MetadataRequest::default().with_topics(None));
    assert!(metadata.brokers.is_empty(), "{metadata:?}");
    let clicks = metadata.topics.iter().find(|topic| !topic.is_internal).expect("a topic");
    let partition = &clicks.partitions[0];
    assert_eq!((partition.error_code, partition.leader_id.0), (72, -1));
    let key = StrBytes::from_static_str("group");
    let found = client.call(2, &FindCoordinatorRequest::default().with_key(key));
    assert_eq!((found.error_code, found.node_id.0), (15, -1));
}
