//! A log's manifest: where the log starts, which segments it has, and up to where it was on the disk. It is
//! written rarely (docs/adr/0012), and a start holds what lies in the store against it. Numbers are big-endian:
//!
//! ```text
//! manifest  magic, format:u32, crc:u32, length:u32, body
//! body      version:u64 start:u64 end:u64 cleaned_to:u64 failed_sync:uuid segments:u32, segments
//! segment   base:u64 revision:u32 bytes:u64
//! ```
//!
//! `length` is that of the body, which the CRC32C covers. Bytes behind the body mean nothing.

use bytes::{Buf, BufMut};
use uuid::Uuid;

use super::record_store::{Listing, ObjectId};
use crate::store::SegmentId;
use crate::types::Offset;

const MAGIC: &[u8; 8] = b"ottlmani";
/// Persisted: a manifest of a higher format is taken for none.
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 20;
const FIXED_BODY_BYTES: usize = 52;
const SEGMENT_BYTES: usize = 20;

/// See the module's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Of two manifests of a log, the one with the higher version is the newer one.
    pub version: u64,
    /// First offset that readers see.
    pub start: Offset,
    /// The durable end: every record before it was on the disk, in a segment or in the write-ahead log. None
    /// of them is ever cut, and their offsets are never given out again.
    pub end: Offset,
    /// Up to where the log is compacted.
    pub cleaned_to: Offset,
    /// The boot of the machine in which a sync of the log failed. Until the next boot, the page cache may show
    /// bytes behind the durable end that the disk does not have and that no sync will write.
    pub failed_sync: Option<Uuid>,
    /// The segments that were there, by base offset. They word what is missing at a start; the durable end decides.
    pub segments: Vec<ManifestSegment>,
}

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestSegment {
    /// Which.
    pub id: SegmentId,
    /// Its length when the manifest was written; the last segment may not have been synced that far.
    pub bytes: u64,
}

impl Manifest {
    /// The newest manifest of a log with its durable end raised to `end`, for a log that nobody has open.
    pub(in crate::log) fn raised(listing: &Listing, end: Offset) -> Manifest {
        let segment = |(object, bytes): &(ObjectId, u64)| ManifestSegment {
            id: object.segment(),
            bytes: *bytes,
        };
        let first = listing.objects.first().map_or(Offset::ZERO, |(first, _)| first.base);
        let manifest = listing.manifest.clone().unwrap_or_else(|| Manifest {
            start: listing.start.unwrap_or(first),
            segments: listing.objects.iter().map(segment).collect(),
            ..Manifest::default()
        });
        Manifest { end, version: manifest.version + 1, ..manifest }
    }

    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(FIXED_BODY_BYTES + self.segments.len() * SEGMENT_BYTES);
        body.put_u64(self.version);
        body.put_u64(self.start.get());
        body.put_u64(self.end.get());
        body.put_u64(self.cleaned_to.get());
        body.put_slice(self.failed_sync.unwrap_or(Uuid::nil()).as_bytes());
        body.put_u32(self.segments.len() as u32);
        for ManifestSegment { id, bytes } in &self.segments {
            body.put_u64(id.base.get());
            body.put_u32(id.revision);
            body.put_u64(*bytes);
        }
        let mut encoded = Vec::with_capacity(HEAD_BYTES + body.len());
        encoded.put_slice(MAGIC);
        encoded.put_u32(FORMAT);
        encoded.put_u32(crc32c::crc32c(&body));
        encoded.put_u32(body.len() as u32);
        encoded.put_slice(&body);
        encoded
    }

    /// The manifest at the beginning of `stored`; `None` if there is no whole one that this version
    /// can read.
    pub fn decode(stored: &[u8]) -> Option<Manifest> {
        let mut head = stored.get(..HEAD_BYTES)?.strip_prefix(MAGIC)?;
        let (format, crc, length) = (head.get_u32(), head.get_u32(), head.get_u32() as usize);
        let mut body = stored.get(HEAD_BYTES..HEAD_BYTES.checked_add(length)?)?;
        if format != FORMAT || crc != crc32c::crc32c(body) || length < FIXED_BODY_BYTES {
            return None;
        }
        let version = body.get_u64();
        let (start, end) = (Offset::new(body.get_u64()), Offset::new(body.get_u64()));
        let cleaned_to = Offset::new(body.get_u64());
        let failed_sync = Some(Uuid::from_u128(body.get_u128())).filter(|boot| !boot.is_nil());
        let count = body.get_u32() as usize;
        if count.checked_mul(SEGMENT_BYTES)? != body.len() {
            return None;
        }
        let segment = |_| {
            let id = SegmentId { base: Offset::new(body.get_u64()), revision: body.get_u32() };
            ManifestSegment { id, bytes: body.get_u64() }
        };
        let segments = (0..count).map(segment).collect();
        Some(Manifest { version, start, end, cleaned_to, failed_sync, segments })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_not_when_a_bit_is_wrong() {
        let segment = |base, revision, bytes| ManifestSegment {
            id: SegmentId { base: Offset::new(base), revision },
            bytes,
        };
        let manifest = Manifest {
            version: 7,
            start: Offset::new(11),
            end: Offset::new(500),
            cleaned_to: Offset::new(90),
            failed_sync: Some(Uuid::from_u128(9)),
            segments: vec![segment(0, 2, 1 << 30), segment(400, 0, 77)],
        };
        let mut stored = manifest.encode();
        let length = stored.len();
        stored.resize(length + 9, 0xee);
        assert_eq!(Manifest::decode(&stored), Some(manifest));
        for bit in 0..length * 8 {
            stored[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Manifest::decode(&stored), None, "bit {bit}");
            stored[bit / 8] ^= 1 << (bit % 8);
        }
        for cut in 0..length {
            assert_eq!(Manifest::decode(&stored[..cut]), None, "cut at {cut}");
        }
        let empty = Manifest::default();
        assert_eq!(Manifest::decode(&empty.encode()), Some(empty));
        assert_eq!(Manifest::decode(&[0; 4096]), None);
    }
}
