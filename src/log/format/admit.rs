//! Whether a topic takes a batch, and in which form: its configs' bounds on timestamps, keys where it
//! is compacted, and its codec. Kafka's `LogValidator` decides what is right. Most batches are taken
//! by their headers alone; the others are inflated, within a bound.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::batch::{self, BatchHeader, Changes, HEADER_BYTES, HeaderError};
use super::raw_records::{RawBatch, RawRecord};
use super::records::DecodeError;
use crate::log::AppendError;
use crate::log::config::{Codec, LogConfig, TimestampType};
use crate::log::outcome::RecordFault;
use crate::types::Timestamp;

/// Kafka's "no timestamp", which no bound refuses.
const NO_TIMESTAMP: Timestamp = Timestamp(-1);
/// A batch inflates to at most this much, or to the largest batch that the topic takes.
const INFLATED_BYTES_MAX: usize = 64 << 20;
/// Appends of so many bytes that are not compressed are looked at where they are. For more work
/// than that a network thread has no time.
const LIGHT_BYTES_MAX: usize = 32 << 10;
/// Most records of a batch that are named one by one when they are refused.
const FAULTS_MAX: usize = 100;

/// Whether batches go into the log as they are: what their headers tell is enough.
pub(in crate::log) fn as_they_are(
    config: &LogConfig,
    headers: &[BatchHeader],
    now: impl FnOnce() -> Timestamp,
) -> bool {
    let bounds = Bounds::of(config);
    if config.compaction.is_some() || bounds.is_some_and(|bounds| bounds.before_max.is_some()) {
        return false;
    }
    let differs =
        |header: &BatchHeader| header.log_append_time() || target(config, header).is_some();
    if headers.iter().any(differs) {
        return false;
    }
    match bounds.and_then(|bounds| bounds.after_max) {
        None => true,
        Some(after_max) => {
            let latest = now().0.saturating_add(millis(after_max));
            headers.iter().all(|header| header.max_timestamp.0 <= latest)
        }
    }
}

/// Whether `look` is quick enough for a network thread.
pub(in crate::log) fn is_light(config: &LogConfig, headers: &[BatchHeader]) -> bool {
    let bytes: usize = headers.iter().map(|header| header.bytes).sum();
    let is_plain =
        |header: &BatchHeader| header.compression() == 0 && target(config, header).is_none();
    bytes <= LIGHT_BYTES_MAX && headers.iter().all(is_plain)
}

/// The batches as the topic stores them, with their headers; or why it does not.
pub(in crate::log) fn look(
    config: &LogConfig,
    batches: &Bytes,
    headers: &[BatchHeader],
    now: Timestamp,
    batch_bytes_max: u32,
) -> Result<(Bytes, Vec<BatchHeader>), AppendError> {
    let topic = Topic { config, bounds: Bounds::of(config), now, batch_bytes_max };
    let mut rest = batches.clone();
    let mut stored = Vec::with_capacity(headers.len());
    let mut stored_headers = Vec::with_capacity(headers.len());
    for header in headers {
        let batch = topic.admit(header, rest.split_to(header.bytes.min(rest.len())))?;
        stored_headers.push(
            BatchHeader::parse(&batch)
                .map_err(|e: HeaderError| AppendError::Invalid(e.to_string()))?,
        );
        stored.push(batch);
    }
    let batches = match stored.len() {
        1 => stored.remove(0),
        _ => {
            let mut all = BytesMut::with_capacity(stored.iter().map(Bytes::len).sum());
            stored.iter().for_each(|batch| all.extend_from_slice(batch));
            all.freeze()
        }
    };
    Ok((batches, stored_headers))
}

/// The codec that a batch must be given.
fn target(config: &LogConfig, header: &BatchHeader) -> Option<Codec> {
    config.codec.filter(|codec| codec.number() != header.compression())
}

/// How far a record's time may lie from the broker's.
#[derive(Clone, Copy)]
struct Bounds {
    before_max: Option<Duration>,
    after_max: Option<Duration>,
}

impl Bounds {
    /// `None` where the time is the broker's own.
    fn of(config: &LogConfig) -> Option<Bounds> {
        let bounds = Bounds {
            before_max: config.timestamp_before_max,
            after_max: config.timestamp_after_max,
        };
        (config.timestamp_type == TimestampType::CreateTime).then_some(bounds)
    }

    /// The first and the last timestamp allowed.
    fn around(self, now: Timestamp) -> (Timestamp, Timestamp) {
        let first = self.before_max.map_or(i64::MIN, |max| now.0.saturating_sub(millis(max)));
        let last = self.after_max.map_or(i64::MAX, |max| now.0.saturating_add(millis(max)));
        (Timestamp(first), Timestamp(last))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// What one append is held against.
struct Topic<'a> {
    config: &'a LogConfig,
    bounds: Option<Bounds>,
    now: Timestamp,
    batch_bytes_max: u32,
}

impl Topic<'_> {
    fn admit(&self, header: &BatchHeader, batch: Bytes) -> Result<Bytes, AppendError> {
        // Kafka looks at the records' time first, and forgives the claim where that is right.
        if header.log_append_time()
            && (self.bounds.is_none() || header.max_timestamp == NO_TIMESTAMP)
        {
            return Err(AppendError::TimestampType);
        }
        let target = target(self.config, header);
        let inflated_bytes_max = match target {
            Some(Codec::Uncompressed) => {
                (self.batch_bytes_max as usize).saturating_sub(HEADER_BYTES)
            }
            _ => INFLATED_BYTES_MAX.max(self.batch_bytes_max as usize),
        };
        let raw = RawBatch::open(header, &batch, inflated_bytes_max).map_err(undecodable)?;
        let max_timestamp = self.records(&raw)?;
        let mut changes = Changes { log_append_time: false, ..Changes::none(header) };
        if self.bounds.is_some() {
            changes.max_timestamp = max_timestamp;
        }
        let stored = match target {
            Some(codec) => raw
                .recompress(codec, changes)
                .map_err(|e| AppendError::Invalid(format!("it cannot be compressed: {e}")))?,
            // The producer was wrong about its own records.
            None if header.log_append_time() || header.max_timestamp != changes.max_timestamp => {
                let mut stored = batch.to_vec();
                batch::rewrite(&mut stored, &changes);
                Bytes::from(stored)
            }
            None => batch,
        };
        if stored.len() > self.batch_bytes_max as usize {
            let (bytes, bytes_max) = (stored.len(), self.batch_bytes_max);
            return Err(AppendError::TooLarge { bytes, bytes_max });
        }
        Ok(stored)
    }

    /// Checks every record; returns the largest timestamp.
    fn records(&self, raw: &RawBatch) -> Result<Timestamp, AppendError> {
        let needs_keys = self.config.compaction.is_some();
        let (first, last) = match self.bounds {
            Some(bounds) => bounds.around(self.now),
            None => (Timestamp(i64::MIN), Timestamp(i64::MAX)),
        };
        let mut max_timestamp = NO_TIMESTAMP;
        let (mut keyless, mut untimely) = (0, 0);
        let mut faults = Vec::new();
        for (index, record) in raw.records().enumerate() {
            let record: RawRecord<'_> = record.map_err(undecodable)?;
            let time = record.timestamp;
            max_timestamp = max_timestamp.max(time);
            let reason = if needs_keys && record.key.is_none() {
                keyless += 1;
                "it has no key, and the topic is compacted".to_owned()
            } else if time != NO_TIMESTAMP && !(first..=last).contains(&time) {
                untimely += 1;
                out_of_range(time, first, last)
            } else {
                continue;
            };
            if faults.len() < FAULTS_MAX {
                faults.push(RecordFault { index: index as i32, reason });
            }
        }
        match (keyless, untimely) {
            (0, 0) => Ok(max_timestamp),
            (_, 0) => Err(AppendError::NoKey { count: keyless, faults }),
            _ => Err(AppendError::TimestampRange { count: untimely, faults }),
        }
    }
}

fn out_of_range(time: Timestamp, first: Timestamp, last: Timestamp) -> String {
    format!("its timestamp {time} is not within {first}..={last}")
}

fn undecodable(error: DecodeError) -> AppendError {
    match error {
        DecodeError::Corrupt(_, reason) => AppendError::Invalid(reason),
        DecodeError::TooLarge(_, bytes_max) => AppendError::Inflates { bytes_max },
    }
}

#[cfg(test)]
mod tests;
