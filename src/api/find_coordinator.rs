//! FindCoordinator (key 10), v0-6: which broker coordinates a group or a transactional id.
//!
//! v4 asks for many keys at once (KIP-699), v6 knows share groups (KIP-932). Gaps: share groups are
//! refused; transactional ids are answered, although their APIs are not served yet.

use std::collections::HashSet;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{ApiKey, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::call::{Api, Outcome, first_error};
use super::error::Refused;
use super::{Context, Request, wire_text};
use crate::metadata::placement::{Broker, CoordinatorKind};
use crate::security::op;

pub(super) const API: Api = Api::ordered(ApiKey::FindCoordinator, 0..=6).repeatable();

/// Kafka's `CoordinatorType`.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const SHARE: i8 = 2;

impl Outcome for FindCoordinatorResponse {
    fn error(&self) -> i16 {
        let coordinators = self.coordinators.iter().map(|found| found.error_code);
        first_error([self.error_code].into_iter().chain(coordinators))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    if request.version >= 4 {
        // Each key once: an empty one takes a single byte, and its answer hundreds.
        let mut seen = HashSet::new();
        let keys = body.coordinator_keys.into_iter().filter(|key| seen.insert(key.clone()));
        let found =
            keys.map(|key| coordinator(key.clone(), find(ctx, request, body.key_type, &key)));
        return FindCoordinatorResponse::default().with_coordinators(found.collect());
    }
    let found = coordinator(StrBytes::default(), find(ctx, request, body.key_type, &body.key));
    FindCoordinatorResponse::default()
        .with_error_code(found.error_code)
        .with_error_message(found.error_message.filter(|_| request.version >= 1))
        .with_node_id(found.node_id)
        .with_host(found.host)
        .with_port(found.port)
}

fn find(ctx: &Context, request: &Request, key_type: i8, key: &str) -> Result<Broker, Refused> {
    let access = ctx.access(request);
    let id = match key_type {
        GROUP => {
            let group = access.group::<op::Describe>(key)?;
            ctx.placement.coordinator(CoordinatorKind::Group, group.id())
        }
        TRANSACTION => {
            let id = access.transactional_id::<op::Describe>(key)?;
            ctx.placement.coordinator(CoordinatorKind::Transaction, id.id())
        }
        _ => {
            if key_type == SHARE && request.version >= 6 {
                let _cluster = access.cluster::<op::ClusterAction>()?;
            }
            let reason = format!("coordinators of key type {key_type} are not served");
            return Err(Refused::new(ResponseError::InvalidRequest, reason));
        }
    };
    let listener = request.session.listener();
    let broker = ctx.placement.brokers(listener).into_iter().find(|broker| broker.id == id);
    broker.ok_or_else(|| {
        let reason = format!("node {id} coordinates the key but does not advertise {listener}");
        Refused::new(ResponseError::CoordinatorNotAvailable, reason)
    })
}

fn coordinator(key: StrBytes, found: Result<Broker, Refused>) -> Coordinator {
    let answer = Coordinator::default().with_key(key);
    match found {
        Ok(broker) => answer
            .with_node_id(broker.id.into())
            .with_host(wire_text(&broker.host))
            .with_port(i32::from(broker.port))
            .with_error_message(None),
        Err(refused) => answer
            .with_node_id((-1).into())
            .with_port(-1)
            .with_error_code(refused.error.code())
            .with_error_message(Some(wire_text(&refused.reason))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::fixture::Bench;

    #[tokio::test]
    async fn every_version_names_this_broker() {
        let bench = Bench::start().await;
        for version in 0..=3 {
            let request = FindCoordinatorRequest::default().with_key(wire_text("g"));
            let found = bench.call(version, request).await;
            let place = (found.error_code, found.host.as_str(), found.port);
            assert_eq!(place, (0, "broker.test", 9092), "v{version}");
        }
        for version in 4..=6 {
            let keys = vec![wire_text("g"), wire_text("g"), wire_text("h")];
            let request = FindCoordinatorRequest::default().with_coordinator_keys(keys);
            let found = bench.call(version, request.with_key_type(1)).await;
            let keys: Vec<_> =
                found.coordinators.iter().map(|c| (c.key.as_str(), c.port)).collect();
            assert_eq!(keys, [("g", 9092), ("h", 9092)], "v{version}");
        }
        let share = FindCoordinatorRequest::default().with_key_type(2);
        let refused = bench.call(6, share.with_coordinator_keys(vec![wire_text("g:t:0")])).await;
        assert_eq!(refused.coordinators[0].error_code, 42);
        assert_eq!(refused.error(), 42);
    }
}
