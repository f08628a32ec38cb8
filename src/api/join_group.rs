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
use crate::security::op;

pub(super) const API: Api = Api::parked(ApiKey::JoinGroup, 0..=9).urgent();

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
    let (id, asked) = (body.group_id.clone(), body.member_id.clone());
    let group = match ctx.access(request).group::<op::Read>(&id) {
        Ok(group) => group,
        Err(denied) => return refused(version, StrBytes::default(), &denied),
    };
    match group.join(join(request, body)).await {
        Ok(joined) => answer(version, joined),
        Err(error) => refuse(version, asked, &error),
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
        client_host: request.session.client_host(),
        session_timeout,
        // v0 has none, and a member without one would be dropped before it could sync.
        rebalance_timeout: match body.rebalance_timeout_ms {
            ..0 => session_timeout,
            timeout => millis(timeout),
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

fn refuse(version: i16, asked: StrBytes, error: &GroupError) -> JoinGroupResponse {
    let member = match error {
        GroupError::MemberIdRequired(member) => wire_text(member),
        _ => asked,
    };
    refused(version, member, error)
}

fn refused(version: i16, member: StrBytes, error: &impl Coded) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_error_code(error.kafka().code())
        .with_generation_id(-1)
        // Null is only possible from v7 on.
        .with_protocol_name((version < 7).then(StrBytes::default))
        .with_member_id(member)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
    use kafka_protocol::messages::leave_group_request::MemberIdentity;
    use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
    use kafka_protocol::messages::{HeartbeatRequest, LeaveGroupRequest, SyncGroupRequest};

    use super::*;
    use crate::api::tests::fixture::Bench;

    fn ask(group: &str, member: StrBytes) -> JoinGroupRequest {
        let range = JoinGroupRequestProtocol::default()
            .with_name(wire_text("range"))
            .with_metadata(Bytes::from_static(b"subscription"));
        JoinGroupRequest::default()
            .with_group_id(wire_text(group).into())
            .with_session_timeout_ms(10_000)
            .with_member_id(member)
            .with_protocol_type(wire_text("consumer"))
            .with_protocols(vec![range])
    }

    /// Joins with the id the broker gives, as clients do from v4 on.
    async fn enter(bench: &Bench, version: i16, group: &str) -> JoinGroupResponse {
        let first = bench.call(version, ask(group, StrBytes::default())).await;
        if version < 4 {
            return first;
        }
        assert_eq!((first.error_code, first.generation_id), (79, -1), "v{version}");
        assert!(first.member_id.starts_with("test-"), "{}", first.member_id);
        bench.call(version, ask(group, first.member_id)).await
    }

    #[tokio::test]
    async fn a_member_lives_through_every_version() {
        let bench = Bench::with(|config| {
            config.group_initial_rebalance_delay = Duration::ZERO;
        })
        .await;
        for version in 0..=9 {
            let group = format!("g{version}");
            let id = || wire_text(&group).into();
            let joined = enter(&bench, version, &group).await;
            assert_eq!((joined.error_code, joined.generation_id), (0, 1), "v{version}");
            assert_eq!(joined.protocol_name.as_deref(), Some("range"));
            assert_eq!(joined.leader, joined.member_id);
            assert_eq!(joined.members[0].metadata, "subscription");
            let member = joined.member_id;
            let share = SyncGroupRequestAssignment::default()
                .with_member_id(member.clone())
                .with_assignment(Bytes::from_static(b"assignment"));
            let (sync, beat, leave) = (version.min(5), version.min(4), version.min(5));
            let names = |name: &str| (sync >= 5).then(|| wire_text(name));
            let request = SyncGroupRequest::default()
                .with_group_id(id())
                .with_generation_id(1)
                .with_member_id(member.clone())
                .with_protocol_type(names("consumer"))
                .with_protocol_name(names("range"))
                .with_assignments(vec![share]);
            let synced = bench.call(sync, request.clone()).await;
            assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"assignment"[..]));
            if sync >= 5 {
                let nameless = bench.call(sync, request.with_protocol_name(None)).await;
                assert_eq!(nameless.error_code, 23, "v5 must name its protocol");
            }
            let heartbeat = HeartbeatRequest::default()
                .with_group_id(id())
                .with_member_id(member.clone())
                .with_generation_id(1);
            assert_eq!(bench.call(beat, heartbeat.clone()).await.error_code, 0);
            let stale = bench.call(beat, heartbeat.clone().with_generation_id(9)).await;
            assert_eq!(stale.error_code, 22);
            let leaving = LeaveGroupRequest::default().with_group_id(id());
            let leaving = if leave < 3 {
                leaving.with_member_id(member)
            } else {
                leaving.with_members(vec![MemberIdentity::default().with_member_id(member)])
            };
            assert_eq!(bench.call(leave, leaving.clone()).await.error(), 0, "v{version}");
            assert_eq!(bench.call(leave, leaving).await.error(), 25, "left only once");
            assert_eq!(bench.call(beat, heartbeat).await.error_code, 25);
        }
    }

    #[tokio::test]
    async fn what_cannot_join_is_told_why() {
        let bench = Bench::start().await;
        let code = async |request: JoinGroupRequest| bench.call(9, request).await.error_code;
        let new = StrBytes::default;
        assert_eq!(code(ask("", new())).await, 24);
        assert_eq!(code(ask("g", new()).with_session_timeout_ms(-1)).await, 26);
        assert_eq!(code(ask("g", new()).with_protocols(Vec::new())).await, 23);
        assert_eq!(code(ask("g", wire_text("nobody"))).await, 25);
    }
}
