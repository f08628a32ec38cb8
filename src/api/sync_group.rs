//! SyncGroup (key 14), v0-5: a member's assignment, when the leader has sent it.
//!
//! v3 adds static members, v5 checks the protocol (KIP-559). Gaps: none.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, SyncGroupRequest, SyncGroupResponse};

use super::call::{Api, Outcome};
use super::error::Coded;
use super::member::nullable;
use super::{Context, Request, wire_text};
use crate::group::{Sync, Synced};
use crate::security::op;
use crate::types::Generation;

pub(super) const API: Api = Api::parked(ApiKey::SyncGroup, 0..=5).urgent();

impl Outcome for SyncGroupResponse {
    fn error(&self) -> i16 {
        self.error_code
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: SyncGroupRequest,
) -> SyncGroupResponse {
    match sync(ctx, request, body).await {
        Ok(synced) => {
            let names = request.version >= 5;
            SyncGroupResponse::default()
                .with_protocol_type(names.then(|| wire_text(&synced.protocol_type)))
                .with_protocol_name(names.then(|| wire_text(&synced.protocol)))
                .with_assignment(synced.assignment)
        }
        Err(error) => SyncGroupResponse::default().with_error_code(error.code()),
    }
}

async fn sync(
    ctx: &Context,
    request: &Request,
    body: SyncGroupRequest,
) -> Result<Synced, ResponseError> {
    let protocol_type = nullable(&body.protocol_type);
    let protocol = nullable(&body.protocol_name);
    if request.version >= 5 && (protocol_type.is_none() || protocol.is_none()) {
        return Err(ResponseError::InconsistentGroupProtocol);
    }
    let group = ctx.access(request).group::<op::Read>(&body.group_id)?;
    let assignments = body.assignments.into_iter();
    let sync = Sync {
        group: body.group_id.to_string(),
        member: body.member_id.to_string(),
        instance: nullable(&body.group_instance_id),
        generation: Generation(body.generation_id),
        protocol_type,
        protocol,
        assignments: assignments
            .map(|share| (share.member_id.to_string(), share.assignment))
            .collect(),
    };
    group.sync(sync).await.map_err(|error| error.kafka())
}
