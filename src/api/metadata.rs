//! Metadata (key 3), v0-13: brokers, topics and the leaders of their partitions.
//!
//! v0 asks for all topics with an empty list, later versions with a null one. v4 makes
//! auto-creation a choice, v8 adds authorized operations, v10 topic ids (KIP-516), v12 asks by id:
//! one id in a request, and its names say nothing.
//! An auto-created topic is there in the same answer, where Kafka first says that it has no leader.
//! Topics that the client may not describe are left out of all of them, and refused by name and by id.
//! Gaps: none.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{ApiKey, BrokerId, MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::StrBytes;

use super::access::{Access, Cluster, Creatable, Topics, Unreachable};
use super::call::{Api, Outcome, first_error};
use super::error::{self, Coded};
use super::{Context, Request, wire_name, wire_text};
use crate::metadata::placement::Broker;
use crate::metadata::{MetadataError, Topic};
use crate::security::{Authorized, Denied, Resource, op};
use crate::types::{LogId, PartitionId, TopicId, TopicName};

pub(super) const API: Api = Api::ordered(ApiKey::Metadata, 0..=13).repeatable();

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
    let access = ctx.access(request);
    let brokers = ctx.placement.brokers(request.session.listener());
    let told = brokers.iter().map(|broker| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(broker.id))
            .with_host(wire_text(&broker.host))
            .with_port(i32::from(broker.port))
    });
    let mut response = MetadataResponse::default()
        .with_brokers(told.collect())
        .with_cluster_id(Some(StrBytes::from_string(ctx.cluster_id.clone())))
        .with_controller_id(BrokerId(ctx.config.node_id));
    if (8..=10).contains(&version) && body.include_cluster_authorized_operations {
        response.cluster_authorized_operations = access.cluster_operations();
    }
    response.topics = topics(ctx, request, &body).await;
    hide_unreachable_leaders(&mut response.topics, &brokers, version);
    if version >= 8 && body.include_topic_authorized_operations {
        for topic in response.topics.iter_mut().filter(|topic| topic.error_code == error::NONE) {
            let name = topic.name.as_ref().map(|name| name.as_str()).unwrap_or_default();
            topic.topic_authorized_operations = access.operations(Resource::Topic(name));
        }
    }
    response
}

/// A leader that this listener's clients are not told of is no leader to them (KIP-103, KIP-110).
fn hide_unreachable_leaders(
    topics: &mut [MetadataResponseTopic],
    brokers: &[Broker],
    version: i16,
) {
    let is_told = |leader: BrokerId| brokers.iter().any(|broker| broker.id == leader.0);
    let error = match version {
        ..6 => ResponseError::LeaderNotAvailable,
        _ => ResponseError::ListenerNotFound,
    };
    for partition in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        if !is_told(partition.leader_id) {
            partition.error_code = error.code();
            partition.leader_id = BrokerId(-1);
        }
    }
}

async fn topics(
    ctx: &Context,
    request: &Request,
    body: &MetadataRequest,
) -> Vec<MetadataResponseTopic> {
    let (version, access) = (request.version, ctx.access(request));
    let known = access.topics();
    let asked = match &body.topics {
        None => None,
        Some(topics) if topics.is_empty() && version == 0 => None,
        Some(topics) => Some(topics),
    };
    let Some(asked) = asked else {
        return known.all::<op::Describe>().map(|topic| found(ctx, &topic)).collect();
    };
    let has_ids = asked.iter().any(|topic| !topic.topic_id.is_nil());
    if version < 12 && (has_ids || asked.iter().any(|topic| topic.name.is_none())) {
        return asked.iter().map(invalid).collect();
    }
    let may_create =
        ctx.config.auto_create_topics && (version < 4 || body.allow_auto_topic_creation);
    let (mut seen, mut seen_ids) = (BTreeSet::new(), BTreeSet::new());
    let mut answers = Vec::with_capacity(asked.len());
    if has_ids {
        // One id makes it a request by ids, in which names say nothing: Java's Admin leaves them empty.
        let ids = asked.iter().map(|topic| topic.topic_id);
        let ids = ids.filter(|id| !id.is_nil() && seen_ids.insert(*id));
        return ids.map(|id| by_id(ctx, &known, TopicId(id))).collect();
    }
    let mut creating = Creating { access, may_create, cluster: None };
    for topic in asked {
        let Some(name) = topic.name.as_ref().map(|name| name.as_str()) else {
            answers.push(invalid(topic));
            continue;
        };
        if seen.insert(name) {
            answers.push(by_name(ctx, &known, &mut creating, name).await);
        }
    }
    answers
}

/// The answer to a topic without a name and an id, or to one that has what only v12 gives a meaning:
/// Kafka refuses such a request whole.
fn invalid(asked: &MetadataRequestTopic) -> MetadataResponseTopic {
    MetadataResponseTopic::default()
        .with_error_code(ResponseError::InvalidRequest.code())
        .with_name(Some(asked.name.clone().unwrap_or_default()))
        .with_topic_id(asked.topic_id)
}

/// Who may create the topics that a request names and that are not there.
struct Creating<'a> {
    access: Access<'a>,
    /// The broker and the request allow it at all.
    may_create: bool,
    /// Whether the client may create topics in the cluster, once that was asked.
    cluster: Option<Result<Authorized<Cluster<'a>, op::Create>, Denied>>,
}

impl<'a> Creating<'a> {
    /// `None` where no topic is to be created.
    fn creatable(
        &mut self,
        name: &'a str,
    ) -> Option<Result<Authorized<Creatable<'a>, op::Create>, Denied>> {
        let access = self.access;
        self.may_create.then(|| {
            let cluster = self.cluster.get_or_insert_with(|| access.cluster());
            access.creatable(cluster, name)
        })
    }
}

async fn by_name<'a>(
    ctx: &Context,
    known: &Topics<'_>,
    creating: &mut Creating<'a>,
    name: &'a str,
) -> MetadataResponseTopic {
    let refused = |error: ResponseError| {
        MetadataResponseTopic::default()
            .with_error_code(error.code())
            .with_name(Some(super::wire_text(name).into()))
    };
    match known.named::<op::Describe>(name) {
        Ok(topic) => return found(ctx, &topic),
        Err(Unreachable::Denied(denied)) => return refused(denied.kafka()),
        Err(Unreachable::UnknownName | Unreachable::UnknownId) => {}
    }
    let creatable = match creating.creatable(name) {
        Some(Ok(creatable)) => Some(creatable),
        Some(Err(_)) => return refused(ResponseError::TopicAuthorizationFailed),
        None => None,
    };
    if let Err(illegal) = TopicName::parse(name) {
        return refused(illegal.kafka());
    }
    let Some(creatable) = creatable else {
        return refused(ResponseError::UnknownTopicOrPartition);
    };
    match creatable.create(None, BTreeMap::new(), false).await {
        Ok(topic) => {
            tracing::info!(topic = name, partitions = topic.partitions, "topic auto-created");
            found(ctx, &topic)
        }
        // Another client asked for it at the same time.
        Err(MetadataError::Exists(_)) => {
            match creating.access.topics().named::<op::Describe>(name) {
                Ok(topic) => found(ctx, &topic),
                Err(_) => refused(ResponseError::LeaderNotAvailable),
            }
        }
        Err(error) => {
            tracing::warn!(topic = name, %error, "topic could not be auto-created");
            refused(error.kafka())
        }
    }
}

fn by_id(ctx: &Context, known: &Topics<'_>, id: TopicId) -> MetadataResponseTopic {
    match known.with_id::<op::Describe>(id) {
        Ok(topic) => found(ctx, &topic),
        Err(unreachable) => MetadataResponseTopic::default()
            .with_error_code(unreachable.kafka().code())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::fixture::Bench;

    fn named(name: &'static str) -> MetadataRequestTopic {
        MetadataRequestTopic::default().with_name(Some(StrBytes::from_static_str(name).into()))
    }

    fn ask(topics: Option<Vec<MetadataRequestTopic>>) -> MetadataRequest {
        MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false)
    }

    #[tokio::test]
    async fn every_version_describes_the_broker_and_the_topic() {
        let bench = Bench::start().await;
        let topic = bench.topic("clicks", 3).await;
        for version in 0..=13 {
            let mut request = ask(Some(vec![named("clicks")]));
            request.allow_auto_topic_creation = version < 4;
            let answer = bench.call(version, request).await;
            assert_eq!(answer.brokers[0].host.as_str(), "broker.test");
            assert_eq!(answer.brokers[0].port, 9092);
            if version >= 1 {
                assert_eq!(answer.controller_id, BrokerId(1));
            }
            if version >= 2 {
                assert_eq!(answer.cluster_id.as_deref(), Some(bench.ctx.cluster_id.as_str()));
            }
            let [found] = answer.topics.as_slice() else { panic!("{:?}", answer.topics) };
            assert_eq!((found.error_code, found.partitions.len()), (0, 3));
            assert_eq!(found.partitions[2].leader_id, BrokerId(1));
            assert_eq!(found.partitions[2].isr_nodes, vec![BrokerId(1)]);
            if version >= 10 {
                assert_eq!(found.topic_id, topic.id.0);
            }
        }
    }

    #[tokio::test]
    async fn null_means_all_topics_and_empty_means_none_but_in_v0() {
        let bench = Bench::start().await;
        bench.topic("a", 1).await;
        bench.topic("b", 1).await;
        let names = |answer: &MetadataResponse| {
            answer.topics.iter().map(|t| t.name.clone().unwrap().to_string()).collect::<Vec<_>>()
        };
        let mut all = ask(Some(Vec::new()));
        all.allow_auto_topic_creation = true;
        let topics = ["__consumer_offsets", "a", "b"];
        assert_eq!(names(&bench.call(0, all.clone()).await), topics);
        assert!(names(&bench.call(1, all).await).is_empty());
        assert_eq!(names(&bench.call(9, ask(None)).await), topics);
    }

    #[tokio::test]
    async fn unknown_topics_are_created_only_when_both_sides_allow_it() {
        let bench = Bench::start().await;
        let mut request = ask(Some(vec![named("fresh")]));
        assert_eq!(bench.call(12, request.clone()).await.topics[0].error_code, 3);
        request.allow_auto_topic_creation = true;
        let answer = bench.call(12, request.clone()).await;
        assert_eq!((answer.topics[0].error_code, answer.topics[0].partitions.len()), (0, 1));

        let bench = Bench::with(|config| config.auto_create_topics = false).await;
        assert_eq!(bench.call(12, request).await.topics[0].error_code, 3);
    }

    #[tokio::test]
    async fn names_are_checked_and_ids_resolved() {
        let bench = Bench::start().await;
        let topic = bench.topic("clicks", 1).await;
        let by_id = |id| MetadataRequestTopic::default().with_name(None).with_topic_id(id);
        let unknown = TopicId::random().0;
        let asked = vec![by_id(topic.id.0), by_id(unknown), by_id(unknown)];
        let answer = bench.call(12, ask(Some(asked))).await;
        let codes: Vec<i16> = answer.topics.iter().map(|topic| topic.error_code).collect();
        assert_eq!(codes, [0, 100]);
        assert_eq!(answer.topics[0].name.as_ref().unwrap().as_str(), "clicks");
        assert_eq!((answer.topics[1].name.clone(), answer.topics[1].topic_id), (None, unknown));
        let asked = vec![named("../x"), named(""), MetadataRequestTopic::default().with_name(None)];
        let answer = bench.call(12, ask(Some(asked))).await;
        let codes: Vec<i16> = answer.topics.iter().map(|topic| topic.error_code).collect();
        assert_eq!(codes, [17, 17, 42]);
    }

    #[tokio::test]
    async fn the_id_counts_where_a_topic_has_both() {
        let bench = Bench::start().await;
        let (clicks, views) = (bench.topic("clicks", 1).await, bench.topic("views", 1).await);
        let both = |name, id: TopicId| named(name).with_topic_id(id.0);
        let unknown = TopicId::random();
        for version in [12, 13] {
            for (asked, told) in [
                (vec![both("", clicks.id)], vec![Some("clicks")]),
                (vec![both("views", clicks.id)], vec![Some("clicks")]),
                (vec![both("", clicks.id), both("x", clicks.id)], vec![Some("clicks")]),
                (vec![named("views"), both("", clicks.id)], vec![Some("clicks")]),
                (
                    vec![both("", views.id), both("", clicks.id)],
                    vec![Some("views"), Some("clicks")],
                ),
                (vec![both("clicks", unknown)], vec![None]),
            ] {
                let answer = bench.call(version, ask(Some(asked))).await;
                let names: Vec<_> = answer
                    .topics
                    .iter()
                    .map(|topic| topic.name.as_ref().map(|it| it.as_str()))
                    .collect();
                assert_eq!(names, told);
            }
        }
        // Before v12 an id in a request is an error, and then none of its topics is answered.
        for version in [10, 11] {
            let asked = vec![named("views"), both("", clicks.id)];
            let answer = bench.call(version, ask(Some(asked))).await;
            let codes: Vec<i16> = answer.topics.iter().map(|topic| topic.error_code).collect();
            assert_eq!(codes, [42, 42], "v{version}");
        }
    }

    #[tokio::test]
    async fn operations_are_told_only_when_asked() {
        let bench = Bench::start().await;
        bench.topic("clicks", 1).await;
        let mut request = ask(Some(vec![named("clicks")]));
        let silent = bench.call(10, request.clone()).await;
        assert_eq!(silent.cluster_authorized_operations, i32::MIN);
        assert_eq!(silent.topics[0].topic_authorized_operations, i32::MIN);
        request.include_topic_authorized_operations = true;
        request.include_cluster_authorized_operations = true;
        let told = bench.call(10, request).await;
        assert_eq!(told.topics[0].topic_authorized_operations, 3576);
        assert_eq!(told.cluster_authorized_operations, 8096);
    }
}
