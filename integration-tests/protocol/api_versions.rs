//! ApiVersions, and what happens to requests that no version list allows.

use std::time::Duration;

use bytes::Buf;
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, FetchRequest, MetadataRequest,
};
use kafka_protocol::protocol::Decodable;

use super::client::{Client, request_header, text};
use super::requests::{Topic, append_values, fetch, fetched};
use super::{broker, code};

#[test]
fn every_version_lists_the_same_apis() {
    let broker = broker();
    let mut client = broker.connect();
    let from_v0 = client.api_versions();
    for version in 1..=4 {
        let mut request = ApiVersionsRequest::default();
        if version >= 3 {
            request.client_software_name = text("protocol-test");
            request.client_software_version = text("1.0");
        }
        let answer = client.call(version, &request);
        assert_eq!(answer.error_code, code::NONE);
        assert_eq!(answer.throttle_time_ms, 0);
        for api in &from_v0 {
            assert!(answer.api_keys.contains(api), "v{version} lacks {api:?}");
        }
    }
    for api in &from_v0 {
        assert!(0 <= api.min_version && api.min_version <= api.max_version, "{api:?}");
    }
}

#[test]
fn old_clients_find_the_single_versions_they_look_for() {
    let broker = broker();
    let apis = broker.connect().api_versions();
    // librdkafka before 2.11.1 switches features off unless the ranges overlap these versions.
    let needed = [(0, 3), (0, 7), (1, 4), (1, 10), (2, 1), (8, 2), (9, 1), (10, 0), (11, 0)];
    let more = [(12, 0), (13, 0), (14, 0), (18, 0), (22, 0)];
    for (key, version) in needed.into_iter().chain(more) {
        let api = apis.iter().find(|api| api.api_key == key);
        let api = api.unwrap_or_else(|| panic!("API {key} is not advertised"));
        assert!((api.min_version..=api.max_version).contains(&version), "{api:?}");
    }
}

#[test]
fn an_unknown_version_is_answered_in_v0_with_error_35() {
    let broker = broker();
    for version in [5, 100, i16::MAX] {
        let mut client = broker.connect();
        // A newer client would send header and body in a form of its own: only the first eight
        // bytes may be trusted.
        let mut frame = request_header(18, version, 2, 77);
        frame.extend_from_slice(&[5, b'n', b'e', b'w', b'x', 2, b'9', 0]);
        client.send_frame(&frame).expect("a sent frame");
        let mut answer = client.read_frame().expect("an answer").expect("an open connection");
        assert_eq!(answer.get_i32(), 77);
        let answer = ApiVersionsResponse::decode(&mut answer, 0).expect("an answer in v0");
        assert_eq!(answer.error_code, code::UNSUPPORTED_VERSION);
        let own = answer.api_keys.iter().find(|api| api.api_key == 18).expect("ApiVersions");
        assert_eq!((own.min_version, own.max_version), (0, 4));
        // The client goes on with a version that the answer names.
        assert_eq!(client.call(0, &ApiVersionsRequest::default()).error_code, code::NONE);
    }
}

#[test]
fn a_client_without_a_proper_name_is_refused() {
    let broker = broker();
    let mut client = broker.connect();
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("-"))
        .with_client_software_version(text("1.0"));
    assert_eq!(client.call(3, &request).error_code, code::INVALID_REQUEST);
}

#[test]
fn unknown_apis_and_versions_end_only_their_own_connection() {
    let broker = broker();
    let mut bystander = broker.connect();
    bystander.api_versions();
    for (key, version) in [(999, 0), (-1, 0), (3, 99), (3, -1), (0, 2), (1, 3), (i16::MAX, 0)] {
        let mut client = broker.connect();
        client.send_frame(&request_header(key, version, 1, 1)).expect("a sent frame");
        assert!(is_closed(&mut client), "API {key} v{version} was answered");
    }
    bystander.api_versions();
}

fn is_closed(client: &mut Client) -> bool {
    client.set_patience(Duration::from_secs(10));
    client.read_frame().expect("the broker neither answers nor closes").is_none()
}

#[test]
fn answers_leave_in_request_order() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let (fetch_version, metadata_version) =
        (client.latest::<FetchRequest>(), client.latest::<MetadataRequest>());
    let waiting = fetch(fetch_version, &topic, 0, 0).with_max_wait_ms(300);
    let quick = MetadataRequest::default().with_topics(Some(Vec::new()));
    let mut sent = Vec::new();
    for _ in 0..3 {
        sent.push((client.send(fetch_version, &waiting), client.send(metadata_version, &quick)));
    }
    append_values(&mut broker.connect(), &topic, ["wakes them"]);
    for (fetch_id, metadata_id) in sent {
        fetched(client.receive::<FetchRequest>(fetch_version, fetch_id));
        client.receive::<MetadataRequest>(metadata_version, metadata_id);
    }
}
