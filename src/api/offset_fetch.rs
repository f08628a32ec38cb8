//! OffsetFetch (key 9), v1-9: a group's committed positions.
//!
//! From v2 on null topics mean all of them, v8 asks for many groups (KIP-709). `require_stable`
//! (v7, KIP-447) holds always: offsets that a transaction has not committed are not stored yet.
//! Gaps: topic ids (v10), which the codec lacks; member epochs (v9) are not checked, since there
//! are only classic groups.

use std::collections::{BTreeMap, HashMap, HashSet};

use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopics;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{ApiKey, OffsetFetchRequest, OffsetFetchResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::access::{Access, Topics, Unreachable};
use super::call::{Api, Outcome, first_error};
use super::error::Coded;
use super::{Context, Request, wire_name, wire_text};
use crate::group::CommittedOffset;
use crate::security::{Denied, op};
use crate::types::{PartitionId, TopicId};

pub(super) const API: Api = Api::ordered(ApiKey::OffsetFetch, 1..=9).repeatable();

impl Outcome for OffsetFetchResponse {
    fn error(&self) -> i16 {
        let groups = self.groups.iter().map(|group| group.error_code);
        let of_groups = self.groups.iter().flat_map(|group| &group.topics);
        let of_groups = of_groups.flat_map(|topic| &topic.partitions).map(|it| it.error_code);
        let own = self.topics.iter().flat_map(|topic| &topic.partitions).map(|it| it.error_code);
        first_error([self.error_code].into_iter().chain(groups).chain(own).chain(of_groups))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: OffsetFetchRequest,
) -> OffsetFetchResponse {
    let access = ctx.access(request);
    let known = access.topics();
    if request.version >= 8 {
        // All positions of a group are told once, and looked up once however often the request names
        // it: a name costs few bytes, and its positions many.
        let mut told_whole = HashSet::new();
        let asked = body.groups.into_iter();
        let asked = asked
            .filter(|group| group.topics.is_some() || told_whole.insert(group.group_id.clone()));
        let mut looked_up = HashMap::new();
        let groups = asked.map(|group| {
            let committed = looked_up
                .entry(group.group_id.clone())
                .or_insert_with(|| committed(access, &group.group_id));
            let answer = OffsetFetchResponseGroup::default().with_group_id(group.group_id);
            match committed {
                Ok(committed) => answer.with_topics(fetch(&known, committed, group.topics)),
                Err(denied) => answer.with_error_code(denied.kafka().code()),
            }
        });
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let asked = body.topics.map(|topics| {
        let topics = topics.into_iter().map(|topic| {
            OffsetFetchRequestTopics::default()
                .with_name(topic.name)
                .with_partition_indexes(topic.partition_indexes)
        });
        topics.collect()
    });
    let topics = match committed(access, &body.group_id) {
        Ok(committed) => fetch(&known, &committed, asked),
        Err(denied) => {
            let code = denied.kafka().code();
            if request.version >= 2 {
                return OffsetFetchResponse::default().with_error_code(code);
            }
            // v1 has no other place for it than the partitions.
            let refuse = |topic| refused(topic, code);
            asked.unwrap_or_default().into_iter().map(refuse).collect()
        }
    };
    let topics = topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_committed_offset(partition.committed_offset)
                .with_committed_leader_epoch(partition.committed_leader_epoch)
                .with_metadata(partition.metadata)
                .with_error_code(partition.error_code)
        });
        OffsetFetchResponseTopic::default()
            .with_name(topic.name)
            .with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default().with_topics(topics.collect())
}

/// A group's positions.
type Committed = BTreeMap<TopicId, BTreeMap<PartitionId, CommittedOffset>>;

fn committed(access: Access<'_>, group: &str) -> Result<Committed, Denied> {
    let mut committed = Committed::new();
    for offset in access.group::<op::Describe>(group)?.committed() {
        committed.entry(offset.topic).or_default().insert(offset.partition, offset.committed);
    }
    Ok(committed)
}

/// A group's positions where asked, or all that the client may see.
fn fetch(
    known: &Topics<'_>,
    committed: &Committed,
    asked: Option<Vec<OffsetFetchRequestTopics>>,
) -> Vec<OffsetFetchResponseTopics> {
    match asked {
        Some(topics) => topics.into_iter().map(|topic| some(known, topic, committed)).collect(),
        None => all(known, committed),
    }
}

fn some(
    known: &Topics<'_>,
    asked: OffsetFetchRequestTopics,
    committed: &Committed,
) -> OffsetFetchResponseTopics {
    let offsets = match known.named::<op::Describe>(&asked.name) {
        Ok(topic) => committed.get(&topic.id),
        Err(Unreachable::Denied(denied)) => return refused(asked, denied.kafka().code()),
        Err(Unreachable::UnknownName | Unreachable::UnknownId) => None,
    };
    let partitions = asked.partition_indexes.into_iter().map(|index| {
        let partition = PartitionId::from_wire(index);
        position(index, partition.and_then(|partition| offsets?.get(&partition)))
    });
    topic_of(asked.name, partitions.collect())
}

/// A topic without a position, with `code` for each of its partitions.
fn refused(asked: OffsetFetchRequestTopics, code: i16) -> OffsetFetchResponseTopics {
    let partitions = asked.partition_indexes.into_iter();
    let partitions = partitions.map(|index| position(index, None).with_error_code(code));
    topic_of(asked.name, partitions.collect())
}

fn all(known: &Topics<'_>, committed: &Committed) -> Vec<OffsetFetchResponseTopics> {
    let topics = committed.iter().filter_map(|(id, offsets)| {
        let name = wire_name(&known.with_id::<op::Describe>(*id).ok()?.name);
        let partitions = offsets.iter();
        let partitions =
            partitions.map(|(partition, committed)| position(partition.to_wire(), Some(committed)));
        Some(topic_of(name, partitions.collect()))
    });
    topics.collect()
}

fn topic_of(
    name: TopicName,
    partitions: Vec<OffsetFetchResponsePartitions>,
) -> OffsetFetchResponseTopics {
    OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions)
}

/// -1 where nothing was committed: that is no error.
fn position(index: i32, committed: Option<&CommittedOffset>) -> OffsetFetchResponsePartitions {
    let position = OffsetFetchResponsePartitions::default().with_partition_index(index);
    match committed {
        Some(committed) => position
            .with_committed_offset(committed.position.to_wire())
            .with_committed_leader_epoch(committed.leader_epoch.map_or(-1, |epoch| epoch.0))
            .with_metadata(Some(wire_text(&committed.metadata))),
        None => position
            .with_committed_offset(-1)
            .with_committed_leader_epoch(-1)
            .with_metadata(Some(StrBytes::default())),
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::OffsetCommitRequest;
    use kafka_protocol::messages::offset_commit_request::{
        OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    };
    use kafka_protocol::messages::offset_fetch_request::{
        OffsetFetchRequestGroup, OffsetFetchRequestTopic,
    };

    use super::*;
    use crate::api::tests::fixture::Bench;

    fn commit(topic: &str, partition: i32, offset: i64, metadata: &str) -> OffsetCommitRequest {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(wire_text(metadata)));
        let topic = OffsetCommitRequestTopic::default()
            .with_name(wire_text(topic).into())
            .with_partitions(vec![partition]);
        OffsetCommitRequest::default()
            .with_group_id(wire_text("g").into())
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic])
    }

    /// Index, offset and metadata of each position of topic `t`.
    async fn positions(
        bench: &Bench,
        version: i16,
        asked: Option<Vec<i32>>,
    ) -> Vec<(i32, i64, String)> {
        let name = || TopicName::from(wire_text("t"));
        let row = |index: i32, offset: i64, metadata: &Option<StrBytes>| {
            (index, offset, metadata.as_ref().unwrap().to_string())
        };
        let group = wire_text("g").into();
        if version < 8 {
            let topics = asked.map(|indexes| {
                let topic = OffsetFetchRequestTopic::default().with_name(name());
                vec![topic.with_partition_indexes(indexes)]
            });
            let request = OffsetFetchRequest::default().with_group_id(group).with_topics(topics);
            let answer = bench.call(version, request).await;
            let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
            return partitions
                .map(|p| row(p.partition_index, p.committed_offset, &p.metadata))
                .collect();
        }
        let topics = asked.map(|indexes| {
            let topic = OffsetFetchRequestTopics::default().with_name(name());
            vec![topic.with_partition_indexes(indexes)]
        });
        let group = OffsetFetchRequestGroup::default().with_group_id(group).with_topics(topics);
        let request = OffsetFetchRequest::default().with_groups(vec![group]);
        let answer = bench.call(version, request).await;
        assert_eq!(answer.groups[0].group_id.as_str(), "g");
        let partitions = answer.groups[0].topics.iter().flat_map(|topic| &topic.partitions);
        partitions.map(|p| row(p.partition_index, p.committed_offset, &p.metadata)).collect()
    }

    #[tokio::test]
    async fn every_version_reads_what_every_version_committed() {
        let bench = Bench::start().await;
        bench.topic("t", 3).await;
        for version in 2..=9 {
            let answer = bench.call(version, commit("t", 1, i64::from(version), "mine")).await;
            assert_eq!(answer.topics[0].partitions[0].error_code, 0, "v{version}");
            let committed = (1, i64::from(version), "mine".to_owned());
            for version in 1..=9 {
                let asked = positions(&bench, version, Some(vec![1, 2])).await;
                let nothing = (2, -1, String::new());
                assert_eq!(asked, [committed.clone(), nothing], "v{version}");
                if version >= 2 {
                    let all = positions(&bench, version, None).await;
                    assert_eq!(all, std::slice::from_ref(&committed));
                }
            }
        }
    }

    #[tokio::test]
    async fn a_commit_is_refused_partition_by_partition() {
        let bench = Bench::start().await;
        bench.topic("t", 1).await;
        let code = async |request: OffsetCommitRequest| {
            bench.call(9, request).await.topics[0].partitions[0].error_code
        };
        assert_eq!(code(commit("t", 1, 0, "")).await, 3, "no such partition");
        assert_eq!(code(commit("nowhere", 0, 0, "")).await, 3, "no such topic");
        assert_eq!(code(commit("t", 0, 0, &"x".repeat(4097))).await, 12);
        assert_eq!(code(commit("t", 0, 0, "").with_generation_id_or_member_epoch(3)).await, 69);
        assert_eq!(code(commit("t", 0, 5, &"x".repeat(4096))).await, 0);
        assert_eq!(positions(&bench, 9, None).await[0].1, 5);
    }

    #[tokio::test]
    async fn numbers_that_are_no_offsets_are_told_back() {
        let bench = Bench::start().await;
        bench.topic("t", 1).await;
        for version in [2, 9] {
            for number in [-1, -2, -3, i64::MIN, i64::MAX] {
                let answer = bench.call(version, commit("t", 0, number, "m")).await;
                assert_eq!(answer.topics[0].partitions[0].error_code, 0);
                let told = (0, number, "m".to_owned());
                for version in [1, 9] {
                    let asked = positions(&bench, version, Some(vec![0])).await;
                    assert_eq!(asked, std::slice::from_ref(&told));
                }
                assert_eq!(positions(&bench, 9, None).await, [told]);
            }
        }
    }

    #[tokio::test]
    async fn metadata_is_measured_in_utf_16_units() {
        let bench = Bench::start().await;
        bench.topic("t", 1).await;
        for (text, units) in [("x", 1), ("\u{e9}", 1), ("\u{20ac}", 1), ("\u{1f600}", 2)] {
            let code = async |metadata: String| {
                let answer = bench.call(9, commit("t", 0, 1, &metadata)).await;
                answer.topics[0].partitions[0].error_code
            };
            assert_eq!(code(text.repeat(4096 / units)).await, 0, "{text}");
            assert_eq!(code(text.repeat(4096 / units + 1)).await, 12, "{text}");
        }
    }

    #[tokio::test]
    async fn a_generation_of_a_group_that_is_not_there_has_kafkas_code() {
        let bench = Bench::start().await;
        bench.topic("t", 1).await;
        for version in 2..=9 {
            for (generation, code) in [(0, 22), (7, 22), (-1, 0)] {
                let group = wire_text(&format!("g{version}{generation}")).into();
                let request = commit("t", 0, 1, "")
                    .with_group_id(group)
                    .with_generation_id_or_member_epoch(generation);
                let code = if version >= 9 && code == 22 { 69 } else { code };
                let answer = bench.call(version, request).await;
                assert_eq!(answer.topics[0].partitions[0].error_code, code, "v{version}");
            }
        }
    }

    #[tokio::test]
    async fn a_group_that_is_named_twice_is_answered_twice_and_whole_once() {
        let bench = Bench::start().await;
        bench.topic("t", 2).await;
        bench.call(9, commit("t", 1, 7, "")).await;
        let group = |indexes: Option<Vec<i32>>| {
            let topics = indexes.map(|indexes| {
                let topic = OffsetFetchRequestTopics::default().with_name(wire_text("t").into());
                vec![topic.with_partition_indexes(indexes)]
            });
            OffsetFetchRequestGroup::default()
                .with_group_id(wire_text("g").into())
                .with_topics(topics)
        };
        let groups = vec![group(Some(vec![0])), group(None), group(Some(vec![1])), group(None)];
        let answer = bench.call(9, OffsetFetchRequest::default().with_groups(groups)).await;
        let told: Vec<_> = answer
            .groups
            .iter()
            .flat_map(|group| &group.topics[0].partitions)
            .map(|partition| (partition.partition_index, partition.committed_offset))
            .collect();
        assert_eq!(told, [(0, -1), (1, 7), (1, 7)]);
    }
}
