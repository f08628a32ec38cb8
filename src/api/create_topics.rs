//! CreateTopics (key 19), v2-7: creates topics.
//!
//! v4 lets the broker choose counts with -1, v5 returns the configs (KIP-525), v7 the topic id.
//! One machine keeps one replica: a replication factor of -1 or 1 is right, a larger one is refused
//! with error 38 as by a Kafka of one broker. `timeout_ms` is not needed. Gaps: none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::{ApiKey, CreateTopicsRequest, CreateTopicsResponse};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::access::Creatable;
use super::call::{Api, Outcome, first_error};
use super::error::Refused;
use super::{Context, Request};
use crate::metadata::Topic;
use crate::security::{Authorized, Denied, Resource, op};

pub(super) const API: Api = Api::ordered(ApiKey::CreateTopics, 2..=7);

/// The most partitions that one request may make, as in Kafka: each costs memory and files, and one
/// frame has room for many topics.
pub(super) const NEW_PARTITIONS_MAX: u64 = 10_000;

/// A request that asks for more partitions than one may.
pub(super) fn too_many(asked: u64) -> Refused {
    let reason = format!(
        "Excessively large number of partitions per request: {asked} are asked for, at most \
         {NEW_PARTITIONS_MAX} may be. Ask for the others in further requests."
    );
    Refused::new(ResponseError::PolicyViolation, reason)
}

impl Outcome for CreateTopicsResponse {
    fn error(&self) -> i16 {
        first_error(self.topics.iter().map(|topic| topic.error_code))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let repeated = super::repeated(body.topics.iter().map(|topic| topic.name.as_str()));
    let access = ctx.access(request);
    let cluster = access.cluster::<op::Create>();
    let once = body.topics.iter().filter(|topic| !repeated.contains(topic.name.as_str()));
    let permissions = once.map(|topic| {
        let creatable = access.creatable(&cluster, &topic.name);
        let shows_configs = access.may::<op::DescribeConfigs>(Resource::Topic(&topic.name));
        (topic.name.as_str(), Permission { topic, creatable, shows_configs })
    });
    let permissions: BTreeMap<&str, Permission<'_>> = permissions.collect();
    let allowed = permissions.values().filter(|permission| permission.creatable.is_ok());
    let sum = allowed.map(|permission| partition_count(ctx, permission.topic)).sum();
    let mut answered = BTreeSet::new();
    let mut results = Vec::with_capacity(body.topics.len());
    for topic in &body.topics {
        if !answered.insert(topic.name.as_str()) {
            continue;
        }
        let permission = permissions.get(topic.name.as_str());
        let outcome = match permission.map(|permission| &permission.creatable) {
            None => Err(Refused::new(ResponseError::InvalidRequest, "Duplicate topic name.")),
            Some(Err(denied)) => Err((*denied).into()),
            Some(Ok(_)) if sum > NEW_PARTITIONS_MAX => Err(too_many(sum)),
            Some(Ok(creatable)) => create(ctx, creatable, topic, body.validate_only).await,
        };
        let shows_configs = permission.is_some_and(|permission| permission.shows_configs);
        let mut result = answer(ctx, request.version, topic, outcome, shows_configs);
        // A topic that was only checked has no id yet.
        if body.validate_only {
            result.topic_id = Uuid::nil();
        }
        results.push(result);
    }
    CreateTopicsResponse::default().with_topics(results)
}

/// What a client may do with the name of one topic of its request.
struct Permission<'a> {
    topic: &'a CreatableTopic,
    creatable: Result<Authorized<Creatable<'a>, op::Create>, Denied>,
    /// As in Kafka, a new topic's configs are told to those who may describe them.
    shows_configs: bool,
}

/// How many partitions a topic counts for in the sum of its request, sound or not.
fn partition_count(ctx: &Context, asked: &CreatableTopic) -> u64 {
    match asked.num_partitions {
        _ if !asked.assignments.is_empty() => asked.assignments.len() as u64,
        -1 => ctx.config.num_partitions.into(),
        count => u64::try_from(count).unwrap_or(0),
    }
}

async fn create(
    ctx: &Context,
    creatable: &Authorized<Creatable<'_>, op::Create>,
    asked: &CreatableTopic,
    validate_only: bool,
) -> Result<Arc<Topic>, Refused> {
    let (partitions, configs) = (partitions(ctx, asked)?, configs(asked)?);
    let topic = creatable.create(partitions, configs, validate_only).await?;
    if !validate_only {
        tracing::info!(topic = %topic.name, partitions = topic.partitions, "topic created");
    }
    Ok(topic)
}

/// How many partitions are asked for: by number, by a manual assignment, or `None` for the
/// broker's choice.
fn partitions(ctx: &Context, asked: &CreatableTopic) -> Result<Option<u32>, Refused> {
    if asked.assignments.is_empty() {
        match asked.replication_factor {
            -1 | 1 => {}
            2.. => {
                let reason = format!(
                    "Replication factor is {}, but there is 1 broker; use 1, or -1 for the default.",
                    asked.replication_factor
                );
                return Err(Refused::new(ResponseError::InvalidReplicationFactor, reason));
            }
            _ => {
                let reason = "Replication factor must be larger than 0, or -1 for the default.";
                return Err(Refused::new(ResponseError::InvalidReplicationFactor, reason));
            }
        }
        return match u32::try_from(asked.num_partitions) {
            Ok(count @ 1..) => Ok(Some(count)),
            Err(_) if asked.num_partitions == -1 => Ok(None),
            _ => Err(Refused::new(
                ResponseError::InvalidPartitions,
                "Number of partitions must be larger than 0, or -1 for the default.",
            )),
        };
    }
    if asked.num_partitions != -1 || asked.replication_factor != -1 {
        return Err(Refused::new(
            ResponseError::InvalidRequest,
            "A manual partition assignment was specified, but the number of partitions or the replication factor was not set to -1.",
        ));
    }
    let mut indexes: Vec<i32> = asked.assignments.iter().map(|a| a.partition_index).collect();
    indexes.sort_unstable();
    if !indexes.iter().copied().eq(0..indexes.len() as i32) {
        return Err(Refused::new(
            ResponseError::InvalidReplicaAssignment,
            "Partitions of a manual assignment must be numbered from 0 without gaps.",
        ));
    }
    let node = ctx.config.node_id;
    let misplaced = asked.assignments.iter().find(|a| {
        let [only] = a.broker_ids.as_slice() else { return true };
        only.0 != node
    });
    if let Some(misplaced) = misplaced {
        return Err(Refused::new(
            ResponseError::InvalidReplicaAssignment,
            format!(
                "Partition {} must be assigned to broker {node} alone: there is no other.",
                misplaced.partition_index
            ),
        ));
    }
    Ok(Some(indexes.len() as u32))
}

fn configs(asked: &CreatableTopic) -> Result<BTreeMap<String, String>, Refused> {
    let pairs = asked.configs.iter().map(|config| match &config.value {
        Some(value) => Ok((config.name.to_string(), value.to_string())),
        None => Err(Refused::new(
            ResponseError::InvalidConfig,
            format!("Null value not supported for topic config: {}", config.name),
        )),
    });
    pairs.collect()
}

fn answer(
    ctx: &Context,
    version: i16,
    asked: &CreatableTopic,
    outcome: Result<Arc<Topic>, Refused>,
    shows_configs: bool,
) -> CreatableTopicResult {
    let answer = CreatableTopicResult::default().with_name(asked.name.clone());
    match outcome {
        Ok(topic) => {
            let answer = answer.with_error_message(None);
            let answer = match (shows_configs, version) {
                (true, _) => answer
                    .with_num_partitions(topic.partitions as i32)
                    .with_replication_factor(1)
                    .with_configs(Some(super::describe_configs::created(ctx, &topic))),
                (false, 5..) => answer
                    .with_topic_config_error_code(ResponseError::TopicAuthorizationFailed.code()),
                (false, _) => answer,
            };
            if version >= 7 { answer.with_topic_id(topic.id.0) } else { answer }
        }
        Err(refused) => answer
            .with_error_code(refused.error.code())
            .with_error_message(Some(StrBytes::from_string(refused.reason))),
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::BrokerId;
    use kafka_protocol::messages::create_topics_request::{
        CreatableReplicaAssignment, CreatableTopicConfig,
    };

    use super::*;
    use crate::api::tests::fixture::Bench;

    fn topic(name: &str, partitions: i32, replicas: i16) -> CreatableTopic {
        CreatableTopic::default()
            .with_name(super::super::wire_text(name).into())
            .with_num_partitions(partitions)
            .with_replication_factor(replicas)
    }

    fn ask(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
        CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(1000)
    }

    #[tokio::test]
    async fn every_version_creates_and_tells_what_it_knows() {
        let bench = Bench::start().await;
        for version in 2..=7 {
            let name = format!("v{version}");
            let answer = bench.call(version, ask(vec![topic(&name, 3, 1)])).await;
            let [made] = answer.topics.as_slice() else { panic!("{:?}", answer.topics) };
            assert_eq!((made.error_code, made.name.as_str()), (0, name.as_str()));
            let stored = bench.metadata.image().topic(&name).unwrap().clone();
            assert_eq!(stored.partitions, 3);
            if version >= 5 {
                assert_eq!((made.num_partitions, made.replication_factor), (3, 1));
                let configs = made.configs.as_ref().unwrap();
                assert!(configs.iter().any(|c| c.name.as_str() == "cleanup.policy"));
            }
            if version >= 7 {
                assert_eq!(made.topic_id, stored.id.0);
            }
        }
    }

    #[tokio::test]
    async fn counts_that_cannot_be_are_refused_with_kafkas_codes() {
        let bench = Bench::start().await;
        bench.topic("there", 1).await;
        let cases = [
            (topic("a", 0, 1), 37),
            (topic("b", -2, 1), 37),
            (topic("c", 1, 0), 38),
            (topic("d", 1, 2), 38),
            (topic("e", -1, -1), 0),
            (topic("there", 1, 1), 36),
            (topic("../x", 1, 1), 17),
        ];
        for (asked, code) in cases {
            let answer = bench.call(5, ask(vec![asked.clone()])).await;
            assert_eq!(answer.topics[0].error_code, code, "{asked:?}");
            assert_eq!(answer.topics[0].error_message.is_some(), code != 0);
        }
    }

    #[tokio::test]
    async fn manual_assignments_must_name_this_broker_without_gaps() {
        let bench = Bench::start().await;
        let assigned = |name: &str, places: &[(i32, i32)]| {
            let assignments = places.iter().map(|(index, broker)| {
                CreatableReplicaAssignment::default()
                    .with_partition_index(*index)
                    .with_broker_ids(vec![BrokerId(*broker)])
            });
            topic(name, -1, -1).with_assignments(assignments.collect())
        };
        let cases = [
            (assigned("a", &[(0, 1), (1, 1)]), 0),
            (assigned("b", &[(0, 1), (2, 1)]), 39),
            (assigned("c", &[(0, 7)]), 39),
            (assigned("d", &[(0, 1)]).with_num_partitions(1), 42),
        ];
        for (asked, code) in cases {
            let answer = bench.call(5, ask(vec![asked.clone()])).await;
            assert_eq!(answer.topics[0].error_code, code, "{asked:?}");
        }
        assert_eq!(bench.metadata.image().topic("a").unwrap().partitions, 2);
    }

    #[tokio::test]
    async fn a_request_for_too_many_partitions_in_all_creates_none() {
        let bench = Bench::with(|config| config.num_partitions = 2).await;
        let codes = async |topics: Vec<CreatableTopic>, validate_only: bool| {
            let request = ask(topics).with_validate_only(validate_only);
            let answer = bench.call(7, request).await;
            answer.topics.iter().map(|topic| topic.error_code).collect::<Vec<_>>()
        };
        let large = || topic("a", 9_998, 1);
        assert_eq!(codes(vec![large(), topic("b", 3, 1)], false).await, [44, 44]);
        assert_eq!(
            codes(vec![topic("a", i32::MAX, 1), topic("b", i32::MAX, 1)], false).await,
            [44, 44]
        );
        let names = || (0..100).map(|at| topic(&format!("t{at}"), 101, 1)).collect();
        assert_eq!(codes(names(), false).await, [44; 100]);
        assert_eq!(bench.metadata.image().topics().filter(|it| !it.internal).count(), 0);
        // The default counts, what is below it does not, and names that come twice are refused anyway.
        assert_eq!(
            codes(vec![large(), topic("b", -1, 1), topic("c", -7, 1)], true).await,
            [0, 0, 37]
        );
        assert_eq!(codes(vec![large(), large(), topic("b", 3, 1)], true).await, [42, 0]);
    }

    #[tokio::test]
    async fn validation_alone_creates_nothing() {
        let bench = Bench::start().await;
        let answer = bench.call(7, ask(vec![topic("a", 2, 1)]).with_validate_only(true)).await;
        assert_eq!((answer.topics[0].error_code, answer.topics[0].num_partitions), (0, 2));
        assert!(answer.topics[0].topic_id.is_nil());
        assert!(bench.metadata.image().topic("a").is_none());
    }

    #[tokio::test]
    async fn doubled_names_and_wrong_configs_are_refused() {
        let bench = Bench::start().await;
        let answer = bench.call(5, ask(vec![topic("a", 1, 1), topic("a", 1, 1)])).await;
        let codes: Vec<i16> = answer.topics.iter().map(|t| t.error_code).collect();
        assert_eq!(codes, [42]);
        let config = |name: &'static str, value: Option<&'static str>| {
            let config = CreatableTopicConfig::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(value.map(StrBytes::from_static_str));
            topic("b", 1, 1).with_configs(vec![config])
        };
        for (asked, code) in [
            (config("max.message.bytes", None), 40),
            (config("no.such.config", Some("1")), 40),
            (config("max.message.bytes", Some("2000")), 0),
        ] {
            let answer = bench.call(5, ask(vec![asked.clone()])).await;
            assert_eq!(answer.topics[0].error_code, code, "{asked:?}");
        }
    }
}
