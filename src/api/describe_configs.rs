//! DescribeConfigs (key 32), v1-4: the configs of topics and of the broker.
//!
//! v1 adds sources and synonyms (KIP-226), v3 types and documentation (KIP-569), v4 is flexible.
//! The broker's configs are read-only, except for those that may change while it runs. Those of Kafka
//! that have one value on one node are told, too: clients and the health checks of frameworks ask for
//! them by name.
//! Gaps: loggers, groups and client metrics (types 8, 16, 32) are refused.

use std::collections::BTreeSet;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_response::CreatableTopicConfigs;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{ApiKey, DescribeConfigsRequest, DescribeConfigsResponse};

use super::call::{Api, Outcome, first_error};
use super::error::Refused;
use super::{Context, Request, wire_text};
use crate::config::{ConfigType, Entry, Origin};
use crate::metadata::Topic;
use crate::security::op;

pub(super) const API: Api = Api::ordered(ApiKey::DescribeConfigs, 1..=4).repeatable();

/// Kafka's `ConfigResource.Type`.
pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;
pub(super) const LOGGER: i8 = 8;
pub(super) const CLIENT_METRICS: i8 = 16;
pub(super) const GROUP: i8 = 32;

/// Kafka's `ConfigSource` of what is set on the topic itself.
const FROM_TOPIC: i8 = 1;
/// That of a default.
const FROM_DEFAULT: i8 = 5;

/// Kafka's `ConfigSource` of a broker config.
fn source(origin: Origin) -> i8 {
    match origin {
        Origin::Broker => 2,
        Origin::Cluster => 3,
        Origin::Start => 4,
        Origin::Default => FROM_DEFAULT,
    }
}

impl Outcome for DescribeConfigsResponse {
    fn error(&self) -> i16 {
        first_error(self.results.iter().map(|resource| resource.error_code))
    }
}

/// One config, before it is cut to what the client asked for.
struct Shown {
    name: &'static str,
    kind: ConfigType,
    value: Option<String>,
    /// What would hold if the one before were not set; the first is what holds. Empty where Kafka
    /// tells no origin.
    synonyms: Vec<Synonym>,
    read_only: bool,
    doc: &'static str,
}

struct Synonym {
    name: &'static str,
    value: String,
    source: i8,
}

impl Shown {
    fn source(&self) -> i8 {
        self.synonyms.first().map_or(FROM_DEFAULT, |synonym| synonym.source)
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    // Each resource once: a repeated name costs few bytes, and its configs many.
    let mut seen = BTreeSet::new();
    let asked = body.resources.iter();
    let asked = asked.filter(|it| seen.insert((it.resource_type, it.resource_name.as_str())));
    let results = asked.map(|resource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match configs(ctx, request, resource) {
            Ok(configs) => {
                let asked = configs.into_iter().filter(|config| is_asked(resource, config.name));
                let shown = asked.map(|config| show(request.version, &body, config));
                result.with_configs(shown.collect())
            }
            Err(refused) => result
                .with_error_code(refused.error.code())
                .with_error_message(Some(wire_text(&refused.reason))),
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

/// A new topic's configs, as CreateTopics shows them.
pub(super) fn created(ctx: &Context, topic: &Topic) -> Vec<CreatableTopicConfigs> {
    let configs = of_topic(ctx, topic).into_iter().map(|config| {
        CreatableTopicConfigs::default()
            .with_name(wire_text(config.name))
            .with_config_source(config.source())
            .with_value(config.value.as_deref().map(wire_text))
            .with_read_only(config.read_only)
    });
    configs.collect()
}

/// No keys, or a null list of them, ask for all.
fn is_asked(resource: &DescribeConfigsResource, name: &str) -> bool {
    let keys = resource.configuration_keys.as_deref().unwrap_or_default();
    keys.is_empty() || keys.iter().any(|key| key.as_str() == name)
}

fn configs(
    ctx: &Context,
    request: &Request,
    resource: &DescribeConfigsResource,
) -> Result<Vec<Shown>, Refused> {
    let name = resource.resource_name.as_str();
    let access = ctx.access(request);
    match resource.resource_type {
        TOPIC => match access.topics().named::<op::DescribeConfigs>(name) {
            Ok(topic) => return Ok(of_topic(ctx, &topic)),
            Err(unreachable) => return Err(unreachable.refused(name)),
        },
        GROUP => {
            let _group = access.group::<op::DescribeConfigs>(name)?;
        }
        BROKER | LOGGER | CLIENT_METRICS => {
            let _cluster = access.cluster::<op::DescribeConfigs>()?;
        }
        _ => {}
    }
    match resource.resource_type {
        // The empty name means what was set for all brokers while they run.
        BROKER if name.is_empty() => Ok(of_all_brokers(ctx)),
        BROKER if name == ctx.config.node_id.to_string() => Ok(of_broker(ctx)),
        BROKER => Err(Refused::new(
            ResponseError::InvalidRequest,
            format!(
                "Unexpected broker id, expected {} or empty string, but received {name}",
                ctx.config.node_id
            ),
        )),
        other => Err(Refused::new(
            ResponseError::InvalidRequest,
            format!("Unsupported resource type: {other}"),
        )),
    }
}

fn of_topic(ctx: &Context, topic: &Topic) -> Vec<Shown> {
    let configs = topic.describe_configs(&ctx.config).into_iter().map(|config| {
        let own = config.is_set.then(|| Synonym {
            name: config.name,
            value: config.value.clone(),
            source: FROM_TOPIC,
        });
        let told = config.broker.into_iter().flat_map(|(name, origins)| synonyms(name, origins));
        Shown {
            name: config.name,
            kind: config.kind,
            synonyms: own.into_iter().chain(told).collect(),
            value: Some(config.value),
            read_only: false,
            doc: config.doc,
        }
    });
    configs.collect()
}

fn of_broker(ctx: &Context) -> Vec<Shown> {
    ctx.config.entries().into_iter().map(|entry| of_entry(entry, |_| true)).collect()
}

fn of_all_brokers(ctx: &Context) -> Vec<Shown> {
    let is_set = |origin: Origin| origin == Origin::Cluster;
    let entries = ctx.config.entries().into_iter();
    let set = entries.filter(|entry| entry.origins.iter().any(|(origin, _)| is_set(*origin)));
    set.map(|entry| of_entry(entry, is_set)).collect()
}

/// A broker config, as those of its origins say that count.
fn of_entry(entry: Entry, counts: impl Fn(Origin) -> bool) -> Shown {
    let origins = entry.origins.into_iter().filter(|(origin, _)| counts(*origin));
    let origins: Vec<_> = origins.collect();
    Shown {
        name: entry.name,
        kind: entry.kind,
        value: origins.first().map(|(_, value)| value.clone()),
        synonyms: synonyms(entry.name, origins).collect(),
        read_only: !entry.is_dynamic,
        doc: entry.doc,
    }
}

/// Where a broker config has its values from.
fn synonyms(name: &'static str, origins: Vec<(Origin, String)>) -> impl Iterator<Item = Synonym> {
    origins.into_iter().map(move |(origin, value)| Synonym { name, value, source: source(origin) })
}

fn show(
    version: i16,
    body: &DescribeConfigsRequest,
    config: Shown,
) -> DescribeConfigsResourceResult {
    let mut result = DescribeConfigsResourceResult::default()
        .with_name(wire_text(config.name))
        .with_value(config.value.as_deref().map(wire_text))
        .with_read_only(config.read_only)
        .with_config_source(config.source());
    if version >= 3 {
        result.config_type = config_type(config.kind);
        if body.include_documentation {
            result.documentation = Some(wire_text(config.doc));
        }
    }
    if body.include_synonyms {
        let synonyms = config.synonyms.iter().map(|synonym| {
            DescribeConfigsSynonym::default()
                .with_name(wire_text(synonym.name))
                .with_value(Some(wire_text(&synonym.value)))
                .with_source(synonym.source)
        });
        result.synonyms = synonyms.collect();
    }
    result
}

/// Kafka's `ConfigType`.
fn config_type(kind: ConfigType) -> i8 {
    match kind {
        ConfigType::Boolean => 1,
        ConfigType::String => 2,
        ConfigType::Int => 3,
        ConfigType::Short => 4,
        ConfigType::Long => 5,
        ConfigType::Double => 6,
        ConfigType::List => 7,
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::CreateTopicsRequest;
    use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};

    use super::*;
    use crate::api::tests::fixture::Bench;
    use crate::metadata::{BrokerScope, ConfigChange, ConfigChanges};

    fn ask(kind: i8, name: &str, keys: Option<&[&str]>) -> DescribeConfigsRequest {
        let keys = keys.map(|keys| keys.iter().map(|key| wire_text(key)).collect());
        let resource = DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(wire_text(name))
            .with_configuration_keys(keys);
        DescribeConfigsRequest::default().with_resources(vec![resource])
    }

    async fn bench_with_topic() -> Bench {
        let bench = Bench::start().await;
        let config = CreatableTopicConfig::default()
            .with_name(wire_text("max.message.bytes"))
            .with_value(Some(wire_text("2000")));
        let topic = CreatableTopic::default()
            .with_name(wire_text("clicks").into())
            .with_num_partitions(1)
            .with_replication_factor(1)
            .with_configs(vec![config]);
        bench.call(5, CreateTopicsRequest::default().with_topics(vec![topic])).await;
        bench
    }

    #[tokio::test]
    async fn every_version_tells_a_topics_configs_and_their_sources() {
        let bench = bench_with_topic().await;
        for version in 1..=4 {
            let mut request = ask(TOPIC, "clicks", None).with_include_synonyms(true);
            request.include_documentation = version >= 3;
            let answer = bench.call(version, request).await;
            assert_eq!(answer.results[0].error_code, 0);
            let find = |name: &str| {
                let configs = answer.results[0].configs.iter();
                configs.clone().find(|config| config.name.as_str() == name).unwrap().clone()
            };
            let own = find("max.message.bytes");
            assert_eq!((own.value.as_deref(), own.config_source), (Some("2000"), FROM_TOPIC));
            assert_eq!(own.synonyms.len(), 2);
            let policy = find("cleanup.policy");
            assert_eq!(
                (policy.value.as_deref(), policy.config_source),
                (Some("delete"), FROM_DEFAULT)
            );
            if version >= 3 {
                assert_eq!((own.config_type, policy.config_type), (3, 7));
                assert!(own.documentation.is_some());
            }
        }
    }

    #[tokio::test]
    async fn only_the_keys_asked_for_are_told() {
        let bench = bench_with_topic().await;
        let answer = bench.call(2, ask(TOPIC, "clicks", Some(&["retention.ms", "x"]))).await;
        let names: Vec<&str> =
            answer.results[0].configs.iter().map(|config| config.name.as_str()).collect();
        assert_eq!(names, ["retention.ms"]);
    }

    #[tokio::test]
    async fn a_repeated_resource_is_told_once() {
        let bench = bench_with_topic().await;
        let mut request = ask(TOPIC, "clicks", None);
        request.resources = vec![request.resources[0].clone(); 1000];
        assert_eq!(bench.call(4, request).await.results.len(), 1);
    }

    #[tokio::test]
    async fn what_is_set_while_running_is_told_with_its_sources() {
        let bench = Bench::with(|config| {
            *config = config.clone().starting_with(|it| it.message_max_bytes = 4000);
        })
        .await;
        bench.topic("t", 1).await;
        let keys = ["message.max.bytes", "num.partitions"];
        let own = || ask(BROKER, "1", Some(&keys)).with_include_synonyms(true);
        let answer = bench.call(4, own()).await;
        let [partitions, bytes] = answer.results[0].configs.as_slice() else {
            panic!("{answer:?}")
        };
        assert_eq!((bytes.value.as_deref(), bytes.config_source), (Some("4000"), 4));
        assert!(!bytes.read_only && partitions.read_only);

        for (scope, value) in [(BrokerScope::Cluster, "3000"), (BrokerScope::Broker(1), "2000")] {
            let set = ConfigChange::Set(value.to_owned());
            let changes = ConfigChanges::Some([(keys[0].to_owned(), set)].into());
            bench.metadata.alter_broker_configs(scope, changes, false).await.unwrap();
        }
        let answer = bench.call(4, own()).await;
        let of = |config: &DescribeConfigsResourceResult| -> Vec<(String, i8)> {
            let synonyms = config.synonyms.iter();
            synonyms.map(|it| (it.value.clone().unwrap().to_string(), it.source)).collect()
        };
        let expected = [("2000", 2), ("3000", 3), ("4000", 4), ("1048588", 5)];
        let expected = expected.map(|(value, source)| (value.to_owned(), source));
        assert_eq!(of(&answer.results[0].configs[1]), expected);
        let topic = ask(TOPIC, "t", Some(&["max.message.bytes"])).with_include_synonyms(true);
        let answer = bench.call(4, topic).await;
        let topic = &answer.results[0].configs[0];
        assert_eq!((topic.value.as_deref(), topic.config_source), (Some("2000"), 2));
        assert_eq!(of(topic), expected);
        let answer = bench.call(4, ask(BROKER, "", None).with_include_synonyms(true)).await;
        let [all] = answer.results[0].configs.as_slice() else { panic!("{answer:?}") };
        assert_eq!((all.value.as_deref(), of(all)), (Some("3000"), vec![("3000".to_owned(), 3)]));
    }

    #[tokio::test]
    async fn configs_with_one_value_on_one_node_are_told_by_name() {
        let bench = Bench::with(|config| config.node_id = 7).await;
        let names = ["broker.id", "min.insync.replicas", "offsets.topic.replication.factor"];
        let request = ask(BROKER, "7", Some(&names)).with_include_synonyms(true);
        let answer = bench.call(4, request).await;
        let told: Vec<_> = answer.results[0]
            .configs
            .iter()
            .map(|it| (it.name.as_str(), it.value.as_deref(), it.config_type, it.read_only))
            .collect();
        let expected = [(names[0], "7", 3), (names[1], "1", 3), (names[2], "1", 4)];
        assert_eq!(told, expected.map(|(name, value, kind)| (name, Some(value), kind, true)));
        let synonyms = &answer.results[0].configs[1].synonyms;
        let own = (names[1], Some("1"), FROM_DEFAULT);
        let told: Vec<_> =
            synonyms.iter().map(|it| (it.name.as_str(), it.value.as_deref(), it.source)).collect();
        assert_eq!(told, [own]);
    }

    #[tokio::test]
    async fn what_cannot_be_described_is_refused() {
        let bench = Bench::start().await;
        let cases = [(TOPIC, "nowhere", 3), (TOPIC, "../x", 17), (BROKER, "9", 42), (8, "1", 42)];
        for (kind, name, code) in cases {
            let answer = bench.call(4, ask(kind, name, None)).await;
            assert_eq!(answer.results[0].error_code, code, "{kind} {name}");
        }
    }
}
