//! IncrementalAlterConfigs (key 44), v0-1: changes single configs of topics and brokers (KIP-339).
//!
//! Sets, unsets, adds to and takes from lists; v1 is flexible. What holds for each resource is in
//! `alter_configs`.
//! Gaps: loggers, groups and client metrics (types 8, 16, 32) are refused.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{
    ApiKey, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};

use super::alter_configs::{REPEATED, alter, checked_keys, repeated};
use super::call::{Api, Outcome, first_error};
use super::error::Refused;
use super::{Context, Request, wire_text};
use crate::metadata::{ConfigChange, ConfigChanges};

pub(super) const API: Api = Api::ordered(ApiKey::IncrementalAlterConfigs, 0..=1);

/// Kafka's `AlterConfigOp.OpType`.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

impl Outcome for IncrementalAlterConfigsResponse {
    fn error(&self) -> i16 {
        first_error(self.responses.iter().map(|resource| resource.error_code))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let repeated =
        repeated(body.resources.iter().map(|it| (it.resource_type, it.resource_name.as_str())));
    let mut responses = Vec::with_capacity(body.resources.len());
    for resource in &body.resources {
        let (kind, name) = (resource.resource_type, resource.resource_name.as_str());
        let outcome = if repeated.contains(&(kind, name)) {
            Err(Refused::new(ResponseError::InvalidRequest, REPEATED))
        } else {
            match changes(resource) {
                Ok(some) => {
                    let changes = ConfigChanges::Some(some);
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
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

fn changes(resource: &AlterConfigsResource) -> Result<BTreeMap<String, ConfigChange>, Refused> {
    let configs = &resource.configs;
    let keys: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
    let nulls = configs
        .iter()
        .filter(|config| config.value.is_none() && config.config_operation != DELETE)
        .map(|config| config.name.as_str());
    checked_keys(&keys, &nulls.collect::<Vec<_>>())?;
    configs.iter().map(|config| Ok((config.name.to_string(), change(config)?))).collect()
}

fn change(config: &AlterableConfig) -> Result<ConfigChange, Refused> {
    let value = config.value.as_deref().unwrap_or_default().to_owned();
    match config.config_operation {
        SET => Ok(ConfigChange::Set(value)),
        DELETE => Ok(ConfigChange::Unset),
        APPEND => Ok(ConfigChange::Append(value)),
        SUBTRACT => Ok(ConfigChange::Subtract(value)),
        other => Err(Refused::new(
            ResponseError::InvalidRequest,
            format!("Unknown operation {other} for config {}", config.name),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::fixture::Bench;
    use crate::types::PartitionId;

    /// Key, operation and value.
    type Operation<'a> = (&'a str, i8, Option<&'a str>);

    fn ask(name: &str, operations: &[Operation]) -> IncrementalAlterConfigsRequest {
        let configs = operations.iter().map(|(name, operation, value)| {
            AlterableConfig::default()
                .with_name(wire_text(name))
                .with_config_operation(*operation)
                .with_value(value.map(wire_text))
        });
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(wire_text(name))
            .with_configs(configs.collect());
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
    }

    #[tokio::test]
    async fn every_version_changes_what_it_names_and_nothing_else() {
        let bench = Bench::start().await;
        let topic = bench.topic("t", 1).await;
        let configs = || bench.metadata.image().topic("t").unwrap().configs.clone();
        let log = bench.metadata.log(topic.id, PartitionId(0)).unwrap();
        for version in 0..=1 {
            let steps: [(Operation, &[(&str, &str)]); 5] = [
                (("retention.ms", SET, Some("5")), &[("retention.ms", "5")]),
                (
                    ("cleanup.policy", APPEND, Some("compact")),
                    &[("cleanup.policy", "delete,compact"), ("retention.ms", "5")],
                ),
                (
                    ("cleanup.policy", SUBTRACT, Some("delete")),
                    &[("cleanup.policy", "compact"), ("retention.ms", "5")],
                ),
                (("retention.ms", DELETE, None), &[("cleanup.policy", "compact")]),
                (("cleanup.policy", DELETE, Some("")), &[]),
            ];
            for (operation, after) in steps {
                let answer = bench.call(version, ask("t", &[operation])).await;
                assert_eq!(answer.responses[0].error_code, 0, "{operation:?}");
                let after: Vec<_> =
                    after.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
                assert_eq!(configs().into_iter().collect::<Vec<_>>(), after, "{operation:?}");
            }
            assert!(log.config().retention.is_some() && log.config().compaction.is_none());
        }
    }

    #[tokio::test]
    async fn one_wrong_operation_refuses_all_of_its_resource() {
        let bench = Bench::start().await;
        bench.topic("t", 1).await;
        let good = ("retention.bytes", SET, Some("5"));
        let cases = [
            (("retention.ms", SET, Some("soon")), 40),
            (("retention.ms", APPEND, Some("1")), 40),
            (("no.such", SET, Some("1")), 40),
            (("no.such", DELETE, None), 0),
            (("retention.ms", SET, None), 42),
            (("cleanup.policy", SUBTRACT, None), 42),
            (("retention.ms", 9, Some("1")), 42),
            (("retention.bytes", DELETE, None), 42),
        ];
        for (other, code) in cases {
            let answer = bench.call(1, ask("t", &[good, other])).await;
            assert_eq!(answer.responses[0].error_code, code, "{other:?}");
            let is_set = !bench.metadata.image().topic("t").unwrap().configs.is_empty();
            assert_eq!(is_set, code == 0, "{other:?}");
            bench.call(1, ask("t", &[("retention.bytes", DELETE, None)])).await;
        }
        let checked = ask("t", &[good]).with_validate_only(true);
        assert_eq!(bench.call(1, checked).await.responses[0].error_code, 0);
        assert!(bench.metadata.image().topic("t").unwrap().configs.is_empty());
        assert_eq!(bench.call(1, ask("nowhere", &[good])).await.responses[0].error_code, 3);
    }
}
