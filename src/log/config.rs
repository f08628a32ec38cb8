//! The configs of a topic as its logs use them, by Kafka's names. A value never changes: a config that is
//! changed at run time makes a new value, which writers, readers and the upkeep see at once.

use std::time::Duration;

use crate::config::Config;

pub use crate::config::TimestampType;

/// How a batch's records are compressed, by the codec number in its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// 0: not at all.
    Uncompressed,
    /// 1, with zlib's level (`compression.gzip.level`); -1 is zlib's default.
    Gzip(i32),
    /// 2, in the framing of Java's snappy library.
    Snappy,
    /// 3, as LZ4 frames.
    Lz4,
    /// 4, with zstd's level (`compression.zstd.level`).
    Zstd(i32),
}

impl Codec {
    /// The number that a batch's attributes carry.
    pub fn number(self) -> i16 {
        match self {
            Codec::Uncompressed => 0,
            Codec::Gzip(_) => 1,
            Codec::Snappy => 2,
            Codec::Lz4 => 3,
            Codec::Zstd(_) => 4,
        }
    }

    /// The codec of a batch whose attributes carry `number`, with Kafka's default level.
    pub fn of(number: i16) -> Option<Codec> {
        match number {
            0 => Some(Codec::Uncompressed),
            1 => Some(Codec::Gzip(-1)),
            2 => Some(Codec::Snappy),
            3 => Some(Codec::Lz4),
            4 => Some(Codec::Zstd(3)),
            _ => None,
        }
    }
}

/// When old records are deleted (`cleanup.policy` has `delete`). `None` keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Age of a segment's youngest record (`retention.ms`).
    pub age_max: Option<Duration>,
    /// Bytes of a log (`retention.bytes`).
    pub bytes_max: Option<u64>,
}

/// When and how superseded records are removed (`cleanup.policy` has `compact`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compaction {
    /// The log is compacted when a larger share of its bytes than this is not compacted yet, 0 to 1
    /// (`min.cleanable.dirty.ratio`).
    pub dirty_ratio_min: f64,
    /// How long a record stays uncompacted at least (`min.compaction.lag.ms`).
    pub lag_min: Duration,
    /// How long a record stays uncompacted at most (`max.compaction.lag.ms`); `None` is no bound.
    pub lag_max: Option<Duration>,
    /// How long a tombstone, or a marker without records, can still be read
    /// (`delete.retention.ms`).
    pub delete_retention: Duration,
}

/// See the module's header. Names in parentheses are Kafka's.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// Largest record batch that a client may append, bytes (`max.message.bytes`).
    pub batch_bytes_max: u32,
    /// Size at which a segment ends (`segment.bytes`).
    pub segment_bytes: u64,
    /// Age at which a segment ends, counted in its records' time (`segment.ms`); `None` is never.
    pub segment_age_max: Option<Duration>,
    /// The most by which a segment may end earlier, so that not all end at once
    /// (`segment.jitter.ms`).
    pub segment_jitter_max: Duration,
    /// Log bytes between two index entries (`index.interval.bytes`).
    pub index_interval_bytes: u64,
    /// `None` without `delete` in `cleanup.policy`.
    pub retention: Option<Retention>,
    /// `None` without `compact` in `cleanup.policy`.
    pub compaction: Option<Compaction>,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// How far a record's time may lie before the broker's (`message.timestamp.before.max.ms`).
    pub timestamp_before_max: Option<Duration>,
    /// How far a record's time may lie after the broker's (`message.timestamp.after.max.ms`).
    pub timestamp_after_max: Option<Duration>,
    /// How batches are compressed on disk (`compression.type`); `None` is `producer`: as they came.
    pub codec: Option<Codec>,
}

impl LogConfig {
    /// Age at which a segment ends. In a compacted log it ends early enough for its records to be compacted
    /// in time, since the active segment is never compacted.
    pub fn segment_age_max(&self) -> Option<Duration> {
        let lag_max = self.compaction.and_then(|compaction| compaction.lag_max);
        [self.segment_age_max, lag_max].into_iter().flatten().min()
    }

    /// The configs of a log that was not configured: those of the broker's internal topics, which keep
    /// everything.
    pub fn internal(broker: &Config) -> LogConfig {
        let broker = broker.dynamic.load();
        LogConfig {
            batch_bytes_max: i32::MAX as u32,
            segment_bytes: broker.log_segment_bytes,
            segment_age_max: None,
            segment_jitter_max: Duration::ZERO,
            index_interval_bytes: broker.log_index_interval_bytes,
            retention: None,
            compaction: None,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max: None,
            timestamp_after_max: None,
            codec: None,
        }
    }
}
