//! InitProducerId (key 22), v0-5: gives an idempotent producer its id (KIP-98).
//!
//! A producer that asks again to raise its epoch (v3, KIP-360) gets a fresh id, as from Kafka.
//! Gaps: transactional ids are refused with error 35; v6 (KIP-939).

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::call::{Api, Outcome};
use super::error::Coded;
use super::{Context, Request};
use crate::security::op;

pub(super) const API: Api = Api::ordered(ApiKey::InitProducerId, 0..=5).urgent();

impl Outcome for InitProducerIdResponse {
    fn error(&self) -> i16 {
        self.error_code
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let refused = |error: ResponseError| {
        InitProducerIdResponse::default()
            .with_error_code(error.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    let access = ctx.access(request);
    if let Some(id) = &body.transactional_id {
        return refused(match access.transactional_id::<op::Write>(id) {
            Err(denied) => denied.kafka(),
            Ok(id) if id.id().is_empty() => ResponseError::InvalidRequest,
            Ok(id) => {
                let transactional_id = id.id();
                tracing::warn!(transactional_id, "transactional producers are not supported yet");
                ResponseError::UnsupportedVersion
            }
        });
    }
    let producers = match access.idempotent_producers() {
        Ok(cluster) => cluster,
        Err(denied) => return refused(denied.kafka()),
    };
    match producers.allocate_producer_id().await {
        Ok(id) => InitProducerIdResponse::default()
            .with_producer_id(ProducerId(id.0))
            .with_producer_epoch(0),
        Err(error) => {
            tracing::error!(%error, "no producer id");
            refused(error.kafka())
        }
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::protocol::StrBytes;

    use super::*;
    use crate::api::tests::fixture::Bench;

    #[tokio::test]
    async fn every_version_gives_an_id_that_nobody_has() {
        let bench = Bench::start().await;
        let mut given = Vec::new();
        for version in 0..=5 {
            let request = InitProducerIdRequest::default().with_transactional_id(None);
            let answer = bench.call(version, request).await;
            assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
            assert!(!given.contains(&answer.producer_id));
            given.push(answer.producer_id);
        }
    }

    #[tokio::test]
    async fn transactional_ids_are_refused() {
        let bench = Bench::start().await;
        for (id, code) in [("", 42), ("payments", 35)] {
            let id = StrBytes::from_static_str(id).into();
            let request = InitProducerIdRequest::default().with_transactional_id(Some(id));
            let answer = bench.call(4, request).await;
            assert_eq!((answer.error_code, answer.producer_id), (code, ProducerId(-1)));
        }
    }
}
