//! Every topic config of Kafka: what it takes, what holds where a topic does not set it, and what
//! Ottla does about it.

use crate::config::{Config, ConfigType, Kind, nearest};

/// What Ottla does about a key.
pub(super) enum Support {
    /// It takes effect. Without it, what `default` makes of the broker's configs holds.
    Honoured { kind: Kind, default: fn(&Config) -> String },
    /// Only what Ottla does anyway may be asked for. The first value is the one shown; the text
    /// says what happens instead of anything else.
    Fixed { values: &'static [&'static str], because: &'static str },
    /// Neither set nor shown.
    Absent { because: &'static str },
}

/// One topic config.
pub(super) struct TopicKey {
    /// Kafka's name.
    pub(super) name: &'static str,
    /// What Kafka says it is.
    pub(super) kind: ConfigType,
    /// See there.
    pub(super) support: Support,
    /// The broker's key that Kafka's DescribeConfigs names as the origin of the default.
    pub(super) broker: Option<&'static str>,
    /// What it does, in a sentence.
    pub(super) doc: &'static str,
}

/// A key that takes effect; its default is the broker's value.
macro_rules! honoured {
    ($name:literal, $type:ident, $kind:expr, $broker:literal, $doc:literal) => {
        honoured!($name, $type, $kind, $broker, |broker| broker.text($broker), $doc)
    };
    ($name:literal, $type:ident, $kind:expr, $broker:literal, $default:expr, $doc:literal) => {
        TopicKey {
            name: $name,
            kind: ConfigType::$type,
            support: Support::Honoured { kind: $kind, default: $default },
            broker: Some($broker),
            doc: $doc,
        }
    };
}

const fn fixed(
    name: &'static str,
    kind: ConfigType,
    values: &'static [&'static str],
    because: &'static str,
    broker: Option<&'static str>,
    doc: &'static str,
) -> TopicKey {
    TopicKey { name, kind, support: Support::Fixed { values, because }, broker, doc }
}

const fn absent(name: &'static str, because: &'static str) -> TopicKey {
    let support = Support::Absent { because };
    TopicKey { name, kind: ConfigType::String, support, broker: None, doc: "" }
}

const fn int(min: i64) -> Kind {
    Kind::Number { min, max: i32::MAX as i64 }
}

const fn long(min: i64) -> Kind {
    Kind::Number { min, max: i64::MAX }
}

const NO_TIERING: &str = "there is no remote storage yet";
const ONE_REPLICA: &str = "a topic has one replica on this machine";
const GROUP_COMMIT: &str = "the broker's 'durability' decides when appends are synced";

const LONG_MAX: &str = "9223372036854775807";

/// Kafka's smallest segment: a smaller one would cost more files than it saves bytes.
const SEGMENT_BYTES_MIN: i64 = 1 << 20;

/// In name order.
pub(super) const KEYS: &[TopicKey] = &[
    honoured!(
        "cleanup.policy",
        List,
        Kind::List { words: &["delete", "compact"], may_be_empty: true },
        "log.cleanup.policy",
        "What happens to old records: 'delete' drops segments by age and size, 'compact' keeps the newest record of each key, both may be given, and nothing keeps all."
    ),
    honoured!(
        "compression.gzip.level",
        Int,
        Kind::Limit { min: 1, max: 9 },
        "compression.gzip.level",
        "The level of compression.type=gzip, 1 to 9; -1 is zlib's default."
    ),
    fixed(
        "compression.lz4.level",
        ConfigType::Int,
        &["9"],
        "there is one level of LZ4",
        Some("compression.lz4.level"),
        "The level of compression.type=lz4. Accepted for compatibility: there is one level.",
    ),
    honoured!(
        "compression.type",
        String,
        Kind::Choice(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        "compression.type",
        "How batches are compressed on disk; 'producer' keeps them as they came."
    ),
    honoured!(
        "compression.zstd.level",
        Int,
        Kind::Number { min: -131_072, max: 22 },
        "compression.zstd.level",
        "The level of compression.type=zstd."
    ),
    honoured!(
        "delete.retention.ms",
        Long,
        long(0),
        "log.cleaner.delete.retention.ms",
        "How long a compacted log keeps its tombstones readable."
    ),
    absent("file.delete.delay.ms", "files that are not needed any more are removed at once"),
    fixed(
        "flush.messages",
        ConfigType::Long,
        &[LONG_MAX],
        GROUP_COMMIT,
        Some("log.flush.interval.messages"),
        "After how many records the log is synced, beyond what acks=all syncs.",
    ),
    fixed(
        "flush.ms",
        ConfigType::Long,
        &[LONG_MAX],
        GROUP_COMMIT,
        None,
        "After how many ms the log is synced, beyond what acks=all syncs.",
    ),
    absent("follower.replication.throttled.replicas", ONE_REPLICA),
    honoured!(
        "index.interval.bytes",
        Int,
        int(0),
        "log.index.interval.bytes",
        "How many log bytes lie between two index entries."
    ),
    absent("leader.replication.throttled.replicas", ONE_REPLICA),
    fixed(
        "local.retention.bytes",
        ConfigType::Long,
        &["-2"],
        NO_TIERING,
        Some("log.local.retention.bytes"),
        "Bytes kept locally: as retention.bytes.",
    ),
    fixed(
        "local.retention.ms",
        ConfigType::Long,
        &["-2"],
        NO_TIERING,
        Some("log.local.retention.ms"),
        "Time kept locally: as retention.ms.",
    ),
    honoured!(
        "max.compaction.lag.ms",
        Long,
        long(1),
        "log.cleaner.max.compaction.lag.ms",
        "How long a record stays uncompacted at most."
    ),
    honoured!(
        "max.message.bytes",
        Int,
        int(0),
        "message.max.bytes",
        "The largest record batch the topic accepts, in bytes."
    ),
    honoured!(
        "message.timestamp.after.max.ms",
        Long,
        long(0),
        "log.message.timestamp.after.max.ms",
        "How far a record's time may lie after the broker's."
    ),
    honoured!(
        "message.timestamp.before.max.ms",
        Long,
        long(0),
        "log.message.timestamp.before.max.ms",
        "How far a record's time may lie before the broker's."
    ),
    honoured!(
        "message.timestamp.type",
        String,
        Kind::Choice(&["CreateTime", "LogAppendTime"]),
        "log.message.timestamp.type",
        "Whose time records carry: the producer's, or the broker's when it appends them."
    ),
    honoured!(
        "min.cleanable.dirty.ratio",
        Double,
        Kind::Ratio,
        "log.cleaner.min.cleanable.ratio",
        "Share of a compacted log not yet compacted that makes it worth compacting."
    ),
    honoured!(
        "min.compaction.lag.ms",
        Long,
        long(0),
        "log.cleaner.min.compaction.lag.ms",
        "How long a record stays uncompacted at least."
    ),
    fixed(
        "min.insync.replicas",
        ConfigType::Int,
        &["1"],
        ONE_REPLICA,
        Some("min.insync.replicas"),
        "How many replicas must have a record before acks=all is answered.",
    ),
    fixed(
        "preallocate",
        ConfigType::Boolean,
        &["false"],
        "segment files grow as they are written",
        Some("log.preallocate"),
        "Whether segment files are allocated in full when they are made.",
    ),
    absent("remote.log.copy.disable", NO_TIERING),
    absent("remote.log.delete.on.disable", NO_TIERING),
    fixed(
        "remote.storage.enable",
        ConfigType::Boolean,
        &["false"],
        NO_TIERING,
        None,
        "Whether segments are copied to remote storage.",
    ),
    honoured!(
        "retention.bytes",
        Long,
        // Kafka has no bound here: any negative number is none.
        long(i64::MIN),
        "log.retention.bytes",
        "Bytes of a partition above which its oldest segments are dropped; -1 is no bound."
    ),
    honoured!(
        "retention.ms",
        Long,
        long(-1),
        "log.retention.ms",
        |broker| broker
            .log_retention()
            .map_or_else(|| "-1".to_owned(), |age| age.as_millis().to_string()),
        "How long records are kept at least; -1 is for ever."
    ),
    honoured!(
        "segment.bytes",
        Int,
        int(SEGMENT_BYTES_MIN),
        "log.segment.bytes",
        "The size at which a segment file is closed and the next one begun."
    ),
    absent("segment.index.bytes", "the index is not a file of a fixed size"),
    honoured!(
        "segment.jitter.ms",
        Long,
        long(0),
        "log.roll.jitter.ms",
        |broker| broker.log_roll_jitter().as_millis().to_string(),
        "The most by which a segment is closed earlier, at random."
    ),
    honoured!(
        "segment.ms",
        Long,
        long(1),
        "log.roll.ms",
        |broker| broker.log_roll().as_millis().to_string(),
        "The age, in its records' time, at which a segment file is closed."
    ),
    fixed(
        "unclean.leader.election.enable",
        ConfigType::Boolean,
        &["false"],
        ONE_REPLICA,
        Some("unclean.leader.election.enable"),
        "Whether a replica that lags may become the leader.",
    ),
];

/// The key of that name, or a refusal that names the one most likely meant.
pub(super) fn find(name: &str) -> Result<&'static TopicKey, String> {
    KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
        match nearest(name, KEYS.iter().map(|key| key.name)) {
            Some(near) => format!("unknown topic config '{name}'; did you mean '{near}'?"),
            None => format!("unknown topic config '{name}'"),
        }
    })
}

impl TopicKey {
    /// `value` as it is kept and shown, or why the topic cannot have it.
    pub(super) fn checked(&self, value: &str) -> Result<String, String> {
        let (name, value) = (self.name, value.trim());
        match &self.support {
            Support::Honoured { kind, .. } => kind.canonical(value).ok_or_else(|| {
                format!("topic config {name} cannot be '{value}': it must be {}", kind.allowed())
            }),
            Support::Fixed { values, because } => {
                let known = values.iter().find(|known| known.eq_ignore_ascii_case(value));
                known.map(|known| (*known).to_owned()).ok_or_else(|| {
                    format!(
                        "topic config {name}={value} is not supported: {because}; leave it out or use {}",
                        values[0]
                    )
                })
            }
            Support::Absent { because } => {
                Err(format!("topic config {name} is not supported: {because}; leave it out"))
            }
        }
    }

    /// What holds for topics that do not set it; `None` for one that is not shown.
    pub(super) fn default(&self, broker: &Config) -> Option<String> {
        match &self.support {
            Support::Honoured { default, .. } => Some(default(broker)),
            Support::Fixed { values, .. } => Some(values[0].to_owned()),
            Support::Absent { .. } => None,
        }
    }
}
