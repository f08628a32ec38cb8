//! DescribeGroups (key 15), v0-6: groups with their members.
//!
//! v3 adds authorized operations, v4 static members, v6 error 69 for unknown groups (KIP-1043);
//! before, they are described as dead. A group that is named more than once is described as often,
//! while what is repeated takes no more than 1 MiB. Gaps: none.

use std::collections::HashMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{ApiKey, DescribeGroupsRequest, DescribeGroupsResponse, GroupId};
use kafka_protocol::protocol::{Encodable, StrBytes};

use super::call::{Api, Outcome, first_error};
use super::error::Coded;
use super::{Context, Request, wire_text};
use crate::group::{GroupDescription, MemberDescription};
use crate::security::{Resource, op};

pub(super) const API: Api = Api::ordered(ApiKey::DescribeGroups, 0..=6).repeatable();

/// Of what an answer has more than once.
const REPEATED_BYTES_MAX: usize = 1 << 20;

impl Outcome for DescribeGroupsResponse {
    fn error(&self) -> i16 {
        first_error(self.groups.iter().map(|group| group.error_code))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    // A repeated name costs few bytes, and the group's members many.
    let (mut first_at, mut repeated_bytes) = (HashMap::new(), 0_usize);
    let mut groups: Vec<DescribedGroup> = Vec::new();
    for id in body.groups {
        if let Some(at) = first_at.get(&id) {
            let known: &DescribedGroup = &groups[*at];
            let bytes = known.compute_size(request.version).unwrap_or(REPEATED_BYTES_MAX);
            repeated_bytes = repeated_bytes.saturating_add(bytes);
            if repeated_bytes <= REPEATED_BYTES_MAX {
                groups.push(known.clone());
            }
            continue;
        }
        first_at.insert(id.clone(), groups.len());
        let access = ctx.access(request);
        let known = match access.group::<op::Describe>(&id) {
            Ok(group) => group.describe().await,
            Err(denied) => {
                let error = DescribedGroup::default().with_error_code(denied.kafka().code());
                groups.push(error.with_group_id(id));
                continue;
            }
        };
        let tells_operations = request.version >= 3 && body.include_authorized_operations;
        let mut described = match known {
            Some(group) => describe(request.version, id, group),
            None => unknown(request.version, id),
        };
        if tells_operations && described.error_code == 0 {
            let operations = access.operations(Resource::Group(&described.group_id));
            described.authorized_operations = operations;
        }
        groups.push(described);
    }
    DescribeGroupsResponse::default().with_groups(groups)
}

fn describe(version: i16, id: GroupId, group: GroupDescription) -> DescribedGroup {
    let members = group.members.into_iter().map(|member| describe_member(version, member));
    DescribedGroup::default()
        .with_group_id(id)
        .with_group_state(wire_text(group.listing.state))
        .with_protocol_type(wire_text(&group.listing.protocol_type))
        .with_protocol_data(wire_text(&group.protocol))
        .with_members(members.collect())
}

fn describe_member(version: i16, member: MemberDescription) -> DescribedGroupMember {
    let instance = member.instance.filter(|_| version >= 4);
    DescribedGroupMember::default()
        .with_member_id(wire_text(&member.member))
        .with_group_instance_id(instance.map(StrBytes::from_string))
        .with_client_id(wire_text(&member.client_id))
        .with_client_host(wire_text(&member.client_host))
        .with_member_metadata(member.metadata)
        .with_member_assignment(member.assignment)
}

fn unknown(version: i16, id: GroupId) -> DescribedGroup {
    let reason = format!("Group {} not found.", id.as_str());
    let dead = DescribedGroup::default().with_group_id(id).with_group_state(wire_text("Dead"));
    if version < 6 {
        return dead;
    }
    dead.with_error_code(ResponseError::GroupIdNotFound.code())
        .with_error_message(Some(wire_text(&reason)))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::offset_commit_request::{
        OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    };
    use kafka_protocol::messages::{
        DeleteGroupsRequest, ListGroupsRequest, OffsetCommitRequest, OffsetCommitResponse,
    };

    use super::*;
    use crate::api::tests::fixture::Bench;

    /// Makes an empty group by committing to topic `t` outside group management.
    async fn commit(bench: &Bench, group: &str) -> OffsetCommitResponse {
        let topic = OffsetCommitRequestTopic::default()
            .with_name(wire_text("t").into())
            .with_partitions(vec![OffsetCommitRequestPartition::default()]);
        let request = OffsetCommitRequest::default()
            .with_group_id(wire_text(group).into())
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        bench.call(9, request).await
    }

    #[tokio::test]
    async fn a_group_that_is_named_very_often_is_not_described_as_often() {
        let bench = Bench::start().await;
        for version in [0, 6] {
            let groups = vec![wire_text("nobody").into(); 100_000];
            let request = DescribeGroupsRequest::default().with_groups(groups);
            let answer = bench.call(version, request).await;
            let bytes = answer.compute_size(version).unwrap();
            assert!((REPEATED_BYTES_MAX / 2..2 * REPEATED_BYTES_MAX).contains(&bytes), "{bytes}");
        }
    }

    #[tokio::test]
    async fn groups_are_listed_described_and_deleted_in_every_version() {
        let bench = Bench::start().await;
        bench.topic("t", 1).await;
        for version in 0..=6 {
            assert_eq!(commit(&bench, "g").await.error(), 0);
            let list = ListGroupsRequest::default();
            let listed = bench.call(version.min(5), list.clone()).await.groups;
            assert_eq!(listed[0].group_id.as_str(), "g");
            if version >= 4 {
                assert_eq!(listed[0].group_state.as_str(), "Empty");
                let stable = list.with_states_filter(vec![wire_text("Stable")]);
                assert!(bench.call(version.min(5), stable).await.groups.is_empty());
            }
            let ids = vec![wire_text("g").into(), wire_text("nobody").into()];
            let request = DescribeGroupsRequest::default()
                .with_groups(ids)
                .with_include_authorized_operations(version >= 3);
            let described = bench.call(version, request).await.groups;
            assert_eq!((described[0].error_code, described[0].group_state.as_str()), (0, "Empty"));
            let operations = if version >= 3 { 3400 } else { i32::MIN };
            assert_eq!(described[0].authorized_operations, operations, "v{version}");
            let code = if version >= 6 { 69 } else { 0 };
            assert_eq!(
                (described[1].error_code, described[1].group_state.as_str()),
                (code, "Dead")
            );
            let names = vec![wire_text("g").into(), wire_text("nobody").into()];
            let request = DeleteGroupsRequest::default().with_groups_names(names);
            let deleted = bench.call(version.min(2), request).await.results;
            let codes: Vec<i16> = deleted.iter().map(|result| result.error_code).collect();
            assert_eq!(codes, [0, 69], "v{version}");
            assert!(bench.call(0, ListGroupsRequest::default()).await.groups.is_empty());
        }
    }
}
