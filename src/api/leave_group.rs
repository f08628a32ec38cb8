//! LeaveGroup (key 13), v0-5: members leave, or an admin removes them.
//!
//! v3 takes many members and static ones by their instance (KIP-345). Gaps: the reason (v5) is only
//! logged.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{ApiKey, LeaveGroupRequest, LeaveGroupResponse};

use super::call::{Api, Outcome, first_error};
use super::error::Coded;
use super::member::{member_ref, nullable};
use super::{Context, Request, error};
use crate::security::op;

pub(super) const API: Api = Api::ordered(ApiKey::LeaveGroup, 0..=5).urgent();

impl Outcome for LeaveGroupResponse {
    fn error(&self) -> i16 {
        let members = self.members.iter().map(|member| member.error_code);
        first_error([self.error_code].into_iter().chain(members))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: LeaveGroupRequest,
) -> LeaveGroupResponse {
    let members = match request.version {
        0..=2 => vec![MemberIdentity::default().with_member_id(body.member_id)],
        _ => body.members,
    };
    for reason in members.iter().filter_map(|member| nullable(&member.reason)) {
        tracing::debug!(group = %body.group_id.as_str(), reason, "a member leaves");
    }
    let leaving = members
        .iter()
        .map(|member| member_ref(&member.member_id, &member.group_instance_id, -1))
        .collect();
    let refused =
        |error: ResponseError| LeaveGroupResponse::default().with_error_code(error.code());
    let group = match ctx.access(request).group::<op::Read>(&body.group_id) {
        Ok(group) => group,
        Err(denied) => return refused(denied.kafka()),
    };
    let results = match group.leave(leaving).await {
        Ok(results) => results,
        Err(error) => return refused(error.kafka()),
    };
    if request.version < 3 {
        let code = first_error(results.iter().map(error::code));
        return LeaveGroupResponse::default().with_error_code(code);
    }
    let answers = members.into_iter().zip(&results).map(|(member, result)| {
        MemberResponse::default()
            .with_member_id(member.member_id)
            .with_group_instance_id(member.group_instance_id)
            .with_error_code(error::code(result))
    });
    LeaveGroupResponse::default().with_members(answers.collect())
}
