//! Requests that name a thing twice, or ask for too much in all.

use std::collections::BTreeMap;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, DescribeGroupsRequest, GroupId, ListOffsetsRequest, ProduceRequest,
};
use uuid::Uuid;

use super::batch::Batch;
use super::client::{Client, text};
use super::groups::{Member, wait_for_coordinator};
use super::requests::{
    Topic, append_values, creatable, create_topics, describe, offset_of, read_partition, topic_name,
};
use super::{broker, code};
use crate::harness::{PATIENCE, unique, until};

/// The most partitions that a request may make.
const NEW_PARTITIONS_MAX: i32 = 10_000;

fn by_name(topic: &Topic) -> DeleteTopicState {
    DeleteTopicState::default().with_name(Some(topic.topic_name()))
}

fn by_id(topic: &Topic) -> DeleteTopicState {
    DeleteTopicState::default().with_name(None).with_topic_id(topic.id)
}

/// Name, id and error code of each answer, in order.
#[track_caller]
fn delete(client: &mut Client, topics: Vec<DeleteTopicState>) -> Vec<(Option<String>, Uuid, i16)> {
    let request = DeleteTopicsRequest::default().with_topics(topics).with_timeout_ms(30_000);
    let mut told: Vec<_> = client
        .call(6, &request)
        .responses
        .into_iter()
        .map(|topic| (topic.name.map(|name| name.to_string()), topic.topic_id, topic.error_code))
        .collect();
    told.sort();
    told
}

#[test]
fn a_topic_that_is_named_twice_is_not_deleted() {
    let broker = broker();
    let mut client = broker.connect();
    let (topic, other) = (Topic::create(&mut client), Topic::create(&mut client));
    let name = Some(topic.name.clone());
    let by_two_names = (name.clone(), Uuid::nil(), code::INVALID_REQUEST);
    let by_two_ids = (None, topic.id, code::INVALID_REQUEST);
    let both_ways = (name.clone(), topic.id, code::INVALID_REQUEST);
    for (asked, expected) in [
        (vec![by_name(&topic); 3], vec![by_two_names.clone()]),
        (vec![by_id(&topic); 2], vec![by_two_ids.clone()]),
        (vec![by_id(&topic), by_name(&topic)], vec![both_ways.clone()]),
        (vec![by_name(&topic), by_id(&topic), by_id(&topic)], vec![by_two_ids, both_ways.clone()]),
        (vec![by_name(&topic).with_topic_id(topic.id); 2], vec![both_ways.clone(), both_ways]),
    ] {
        assert_eq!(delete(&mut client, asked), expected);
    }
    let names = [&topic, &other, &topic].map(Topic::topic_name);
    let request = DeleteTopicsRequest::default().with_topic_names(names.to_vec());
    let answer = client.call(5, &request.with_timeout_ms(30_000));
    assert_eq!(answer.responses.len(), 2);
    for told in answer.responses {
        let is_twice = told.name == Some(topic.topic_name());
        let expected = if is_twice { code::INVALID_REQUEST } else { code::NONE };
        assert_eq!(told.error_code, expected, "{told:?}");
    }
    assert_eq!(describe(&mut client, &topic.name).topic_id, topic.id);
    // The name is refused for its own sake, and the id stands alone.
    let asked = vec![by_name(&topic), by_name(&topic), by_id(&topic)];
    let deleted = (name, topic.id, code::NONE);
    assert_eq!(delete(&mut client, asked), [by_two_names, deleted]);
}

#[test]
fn one_request_makes_at_most_10_000_partitions() {
    let broker = broker();
    let mut client = broker.connect();
    for version in client.versions::<CreateTopicsRequest>() {
        let mut create = |topics: Vec<CreatableTopic>| {
            let request = create_topics(topics).with_validate_only(true);
            let answer = client.call(version, &request);
            let mut told: Vec<_> = answer.topics.iter().map(|topic| topic.error_code).collect();
            told.sort_unstable();
            told
        };
        let large = creatable(&unique("large"), NEW_PARTITIONS_MAX - 10);
        let small = |count| creatable(&unique("small"), count);
        let refused = code::POLICY_VIOLATION;
        assert_eq!(create(vec![large.clone(), small(11)]), [refused; 2], "v{version}");
        assert_eq!(create(vec![small(NEW_PARTITIONS_MAX + 1)]), [refused]);
        // What could not be created anyway counts as well.
        let impossible = small(11).with_replication_factor(7);
        assert_eq!(create(vec![large.clone(), impossible]), [refused; 2]);
        assert_eq!(create(vec![large.clone(), small(3)]), [code::NONE; 2]);
        // Names that come twice do not.
        let told = create(vec![large.clone(), large, small(11)]);
        assert_eq!(told, [code::NONE, code::INVALID_REQUEST]);
    }
}

#[test]
fn one_request_adds_at_most_10_000_partitions() {
    let broker = broker();
    let mut client = broker.connect();
    let topics = [(); 3].map(|()| Topic::create(&mut client).name);
    let version = client.latest::<CreatePartitionsRequest>();
    let mut refused = |counts: [i32; 3]| {
        let grown = topics.iter().zip(counts).map(|(name, count)| {
            CreatePartitionsTopic::default()
                .with_name(topic_name(name))
                .with_count(count)
                .with_assignments(None)
        });
        let request = CreatePartitionsRequest::default()
            .with_topics(grown.collect())
            .with_validate_only(true)
            .with_timeout_ms(30_000);
        // Kafka says UNKNOWN_SERVER_ERROR without a reason.
        let results = client.call(version, &request).results;
        results.iter().filter(|topic| topic.error_code != code::NONE).count()
    };
    let half = NEW_PARTITIONS_MAX / 2;
    assert_eq!(refused([half, half, 2]), 0);
    assert_eq!(refused([half + 1, half + 1, 2]), 1);
    assert_eq!(refused([half + 1, half + 1, half + 1]), 1);
}

#[test]
fn of_a_partition_that_is_named_twice_the_last_offset_is_the_start() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create_with(&mut client, 2);
    append_values(&mut client, &topic, ["a", "b", "c", "d", "e"]);
    let version = client.latest::<DeleteRecordsRequest>();
    let mut delete = |asked: &[&[(i32, i64)]]| {
        let topics = asked.iter().map(|offsets| {
            let partitions = offsets.iter().map(|(index, offset)| {
                DeleteRecordsPartition::default().with_partition_index(*index).with_offset(*offset)
            });
            DeleteRecordsTopic::default()
                .with_name(topic.topic_name())
                .with_partitions(partitions.collect())
        });
        let request = DeleteRecordsRequest::default().with_topics(topics.collect());
        let answer = client.call(version, &request.with_timeout_ms(30_000));
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let mut told: Vec<_> =
            partitions.map(|it| (it.partition_index, it.error_code, it.low_watermark)).collect();
        told.sort_unstable();
        told
    };
    assert_eq!(delete(&[&[(0, 3), (0, 1)]]), [(0, code::NONE, 1)]);
    assert_eq!(delete(&[&[(0, 4)], &[(0, 2), (1, 0)]]), [(0, code::NONE, 2), (1, code::NONE, 0)]);
}

#[test]
fn a_partition_whose_offset_is_asked_for_twice_is_refused_once() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create_with(&mut client, 2);
    let version = client.latest::<ListOffsetsRequest>();
    let ask = |asked: &[(i32, i64)]| {
        let partitions = asked.iter().map(|(index, timestamp)| {
            ListOffsetsPartition::default()
                .with_partition_index(*index)
                .with_timestamp(*timestamp)
                .with_current_leader_epoch(-1)
        });
        ListOffsetsTopic::default()
            .with_name(topic.topic_name())
            .with_partitions(partitions.collect())
    };
    for topics in
        [vec![ask(&[(0, -1), (0, -2), (1, -1)])], vec![ask(&[(0, -1)]), ask(&[(1, -1), (0, -1)])]]
    {
        let request = ListOffsetsRequest::default().with_replica_id((-1).into());
        let answer = client.call(version, &request.with_topics(topics));
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let mut told: Vec<_> =
            partitions.map(|it| (it.partition_index, it.error_code, it.offset)).collect();
        told.sort_unstable();
        assert_eq!(told, [(0, code::INVALID_REQUEST, -1), (1, code::NONE, 0)]);
    }
    assert_eq!(offset_of(&mut client, version, &topic, -1).offset, 0);
}

#[test]
fn a_group_that_is_named_twice_is_answered_once() {
    let broker = broker();
    let mut client = broker.connect();
    let group = unique("twice");
    wait_for_coordinator(&mut client, &group);
    let id = GroupId(text(&group));
    let version = client.latest::<DeleteGroupsRequest>();
    until("the group to be unknown", PATIENCE, || {
        let request =
            DeleteGroupsRequest::default().with_groups_names(vec![id.clone(), id.clone()]);
        let told: Vec<_> =
            client.call(version, &request).results.iter().map(|it| it.error_code).collect();
        if told == [code::GROUP_ID_NOT_FOUND] { Ok(()) } else { Err(format!("{told:?}")) }
    });
}

/// A Produce request of several batches, each for the partition given, in entries of their own.
fn produce_all(version: i16, topic: &Topic, entries: &[&[(i32, &str)]]) -> ProduceRequest {
    let topics = entries.iter().map(|partitions| {
        let partitions = partitions.iter().map(|(index, value)| {
            PartitionProduceData::default()
                .with_index(*index)
                .with_records(Some(Batch::of([value]).encode()))
        });
        let data = TopicProduceData::default().with_partition_data(partitions.collect());
        match version {
            13.. => data.with_topic_id(topic.id),
            _ => data.with_name(topic.topic_name()),
        }
    });
    ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(topics.collect())
}

#[test]
fn the_last_batch_counts_of_a_partition_that_a_produce_request_names_twice() {
    let broker = broker();
    let mut client = broker.connect();
    for version in client.versions::<ProduceRequest>() {
        for entries in [
            &[&[(0, "a"), (0, "b")][..]][..],
            &[&[(0, "a")], &[(0, "b")]],
            &[&[(1, "x"), (0, "a"), (1, "y"), (0, "b")]],
            &[&[(0, "a"), (1, "x")], &[(1, "y")], &[(0, "b")]],
            &[&[(0, "a"), (7, "x"), (7, "y")], &[(0, "b")]],
        ] {
            let topic = Topic::create_with(&mut client, 2);
            let answer = client.call(version, &produce_all(version, &topic, entries));
            assert_eq!(answer.responses.len(), 1, "v{version} {entries:?}");
            let answers = answer.responses[0].partition_responses.iter();
            let told: BTreeMap<i32, (i16, i64)> = answers
                .clone()
                .map(|partition| (partition.index, (partition.error_code, partition.base_offset)))
                .collect();
            assert_eq!(told.len(), answers.len(), "v{version} {entries:?}");
            let mut expected = BTreeMap::new();
            for (index, value) in entries.iter().copied().flatten() {
                expected.insert(*index, *value);
            }
            for (index, value) in expected {
                if index == 7 {
                    assert_eq!(told[&index].0, code::UNKNOWN_TOPIC_OR_PARTITION);
                    continue;
                }
                assert_eq!(told[&index], (code::NONE, 0), "v{version} {entries:?}");
                let kept = read_partition(&mut client, &topic, index, 0);
                let kept: Vec<_> = kept.iter().map(|record| &record.value[..]).collect();
                assert_eq!(kept, [value.as_bytes()], "v{version} {entries:?}");
            }
        }
    }
}

#[test]
fn a_group_that_is_named_twice_is_described_twice() {
    let broker = broker();
    let mut client = broker.connect();
    let known = unique("described");
    let mut member = Member::new(&broker, &known, 3);
    member.join();
    assert_eq!(member.sync(&[]).0, code::NONE);
    for version in client.versions::<DescribeGroupsRequest>() {
        let named = ["nobody", known.as_str(), "nobody", known.as_str(), known.as_str()];
        let groups = named.iter().map(|name| GroupId(text(name))).collect();
        let request = DescribeGroupsRequest::default().with_groups(groups);
        let mut told: Vec<_> = client
            .call(version, &request)
            .groups
            .into_iter()
            .map(|group| {
                (group.group_id.as_str() == "nobody", group.error_code, group.members.len())
            })
            .collect();
        told.sort_unstable();
        let unknown = if version >= 6 { code::GROUP_ID_NOT_FOUND } else { code::NONE };
        let (present, absent) = ((false, code::NONE, 1), (true, unknown, 0));
        assert_eq!(told, [present, present, present, absent, absent], "v{version}");
    }
    let id = member.id.clone();
    assert_eq!(member.leave_as(&id), code::NONE);
}
