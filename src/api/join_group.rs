//! JoinGroup (key 11), v0-9: enters a classic group and waits for its rebalance to complete.
//!
//! v1 adds the rebalance timeout (KIP-62), v4 gives new members their id first (KIP-394), v5 static
//! members (KIP-345), v9 tells a static leader to keep the assignment (KIP-814). Gaps: the reason
//! (v8) is only logged.

use std::time::Duration;

use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{ApiKey, JoinGroupRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;

use super::call::{Api, Outcome};
use super::error::Coded;
use super::member::{non_empty, nullable};
use super::{Context, Request, wire_text};
use crate::group::{GroupError, Join, Joined};

pub(super) const API: Api = Api::parked(ApiKey::JoinGroup, 0..=9);

impl Outcome for JoinGroupResponse {
    fn error(&self) -> i16 {
        self.error_code
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: JoinGroupRequest,
) -> JoinGroupResponse {
    let version = request.version;
    if let Some(reason) = nullable(&body.reason) {
        tracing::debug!(group = %body.group_id.as_str(), reason, "a member joins");
    }
    let asked = body.member_id.clone();
    match ctx.groups.join(join(request, body)).await {
        Ok(joined) => answer(version, joined),
        Err(refused) => refuse(version, asked, &refused),
    }
}

fn join(request: &Request, body: JoinGroupRequest) -> Join {
    let session_timeout = millis(body.session_timeout_ms);
    let protocols = body.protocols.into_iter();
    Join {
        group: body.group_id.to_string(),
        member: non_empty(&body.member_id),
        instance: nullable(&body.group_instance_id),
        client_id: request.client_id.to_string(),
        client_host: request.client_host(),
        session_timeout,
        rebalance_timeout: match request.version {
            0 => session_timeout,
            _ => millis(body.rebalance_timeout_ms),
        },
        protocol_type: body.protocol_type.to_string(),
        protocols: protocols
            .map(|protocol| (protocol.name.to_string(), protocol.metadata))
            .collect(),
        require_known_member: request.version >= 4,
        can_skip_assignment: request.version >= 9,
    }
}

fn millis(value: i32) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or(0))
}

fn answer(version: i16, joined: Joined) -> JoinGroupResponse {
    let members = joined.members.into_iter().map(|(member, instance, metadata)| {
        JoinGroupResponseMember::default()
            .with_member_id(wire_text(&member))
            .with_group_instance_id(instance.filter(|_| version >= 5).map(StrBytes::from_string))
            .with_metadata(metadata)
    });
    JoinGroupResponse::default()
        .with_generation_id(joined.generation.0)
        .with_protocol_type((version >= 7).then(|| wire_text(&joined.protocol_type)))
        .with_protocol_name(Some(wire_text(&joined.protocol)))
        .with_leader(wire_text(&joined.leader))
        .with_skip_assignment(version >= 9 && joined.skip_assignment)
        .with_member_id(wire_text(&joined.member))
        .with_members(members.collect())
}

fn refuse(version: i16, asked: StrBytes, refused: &GroupError) -> JoinGroupResponse {
    let member = match refused {
        GroupError::MemberIdRequired(member) => wire_text(member),
        _ => asked,
    };
    JoinGroupResponse::default()
        .with_error_code(refused.kafka().code())
        .with_generation_id(-1)
        // Null is only possible from v7 on.
        .with_protocol_name((version < 7).then(StrBytes::default))
        .with_member_id(member)
}
