//! FindCoordinator and InitProducerId.

use std::collections::HashSet;

use kafka_protocol::messages::{FindCoordinatorRequest, InitProducerIdRequest};

use super::client::text;
use super::requests::{init_producer_id, new_producer};
use super::{broker, code};
use crate::harness::{PATIENCE, unique, until};

#[test]
fn the_coordinator_of_a_group_is_this_broker() {
    let broker = broker();
    let mut client = broker.connect();
    for version in client.versions::<FindCoordinatorRequest>() {
        let group = unique("group");
        let mut request = FindCoordinatorRequest::default();
        if version >= 4 {
            request.coordinator_keys = vec![text(&group), text("another")];
        } else {
            request.key = text(&group);
        }
        // Kafka creates the offsets topic first.
        let (host, port, keys) = until("the coordinator", PATIENCE, || {
            let answer = client.call(version, &request);
            let (error, found) = if version >= 4 {
                let first = answer.coordinators[0].clone();
                let keys: Vec<_> =
                    answer.coordinators.iter().map(|found| found.key.to_string()).collect();
                (first.error_code, (first.host, first.port, keys))
            } else {
                (answer.error_code, (answer.host, answer.port, Vec::new()))
            };
            if error == code::NONE { Ok(found) } else { Err(format!("error {error}")) }
        });
        assert_eq!((&*host, port), ("127.0.0.1", i32::from(broker.address().port())));
        if version >= 4 {
            assert_eq!(keys, [group, "another".to_owned()]);
        }
    }
}

#[test]
fn an_unknown_kind_of_coordinator_is_refused() {
    let broker = broker();
    let mut client = broker.connect();
    for version in client.versions::<FindCoordinatorRequest>() {
        if version < 1 {
            continue;
        }
        let mut request = FindCoordinatorRequest::default().with_key_type(9);
        if version >= 4 {
            request.coordinator_keys = vec![text("x")];
        } else {
            request.key = text("x");
        }
        let answer = client.call(version, &request);
        let error = answer.coordinators.first().map_or(answer.error_code, |one| one.error_code);
        assert_eq!(error, code::INVALID_REQUEST, "v{version}");
    }
}

#[test]
fn producer_ids_are_given_once() {
    let broker = broker();
    let mut client = broker.connect();
    new_producer(&mut client);
    let mut given = HashSet::new();
    for version in client.versions::<InitProducerIdRequest>() {
        for _ in 0..20 {
            let answer = client.call(version, &init_producer_id());
            assert_eq!((answer.error_code, answer.producer_epoch), (code::NONE, 0));
            assert!(answer.producer_id.0 >= 0);
            assert!(given.insert(answer.producer_id.0), "{:?} twice", answer.producer_id);
        }
    }
}

#[test]
fn an_empty_transactional_id_is_refused() {
    let broker = broker();
    let mut client = broker.connect();
    for version in client.versions::<InitProducerIdRequest>() {
        let request = init_producer_id().with_transactional_id(Some(text("").into()));
        assert_eq!(client.call(version, &request).error_code, code::INVALID_REQUEST);
    }
}
