//! What topics may ask for, what it amounts to, and how it changes.

use super::*;
use crate::metadata::config_change::{ConfigChange, ConfigChanges, delta};

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn check_pair(name: &str, value: &str) -> Result<String, String> {
    let checked = check(&pairs(&[(name, value)]), &Config::default())?;
    Ok(checked[name].clone())
}

fn resolved(set: &[(&str, &str)]) -> LogConfig {
    resolve(&check(&pairs(set), &Config::default()).unwrap(), false, &Config::default()).unwrap()
}

#[test]
fn values_are_kept_as_kafka_shows_them() {
    for (name, value, kept) in [
        ("cleanup.policy", "delete", "delete"),
        ("cleanup.policy", " compact , delete", "compact,delete"),
        ("cleanup.policy", "delete,compact", "delete,compact"),
        ("cleanup.policy", "delete, delete", "delete"),
        ("cleanup.policy", "", ""),
        ("retention.ms", " +7 ", "7"),
        ("retention.ms", "0", "0"),
        ("retention.bytes", "-2", "-2"),
        ("min.cleanable.dirty.ratio", "5e-1", "0.5"),
        ("min.cleanable.dirty.ratio", "1", "1.0"),
        ("compression.gzip.level", "-1", "-1"),
        ("compression.zstd.level", "-131072", "-131072"),
        ("preallocate", "FALSE", "false"),
        ("min.insync.replicas", "1", "1"),
        ("segment.bytes", "1048576", "1048576"),
    ] {
        assert_eq!(check_pair(name, value), Ok(kept.to_owned()), "{name}={value}");
    }
}

#[test]
fn values_out_of_kafkas_bounds_are_refused() {
    for (name, value) in [
        ("cleanup.policy", "burn"),
        ("cleanup.policy", "DELETE"),
        ("cleanup.policy", "delete,"),
        ("cleanup.policy", ","),
        ("retention.ms", "-2"),
        ("retention.ms", "soon"),
        ("retention.ms", "1.5"),
        ("retention.ms", ""),
        ("retention.ms", "9223372036854775808"),
        ("max.message.bytes", "-1"),
        ("max.message.bytes", "2147483648"),
        ("segment.bytes", "1048575"),
        ("segment.ms", "0"),
        ("segment.jitter.ms", "-1"),
        ("index.interval.bytes", "-1"),
        ("min.cleanable.dirty.ratio", "1.1"),
        ("min.cleanable.dirty.ratio", "NaN"),
        ("max.compaction.lag.ms", "0"),
        ("compression.type", "GZIP"),
        ("compression.gzip.level", "0"),
        ("compression.gzip.level", "10"),
        ("compression.zstd.level", "23"),
        ("message.timestamp.type", "createtime"),
        ("message.timestamp.after.max.ms", "-1"),
    ] {
        let refusal = check_pair(name, value).unwrap_err();
        assert!(refusal.contains(name) && refusal.contains("it must be"), "{refusal}");
    }
}

#[test]
fn what_would_be_ignored_is_refused_with_its_reason() {
    let refusal = check_pair("min.insync.replicas", "2").unwrap_err();
    assert!(refusal.contains("min.insync.replicas=2"), "{refusal}");
    assert!(refusal.contains("one replica"), "{refusal}");
    assert!(refusal.contains("use 1"), "{refusal}");
    assert!(check_pair("flush.ms", "1").unwrap_err().contains("durability"));
    assert!(check_pair("file.delete.delay.ms", "1").unwrap_err().contains("leave it out"));
    assert!(check_pair("compression.lz4.level", "3").unwrap_err().contains("use 9"));
}

#[test]
fn lags_that_leave_no_time_to_compact_are_refused() {
    let lags = |min, max| {
        let lags = pairs(&[("min.compaction.lag.ms", min), ("max.compaction.lag.ms", max)]);
        check(&lags, &Config::default())
    };
    assert!(lags("10", "10").is_ok());
    assert!(lags("10", "5").unwrap_err().contains("is above max.compaction.lag.ms (5)"));
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() {
    let refusal = check_pair("retension.ms", "1").unwrap_err();
    assert_eq!(refusal, "unknown topic config 'retension.ms'; did you mean 'retention.ms'?");
    assert_eq!(check_pair("zzz", "1").unwrap_err(), "unknown topic config 'zzz'");
}

#[test]
fn keys_are_in_order_and_each_once() {
    assert!(table::KEYS.is_sorted_by(|a, b| a.name < b.name));
}

#[test]
fn the_defaults_are_kafkas_and_pass_their_own_check() {
    for config in describe(&BTreeMap::new(), false, &Config::default()) {
        let kept = check_pair(config.name, &config.value);
        assert_eq!(kept.as_ref(), Ok(&config.value), "{}", config.name);
        assert!(!config.is_set && !config.doc.is_empty(), "{}", config.name);
    }
    let config = resolved(&[]);
    assert_eq!(config.batch_bytes_max, 1_048_588);
    assert_eq!(config.segment_bytes, 1 << 30);
    let week = Duration::from_secs(7 * 86_400);
    assert_eq!(config.segment_age_max, Some(week));
    assert_eq!(config.retention, Some(Retention { age_max: Some(week), bytes_max: None }));
    assert_eq!(config.compaction, None);
    assert_eq!(config.timestamp_before_max, None);
    assert_eq!(config.timestamp_after_max, Some(Duration::from_secs(3600)));
    assert_eq!(config.codec, None);
}

#[test]
fn a_topics_own_configs_reach_its_log() {
    let config = resolved(&[
        ("cleanup.policy", "compact,delete"),
        ("retention.ms", "-1"),
        ("retention.bytes", "5000"),
        ("min.cleanable.dirty.ratio", "0.1"),
        ("min.compaction.lag.ms", "3"),
        ("max.compaction.lag.ms", "4"),
        ("delete.retention.ms", "5"),
        ("max.message.bytes", "2000"),
        ("segment.bytes", "2097152"),
        ("segment.ms", "9223372036854775807"),
        ("segment.jitter.ms", "6"),
        ("index.interval.bytes", "7"),
        ("message.timestamp.type", "LogAppendTime"),
        ("message.timestamp.before.max.ms", "8"),
        ("message.timestamp.after.max.ms", "9"),
        ("compression.type", "zstd"),
        ("compression.zstd.level", "11"),
    ]);
    let ms = Duration::from_millis;
    assert_eq!(
        config,
        LogConfig {
            batch_bytes_max: 2000,
            segment_bytes: 2 << 20,
            segment_age_max: None,
            segment_jitter_max: ms(6),
            index_interval_bytes: 7,
            retention: Some(Retention { age_max: None, bytes_max: Some(5000) }),
            compaction: Some(Compaction {
                dirty_ratio_min: 0.1,
                lag_min: ms(3),
                lag_max: Some(ms(4)),
                delete_retention: ms(5),
            }),
            timestamp_type: TimestampType::LogAppendTime,
            timestamp_before_max: Some(ms(8)),
            timestamp_after_max: Some(ms(9)),
            codec: Some(Codec::Zstd(11)),
        }
    );
    let neither = resolved(&[("cleanup.policy", "")]);
    assert_eq!((neither.retention, neither.compaction), (None, None));
}

#[test]
fn the_brokers_own_topics_lose_nothing_by_a_default_meant_for_clients() {
    let broker = Config { log_retention_hours: 1, ..Config::default() }.starting_with(|it| {
        it.message_max_bytes = 2000;
        it.log_message_timestamp_type = TimestampType::LogAppendTime;
        it.compression_type = Compression::Gzip;
    });
    let config = resolve(&BTreeMap::new(), true, &broker).unwrap();
    assert_eq!((config.retention, config.compaction, config.codec), (None, None, None));
    assert_eq!(config.batch_bytes_max, i32::MAX as u32);
    assert_eq!(config.timestamp_type, TimestampType::CreateTime);
    let offsets = pairs(&[("cleanup.policy", "compact")]);
    assert!(resolve(&offsets, true, &broker).unwrap().compaction.is_some());
}

#[test]
fn a_description_shows_where_each_value_comes_from() {
    let broker = Config { log_retention_hours: 1, ..Config::default() }
        .starting_with(|it| it.log_index_interval_bytes = 1024);
    let configs = describe(&pairs(&[("max.message.bytes", "2000")]), false, &broker);
    let find = |name: &str| configs.iter().find(|config| config.name == name).unwrap();
    let own = find("max.message.bytes");
    assert_eq!((own.value.as_str(), own.is_set, own.kind), ("2000", true, ConfigType::Int));
    let of = |origin, value: &str| (origin, value.to_owned());
    let (name, origins) = own.broker.as_ref().unwrap();
    assert_eq!((*name, &origins[..]), ("message.max.bytes", &[of(Origin::Default, "1048588")][..]));
    let (_, origins) = find("index.interval.bytes").broker.as_ref().unwrap();
    assert_eq!(origins[..], [of(Origin::Start, "1024"), of(Origin::Default, "4096")]);
    // As with Kafka, hours leave no trace but the value.
    let retention = find("retention.ms");
    assert_eq!(retention.value, "3600000");
    assert!(retention.broker.as_ref().unwrap().1.is_empty());
}

fn changed(
    set: &[(&str, &str)],
    name: &str,
    change: ConfigChange,
) -> Result<BTreeMap<String, String>, String> {
    let mut configs = pairs(set);
    let changes = ConfigChanges::Some([(name.to_owned(), change)].into());
    delta(&configs, changes, &TopicKeys(&Config::default()))?.apply(&mut configs);
    Ok(configs)
}

#[test]
fn lists_grow_and_shrink_from_what_holds() {
    let append = |set: &[_], words: &str| {
        changed(set, "cleanup.policy", ConfigChange::Append(words.to_owned())).unwrap()
    };
    let subtract = |set: &[_], words: &str| {
        changed(set, "cleanup.policy", ConfigChange::Subtract(words.to_owned())).unwrap()
    };
    let policy = |value| pairs(&[("cleanup.policy", value)]);
    assert_eq!(append(&[], "compact"), policy("delete,compact"));
    assert_eq!(append(&[("cleanup.policy", "compact")], "compact"), policy("compact"));
    assert_eq!(append(&[("cleanup.policy", "")], "compact, delete"), policy("compact,delete"));
    assert_eq!(subtract(&[], "delete"), policy(""));
    assert_eq!(subtract(&[("cleanup.policy", "compact,delete")], "compact"), policy("delete"));
    assert_eq!(subtract(&[("cleanup.policy", "compact")], "delete"), policy("compact"));
    let number = ConfigChange::Append("1".to_owned());
    assert!(changed(&[], "retention.ms", number).unwrap_err().contains("not a list"));
    let wrong = ConfigChange::Append("burn".to_owned());
    assert!(changed(&[], "cleanup.policy", wrong).is_err());
}

#[test]
fn what_is_unset_needs_not_to_be_known() {
    let set = [("retention.ms", "5")];
    assert!(changed(&set, "retention.ms", ConfigChange::Unset).unwrap().is_empty());
    assert_eq!(changed(&set, "no.such", ConfigChange::Unset).unwrap(), pairs(&set));
    assert!(changed(&set, "no.such", ConfigChange::Set("1".to_owned())).is_err());
}

#[test]
fn a_replacement_unsets_what_it_does_not_name() {
    let set = pairs(&[("retention.ms", "5"), ("segment.ms", "6")]);
    let all = ConfigChanges::All(pairs(&[("segment.ms", "6"), ("max.message.bytes", "7")]));
    let delta = delta(&set, all, &TopicKeys(&Config::default())).unwrap();
    assert_eq!(delta.set, pairs(&[("max.message.bytes", "7")]), "what stays is no change");
    assert_eq!(delta.unset, ["retention.ms".to_owned()].into());
}
