//! Values that the broker's configs share with its topics', in Kafka's words, and what Kafka's
//! choice of units for one setting amounts to.

use std::fmt;
use std::time::Duration;

use super::Config;

/// Whose time a record carries (`message.timestamp.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's, when the batch is appended.
    LogAppendTime,
}

impl TimestampType {
    /// The type of that name; case matters, as in Kafka.
    pub fn parse(text: &str) -> Option<TimestampType> {
        match text {
            "CreateTime" => Some(TimestampType::CreateTime),
            "LogAppendTime" => Some(TimestampType::LogAppendTime),
            _ => None,
        }
    }

    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            TimestampType::CreateTime => "CreateTime",
            TimestampType::LogAppendTime => "LogAppendTime",
        }
    }
}

/// What batches are compressed with on disk (`compression.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As they came.
    Producer,
    /// Not at all.
    Uncompressed,
    /// With zlib.
    Gzip,
    /// With snappy.
    Snappy,
    /// With LZ4.
    Lz4,
    /// With zstd.
    Zstd,
}

impl Compression {
    /// The compression of that name.
    pub fn parse(text: &str) -> Option<Compression> {
        match text {
            "producer" => Some(Compression::Producer),
            "uncompressed" => Some(Compression::Uncompressed),
            "gzip" => Some(Compression::Gzip),
            "snappy" => Some(Compression::Snappy),
            "lz4" => Some(Compression::Lz4),
            "zstd" => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Producer => "producer",
            Compression::Uncompressed => "uncompressed",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// What happens to old records (`cleanup.policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Whether segments go by age and size.
    pub delete: bool,
    /// Whether records go when their keys have newer ones.
    pub compact: bool,
}

impl CleanupPolicy {
    /// A list of `delete` and `compact` with commas.
    pub fn parse(text: &str) -> Option<CleanupPolicy> {
        let mut policy = CleanupPolicy { delete: false, compact: false };
        for word in text.split(',') {
            match word.trim() {
                "delete" => policy.delete = true,
                "compact" => policy.compact = true,
                _ => return None,
            }
        }
        Some(policy)
    }
}

impl fmt::Display for CleanupPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.compact, self.delete) {
            (true, true) => "compact,delete",
            (true, false) => "compact",
            (false, true) => "delete",
            (false, false) => "",
        })
    }
}

const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;

impl Config {
    /// How long records are kept, of the finest of `log.retention.ms`, `.minutes` and `.hours`
    /// that is given; `None` is for ever.
    pub fn log_retention(&self) -> Option<Duration> {
        let minutes = self.log_retention_minutes.map(|minutes| minutes.saturating_mul(MINUTE_MS));
        let hours = || self.log_retention_hours.saturating_mul(HOUR_MS);
        let ms = self.dynamic.load().log_retention_ms.or(minutes).unwrap_or_else(hours);
        u64::try_from(ms).ok().map(Duration::from_millis)
    }

    /// How long committed offsets are kept, of `offsets.retention.minutes`.
    pub fn offsets_retention(&self) -> Duration {
        Duration::from_secs(60 * u64::from(self.offsets_retention_minutes))
    }

    /// Age at which a segment ends, of the finer of `log.roll.ms` and `.hours` that is given.
    pub fn log_roll(&self) -> Duration {
        period(self.dynamic.load().log_roll_ms, self.log_roll_hours)
    }

    /// The most by which a segment ends earlier, of the finer of `log.roll.jitter.ms` and `.hours`
    /// that is given.
    pub fn log_roll_jitter(&self) -> Duration {
        period(self.dynamic.load().log_roll_jitter_ms, self.log_roll_jitter_hours)
    }
}

fn period(ms: Option<i64>, hours: i64) -> Duration {
    let ms = ms.unwrap_or_else(|| hours.saturating_mul(HOUR_MS));
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}
