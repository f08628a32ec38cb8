//! Whether a topic takes a batch, and in which form. Kafka's `LogValidator` decides what is right.
//!
//! The records of every batch that a producer sends are walked: in place, or while they are inflated
//! in a window of fixed size. What the header says of their times is put right. Batches are stored
//! as they came, but for the header, unless the topic's `compression.type` asks for another codec.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::batch::{BatchHeader, Changes, HEADER_BYTES, HeaderError};
use super::compression::{self, InflateError};
use super::inflating::Inflating;
use super::raw_records;
use super::varint::{Cursor, ReadFault};
use super::walk::{Broken, Fault, Layout, walk};
use crate::log::config::{Codec, LogConfig, TimestampType};
use crate::log::outcome::{AppendError, AppendOptions, AppendOrigin, RecordFault};
use crate::types::Timestamp;

/// Kafka's "no timestamp", which no bound refuses.
const NO_TIMESTAMP: Timestamp = Timestamp(-1);
/// A batch inflates to at most this much, or to the largest batch that the topic takes.
pub(in crate::log) const INFLATED_BYTES_MAX: usize = 64 << 20;
/// Most records of a batch that are named one by one when they are refused.
const FAULTS_MAX: usize = 100;

// What a network thread has time for, about a quarter of a millisecond. A batch of Kafka's largest
// default size may hold 150,000 records or half a million headers, which take longer.

/// A larger uncompressed batch is checked elsewhere.
const LIGHT_BYTES_MAX: usize = 1_048_588;
/// One with more records too, unless it is small.
const LIGHT_RECORDS_MAX: i32 = 16 << 10;
/// However many records are in so many bytes, they are walked quickly.
const LIGHT_WALK_BYTES_MAX: usize = 64 << 10;
/// A larger compressed batch is checked elsewhere,
const LIGHT_COMPRESSED_BYTES_MAX: usize = 16 << 10;
/// and one that turns out to hold more than this.
const LIGHT_INFLATED_BYTES_MAX: usize = 64 << 10;

/// How long a check may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) enum Effort {
    /// As long as a network thread can be spared.
    Brief,
    /// As long as it takes.
    Full,
}

/// Why a check came to no batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::log) enum Unadmitted {
    /// It takes more than a brief effort.
    Later,
    Refused(AppendError),
}

impl From<AppendError> for Unadmitted {
    fn from(error: AppendError) -> Unadmitted {
        Unadmitted::Refused(error)
    }
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
        // Without a bound it is as large as Kafka's default: a time further back has wrapped.
        let before_max = self.before_max.map_or(i64::MAX, millis);
        let first = now.0.saturating_sub(before_max);
        let last = self.after_max.map_or(i64::MAX, |max| now.0.saturating_add(millis(max)));
        (Timestamp(first), Timestamp(last))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// What one append is held against.
pub(in crate::log) struct Terms<'a> {
    config: &'a LogConfig,
    options: AppendOptions,
    /// Whether the records of a producer's compressed batches are checked.
    checks_compressed: bool,
    bounds: Option<Bounds>,
    now: Timestamp,
}

impl<'a> Terms<'a> {
    pub(in crate::log) fn new(
        config: &'a LogConfig,
        options: AppendOptions,
        checks_compressed: bool,
        now: Timestamp,
    ) -> Terms<'a> {
        Terms { config, options, checks_compressed, bounds: Bounds::of(config), now }
    }

    /// Checks the records of `batches`. `headers` become what the log stores of each batch, and the
    /// batches become the bytes that are given back, if there are any.
    pub(in crate::log) fn admit(
        &self,
        batches: &Bytes,
        headers: &mut [BatchHeader],
        effort: Effort,
    ) -> Result<Option<Bytes>, Unadmitted> {
        if let [header] = headers {
            return self.admit_one(header, batches, effort);
        }
        // Kept until all are through: a second attempt begins with what was sent.
        let mut stored_headers = headers.to_vec();
        let mut stored = Vec::with_capacity(headers.len());
        let mut is_changed = false;
        let mut rest = batches.clone();
        for header in &mut stored_headers {
            let batch = rest.split_to(header.bytes.min(rest.len()));
            let new = self.admit_one(header, &batch, effort)?;
            is_changed |= new.is_some();
            stored.push(new.unwrap_or(batch));
        }
        headers.copy_from_slice(&stored_headers);
        let joined = || {
            let mut all = BytesMut::with_capacity(stored.iter().map(Bytes::len).sum());
            stored.iter().for_each(|batch| all.extend_from_slice(batch));
            all.freeze()
        };
        Ok(is_changed.then(joined))
    }

    fn admit_one(
        &self,
        header: &mut BatchHeader,
        batch: &Bytes,
        effort: Effort,
    ) -> Result<Option<Bytes>, Unadmitted> {
        let is_checked = self.options.origin == AppendOrigin::Client
            && (header.compression() == 0 || self.checks_compressed);
        let target = target(self.config, header);
        if !is_checked && target.is_none() && self.may_believe(header) {
            return Ok(None);
        }
        if effort == Effort::Brief && (target.is_some() || is_heavy(header)) {
            return Err(Unadmitted::Later);
        }
        match target {
            Some(codec) => Ok(Some(self.recompress(header, batch, codec)?)),
            None => {
                self.check(header, batch, effort)?;
                Ok(None)
            }
        }
    }

    /// Checks the records, and puts right in `header` what it says of their times.
    fn check(
        &self,
        header: &mut BatchHeader,
        batch: &Bytes,
        effort: Effort,
    ) -> Result<(), Unadmitted> {
        let body = batch.get(HEADER_BYTES..).ok_or_else(truncated)?;
        let mut seen = Seen::new(self, header);
        let visit = |index, layout: &Layout| seen.record(header, index, layout);
        if header.compression() == 0 {
            walk(header, &mut Cursor::new(body), visit)
                .map_err(|broken| refusal(header, broken, None, body.len()))?;
        } else {
            self.walk_inflating(header, body, effort, visit)?;
        }
        let largest = seen.largest()?;
        // Where the broker's time counts, the writer puts that in.
        let is_producers = self.bounds.is_some();
        if is_producers && (header.log_append_time() || header.max_timestamp != largest) {
            *header = header.with_max_timestamp(batch, largest);
        }
        Ok(())
    }

    /// The same records under another codec, once they are checked; `header` becomes that of the
    /// batch given back.
    fn recompress(
        &self,
        header: &mut BatchHeader,
        batch: &Bytes,
        codec: Codec,
    ) -> Result<Bytes, AppendError> {
        let bytes_max = self.options.batch_bytes_max;
        let inflated_bytes_max = match codec {
            Codec::Uncompressed => (bytes_max as usize).saturating_sub(HEADER_BYTES),
            _ => self.inflated_bytes_max(),
        };
        let body = inflate(header, batch, inflated_bytes_max)?;
        let mut seen = Seen::new(self, header);
        let visit = |index, layout: &Layout| seen.record(header, index, layout);
        walk(header, &mut Cursor::new(&body), visit)
            .map_err(|broken| refusal(header, broken, None, inflated_bytes_max))?;
        let largest = seen.largest()?;
        let mut changes = Changes { log_append_time: false, ..Changes::none(header) };
        if self.bounds.is_some() {
            changes.max_timestamp = largest;
        }
        let head = batch.get(..HEADER_BYTES).ok_or_else(truncated)?;
        let stored = raw_records::recompress(head, &body, codec, changes)
            .map_err(|e| AppendError::Invalid(format!("it cannot be compressed: {e}")))?;
        if stored.len() > bytes_max as usize {
            return Err(AppendError::TooLarge { bytes: stored.len(), bytes_max });
        }
        *header = BatchHeader::parse(&stored)
            .map_err(|e: HeaderError| AppendError::Invalid(e.to_string()))?;
        Ok(stored)
    }

    /// Whether a batch whose records nobody has to check is right by its header.
    fn may_believe(&self, header: &BatchHeader) -> bool {
        let is_timely = self.bounds.is_none_or(|bounds| {
            bounds.before_max.is_none() && header.max_timestamp <= bounds.around(self.now).1
        });
        is_timely && self.config.compaction.is_none() && !header.log_append_time()
    }

    fn inflated_bytes_max(&self) -> usize {
        INFLATED_BYTES_MAX.max(self.options.batch_bytes_max as usize)
    }

    fn walk_inflating(
        &self,
        header: &BatchHeader,
        body: &[u8],
        effort: Effort,
        visit: impl FnMut(i32, &Layout),
    ) -> Result<(), Unadmitted> {
        let undecodable = |reason: String| AppendError::Undecodable(reason);
        compression::check_frame(header.compression(), body)
            .map_err(|reason| undecodable(reason.to_owned()))?;
        let bytes_max = match effort {
            Effort::Brief => LIGHT_INFLATED_BYTES_MAX,
            Effort::Full => self.inflated_bytes_max(),
        };
        let mut input = Inflating::new(header.compression(), body, bytes_max)
            .map_err(|error| undecodable(error.to_string()))?;
        walk(header, &mut input, visit).map_err(|broken| match broken.fault {
            Fault::Read(ReadFault::TooLarge) if effort == Effort::Brief => Unadmitted::Later,
            _ => refusal(header, broken, input.error(), bytes_max).into(),
        })
    }
}

/// Whether its records take longer to check than a network thread can be spared.
fn is_heavy(header: &BatchHeader) -> bool {
    if header.compression() != 0 {
        return header.bytes > LIGHT_COMPRESSED_BYTES_MAX;
    }
    header.bytes > LIGHT_WALK_BYTES_MAX
        && (header.bytes > LIGHT_BYTES_MAX || header.record_count > LIGHT_RECORDS_MAX)
}

/// What was seen of a batch's records.
struct Seen {
    largest: Timestamp,
    /// The first and the last timestamp allowed.
    first: Timestamp,
    last: Timestamp,
    needs_keys: bool,
    /// The batch claims the broker's time, and that is not forgiven.
    claims: bool,
    /// The time that it claims, if that is out of range.
    untimely_claim: Option<Timestamp>,
    keyless: usize,
    untimely: usize,
    faults: Vec<RecordFault>,
}

impl Seen {
    fn new(terms: &Terms<'_>, header: &BatchHeader) -> Seen {
        let (first, last) = match terms.bounds {
            Some(bounds) => bounds.around(terms.now),
            None => (Timestamp(i64::MIN), Timestamp(i64::MAX)),
        };
        // Kafka looks at the claimed time first, and forgives the claim where that is in range. What
        // the records say counts then, and must be in range too.
        let claimed = header.log_append_time().then_some(header.max_timestamp);
        let is_forgiven = terms.bounds.is_some() && claimed != Some(NO_TIMESTAMP);
        Seen {
            largest: NO_TIMESTAMP,
            first,
            last,
            needs_keys: terms.config.compaction.is_some(),
            claims: claimed.is_some() && !is_forgiven,
            untimely_claim: claimed.filter(|time| is_forgiven && !(first..=last).contains(time)),
            keyless: 0,
            untimely: 0,
            faults: Vec::new(),
        }
    }

    #[inline]
    fn record(&mut self, header: &BatchHeader, index: i32, layout: &Layout) {
        let time = layout.create_time(header);
        self.largest = self.largest.max(time);
        let is_timely = self.first <= time && time <= self.last || time == NO_TIMESTAMP;
        let is_claim_good = !self.claims && self.untimely_claim.is_none();
        if !is_timely || !is_claim_good || self.needs_keys && layout.key.is_none() {
            self.fault(index, layout, self.untimely_claim.unwrap_or(time));
        }
    }

    #[cold]
    fn fault(&mut self, index: i32, layout: &Layout, time: Timestamp) {
        let is_keyless = self.needs_keys && layout.key.is_none();
        *(if is_keyless { &mut self.keyless } else { &mut self.untimely }) += 1;
        if self.faults.len() == FAULTS_MAX {
            return;
        }
        let reason = if is_keyless {
            "it has no key, and the topic is compacted".to_owned()
        } else if self.claims {
            "its timestamp type is LogAppendTime, which producers may not set".to_owned()
        } else {
            out_of_range(time, self.first, self.last)
        };
        self.faults.push(RecordFault { index, reason });
    }

    /// The largest timestamp, if no record is at fault.
    fn largest(self) -> Result<Timestamp, AppendError> {
        let Seen { keyless, untimely, faults, .. } = self;
        match (keyless, untimely) {
            (0, 0) => Ok(self.largest),
            (_, 0) => Err(AppendError::NoKey { count: keyless, faults }),
            _ if self.claims => Err(AppendError::TimestampType { faults }),
            _ => Err(AppendError::TimestampRange { count: untimely, faults }),
        }
    }
}

fn out_of_range(time: Timestamp, first: Timestamp, last: Timestamp) -> String {
    format!("its timestamp {time} is not within {first}..={last}")
}

/// What a producer is told of a walk that was broken off.
fn refusal(
    header: &BatchHeader,
    broken: Broken,
    codec_error: Option<&std::io::Error>,
    bytes_max: usize,
) -> AppendError {
    let reason = broken.of(header.record_count);
    match broken.fault {
        Fault::Read(ReadFault::TooLarge) => AppendError::Inflates { bytes_max },
        Fault::Read(ReadFault::Undecodable) => AppendError::Undecodable(match codec_error {
            Some(error) => format!("{reason} ({error})"),
            None => reason,
        }),
        // Kafka does not catch this one.
        Fault::EndlessLength if header.compression() == 0 => AppendError::Undecodable(reason),
        _ => AppendError::Invalid(reason),
    }
}

fn truncated() -> AppendError {
    AppendError::Corrupt(HeaderError::Truncated.to_string())
}

/// The records of a compressed batch, all in memory.
fn inflate(header: &BatchHeader, batch: &Bytes, bytes_max: usize) -> Result<Bytes, AppendError> {
    let body = batch.slice(HEADER_BYTES..);
    compression::check_frame(header.compression(), &body)
        .map_err(|reason| AppendError::Undecodable(reason.to_owned()))?;
    compression::inflate(header.compression(), body, bytes_max).map_err(|e| match e {
        InflateError::Corrupt(reason) => AppendError::Undecodable(reason),
        InflateError::TooLarge => AppendError::Inflates { bytes_max },
    })
}

#[cfg(test)]
mod tests;
