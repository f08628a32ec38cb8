//! DescribeCluster (key 60), v0-2: the brokers and the controller (KIP-700).
//!
//! v1 asks for brokers or controllers (KIP-919): there is no controller endpoint. v2 may include
//! fenced brokers: there are none. Gaps: none.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{ApiKey, BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;

use super::call::{Api, Outcome};
use super::{Context, Request, wire_text};

pub(super) const API: Api = Api::ordered(ApiKey::DescribeCluster, 0..=2).repeatable();

/// Kafka's `EndpointType`.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

impl Outcome for DescribeClusterResponse {
    fn error(&self) -> i16 {
        self.error_code
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let refused = |error: ResponseError, reason: &str| {
        DescribeClusterResponse::default()
            .with_error_code(error.code())
            .with_error_message(Some(wire_text(reason)))
    };
    if request.version >= 1 {
        match body.endpoint_type {
            BROKERS => {}
            CONTROLLERS => {
                return refused(
                    ResponseError::MismatchedEndpointType,
                    "This is an endpoint of brokers, not of controllers.",
                );
            }
            _ => {
                return refused(
                    ResponseError::UnsupportedEndpointType,
                    "The endpoint type is unknown.",
                );
            }
        }
    }
    let brokers = ctx.placement.brokers(request.session.listener()).into_iter().map(|broker| {
        DescribeClusterBroker::default()
            .with_broker_id(BrokerId(broker.id))
            .with_host(StrBytes::from_string(broker.host))
            .with_port(i32::from(broker.port))
    });
    let mut response = DescribeClusterResponse::default()
        .with_cluster_id(wire_text(&ctx.cluster_id))
        .with_controller_id(BrokerId(ctx.config.node_id))
        .with_brokers(brokers.collect());
    if body.include_cluster_authorized_operations {
        response.cluster_authorized_operations = ctx.access(request).cluster_operations();
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::fixture::Bench;

    #[tokio::test]
    async fn every_version_describes_the_one_broker() {
        let bench = Bench::start().await;
        for version in 0..=2 {
            let answer = bench.call(version, DescribeClusterRequest::default()).await;
            assert_eq!((answer.error_code, answer.controller_id), (0, BrokerId(1)));
            assert_eq!(answer.cluster_id.as_str(), bench.ctx.cluster_id);
            assert_eq!(answer.brokers[0].host.as_str(), "broker.test");
            assert_eq!(answer.cluster_authorized_operations, i32::MIN);
        }
        let asked =
            DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
        assert_eq!(bench.call(0, asked).await.cluster_authorized_operations, 8096);
    }

    #[tokio::test]
    async fn controllers_are_not_here() {
        let bench = Bench::start().await;
        for (endpoint, code) in [(CONTROLLERS, 114), (7, 115)] {
            let asked = DescribeClusterRequest::default().with_endpoint_type(endpoint);
            assert_eq!(bench.call(1, asked).await.error_code, code);
        }
    }
}
