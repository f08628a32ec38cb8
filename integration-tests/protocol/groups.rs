//! Classic consumer groups: joining, assigning, rebalancing, leaving, and every refusal.

use std::net::SocketAddr;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, ListGroupsRequest, SyncGroupRequest,
    SyncGroupResponse,
};

use super::client::{Client, text};
use super::{Shared, broker, code};
use crate::harness::{PATIENCE, unique, until};

/// A consumer's subscription v0: topics `[t]`, no user data. Kafka's coordinator parses it, and a
/// member whose subscription it cannot parse waits for ever.
const SUBSCRIPTION: &[u8] = b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff";

/// A member of a group on a connection of its own.
pub struct Member {
    pub client: Client,
    pub group: String,
    pub id: String,
    pub instance: Option<String>,
    pub generation: i32,
    pub is_leader: bool,
    version: i16,
}

impl Member {
    /// A member that has not joined yet and will do so at JoinGroup `version`.
    pub fn new(broker: &Shared, group: &str, version: i16) -> Member {
        Member::at(broker.address(), group, version)
    }

    /// The same with a broker of one's own.
    pub fn at(broker: SocketAddr, group: &str, version: i16) -> Member {
        let mut client = Client::connect(broker);
        wait_for_coordinator(&mut client, group);
        Member {
            client,
            group: group.to_owned(),
            id: String::new(),
            instance: None,
            generation: -1,
            is_leader: false,
            version,
        }
    }

    fn group_id(&self) -> GroupId {
        GroupId(text(&self.group))
    }

    fn join_request(&self) -> JoinGroupRequest {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(Bytes::from_static(SUBSCRIPTION));
        let mut request = JoinGroupRequest::default()
            .with_group_id(self.group_id())
            .with_session_timeout_ms(30_000)
            .with_member_id(text(&self.id))
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        if self.version >= 1 {
            request.rebalance_timeout_ms = 30_000;
        }
        if self.version >= 5 {
            request.group_instance_id = self.instance.as_deref().map(text);
        }
        request
    }

    /// Sends JoinGroup without waiting. From v4 on, a member without an id is given one first.
    #[track_caller]
    pub fn start_join(&mut self) -> i32 {
        if self.version >= 4 && self.id.is_empty() && self.instance.is_none() {
            let answer = self.client.call(self.version, &self.join_request());
            assert_eq!(answer.error_code, code::MEMBER_ID_REQUIRED);
            assert!(!answer.member_id.is_empty());
            self.id = answer.member_id.to_string();
        }
        self.client.send(self.version, &self.join_request())
    }

    /// The answer to a JoinGroup that was sent.
    #[track_caller]
    pub fn finish_join(&mut self, correlation_id: i32) -> JoinGroupResponse {
        let answer = self.client.receive::<JoinGroupRequest>(self.version, correlation_id);
        assert_eq!(answer.error_code, code::NONE);
        self.id = answer.member_id.to_string();
        self.generation = answer.generation_id;
        self.is_leader = answer.leader == answer.member_id;
        answer
    }

    /// Joins alone.
    #[track_caller]
    pub fn join(&mut self) -> JoinGroupResponse {
        let sent = self.start_join();
        self.finish_join(sent)
    }

    fn sync_request(&self, assignments: &[(&str, &str)]) -> (i16, SyncGroupRequest) {
        let version = self.version.min(5);
        let assignments = assignments
            .iter()
            .map(|(member, assignment)| {
                SyncGroupRequestAssignment::default()
                    .with_member_id(text(member))
                    .with_assignment(Bytes::copy_from_slice(assignment.as_bytes()))
            })
            .collect();
        let mut request = SyncGroupRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id))
            .with_assignments(assignments);
        if version >= 3 {
            request.group_instance_id = self.instance.as_deref().map(text);
        }
        if version >= 5 {
            request.protocol_type = Some(text("consumer"));
            request.protocol_name = Some(text("range"));
        }
        (version, request)
    }

    /// Sends SyncGroup without waiting.
    #[track_caller]
    pub fn start_sync(&mut self, assignments: &[(&str, &str)]) -> i32 {
        let (version, request) = self.sync_request(assignments);
        self.client.send(version, &request)
    }

    /// The answer to a SyncGroup that was sent.
    #[track_caller]
    pub fn finish_sync(&mut self, correlation_id: i32) -> SyncGroupResponse {
        let version = self.version.min(5);
        self.client.receive::<SyncGroupRequest>(version, correlation_id)
    }

    /// Syncs; returns error code and assignment.
    #[track_caller]
    pub fn sync(&mut self, assignments: &[(&str, &str)]) -> (i16, Bytes) {
        let sent = self.start_sync(assignments);
        let answer = self.finish_sync(sent);
        (answer.error_code, answer.assignment)
    }

    /// Heartbeat's error code.
    #[track_caller]
    pub fn heartbeat(&mut self) -> i16 {
        self.heartbeat_as(self.generation, &self.id.clone())
    }

    /// Heartbeat's error code for another generation or member.
    #[track_caller]
    pub fn heartbeat_as(&mut self, generation: i32, member: &str) -> i16 {
        let version = self.version.min(4);
        let mut request = HeartbeatRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(generation)
            .with_member_id(text(member));
        if version >= 3 {
            request.group_instance_id = self.instance.as_deref().map(text);
        }
        self.client.call(version, &request).error_code
    }

    /// Leaves; returns the error code for `member`.
    #[track_caller]
    pub fn leave_as(&mut self, member: &str) -> i16 {
        let version = self.version.min(5);
        let request = LeaveGroupRequest::default().with_group_id(self.group_id());
        if version >= 3 {
            let identity =
                MemberIdentity::default().with_member_id(text(member)).with_group_instance_id(None);
            let answer = self.client.call(version, &request.with_members(vec![identity]));
            assert_eq!(answer.error_code, code::NONE);
            answer.members[0].error_code
        } else {
            self.client.call(version, &request.with_member_id(text(member))).error_code
        }
    }
}

/// Waits until the coordinator of `group` serves: Kafka creates its offsets topic first.
pub fn wait_for_coordinator(client: &mut Client, group: &str) {
    let find = FindCoordinatorRequest::default().with_key(text(group));
    until("the coordinator", PATIENCE, || {
        let error = client.call(0, &find).error_code;
        if error != code::NONE {
            return Err(format!("FindCoordinator: error {error}"));
        }
        let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(group))]);
        let error = client.call(0, &request).groups[0].error_code;
        if error == code::NONE { Ok(()) } else { Err(format!("DescribeGroups: error {error}")) }
    });
}

#[test]
fn two_members_share_rebalance_and_leave() {
    let broker = broker();
    let versions = broker.connect().versions::<JoinGroupRequest>();
    for version in versions {
        let group = unique("two-members");
        let mut first = Member::new(&broker, &group, version);
        let joined = first.join();
        assert!(first.is_leader);
        assert_eq!((first.generation, joined.members.len()), (1, 1));
        assert_eq!(joined.protocol_name.as_deref(), Some("range"));
        assert_eq!(joined.members[0].metadata, Bytes::from_static(SUBSCRIPTION));
        let own_id = first.id.clone();
        let all = first.sync(&[(&own_id, "all")]);
        assert_eq!(all, (code::NONE, Bytes::from_static(b"all")));
        assert_eq!(first.heartbeat(), code::NONE);

        // A second member makes the first one join again.
        let mut second = Member::new(&broker, &group, version);
        let second_joins = second.start_join();
        until("the rebalance", PATIENCE, || match first.heartbeat() {
            code::REBALANCE_IN_PROGRESS => Ok(()),
            other => Err(format!("heartbeat answers {other}")),
        });
        let joined = first.join();
        let second_joined = second.finish_join(second_joins);
        assert_eq!((first.generation, second.generation), (2, 2));
        assert!(first.is_leader && !second.is_leader);
        assert_eq!(joined.members.len(), 2);
        assert!(second_joined.members.is_empty());

        // The follower's answer waits for the leader's assignment.
        let waiting = second.start_sync(&[]);
        let assignments = [(own_id.as_str(), "left"), (second.id.as_str(), "right")];
        let mut leader_answer = first.sync(&assignments);
        assert_eq!(leader_answer, (code::NONE, Bytes::from_static(b"left")));
        let answer = second.finish_sync(waiting);
        assert_eq!((answer.error_code, &answer.assignment[..]), (code::NONE, &b"right"[..]));
        // Asking again gives the same assignment.
        leader_answer = first.sync(&[]);
        assert_eq!(leader_answer, (code::NONE, Bytes::from_static(b"left")));
        assert_eq!((first.heartbeat(), second.heartbeat()), (code::NONE, code::NONE));

        // Of another generation, or nobody.
        assert_eq!(first.heartbeat_as(1, &own_id), code::ILLEGAL_GENERATION);
        assert_eq!(first.heartbeat_as(2, "nobody"), code::UNKNOWN_MEMBER_ID);
        assert_eq!(first.leave_as("nobody"), code::UNKNOWN_MEMBER_ID);

        let second_id = second.id.clone();
        assert_eq!(second.leave_as(&second_id), code::NONE);
        assert_eq!(second.heartbeat(), code::UNKNOWN_MEMBER_ID);
        assert_eq!(first.heartbeat(), code::REBALANCE_IN_PROGRESS);
        first.join();
        assert_eq!(first.generation, 3);
        assert_eq!(first.leave_as(&own_id), code::NONE);
    }
}

#[test]
fn a_join_that_cannot_be_is_refused() {
    let broker = broker();
    let versions = broker.connect().versions::<JoinGroupRequest>();
    for version in versions {
        let group = unique("refused-join");
        let mut member = Member::new(&broker, &group, version);
        let request = member.join_request();
        let mut error =
            |request: JoinGroupRequest| member.client.call(version, &request).error_code;
        let stranger = request.clone().with_member_id(text("stranger"));
        assert_eq!(error(stranger), code::UNKNOWN_MEMBER_ID, "v{version}");
        for timeout in [0, -1, 1, i32::MAX] {
            let outside = request.clone().with_session_timeout_ms(timeout);
            assert_eq!(error(outside), code::INVALID_SESSION_TIMEOUT, "{timeout} v{version}");
        }
        let unnamed = request.clone().with_group_id(GroupId(text("")));
        assert_eq!(error(unnamed), code::INVALID_GROUP_ID, "v{version}");
        let without = request.clone().with_protocols(Vec::new());
        assert_eq!(error(without), code::INCONSISTENT_GROUP_PROTOCOL, "v{version}");
        member.join();
        let mut other = Member::new(&broker, &group, 0);
        let of_another_kind = other.join_request().with_protocol_type(text("connect"));
        let answer = other.client.call(0, &of_another_kind);
        assert_eq!(answer.error_code, code::INCONSISTENT_GROUP_PROTOCOL);
        let id = member.id.clone();
        assert_eq!(member.leave_as(&id), code::NONE);
    }
}

#[test]
fn a_sync_of_another_generation_or_member_is_refused() {
    let broker = broker();
    let versions = broker.connect().versions::<JoinGroupRequest>();
    for version in versions {
        let mut member = Member::new(&broker, &unique("refused-sync"), version);
        member.join();
        let id = std::mem::replace(&mut member.id, "nobody".to_owned());
        assert_eq!(member.sync(&[]).0, code::UNKNOWN_MEMBER_ID);
        member.id = id.clone();
        member.generation += 1;
        assert_eq!(member.sync(&[]).0, code::ILLEGAL_GENERATION);
        member.generation -= 1;
        assert_eq!(member.sync(&[(&id, "mine")]).0, code::NONE);
        assert_eq!(member.leave_as(&id), code::NONE);
        assert_eq!(member.heartbeat(), code::UNKNOWN_MEMBER_ID);
    }
}

#[test]
fn a_static_member_keeps_its_place_and_fences_its_double() {
    let broker = broker();
    let version = broker.connect().latest::<JoinGroupRequest>();
    let group = unique("static");
    let mut first = Member::new(&broker, &group, version);
    first.instance = Some("instance".to_owned());
    first.join();
    let first_id = first.id.clone();
    assert_eq!(first.sync(&[(&first_id, "kept")]).0, code::NONE);
    // Started again: the same instance, a new member id, no rebalance.
    let mut second = Member::new(&broker, &group, version);
    second.instance = Some("instance".to_owned());
    second.join();
    assert_eq!(second.generation, first.generation);
    assert_ne!(second.id, first_id);
    assert_eq!(second.sync(&[]), (code::NONE, Bytes::from_static(b"kept")));
    assert_eq!(first.heartbeat(), code::FENCED_INSTANCE_ID);
    assert_eq!(second.heartbeat(), code::NONE);
}

#[test]
fn groups_are_listed_described_and_deleted() {
    let broker = broker();
    let mut client = broker.connect();
    let version = client.latest::<JoinGroupRequest>();
    let group = unique("described");
    let mut member = Member::new(&broker, &group, version);
    member.join();
    let id = member.id.clone();
    assert_eq!(member.sync(&[(&id, "mine")]).0, code::NONE);
    let group_id = GroupId(text(&group));

    for version in client.versions::<DescribeGroupsRequest>() {
        let unknown = GroupId(text(&unique("unknown")));
        let request = DescribeGroupsRequest::default().with_groups(vec![group_id.clone(), unknown]);
        let mut answer = client.call(version, &request);
        // Kafka keeps no order between groups of different coordinator shards.
        answer.groups.sort_by_key(|described| described.group_id != group_id);
        let described = &answer.groups[0];
        assert_eq!((described.error_code, &*described.group_state), (code::NONE, "Stable"));
        assert_eq!(&*described.protocol_type, "consumer");
        assert_eq!(&*described.protocol_data, "range");
        let described = &described.members[0];
        assert_eq!(&*described.member_id, id);
        assert_eq!(&*described.client_id, "protocol-test");
        assert!(described.client_host.contains("127.0.0.1"), "{:?}", described.client_host);
        assert_eq!(&described.member_metadata[..], SUBSCRIPTION);
        assert_eq!(&described.member_assignment[..], b"mine");
        let dead = &answer.groups[1];
        let error = if version >= 6 { code::GROUP_ID_NOT_FOUND } else { code::NONE };
        assert_eq!((dead.error_code, &*dead.group_state), (error, "Dead"), "v{version}");
    }

    for version in client.versions::<ListGroupsRequest>() {
        let mut list = |states: &[&str]| {
            let states = states.iter().map(|state| text(state)).collect();
            let answer =
                client.call(version, &ListGroupsRequest::default().with_states_filter(states));
            assert_eq!(answer.error_code, code::NONE);
            answer.groups.into_iter().find(|listed| listed.group_id == group_id)
        };
        let listed = list(&[]).expect("the group");
        assert_eq!(&*listed.protocol_type, "consumer");
        if version >= 4 {
            assert_eq!(&*listed.group_state, "Stable");
            assert!(list(&["Stable"]).is_some() && list(&["Empty"]).is_none());
        }
        if version >= 5 {
            assert_eq!(&*listed.group_type, "classic");
        }
    }

    let mut delete = |version, group: &str| {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(group))]);
        client.call(version, &request).results[0].error_code
    };
    for version in broker.connect().versions::<DeleteGroupsRequest>() {
        assert_eq!(delete(version, &group), code::NON_EMPTY_GROUP);
        assert_eq!(delete(version, &unique("unknown")), code::GROUP_ID_NOT_FOUND);
    }
    assert_eq!(member.leave_as(&id), code::NONE);
    assert_eq!(delete(0, &group), code::NONE);
    assert_eq!(delete(0, &group), code::GROUP_ID_NOT_FOUND);
}
