//! AlterConfigs (key 33), v0-2: replaces the configs of topics and brokers; what it does not name is
//! unset.
//!
//! v2 is flexible. Kafka has deprecated it in favour of IncrementalAlterConfigs (KIP-339), which
//! shares this file's rules. A topic's logs follow at once. Those of the broker's configs that may
//! change while it runs (KIP-226) are changed for this broker, by its id, or for all of them, by the
//! empty name; another one is refused with error 42, as a read-only config of Kafka.
//! Gaps: loggers, groups and client metrics (types 8, 16, 32) are refused, and so is a broker config
//! that does not exist, which Kafka keeps.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse, ApiKey};

use super::access::Unreachable;
use super::call::{Api, Outcome, first_error};
use super::describe_configs::{BROKER, CLIENT_METRICS, GROUP, LOGGER, TOPIC};
use super::error::Refused;
use super::{Context, Request, wire_text};
use crate::config::{Config, DynamicKey};
use crate::metadata::{BrokerScope, ConfigChange, ConfigChanges, MetadataError};
use crate::security::op;

pub(super) const API: Api = Api::ordered(ApiKey::AlterConfigs, 0..=2);

impl Outcome for AlterConfigsResponse {
    fn error(&self) -> i16 {
        first_error(self.responses.iter().map(|resource| resource.error_code))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let repeated =
        repeated(body.resources.iter().map(|it| (it.resource_type, it.resource_name.as_str())));
    let mut responses = Vec::with_capacity(body.resources.len());
    for resource in &body.resources {
        let (kind, name) = (resource.resource_type, resource.resource_name.as_str());
        let pairs = resource.configs.iter().map(|config| {
            let value = config.value.as_ref().map(|value| value.to_string());
            (config.name.as_str(), value)
        });
        let outcome = if repeated.contains(&(kind, name)) {
            Err(Refused::new(ResponseError::InvalidRequest, REPEATED))
        } else {
            match replacement(pairs.collect()) {
                Ok(all) => {
                    let changes = ConfigChanges::All(all);
                    alter(ctx, request, (kind, name), changes, body.validate_only).await
                }
                Err(refused) => Err(refused),
            }
        };
        let response = AlterConfigsResourceResponse::default()
            .with_resource_type(kind)
            .with_resource_name(resource.resource_name.clone());
        responses.push(match outcome {
            Ok(()) => response.with_error_message(None),
            Err(refused) => response
                .with_error_code(refused.error.code())
                .with_error_message(Some(wire_text(&refused.reason))),
        });
    }
    AlterConfigsResponse::default().with_responses(responses)
}

/// What a resource that is named twice is told.
pub(super) const REPEATED: &str = "Each resource must appear at most once.";

/// The resources that a request has more than once.
pub(super) fn repeated<'a>(
    resources: impl Iterator<Item = (i8, &'a str)>,
) -> BTreeSet<(i8, &'a str)> {
    let mut once = BTreeSet::new();
    resources.filter(|resource| !once.insert(*resource)).collect()
}

/// Checks that no key is named twice and that those in `nulls` are none.
pub(super) fn checked_keys(keys: &[&str], nulls: &[&str]) -> Result<(), Refused> {
    if !nulls.is_empty() {
        let reason = format!("Null value not supported for : {}", nulls.join(","));
        return Err(Refused::new(ResponseError::InvalidRequest, reason));
    }
    let mut once = BTreeSet::new();
    if keys.iter().all(|key| once.insert(*key)) {
        return Ok(());
    }
    Err(Refused::new(ResponseError::InvalidRequest, "Error due to duplicate config keys"))
}

fn replacement(pairs: Vec<(&str, Option<String>)>) -> Result<BTreeMap<String, String>, Refused> {
    let keys: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
    let nulls = pairs.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name);
    checked_keys(&keys, &nulls.collect::<Vec<_>>())?;
    Ok(pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.unwrap_or_default()))
        .collect())
}

/// Changes the configs of one resource.
pub(super) async fn alter(
    ctx: &Context,
    request: &Request,
    (kind, name): (i8, &str),
    changes: ConfigChanges,
    validate_only: bool,
) -> Result<(), Refused> {
    let invalid = |reason: String| Err(Refused::new(ResponseError::InvalidRequest, reason));
    let access = ctx.access(request);
    match kind {
        TOPIC => {
            let topics = access.topics();
            let topic = match topics.named::<op::AlterConfigs>(name) {
                Ok(topic) => topic,
                Err(Unreachable::UnknownName) if name.is_empty() => {
                    return invalid("Default topic resources are not allowed.".to_owned());
                }
                Err(unreachable) => return Err(unreachable.refused(name)),
            };
            match topic.alter_configs(changes, validate_only).await {
                Ok(()) if validate_only => Ok(()),
                Ok(()) => {
                    tracing::info!(topic = %topic.name, "topic configs changed");
                    Ok(())
                }
                // Deleted since it was looked up.
                Err(MetadataError::UnknownId(_)) => {
                    Err(MetadataError::UnknownName(name.to_owned()).into())
                }
                Err(refused) => Err(refused.into()),
            }
        }
        BROKER => {
            let node = ctx.config.node_id;
            // The empty name means all brokers.
            match name.parse::<i32>() {
                Err(_) if !name.is_empty() => {
                    return invalid(format!("Node id must be an integer, but it is: {name}"));
                }
                Ok(other) if other != node => {
                    return invalid(format!(
                        "Unexpected broker id, expected {node}, but received {name}"
                    ));
                }
                _ => {}
            }
            let cluster = access.cluster::<op::AlterConfigs>()?;
            let fixed = not_dynamic(&changes);
            if !fixed.is_empty() {
                return invalid(format!(
                    "Cannot update these configs dynamically: [{}]; set them in the broker's \
                     configuration and restart it",
                    fixed.join(", ")
                ));
            }
            let scope = match name {
                "" => BrokerScope::Cluster,
                _ => BrokerScope::Broker(node),
            };
            Ok(cluster.alter_broker_configs(scope, changes, validate_only).await?)
        }
        other => {
            match other {
                GROUP => {
                    let _group = access.group::<op::AlterConfigs>(name)?;
                }
                LOGGER | CLIENT_METRICS => {
                    let _cluster = access.cluster::<op::AlterConfigs>()?;
                }
                _ => {}
            }
            invalid(format!("Unsupported resource type: {other}"))
        }
    }
}

/// The configs of this broker that are to get a value and cannot while it runs.
fn not_dynamic(changes: &ConfigChanges) -> Vec<&str> {
    let named: Vec<&str> = match changes {
        ConfigChanges::Some(changes) => {
            let given = changes.iter().filter(|(_, change)| **change != ConfigChange::Unset);
            given.map(|(name, _)| name.as_str()).collect()
        }
        ConfigChanges::All(all) => all.keys().map(String::as_str).collect(),
    };
    named
        .into_iter()
        .filter(|name| Config::is_known(name) && DynamicKey::find(name).is_err())
        .collect()
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};

    use super::*;
    use crate::api::tests::fixture::Bench;
    use crate::config::Overlays;

    fn resource(kind: i8, name: &str, configs: &[(&str, Option<&str>)]) -> AlterConfigsResource {
        let configs = configs.iter().map(|(name, value)| {
            AlterableConfig::default().with_name(wire_text(name)).with_value(value.map(wire_text))
        });
        AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(wire_text(name))
            .with_configs(configs.collect())
    }

    async fn codes(bench: &Bench, version: i16, resources: Vec<AlterConfigsResource>) -> Vec<i16> {
        let request = AlterConfigsRequest::default().with_resources(resources);
        let answer = bench.call(version, request).await;
        answer
            .responses
            .iter()
            .map(|resource| {
                assert_eq!(resource.error_message.is_some(), resource.error_code != 0);
                resource.error_code
            })
            .collect()
    }

    #[tokio::test]
    async fn every_version_replaces_all_configs_of_a_topic() {
        let bench = Bench::start().await;
        let topic = bench.topic("t", 1).await;
        let log = bench.metadata.log(topic.id, crate::types::PartitionId(0)).unwrap();
        for version in 0..=2 {
            let bytes = format!("{}", 2000 + version);
            let first = resource(
                TOPIC,
                "t",
                &[("max.message.bytes", Some(&bytes)), ("retention.bytes", Some("5"))],
            );
            assert_eq!(codes(&bench, version, vec![first]).await, [0]);
            assert_eq!(log.config().batch_bytes_max, 2000 + version as u32);
            let second = resource(TOPIC, "t", &[("retention.bytes", Some("6"))]);
            assert_eq!(codes(&bench, version, vec![second]).await, [0]);
            assert_eq!(log.config().batch_bytes_max, 1_048_588);
            assert_eq!(log.config().retention.unwrap().bytes_max, Some(6));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_and_changes_nothing() {
        let bench = Bench::start().await;
        let topic = bench.topic("t", 1).await;
        let cases = [
            (resource(TOPIC, "t", &[("max.message.bytes", Some("many"))]), 40),
            (resource(TOPIC, "t", &[("no.such", Some("1"))]), 40),
            (resource(TOPIC, "t", &[("max.message.bytes", None)]), 42),
            (resource(TOPIC, "t", &[("retention.ms", Some("1")), ("retention.ms", Some("2"))]), 42),
            (resource(TOPIC, "nowhere", &[]), 3),
            (resource(TOPIC, "../x", &[]), 17),
            (resource(TOPIC, "", &[]), 42),
            (resource(BROKER, "1", &[("num.partitions", Some("2"))]), 42),
            (resource(BROKER, "", &[("log.retention.hours", Some("1"))]), 42),
            (resource(BROKER, "", &[("log.retention.ms", Some("soon"))]), 42),
            (resource(BROKER, "", &[("no.such", Some("1"))]), 42),
            (resource(BROKER, "", &[("message.max.bytes", Some("2147483647"))]), 42),
            (resource(BROKER, "1", &[]), 0),
            (resource(BROKER, "9", &[]), 42),
            (resource(BROKER, "x", &[]), 42),
            (resource(8, "1", &[("kafka", Some("INFO"))]), 42),
        ];
        for (asked, code) in cases {
            assert_eq!(codes(&bench, 2, vec![asked.clone()]).await, [code], "{asked:?}");
        }
        let twice = resource(TOPIC, "t", &[("retention.ms", Some("1"))]);
        assert_eq!(codes(&bench, 2, vec![twice.clone(), twice.clone()]).await, [42, 42]);
        let checked = AlterConfigsRequest::default().with_resources(vec![twice]);
        let answer = bench.call(2, checked.with_validate_only(true)).await;
        assert_eq!(answer.responses[0].error_code, 0);
        assert!(bench.metadata.image().topic_by_id(topic.id).unwrap().configs.is_empty());
        assert_eq!(bench.ctx.config.dynamic.load().overlays, Overlays::default());
    }

    #[tokio::test]
    async fn a_brokers_configs_are_replaced_while_it_runs() {
        let bench = Bench::start().await;
        let topic = bench.topic("t", 1).await;
        let log = bench.metadata.log(topic.id, crate::types::PartitionId(0)).unwrap();
        let bytes = [("message.max.bytes", Some("2000")), ("log.retention.bytes", Some("7"))];
        assert_eq!(codes(&bench, 2, vec![resource(BROKER, "", &bytes)]).await, [0]);
        assert_eq!(log.config().batch_bytes_max, 2000);
        assert_eq!(log.config().retention.unwrap().bytes_max, Some(7));
        let own = [("message.max.bytes", Some("3000"))];
        assert_eq!(codes(&bench, 2, vec![resource(BROKER, "1", &own)]).await, [0]);
        assert_eq!(log.config().batch_bytes_max, 3000, "the broker's own beats the cluster's");
        assert_eq!(codes(&bench, 2, vec![resource(BROKER, "", &own[..0])]).await, [0]);
        assert_eq!(log.config().batch_bytes_max, 3000);
        assert_eq!(log.config().retention.unwrap().bytes_max, None, "what is not named is unset");
        assert_eq!(codes(&bench, 2, vec![resource(BROKER, "1", &[])]).await, [0]);
        assert_eq!(log.config().batch_bytes_max, 1_048_588);
    }
}
