//! Topic configs: Kafka's keys, and what they amount to for the log. A config that would be ignored
//! is refused, so that nobody believes in what does not happen; one that asks for what Ottla does
//! anyway is accepted and reads back.
//!
//! `table` lists the keys with what they take.

mod table;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use self::table::TopicKey;
use super::config_change::ConfigKeys;
use crate::config::{CleanupPolicy, Compression, Config, ConfigType, Origin, TimestampType};
use crate::log::{Codec, Compaction, LogConfig, Retention};

/// One topic config as DescribeConfigs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// Kafka's name.
    pub name: &'static str,
    /// What kind of value it has.
    pub kind: ConfigType,
    /// What holds for the topic.
    pub value: String,
    /// Whether the topic itself sets it.
    pub is_set: bool,
    /// The broker's config behind the default, if there is one, and where that has its values.
    pub broker: Option<(&'static str, Vec<(Origin, String)>)>,
    /// What it does, in a sentence.
    pub doc: &'static str,
}

/// The configs as they are kept: each checked, all of them together too. The error names the key,
/// the reason and what is possible.
pub(super) fn check(
    configs: &BTreeMap<String, String>,
    broker: &Config,
) -> Result<BTreeMap<String, String>, String> {
    let checked = configs
        .iter()
        .map(|(name, value)| Ok((name.clone(), table::find(name)?.checked(value)?)))
        .collect::<Result<BTreeMap<_, _>, String>>()?;
    agree(&checked, broker)?;
    Ok(checked)
}

/// The topic configs that there are, over the broker's that their defaults come from.
pub(super) struct TopicKeys<'a>(pub(super) &'a Config);

impl ConfigKeys for TopicKeys<'_> {
    const NOUN: &'static str = "topic config";

    fn checked(&self, name: &str, value: &str) -> Result<String, String> {
        table::find(name)?.checked(value)
    }

    fn list(&self, name: &str) -> Result<Option<String>, String> {
        let key = table::find(name)?;
        let default = key.default(self.0).unwrap_or_default();
        Ok((key.kind == ConfigType::List).then_some(default))
    }
}

/// Checks what two configs together must not say.
pub(super) fn agree(configs: &BTreeMap<String, String>, broker: &Config) -> Result<(), String> {
    let values = Values { set: configs, broker };
    let (min, max) =
        (values.number("min.compaction.lag.ms")?, values.number("max.compaction.lag.ms")?);
    if min > max {
        return Err(format!(
            "topic config min.compaction.lag.ms ({min}) is above max.compaction.lag.ms ({max}); \
             change one of them"
        ));
    }
    Ok(())
}

/// The defaults of a topic. The broker's own topics keep what is not told otherwise, as it came:
/// no setting meant for clients' records may lose or change a commit.
fn defaults(internal: bool, broker: &Config) -> Cow<'_, Config> {
    if !internal {
        return Cow::Borrowed(broker);
    }
    let largest = Duration::from_millis(i64::MAX as u64);
    Cow::Owned(broker.now_with(|values| {
        values.log_cleanup_policy = CleanupPolicy { delete: false, compact: false };
        values.message_max_bytes = i32::MAX as u32;
        values.log_message_timestamp_type = TimestampType::CreateTime;
        values.log_message_timestamp_before_max = largest;
        values.log_message_timestamp_after_max = largest;
        values.compression_type = Compression::Producer;
    }))
}

/// All configs that hold for a topic, in name order.
pub(super) fn describe(
    set: &BTreeMap<String, String>,
    internal: bool,
    broker: &Config,
) -> Vec<TopicConfig> {
    let defaults = defaults(internal, broker);
    let shown = table::KEYS.iter().filter_map(|key| {
        let default = key.default(&defaults)?;
        let own = set.get(key.name);
        Some(TopicConfig {
            name: key.name,
            kind: key.kind,
            value: own.unwrap_or(&default).clone(),
            is_set: own.is_some(),
            broker: key.broker.map(|name| (name, origins(name, key, broker))),
            doc: key.doc,
        })
    });
    shown.collect()
}

/// Where the broker's config `name` has its values; one that Ottla does not have has the topic
/// config's only one.
fn origins(name: &str, key: &TopicKey, broker: &Config) -> Vec<(Origin, String)> {
    match broker.entry(name) {
        Some(entry) => entry.origins,
        None => key.default(broker).map(|value| (Origin::Default, value)).into_iter().collect(),
    }
}

/// What a topic asks of its logs. Values that are set were checked when they were; what an older
/// version let pass within other bounds is taken as it is.
pub(super) fn resolve(
    set: &BTreeMap<String, String>,
    internal: bool,
    broker: &Config,
) -> Result<LogConfig, String> {
    let defaults = defaults(internal, broker);
    let values = Values { set, broker: &defaults };
    let policy = values.text("cleanup.policy");
    let policy = match policy.is_empty() {
        true => CleanupPolicy { delete: false, compact: false },
        false => values.parsed("cleanup.policy", CleanupPolicy::parse)?,
    };
    let retention = Retention {
        age_max: values.period("retention.ms")?,
        bytes_max: u64::try_from(values.number("retention.bytes")?).ok(),
    };
    let compaction = Compaction {
        dirty_ratio_min: values
            .parsed("min.cleanable.dirty.ratio", |text| text.parse::<f64>().ok())?,
        lag_min: values.period("min.compaction.lag.ms")?.unwrap_or_default(),
        lag_max: values.bound("max.compaction.lag.ms")?,
        delete_retention: values.period("delete.retention.ms")?.unwrap_or_default(),
    };
    let level = |name| values.parsed(name, |text| text.parse::<i32>().ok());
    let codec = match values.parsed("compression.type", Compression::parse)? {
        Compression::Producer => None,
        Compression::Uncompressed => Some(Codec::Uncompressed),
        Compression::Gzip => Some(Codec::Gzip(level("compression.gzip.level")?)),
        Compression::Snappy => Some(Codec::Snappy),
        Compression::Lz4 => Some(Codec::Lz4),
        Compression::Zstd => Some(Codec::Zstd(level("compression.zstd.level")?)),
    };
    Ok(LogConfig {
        batch_bytes_max: values.parsed("max.message.bytes", |text| text.parse().ok())?,
        segment_bytes: values.parsed("segment.bytes", |text| text.parse().ok())?,
        segment_age_max: values.bound("segment.ms")?,
        segment_jitter_max: values.period("segment.jitter.ms")?.unwrap_or_default(),
        index_interval_bytes: values.parsed("index.interval.bytes", |text| text.parse().ok())?,
        retention: policy.delete.then_some(retention),
        compaction: policy.compact.then_some(compaction),
        timestamp_type: values.parsed("message.timestamp.type", TimestampType::parse)?,
        timestamp_before_max: values.bound("message.timestamp.before.max.ms")?,
        timestamp_after_max: values.bound("message.timestamp.after.max.ms")?,
        codec,
    })
}

/// A topic's configs by name: its own, or the default.
struct Values<'a> {
    set: &'a BTreeMap<String, String>,
    broker: &'a Config,
}

impl Values<'_> {
    fn text(&self, name: &str) -> String {
        let default = || table::find(name).ok()?.default(self.broker);
        self.set.get(name).cloned().or_else(default).unwrap_or_default()
    }

    fn parsed<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let text = self.text(name);
        parse(text.trim()).ok_or_else(|| {
            format!("topic config {name}={text} is not one that this version understands")
        })
    }

    fn number(&self, name: &str) -> Result<i64, String> {
        self.parsed(name, |text| text.parse().ok())
    }

    /// Milliseconds; `None` for a negative number.
    fn period(&self, name: &str) -> Result<Option<Duration>, String> {
        Ok(u64::try_from(self.number(name)?).ok().map(Duration::from_millis))
    }

    /// Milliseconds, of which the largest number is no bound.
    fn bound(&self, name: &str) -> Result<Option<Duration>, String> {
        let number = self.number(name)?;
        Ok(u64::try_from(number).ok().filter(|_| number < i64::MAX).map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests;
