//! OffsetCommit and OffsetFetch, with and without members.

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, GroupId, JoinGroupRequest, ListGroupsRequest,
    OffsetCommitRequest, OffsetFetchRequest,
};

use super::client::{Client, text};
use super::groups::{Member, wait_for_coordinator};
use super::requests::Topic;
use super::{broker, code};
use crate::harness::{PATIENCE, unique, until};

/// Who commits: a member, or a consumer that assigns partitions itself.
struct Committer<'a> {
    group: &'a str,
    generation: i32,
    member: &'a str,
}

fn standalone(group: &str) -> Committer<'_> {
    Committer { group, generation: -1, member: "" }
}

/// Commits one partition; returns its error code.
#[track_caller]
fn commit(
    client: &mut Client,
    version: i16,
    who: &Committer<'_>,
    topic: &Topic,
    partition: i32,
    (offset, metadata): (i64, &str),
) -> i16 {
    let mut of_partition = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text(metadata)));
    if version >= 6 {
        of_partition.committed_leader_epoch = 0;
    }
    let of_topic = OffsetCommitRequestTopic::default()
        .with_name(topic.topic_name())
        .with_partitions(vec![of_partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(who.group)))
        .with_generation_id_or_member_epoch(who.generation)
        .with_member_id(text(who.member))
        .with_topics(vec![of_topic]);
    client.call(version, &request).topics[0].partitions[0].error_code
}

/// The committed offset and metadata of some partitions, or of all there are.
#[track_caller]
fn committed(
    client: &mut Client,
    version: i16,
    group: &str,
    asked: Option<(&Topic, &[i32])>,
) -> Vec<(i32, i64, String)> {
    let request = OffsetFetchRequest::default();
    let mut found = Vec::new();
    if version >= 8 {
        let topics = asked.map(|(topic, partitions)| {
            vec![
                OffsetFetchRequestTopics::default()
                    .with_name(topic.topic_name())
                    .with_partition_indexes(partitions.to_vec()),
            ]
        });
        let mut of_group = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(text(group)))
            .with_topics(topics);
        if version >= 9 {
            of_group.member_epoch = -1;
            of_group.member_id = None;
        }
        let answer = client.call(version, &request.with_groups(vec![of_group]));
        let of_group = &answer.groups[0];
        assert_eq!((of_group.error_code, &**of_group.group_id), (code::NONE, group));
        for partition in of_group.topics.iter().flat_map(|topic| &topic.partitions) {
            assert_eq!(partition.error_code, code::NONE);
            let metadata = partition.metadata.as_deref().unwrap_or_default().to_owned();
            found.push((partition.partition_index, partition.committed_offset, metadata));
        }
    } else {
        let topics = asked.map(|(topic, partitions)| {
            vec![
                OffsetFetchRequestTopic::default()
                    .with_name(topic.topic_name())
                    .with_partition_indexes(partitions.to_vec()),
            ]
        });
        let request = request.with_group_id(GroupId(text(group))).with_topics(topics);
        let answer = client.call(version, &request);
        assert_eq!(answer.error_code, code::NONE);
        for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            assert_eq!(partition.error_code, code::NONE);
            let metadata = partition.metadata.as_deref().unwrap_or_default().to_owned();
            found.push((partition.partition_index, partition.committed_offset, metadata));
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn a_consumer_without_a_group_protocol_commits_and_reads_back() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create_with(&mut client, 3);
    let commit_versions = client.versions::<OffsetCommitRequest>();
    let fetch_versions = client.versions::<OffsetFetchRequest>();
    for (version, fetch_version) in commit_versions.into_iter().zip(fetch_versions) {
        let group = unique("standalone");
        wait_for_coordinator(&mut client, &group);
        let who = standalone(&group);
        for (partition, offset) in [(0, 5), (2, 7), (0, 6)] {
            let error = commit(&mut client, version, &who, &topic, partition, (offset, "note"));
            assert_eq!(error, code::NONE, "v{version}");
        }
        let expected =
            [(0, 6, "note".to_owned()), (1, -1, String::new()), (2, 7, "note".to_owned())];
        let found = committed(&mut client, fetch_version, &group, Some((&topic, &[0, 1, 2])));
        assert_eq!(found, expected, "OffsetFetch v{fetch_version}");
        if fetch_version >= 2 {
            // All there are: the partition without a commit is left out.
            let all = committed(&mut client, fetch_version, &group, None);
            assert_eq!(all, [expected[0].clone(), expected[2].clone()]);
        }
    }
}

#[test]
fn a_group_that_never_committed_has_no_offsets_and_no_error() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    for version in client.versions::<OffsetFetchRequest>() {
        let group = unique("never");
        wait_for_coordinator(&mut client, &group);
        let found = committed(&mut client, version, &group, Some((&topic, &[0])));
        assert_eq!(found, [(0, -1, String::new())]);
        let unknown = committed(&mut client, version, &group, Some((&Topic::unknown(), &[0])));
        assert_eq!(unknown, [(0, -1, String::new())]);
    }
}

#[test]
fn what_cannot_be_committed_is_refused() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    for version in client.versions::<OffsetCommitRequest>() {
        let group = unique("refused-commit");
        wait_for_coordinator(&mut client, &group);
        let who = standalone(&group);
        let unknown = commit(&mut client, version, &who, &Topic::unknown(), 0, (1, ""));
        assert_eq!(unknown, code::UNKNOWN_TOPIC_OR_PARTITION);
        let partition = commit(&mut client, version, &who, &topic, 9, (1, ""));
        assert_eq!(partition, code::UNKNOWN_TOPIC_OR_PARTITION);
        // A generation of a group that is not there.
        let absent = if version >= 9 { code::GROUP_ID_NOT_FOUND } else { code::ILLEGAL_GENERATION };
        for (generation, member) in [(0, ""), (1, ""), (1, "stranger")] {
            let stranger = Committer { group: &group, generation, member };
            let error = commit(&mut client, version, &stranger, &topic, 0, (1, ""));
            assert_eq!(error, absent, "v{version}");
        }
        // In UTF-16 units, whatever the config's name says.
        for long in ["x".repeat(4097), "\u{e9}".repeat(4097), "\u{1f600}".repeat(2049)] {
            let metadata = commit(&mut client, version, &who, &topic, 0, (1, &long));
            assert_eq!(metadata, code::OFFSET_METADATA_TOO_LARGE);
        }
        let found = committed(&mut client, 1, &group, Some((&topic, &[0])));
        assert_eq!(found, [(0, -1, String::new())]);
        // And of one that only commits.
        assert_eq!(commit(&mut client, version, &who, &topic, 0, (1, "")), code::NONE);
        let stranger = Committer { group: &group, generation: 1, member: "" };
        let error = commit(&mut client, version, &stranger, &topic, 0, (2, ""));
        assert_eq!(error, code::UNKNOWN_MEMBER_ID, "v{version}");
    }
}

#[test]
fn numbers_that_are_no_offsets_are_committed_and_told_back() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    for version in client.versions::<OffsetCommitRequest>() {
        let group = unique("sentinels");
        wait_for_coordinator(&mut client, &group);
        // kafkajs resets a group to the start with -2, ruby-kafka commits -1.
        for number in [-2, -1, -3, i64::MIN, i64::MAX] {
            let who = standalone(&group);
            let error = commit(&mut client, version, &who, &topic, 0, (number, "kept"));
            assert_eq!(error, code::NONE, "v{version}");
            let told = [(0, number, "kept".to_owned())];
            assert_eq!(committed(&mut client, 1, &group, Some((&topic, &[0]))), told);
            assert_eq!(committed(&mut client, 8, &group, None), told);
        }
    }
}

#[test]
fn metadata_of_4096_utf_16_units_is_kept_whole() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let group = unique("metadata");
    wait_for_coordinator(&mut client, &group);
    let longest = [("x", 4096), ("\u{e9}", 4096), ("\u{20ac}", 4096), ("\u{1f600}", 2048)];
    for (text, times) in longest {
        let metadata = text.repeat(times);
        let who = standalone(&group);
        assert_eq!(commit(&mut client, 8, &who, &topic, 0, (1, &metadata)), code::NONE);
        let told = committed(&mut client, 8, &group, None);
        assert_eq!(told, [(0, 1, metadata)], "{text}");
    }
}

#[test]
fn offsets_are_kept_for_as_long_as_their_client_says() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    for version in 2..=4 {
        let mut keep = |retention_ms: i64| {
            let group = unique("retention");
            wait_for_coordinator(&mut client, &group);
            let partition = OffsetCommitRequestPartition::default().with_committed_offset(7);
            let of_topic = OffsetCommitRequestTopic::default()
                .with_name(topic.topic_name())
                .with_partitions(vec![partition]);
            let request = OffsetCommitRequest::default()
                .with_group_id(GroupId(text(&group)))
                .with_generation_id_or_member_epoch(-1)
                .with_retention_time_ms(retention_ms)
                .with_topics(vec![of_topic]);
            let error = client.call(version, &request).topics[0].partitions[0].error_code;
            assert_eq!(error, code::NONE);
            group
        };
        let (kept, longer, shortly) = (keep(-1), keep(3_600_000), keep(1));
        until("the offset to expire", PATIENCE, || {
            let left = committed(&mut client, 8, &shortly, None);
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        for group in [&kept, &longer] {
            assert_eq!(committed(&mut client, 8, group, None), [(0, 7, String::new())]);
        }
        // A group goes with its last offset.
        until("the group to go", PATIENCE, || {
            let listed = client.call(3, &ListGroupsRequest::default()).groups;
            let is_listed = |name: &str| listed.iter().any(|group| group.group_id.as_str() == name);
            assert!(is_listed(&kept) && is_listed(&longer));
            if is_listed(&shortly) { Err("it is listed".to_owned()) } else { Ok(()) }
        });
    }
}

#[test]
fn a_group_that_is_left_goes_if_it_has_no_offsets_and_stays_with_those_it_has() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let version = client.latest::<JoinGroupRequest>();
    let [without, with] = [false, true].map(|commits| {
        let group = unique("left");
        let mut member = Member::new(&broker, &group, version);
        member.join();
        let id = member.id.clone();
        assert_eq!(member.sync(&[(&id, "mine")]).0, code::NONE);
        if commits {
            let who = Committer { group: &group, generation: member.generation, member: &id };
            assert_eq!(commit(&mut client, 8, &who, &topic, 0, (7, "")), code::NONE);
        }
        assert_eq!(member.leave_as(&id), code::NONE);
        group
    });
    let describe = |client: &mut Client, group: &str| {
        let groups = vec![GroupId(text(group))];
        let answer = client.call(6, &DescribeGroupsRequest::default().with_groups(groups));
        let group = &answer.groups[0];
        (group.error_code, group.group_state.to_string())
    };
    until("the group without offsets to go", PATIENCE, || match describe(&mut client, &without) {
        (code::GROUP_ID_NOT_FOUND, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(describe(&mut client, &with), (code::NONE, "Empty".to_owned()));
    assert_eq!(committed(&mut client, 8, &with, None), [(0, 7, String::new())]);
}

#[test]
fn only_members_of_the_generation_commit_to_a_group_with_members() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let join_version = client.latest::<JoinGroupRequest>();
    for version in client.versions::<OffsetCommitRequest>() {
        let group = unique("members");
        let mut member = Member::new(&broker, &group, join_version);
        member.join();
        let id = member.id.clone();
        assert_eq!(member.sync(&[(&id, "mine")]).0, code::NONE);
        let generation = member.generation;
        let mut error = |generation, member: &str, offset| {
            let who = Committer { group: &group, generation, member };
            commit(&mut client, version, &who, &topic, 0, (offset, ""))
        };
        assert_eq!(error(generation, &id, 4), code::NONE);
        assert_eq!(error(generation - 1, &id, 1), code::ILLEGAL_GENERATION);
        assert_eq!(error(generation + 1, &id, 2), code::ILLEGAL_GENERATION);
        assert_eq!(error(generation, "nobody", 3), code::UNKNOWN_MEMBER_ID);
        assert_eq!(error(-1, "", 3), code::UNKNOWN_MEMBER_ID);
        assert_eq!(member.leave_as(&id), code::NONE);
        let found = committed(&mut client, 1, &group, Some((&topic, &[0])));
        assert_eq!(found, [(0, 4, String::new())], "v{version}");
    }
}

#[test]
fn a_deleted_group_has_no_offsets_any_more() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let group = unique("deleted");
    wait_for_coordinator(&mut client, &group);
    let version = client.latest::<OffsetCommitRequest>();
    let error = commit(&mut client, version, &standalone(&group), &topic, 0, (3, ""));
    assert_eq!(error, code::NONE);
    let request = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(&group))]);
    assert_eq!(client.call(1, &request).results[0].error_code, code::NONE);
    let found = committed(&mut client, 1, &group, Some((&topic, &[0])));
    assert_eq!(found, [(0, -1, String::new())]);
}

#[test]
fn offsets_of_several_groups_are_read_at_once() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let version = client.latest::<OffsetFetchRequest>();
    let groups = [unique("several"), unique("several")];
    let mut request = OffsetFetchRequest::default();
    for (group, offset) in groups.iter().zip(10..) {
        wait_for_coordinator(&mut client, group);
        assert_eq!(commit(&mut client, 2, &standalone(group), &topic, 0, (offset, "")), 0);
        let mut of_group = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(text(group)))
            .with_topics(None);
        of_group.member_epoch = -1;
        request.groups.push(of_group);
    }
    let answer = client.call(version, &request);
    let found: Vec<_> = answer
        .groups
        .iter()
        .map(|group| (group.group_id.to_string(), group.topics[0].partitions[0].committed_offset))
        .collect();
    let [first, second] = groups;
    assert_eq!(found, [(first, 10), (second, 11)]);
}
