//! InitProducerId (key 22), v0-5: gives an idempotent producer its id (KIP-98).
//!
//! A producer that asks again to raise its epoch (v3, KIP-360) gets a fresh id, as from Kafka.
//! Gaps: transactional ids are refused with error 35; v6 (KIP-939).

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::call::{Api, Outcome};
use super::error::Coded;
use super::{Context, Request};

pub(super) const API: Api = Api::ordered(ApiKey::InitProducerId, 0..=5);

impl Outcome for InitProducerIdResponse {
    fn error(&self) -> i16 {
        self.error_code
    }
}

pub(super) async fn handle(
    ctx: &Context,
    _request: &Request,
    body: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let refused = |error: ResponseError| {
        InitProducerIdResponse::default()
            .with_error_code(error.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    match &body.transactional_id {
        None => {}
        Some(id) if id.is_empty() => return refused(ResponseError::InvalidRequest),
        Some(id) => {
            tracing::warn!(transactional_id = %id.0, "transactional producers are not supported yet");
            return refused(ResponseError::UnsupportedVersion);
        }
    }
    match ctx.producer_ids.allocate().await {
        Ok(id) => InitProducerIdResponse::default()
            .with_producer_id(ProducerId(id.0))
            .with_producer_epoch(0),
        Err(error) => {
            tracing::error!(%error, "no producer id");
            refused(error.kafka())
        }
    }
}
