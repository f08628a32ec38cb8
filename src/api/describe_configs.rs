//! DescribeConfigs (key 32), v1-4: the configs of topics and of the broker.
//!
//! v3 adds types and documentation, v4 is flexible.
//! Gaps: loggers, groups and client metrics (types 8, 16, 32).

use kafka_protocol::messages::create_topics_response::CreatableTopicConfigs;

use super::{Context, wire_text};
use crate::catalog::Topic;

/// Kafka's `DYNAMIC_TOPIC_CONFIG`.
const SOURCE_TOPIC: i8 = 1;

/// A new topic's configs, as CreateTopics shows them.
pub(super) fn created(_ctx: &Context, topic: &Topic) -> Vec<CreatableTopicConfigs> {
    let configs = topic.configs.iter().map(|(name, value)| {
        CreatableTopicConfigs::default()
            .with_name(wire_text(name))
            .with_value(Some(wire_text(value)))
            .with_config_source(SOURCE_TOPIC)
    });
    configs.collect()
}
