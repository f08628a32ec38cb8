//! Metadata (key 3), v0-13: brokers, topics and the leaders of their partitions.
//!
//! v0 asks for all topics with an empty list, later versions with a null one. v4 makes
//! auto-creation a choice, v8 adds authorized operations, v10 topic ids (KIP-516), v12 asks by id.
//! An auto-created topic is there in the same answer, where Kafka first says that it has no leader.
//! Gaps: v8's authorized operations are all there are, since there are no ACLs yet.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{ApiKey, BrokerId, MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::StrBytes;

use super::call::{Api, Outcome, first_error};
use super::error::{self, Coded};
use super::{Context, Request, wire_name};
use crate::catalog::{CatalogError, NewTopic, Topic};
use crate::types::{LogId, PartitionId, TopicId, TopicName};

pub(super) const API: Api = Api::ordered(ApiKey::Metadata, 0..=13);

/// Operations on a topic, as bits of Kafka's `AclOperation` codes: read, write, create, delete,
/// alter, describe, describe configs, alter configs.
pub(super) const TOPIC_OPERATIONS: i32 = bits(&[3, 4, 5, 6, 7, 8, 10, 11]);
/// Operations on the cluster: create, alter, describe, cluster action, describe configs, alter
/// configs, idempotent write.
pub(super) const CLUSTER_OPERATIONS: i32 = bits(&[5, 7, 8, 9, 10, 11, 12]);

const fn bits(operations: &[u8]) -> i32 {
    let (mut at, mut bits) = (0, 0);
    while at < operations.len() {
        bits |= 1 << operations[at];
        at += 1;
    }
    bits
}

impl Outcome for MetadataResponse {
    fn error(&self) -> i16 {
        first_error(self.topics.iter().map(|topic| topic.error_code))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: MetadataRequest,
) -> MetadataResponse {
    let version = request.version;
    let brokers = ctx.placement.brokers().into_iter().map(|broker| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(broker.id))
            .with_host(StrBytes::from_string(broker.host))
            .with_port(i32::from(broker.port))
    });
    let mut response = MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_cluster_id(Some(StrBytes::from_string(ctx.cluster_id.clone())))
        .with_controller_id(BrokerId(ctx.config.node_id));
    if (8..=10).contains(&version) && body.include_cluster_authorized_operations {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    response.topics = topics(ctx, version, &body).await;
    if version >= 8 && body.include_topic_authorized_operations {
        for topic in response.topics.iter_mut().filter(|topic| topic.error_code == error::NONE) {
            topic.topic_authorized_operations = TOPIC_OPERATIONS;
        }
    }
    response
}

async fn topics(ctx: &Context, version: i16, body: &MetadataRequest) -> Vec<MetadataResponseTopic> {
    let asked = match &body.topics {
        None => None,
        Some(topics) if topics.is_empty() && version == 0 => None,
        Some(topics) => Some(topics),
    };
    let Some(asked) = asked else {
        return ctx.catalog.snapshot().topics().map(|topic| found(ctx, topic)).collect();
    };
    let may_create =
        ctx.config.auto_create_topics && (version < 4 || body.allow_auto_topic_creation);
    let mut seen = BTreeSet::new();
    let mut answers = Vec::with_capacity(asked.len());
    for topic in asked {
        let name = topic.name.as_ref().map(|name| name.as_str());
        if !seen.insert((name, topic.topic_id)) {
            continue;
        }
        answers.push(match name {
            Some(name) => by_name(ctx, name, may_create).await,
            None => by_id(ctx, TopicId(topic.topic_id)),
        });
    }
    answers
}

async fn by_name(ctx: &Context, name: &str, may_create: bool) -> MetadataResponseTopic {
    let refused = |error: ResponseError| {
        MetadataResponseTopic::default()
            .with_error_code(error.code())
            .with_name(Some(super::wire_text(name).into()))
    };
    if let Some(topic) = ctx.catalog.snapshot().topic(name) {
        return found(ctx, topic);
    }
    if let Err(illegal) = TopicName::parse(name) {
        return refused(illegal.kafka());
    }
    if !may_create {
        return refused(ResponseError::UnknownTopicOrPartition);
    }
    let topic = NewTopic { name: name.to_owned(), partitions: None, configs: BTreeMap::new() };
    match ctx.catalog.create(topic, false).await {
        Ok(topic) => {
            tracing::info!(topic = name, partitions = topic.partitions, "topic auto-created");
            found(ctx, &topic)
        }
        // Another client asked for it at the same time.
        Err(CatalogError::Exists(_)) => match ctx.catalog.snapshot().topic(name) {
            Some(topic) => found(ctx, topic),
            None => refused(ResponseError::LeaderNotAvailable),
        },
        Err(error) => {
            tracing::warn!(topic = name, %error, "topic could not be auto-created");
            refused(error.kafka())
        }
    }
}

fn by_id(ctx: &Context, id: TopicId) -> MetadataResponseTopic {
    match ctx.catalog.snapshot().topic_by_id(id) {
        Some(topic) => found(ctx, topic),
        None => MetadataResponseTopic::default()
            .with_error_code(ResponseError::UnknownTopicId.code())
            .with_name(None)
            .with_topic_id(id.0),
    }
}

fn found(ctx: &Context, topic: &Topic) -> MetadataResponseTopic {
    let partitions = (0..topic.partitions).map(|index| {
        let partition = PartitionId(index);
        let (leader, epoch) = ctx.placement.leader(LogId { topic: topic.id, partition });
        MetadataResponsePartition::default()
            .with_partition_index(partition.to_wire())
            .with_leader_id(BrokerId(leader))
            .with_leader_epoch(epoch.0)
            .with_replica_nodes(vec![BrokerId(leader)])
            .with_isr_nodes(vec![BrokerId(leader)])
    });
    MetadataResponseTopic::default()
        .with_name(Some(wire_name(&topic.name)))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.internal)
        .with_partitions(partitions.collect())
}
