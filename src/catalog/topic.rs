//! Topic configs: Kafka's keys, and what Ottla does about each. A config that would be ignored is
//! refused, so that nobody believes in a retention that does not happen; one that asks for what
//! Ottla does anyway is accepted and reads back.

use std::collections::BTreeMap;

use crate::config::Config;

/// What Ottla does about a key.
enum Support {
    /// It takes effect: a number of bytes, with the broker's value as its default.
    Bytes { min: u32, max: u32, default: fn(&Config) -> u32 },
    /// Only what Ottla does anyway may be asked for. The first value is the one shown; the text
    /// says what happens instead of anything else.
    Fixed { values: &'static [&'static str], because: &'static str },
    /// As `Fixed`, where the broker's config decides what Ottla does.
    Broker { value: fn(&Config) -> String, because: &'static str },
    /// Neither set nor shown.
    Absent { because: &'static str },
}

struct Key {
    name: &'static str,
    support: Support,
    doc: &'static str,
}

const fn fixed(
    name: &'static str,
    values: &'static [&'static str],
    because: &'static str,
    doc: &'static str,
) -> Key {
    Key { name, support: Support::Fixed { values, because }, doc }
}

const fn absent(name: &'static str, because: &'static str) -> Key {
    Key { name, support: Support::Absent { because }, doc: "" }
}

const NO_RETENTION: &str = "records are kept until the topic is deleted";
const NO_COMPACTION: &str = "logs are not compacted yet";
const NO_TIERING: &str = "there is no remote storage yet";
const ONE_REPLICA: &str = "a topic has one replica on this machine";
const AS_PRODUCED: &str = "batches are kept as the producer compressed them";
const ANY_TIMESTAMP: &str = "producers' timestamps are kept whatever they say";
const GROUP_COMMIT: &str = "the broker's 'durability' decides when appends are synced";
const SEGMENTS: &str = "segments are sized by the broker's configuration for all topics";

const LONG_MAX: &str = "9223372036854775807";
const INT_MAX: &str = "2147483647";

/// Every topic config of Kafka, in name order.
const KEYS: &[Key] = &[
    fixed(
        "cleanup.policy",
        &["delete"],
        NO_COMPACTION,
        "What happens to old records: 'delete' drops them by retention.",
    ),
    absent("compression.gzip.level", AS_PRODUCED),
    absent("compression.lz4.level", AS_PRODUCED),
    fixed(
        "compression.type",
        &["producer"],
        AS_PRODUCED,
        "How batches are compressed on disk: as the producer sent them.",
    ),
    absent("compression.zstd.level", AS_PRODUCED),
    absent("delete.retention.ms", NO_COMPACTION),
    absent("file.delete.delay.ms", "files of a deleted topic are removed at once"),
    fixed(
        "flush.messages",
        &[LONG_MAX],
        GROUP_COMMIT,
        "After how many records the log is synced, beyond what acks=all syncs.",
    ),
    fixed(
        "flush.ms",
        &[LONG_MAX],
        GROUP_COMMIT,
        "After how many ms the log is synced, beyond what acks=all syncs.",
    ),
    absent("follower.replication.throttled.replicas", ONE_REPLICA),
    Key {
        name: "index.interval.bytes",
        support: Support::Broker {
            value: |config| config.log_index_interval_bytes.to_string(),
            because: "the broker's log.index.interval.bytes holds for all topics",
        },
        doc: "How many log bytes lie between two index entries.",
    },
    absent("leader.replication.throttled.replicas", ONE_REPLICA),
    fixed("local.retention.bytes", &["-2"], NO_TIERING, "Bytes kept locally: as retention.bytes."),
    fixed("local.retention.ms", &["-2"], NO_TIERING, "Time kept locally: as retention.ms."),
    absent("max.compaction.lag.ms", NO_COMPACTION),
    Key {
        name: "max.message.bytes",
        support: Support::Bytes {
            min: 0,
            max: i32::MAX as u32,
            default: |config| config.message_max_bytes,
        },
        doc: "The largest record batch the topic accepts, in bytes.",
    },
    fixed(
        "message.timestamp.after.max.ms",
        &[LONG_MAX],
        ANY_TIMESTAMP,
        "How far a timestamp may lie in the future.",
    ),
    fixed(
        "message.timestamp.before.max.ms",
        &[LONG_MAX],
        ANY_TIMESTAMP,
        "How far a timestamp may lie in the past.",
    ),
    fixed(
        "message.timestamp.type",
        &["CreateTime"],
        "the broker does not stamp records",
        "Whose timestamp a record carries: its producer's.",
    ),
    absent("min.cleanable.dirty.ratio", NO_COMPACTION),
    absent("min.compaction.lag.ms", NO_COMPACTION),
    fixed(
        "min.insync.replicas",
        &["1"],
        ONE_REPLICA,
        "How many replicas must have a record before acks=all is answered.",
    ),
    fixed(
        "preallocate",
        &["false"],
        "segment files grow as they are written",
        "Whether segment files are allocated in full when they are made.",
    ),
    fixed(
        "remote.storage.enable",
        &["false"],
        NO_TIERING,
        "Whether segments are copied to remote storage.",
    ),
    absent("remote.log.copy.disable", NO_TIERING),
    absent("remote.log.delete.on.disable", NO_TIERING),
    fixed(
        "retention.bytes",
        &["-1"],
        NO_RETENTION,
        "How many bytes a partition keeps; -1 keeps all.",
    ),
    fixed("retention.ms", &["-1"], NO_RETENTION, "How long records are kept; -1 keeps them all."),
    Key {
        name: "segment.bytes",
        support: Support::Broker {
            value: |config| config.log_segment_bytes.to_string(),
            because: SEGMENTS,
        },
        doc: "The size at which a new segment file is begun.",
    },
    absent("segment.index.bytes", "the index is not a file of a fixed size"),
    fixed("segment.jitter.ms", &["0"], SEGMENTS, "Random delay of a new segment."),
    fixed(
        "segment.ms",
        &[LONG_MAX, INT_MAX],
        SEGMENTS,
        "The age at which a new segment file is begun.",
    ),
    fixed(
        "unclean.leader.election.enable",
        &["false"],
        ONE_REPLICA,
        "Whether a replica that lags may become the leader.",
    ),
];

/// One topic config as DescribeConfigs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// Kafka's name.
    pub name: &'static str,
    /// What holds for the topic.
    pub value: String,
    /// What holds for topics that do not set it.
    pub default: String,
    /// Whether the topic itself sets it.
    pub is_set: bool,
    /// What it does, in a sentence.
    pub doc: &'static str,
}

/// Checks what a new topic asks for. The error names the key, the reason and what is possible.
pub(super) fn check(configs: &BTreeMap<String, String>, broker: &Config) -> Result<(), String> {
    configs.iter().try_for_each(|(name, value)| check_one(name, value.trim(), broker))
}

fn check_one(name: &str, value: &str, broker: &Config) -> Result<(), String> {
    let Some(key) = KEYS.iter().find(|key| key.name == name) else {
        return Err(match nearest(name) {
            Some(near) => format!("unknown topic config '{name}'; did you mean '{near}'?"),
            None => format!("unknown topic config '{name}'"),
        });
    };
    let only = |possible: &str, because: &str| {
        Err(format!(
            "topic config {name}={value} is not supported: {because}; leave it out or use {possible}"
        ))
    };
    match &key.support {
        Support::Bytes { min, max, .. } => match value.parse::<u32>() {
            Ok(bytes) if (*min..=*max).contains(&bytes) => Ok(()),
            _ => Err(format!(
                "topic config {name}={value} is not a number of bytes from {min} to {max}"
            )),
        },
        Support::Fixed { values, .. } if values.contains(&value) => Ok(()),
        Support::Fixed { values, because } => only(values[0], because),
        Support::Broker { value: current, because } => {
            let current = current(broker);
            if value == current { Ok(()) } else { only(&current, because) }
        }
        Support::Absent { because } => {
            Err(format!("topic config {name} is not supported: {because}; leave it out"))
        }
    }
}

/// The known key that a misspelt one most likely means.
fn nearest(name: &str) -> Option<&'static str> {
    let scored = KEYS.iter().map(|key| (strsim::jaro_winkler(name, key.name), key.name));
    scored
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, near)| near)
}

/// All configs that hold for a topic, in name order.
pub(super) fn describe(set: &BTreeMap<String, String>, broker: &Config) -> Vec<TopicConfig> {
    let shown = KEYS.iter().filter_map(|key| {
        let default = match &key.support {
            Support::Bytes { default, .. } => default(broker).to_string(),
            Support::Fixed { values, .. } => values[0].to_owned(),
            Support::Broker { value, .. } => value(broker),
            Support::Absent { .. } => return None,
        };
        let own = set.get(key.name);
        Some(TopicConfig {
            name: key.name,
            value: own.unwrap_or(&default).clone(),
            default,
            is_set: own.is_some(),
            doc: key.doc,
        })
    });
    shown.collect()
}

/// The largest batch a topic accepts.
pub(super) fn batch_bytes_max(set: &BTreeMap<String, String>, broker: &Config) -> u32 {
    let own = set.get("max.message.bytes").and_then(|bytes| bytes.trim().parse().ok());
    own.unwrap_or(broker.message_max_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_pair(name: &str, value: &str) -> Result<(), String> {
        check(&[(name.to_owned(), value.to_owned())].into(), &Config::default())
    }

    #[test]
    fn what_ottla_does_anyway_may_be_asked_for() {
        for (name, value) in [
            ("cleanup.policy", "delete"),
            ("retention.ms", "-1"),
            ("compression.type", "producer"),
            ("message.timestamp.type", "CreateTime"),
            ("min.insync.replicas", "1"),
            ("segment.bytes", "1073741824"),
            ("max.message.bytes", "2000000"),
        ] {
            assert_eq!(check_pair(name, value), Ok(()), "{name}={value}");
        }
    }

    #[test]
    fn what_would_be_ignored_is_refused_with_its_reason() {
        let refusal = check_pair("retention.ms", "604800000").unwrap_err();
        assert!(refusal.contains("retention.ms=604800000"), "{refusal}");
        assert!(refusal.contains("records are kept"), "{refusal}");
        assert!(refusal.contains("use -1"), "{refusal}");
        assert!(check_pair("cleanup.policy", "compact").unwrap_err().contains("not compacted"));
        assert!(check_pair("delete.retention.ms", "1").unwrap_err().contains("leave it out"));
        assert!(check_pair("segment.bytes", "1").unwrap_err().contains("use 1073741824"));
    }

    #[test]
    fn numbers_are_checked() {
        assert!(check_pair("max.message.bytes", "many").unwrap_err().contains("not a number"));
        assert!(check_pair("max.message.bytes", "-1").is_err());
        assert!(check_pair("max.message.bytes", "4294967295").is_err());
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_known_one() {
        let refusal = check_pair("retension.ms", "1").unwrap_err();
        assert_eq!(refusal, "unknown topic config 'retension.ms'; did you mean 'retention.ms'?");
        assert_eq!(check_pair("zzz", "1").unwrap_err(), "unknown topic config 'zzz'");
    }

    #[test]
    fn keys_are_in_order_and_each_once() {
        let names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(names.len(), sorted.len());
    }

    #[test]
    fn a_description_shows_the_topics_own_value_and_the_default() {
        let set = [("max.message.bytes".to_owned(), "2000".to_owned())].into();
        let configs = describe(&set, &Config::default());
        let bytes = configs.iter().find(|config| config.name == "max.message.bytes").unwrap();
        assert_eq!((bytes.value.as_str(), bytes.default.as_str()), ("2000", "1048588"));
        assert!(bytes.is_set);
        let policy = configs.iter().find(|config| config.name == "cleanup.policy").unwrap();
        assert!(!policy.is_set);
        assert_eq!(batch_bytes_max(&set, &Config::default()), 2000);
    }
}
