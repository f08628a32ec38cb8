//! The v2 record batch: its header, the checks of the header, and a builder for the broker's own records.
//! Bodies are not decoded here, except the single record of a transaction marker.

use bytes::Bytes;

use super::varint::{self, Cursor};
use super::walk;
use crate::log::Marker;
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// A record for the broker's own batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// `None` is a null key.
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Name and value, in order, duplicates kept.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Event time in ms.
    pub timestamp: Timestamp,
}

/// Who writes a batch, for idempotence and transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// The producer's id.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// Sequence of the batch's first record.
    pub base_sequence: i32,
    /// Whether the batch belongs to a transaction.
    pub transactional: bool,
}

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;
/// Bytes that the length field does not count: the base offset and the length itself.
const LENGTH_OVERHEAD: usize = 12;
/// Where the bytes begin that the CRC covers.
const CRC_FROM: usize = 21;

const COMPRESSION_MASK: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
const DELETE_HORIZON: i16 = 0x40;

/// A batch's fixed header, read from its first `HEADER_BYTES` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; whatever the producer sent until the log patches it.
    pub base_offset: Offset,
    /// Bytes of the whole batch, header included.
    pub bytes: usize,
    /// Leader epoch it was appended in; whatever the producer sent until the log patches it.
    pub leader_epoch: LeaderEpoch,
    /// CRC32C over everything from the attributes on.
    pub crc: u32,
    /// Compression, timestamp type, transactional and control bits.
    pub attributes: i16,
    /// Offset of the last record minus that of the first.
    pub last_offset_delta: i32,
    /// Timestamp that record timestamps are relative to.
    pub base_timestamp: Timestamp,
    /// Largest timestamp of its records.
    pub max_timestamp: Timestamp,
    /// Who wrote it; `None` when not idempotent.
    pub producer: Option<Producer>,
    /// Number of records, as the producer says.
    pub record_count: i32,
}

/// Why bytes are not a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Fewer bytes than the batch says it has.
    Truncated,
    /// A length too small for a header.
    Length(i32),
    /// Not version 2.
    Magic(u8),
    /// A negative base offset.
    BaseOffset(i64),
}

impl std::fmt::Display for HeaderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HeaderError::Truncated => f.write_str("it ends before its own length"),
            HeaderError::Length(length) => write!(f, "its length field says {length}"),
            HeaderError::Magic(magic) => {
                write!(f, "its format version (magic) is {magic}, only 2 is supported")
            }
            HeaderError::BaseOffset(offset) => write!(f, "its base offset is {offset}"),
        }
    }
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which may be longer or shorter than the batch:
    /// only the header itself must be there.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, HeaderError> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(HeaderError::Truncated)?;
        let length = i32::from_be_bytes(field(header, 8));
        if header[16] != 2 {
            return Err(HeaderError::Magic(header[16]));
        }
        let bytes = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_add(LENGTH_OVERHEAD))
            .filter(|bytes| *bytes >= HEADER_BYTES)
            .ok_or(HeaderError::Length(length))?;
        let base_offset = i64::from_be_bytes(field(header, 0));
        let attributes = i16::from_be_bytes(field(header, 21));
        let producer_id = i64::from_be_bytes(field(header, 43));
        Ok(BatchHeader {
            base_offset: Offset::from_wire(base_offset)
                .ok_or(HeaderError::BaseOffset(base_offset))?,
            bytes,
            leader_epoch: LeaderEpoch(i32::from_be_bytes(field(header, 12))),
            crc: u32::from_be_bytes(field(header, 17)),
            attributes,
            last_offset_delta: i32::from_be_bytes(field(header, 23)),
            base_timestamp: Timestamp(i64::from_be_bytes(field(header, 27))),
            max_timestamp: Timestamp(i64::from_be_bytes(field(header, 35))),
            producer: (producer_id >= 0).then(|| Producer {
                id: ProducerId(producer_id),
                epoch: ProducerEpoch(i16::from_be_bytes(field(header, 51))),
                base_sequence: i32::from_be_bytes(field(header, 53)),
                transactional: attributes & TRANSACTIONAL != 0,
            }),
            record_count: i32::from_be_bytes(field(header, 57)),
        })
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(self.last_offset_delta.max(0) as u64)
    }

    /// The offset after the last record.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// How many offsets the batch takes.
    pub fn offsets(&self) -> u64 {
        self.last_offset_delta.max(0) as u64 + 1
    }

    /// The compression codec's number.
    pub fn compression(&self) -> i16 {
        self.attributes & COMPRESSION_MASK
    }

    /// Whether record timestamps are the broker's append time, kept in `max_timestamp`.
    pub fn log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// Whether it belongs to a transaction.
    pub fn transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether it is a control batch: a transaction marker.
    pub fn control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// The time after which compaction may remove its tombstones, if compaction has set one (KIP-534). It is
    /// stored in place of the base timestamp, and record timestamps are relative to it.
    pub fn delete_horizon(&self) -> Option<Timestamp> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// The header of `batch`, which this one is, with the largest timestamp that its records have and
    /// the CRC that follows. A claim of the broker's append time goes.
    pub(in crate::log) fn with_max_timestamp(&self, batch: &[u8], max: Timestamp) -> BatchHeader {
        let attributes = self.attributes & !LOG_APPEND_TIME;
        let (head, body) = batch.split_at(HEADER_BYTES);
        let mut covered = [0; HEADER_BYTES - CRC_FROM];
        covered.copy_from_slice(&head[CRC_FROM..]);
        covered[..2].copy_from_slice(&attributes.to_be_bytes());
        covered[35 - CRC_FROM..43 - CRC_FROM].copy_from_slice(&max.0.to_be_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&covered), body);
        BatchHeader { attributes, max_timestamp: max, crc, ..*self }
    }

    /// Whether `batch`, whose header this is, is whole and has the CRC it claims.
    pub fn crc_matches(&self, batch: &[u8]) -> bool {
        batch.len() == self.bytes
            && batch.get(CRC_FROM..).is_some_and(|body| crc32c::crc32c(body) == self.crc)
    }
}

/// Copies a fixed-size field. The offsets are constants inside a fixed-size header.
fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|i| header[at + i])
}

/// Writes what a header says that is not what the producer sent into a batch: its base offset, and
/// the timestamp type, largest timestamp and CRC that `BatchHeader::with_max_timestamp` has found.
pub(in crate::log) fn put(batch: &mut [u8], header: &BatchHeader, epoch: LeaderEpoch) {
    patch(batch, header.base_offset, epoch);
    batch[17..21].copy_from_slice(&header.crc.to_be_bytes());
    batch[21..23].copy_from_slice(&header.attributes.to_be_bytes());
    batch[35..43].copy_from_slice(&header.max_timestamp.0.to_be_bytes());
}

/// Writes base offset and leader epoch into a batch; both lie outside the CRC.
pub(in crate::log) fn patch(batch: &mut [u8], base_offset: Offset, epoch: LeaderEpoch) {
    debug_assert!(batch.len() >= HEADER_BYTES);
    batch[..8].copy_from_slice(&base_offset.to_wire().to_be_bytes());
    batch[12..16].copy_from_slice(&epoch.0.to_be_bytes());
}

/// Stamps a batch with the broker's time, as Kafka does for `LogAppendTime`: records keep what the
/// producer wrote, but the header's largest timestamp holds for all of them.
pub(in crate::log) fn stamp(batch: &mut [u8], header: &mut BatchHeader, now: Timestamp) {
    debug_assert_eq!(batch.len(), header.bytes);
    header.attributes |= LOG_APPEND_TIME;
    header.max_timestamp = now;
    batch[21..23].copy_from_slice(&header.attributes.to_be_bytes());
    batch[35..43].copy_from_slice(&now.0.to_be_bytes());
    header.crc = crc32c::crc32c(&batch[CRC_FROM..]);
    batch[17..21].copy_from_slice(&header.crc.to_be_bytes());
}

/// The leader epoch that a batch was stored with. `batch` has at least a header.
pub(in crate::log) fn leader_epoch(batch: &[u8]) -> LeaderEpoch {
    let epoch = batch.get(12..16).and_then(|bytes| bytes.first_chunk());
    LeaderEpoch(epoch.map_or(-1, |bytes| i32::from_be_bytes(*bytes)))
}

/// What `rewrite` changes of a batch's header.
pub(in crate::log) struct Changes {
    /// The attributes' codec number becomes this one.
    pub(in crate::log) codec: i16,
    /// Whether the largest timestamp holds for every record.
    pub(in crate::log) log_append_time: bool,
    pub(in crate::log) base_timestamp: Timestamp,
    /// Whether `base_timestamp` is the batch's delete horizon.
    pub(in crate::log) delete_horizon: bool,
    pub(in crate::log) max_timestamp: Timestamp,
    pub(in crate::log) record_count: i32,
}

impl Changes {
    /// None.
    pub(in crate::log) fn none(header: &BatchHeader) -> Changes {
        Changes {
            codec: header.compression(),
            log_append_time: header.log_append_time(),
            base_timestamp: header.base_timestamp,
            delete_horizon: header.delete_horizon().is_some(),
            max_timestamp: header.max_timestamp,
            record_count: header.record_count,
        }
    }
}

/// Turns `out`, which is the header of an old batch and a new body, into a batch with a correct length and
/// CRC. All fields that `changes` does not name stay: base offset, leader epoch, last offset delta, producer,
/// sequence and the other attributes.
pub(in crate::log) fn rewrite(out: &mut [u8], changes: &Changes) {
    debug_assert!(out.len() >= HEADER_BYTES);
    let mut attributes = i16::from_be_bytes([out[21], out[22]]);
    attributes = attributes & !COMPRESSION_MASK | changes.codec;
    for (bit, is_set) in
        [(LOG_APPEND_TIME, changes.log_append_time), (DELETE_HORIZON, changes.delete_horizon)]
    {
        attributes = if is_set { attributes | bit } else { attributes & !bit };
    }
    let length = (out.len() - LENGTH_OVERHEAD) as i32;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    out[21..23].copy_from_slice(&attributes.to_be_bytes());
    out[27..35].copy_from_slice(&changes.base_timestamp.0.to_be_bytes());
    out[35..43].copy_from_slice(&changes.max_timestamp.0.to_be_bytes());
    out[57..61].copy_from_slice(&changes.record_count.to_be_bytes());
    put_crc(out);
}

/// The batch without its records: it still covers its offsets and tells its producer's sequence.
pub(in crate::log) fn emptied(header: &BatchHeader, batch: &[u8]) -> Bytes {
    let mut out = batch.get(..HEADER_BYTES).unwrap_or_default().to_vec();
    let changes =
        Changes { codec: 0, delete_horizon: false, record_count: 0, ..Changes::none(header) };
    rewrite(&mut out, &changes);
    Bytes::from(out)
}

/// Encodes a filler: a batch without records that covers `offsets` offsets, at least one, from `base` on. It
/// takes the place of batches that compaction removed. Clients skip it, and it has no timestamp.
pub(in crate::log) fn encode_filler(base: Offset, offsets: u32, epoch: LeaderEpoch) -> Bytes {
    debug_assert!(offsets > 0 && i32::try_from(offsets).is_ok(), "its last offset delta is an i32");
    let none = Timestamp(-1);
    let mut out = vec![0; HEADER_BYTES];
    put_header(&mut out, 0, none, none, None, 0);
    out[..8].copy_from_slice(&base.to_wire().to_be_bytes());
    out[12..16].copy_from_slice(&epoch.0.to_be_bytes());
    out[23..27].copy_from_slice(&(offsets - 1).to_be_bytes());
    put_crc(&mut out);
    Bytes::from(out)
}

/// Encodes an uncompressed v2 batch with base offset 0 and a right CRC. `records` may not be empty.
pub fn encode(records: &[NewRecord], producer: Option<Producer>) -> Bytes {
    debug_assert!(!records.is_empty(), "a batch has at least one record");
    let body: usize = records.iter().map(record_bytes_estimate).sum();
    let mut out = Vec::with_capacity(HEADER_BYTES + body);
    out.resize(HEADER_BYTES, 0);
    let base = records.first().map_or(Timestamp(0), |record| record.timestamp);
    let mut max = base;
    let mut scratch = Vec::new();
    for (delta, record) in records.iter().enumerate() {
        max = max.max(record.timestamp);
        scratch.clear();
        // Record attributes: none are defined.
        scratch.push(0);
        varint::put(&mut scratch, record.timestamp.0.wrapping_sub(base.0));
        varint::put(&mut scratch, delta as i64);
        varint::put_nullable(&mut scratch, record.key.as_deref());
        varint::put_nullable(&mut scratch, record.value.as_deref());
        varint::put(&mut scratch, record.headers.len() as i64);
        for (name, value) in &record.headers {
            varint::put_nullable(&mut scratch, Some(name.as_bytes()));
            varint::put_nullable(&mut scratch, value.as_deref());
        }
        varint::put(&mut out, scratch.len() as i64);
        out.extend_from_slice(&scratch);
    }
    let attributes = if producer.is_some_and(|p| p.transactional) { TRANSACTIONAL } else { 0 };
    seal(out, attributes, base, max, producer, records.len() as i32)
}

/// Encodes a transaction marker (KIP-98) with base offset 0.
pub(in crate::log) fn encode_marker(
    id: ProducerId,
    epoch: ProducerEpoch,
    marker: Marker,
    coordinator_epoch: i32,
    now: Timestamp,
) -> Bytes {
    let kind: i16 = match marker {
        Marker::Abort => 0,
        Marker::Commit => 1,
    };
    let mut key = Vec::with_capacity(4);
    key.extend_from_slice(&0i16.to_be_bytes());
    key.extend_from_slice(&kind.to_be_bytes());
    let mut value = Vec::with_capacity(6);
    value.extend_from_slice(&0i16.to_be_bytes());
    value.extend_from_slice(&coordinator_epoch.to_be_bytes());

    let mut record = vec![0];
    varint::put(&mut record, 0);
    varint::put(&mut record, 0);
    varint::put_nullable(&mut record, Some(&key));
    varint::put_nullable(&mut record, Some(&value));
    varint::put(&mut record, 0);
    let mut out = vec![0; HEADER_BYTES];
    varint::put(&mut out, record.len() as i64);
    out.extend_from_slice(&record);
    let producer = Producer { id, epoch, base_sequence: -1, transactional: true };
    seal(out, TRANSACTIONAL | CONTROL, now, now, Some(producer), 1)
}

/// The marker in a control batch; `None` for kinds of control batches that this version does not know.
pub(in crate::log) fn marker_of(batch: &[u8]) -> Option<Marker> {
    let body = batch.get(HEADER_BYTES..)?;
    let mut cursor = Cursor::new(body);
    let (key, length) = walk::record(&mut cursor).ok()?.key?;
    let key = body.get(key..key + length)?;
    match i16::from_be_bytes([*key.get(2)?, *key.get(3)?]) {
        0 => Some(Marker::Abort),
        1 => Some(Marker::Commit),
        _ => None,
    }
}

/// Fills the header in front of the records and sets the CRC.
fn seal(
    mut out: Vec<u8>,
    attributes: i16,
    base: Timestamp,
    max: Timestamp,
    producer: Option<Producer>,
    count: i32,
) -> Bytes {
    put_header(&mut out, attributes, base, max, producer, count);
    put_crc(&mut out);
    Bytes::from(out)
}

fn put_crc(out: &mut [u8]) {
    let crc = crc32c::crc32c(&out[CRC_FROM..]);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Every field of the header but the base offset and the CRC.
fn put_header(
    out: &mut [u8],
    attributes: i16,
    base: Timestamp,
    max: Timestamp,
    producer: Option<Producer>,
    count: i32,
) {
    let length = (out.len() - LENGTH_OVERHEAD) as i32;
    let (id, epoch, sequence) =
        producer.map_or((-1, -1, -1), |p| (p.id.0, p.epoch.0, p.base_sequence));
    out[8..12].copy_from_slice(&length.to_be_bytes());
    out[12..16].copy_from_slice(&(-1i32).to_be_bytes());
    out[16] = 2;
    out[21..23].copy_from_slice(&attributes.to_be_bytes());
    out[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    out[27..35].copy_from_slice(&base.0.to_be_bytes());
    out[35..43].copy_from_slice(&max.0.to_be_bytes());
    out[43..51].copy_from_slice(&id.to_be_bytes());
    out[51..53].copy_from_slice(&epoch.to_be_bytes());
    out[53..57].copy_from_slice(&sequence.to_be_bytes());
    out[57..61].copy_from_slice(&count.to_be_bytes());
}

fn record_bytes_estimate(record: &NewRecord) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|(name, value)| 10 + name.len() + value.as_ref().map_or(0, Bytes::len))
        .sum();
    32 + record.key.as_ref().map_or(0, Bytes::len)
        + record.value.as_ref().map_or(0, Bytes::len)
        + headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_header_reads_back() {
        let producer = Producer {
            id: ProducerId(7),
            epoch: ProducerEpoch(3),
            base_sequence: 41,
            transactional: true,
        };
        let records =
            [10, 30, 20].map(|ms| NewRecord { timestamp: Timestamp(ms), ..NewRecord::default() });
        let batch = encode(&records, Some(producer));
        let header = BatchHeader::parse(&batch).unwrap();
        assert_eq!(header.bytes, batch.len());
        assert!(header.crc_matches(&batch));
        assert_eq!(header.producer, Some(producer));
        assert_eq!((header.record_count, header.last_offset_delta), (3, 2));
        assert_eq!((header.base_timestamp, header.max_timestamp), (Timestamp(10), Timestamp(30)));
        assert!(header.transactional() && !header.control());
    }

    #[test]
    fn patching_keeps_the_crc() {
        let mut batch = encode(&[NewRecord::default()], None).to_vec();
        patch(&mut batch, Offset::new(99), LeaderEpoch(5));
        let header = BatchHeader::parse(&batch).unwrap();
        assert_eq!(header.base_offset, Offset::new(99));
        assert!(header.crc_matches(&batch));
        assert_eq!(&batch[12..16], &[0, 0, 0, 5]);
    }

    #[test]
    fn a_stamped_batch_carries_the_brokers_time_and_a_right_crc() {
        let mut batch = encode(&[NewRecord::default()], None).to_vec();
        let mut header = BatchHeader::parse(&batch).unwrap();
        stamp(&mut batch, &mut header, Timestamp(77));
        assert_eq!(BatchHeader::parse(&batch), Ok(header));
        assert!(header.log_append_time() && header.crc_matches(&batch));
        assert_eq!(header.max_timestamp, Timestamp(77));
    }

    #[test]
    fn markers_say_what_they_are() {
        for marker in [Marker::Abort, Marker::Commit] {
            let batch = encode_marker(ProducerId(1), ProducerEpoch(0), marker, 4, Timestamp(1000));
            let header = BatchHeader::parse(&batch).unwrap();
            assert!(header.control() && header.transactional() && header.crc_matches(&batch));
            assert_eq!(marker_of(&batch), Some(marker));
        }
    }

    #[test]
    fn short_or_foreign_bytes_are_no_header() {
        let batch = encode(&[NewRecord::default()], None);
        for cut in 0..HEADER_BYTES {
            assert_eq!(BatchHeader::parse(&batch[..cut]), Err(HeaderError::Truncated));
        }
        let mut other = batch.to_vec();
        other[16] = 1;
        assert_eq!(BatchHeader::parse(&other), Err(HeaderError::Magic(1)));
        other[16] = 2;
        other[8..12].copy_from_slice(&48i32.to_be_bytes());
        assert_eq!(BatchHeader::parse(&other), Err(HeaderError::Length(48)));
        other[8..12].copy_from_slice(&(-1i32).to_be_bytes());
        assert_eq!(BatchHeader::parse(&other), Err(HeaderError::Length(-1)));
    }
}
