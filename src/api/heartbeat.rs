//! Heartbeat (key 12), v0-4: keeps a classic member's session alive.
//!
//! v3 adds `group_instance_id` (KIP-345). v4 is flexible. Gaps: none.

use kafka_protocol::messages::{ApiKey, HeartbeatRequest, HeartbeatResponse};

use super::call::{Api, Outcome};
use super::error::Coded;
use super::member::member_ref;
use super::{Context, Request, error};
use crate::security::op;

pub(super) const API: Api = Api::ordered(ApiKey::Heartbeat, 0..=4).urgent();

impl Outcome for HeartbeatResponse {
    fn error(&self) -> i16 {
        self.error_code
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: HeartbeatRequest,
) -> HeartbeatResponse {
    let member = member_ref(&body.member_id, &body.group_instance_id, body.generation_id);
    let code = match ctx.access(request).group::<op::Read>(&body.group_id) {
        Ok(group) => error::code(&group.heartbeat(member).await),
        Err(denied) => denied.kafka().code(),
    };
    HeartbeatResponse::default().with_error_code(code)
}
