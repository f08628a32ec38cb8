//! Reading a log: from the tail in memory, else from its segments through the sparse index.

mod by_time;

use std::io;

use bytes::Bytes;

use crate::log::append::tail::Window;
use crate::log::append::writer::Command;
use crate::log::format::batch::BatchHeader;
use crate::log::format::scan::{Found, Scan};
use crate::log::object::buffers;
use crate::log::object::record_store::{Location, ObjectId, Way};
use crate::log::outcome::{AbortedTxn, Isolation, OffsetSpan, ReadError, ReadRequest, ReadResult};
use crate::log::partition::{Readable, Shared};
use crate::log::refusals::Refusal;
use crate::log::segment::{self, Damage, IndexEntry, LargestTimestamp, Segment};
use crate::store::StoreError;
use crate::types::Offset;

/// Most bytes that one read returns, however many were asked for: a larger fetch gets its answer in
/// pieces.
const READ_BYTES_MAX: usize = 8 << 20;

/// The place in a segment where a read begins, and what is known of that segment.
struct Place {
    object: ObjectId,
    position: u64,
    /// Base offset of the batch at `position`.
    offset: Offset,
    end: u64,
    largest: Option<LargestTimestamp>,
    damaged: Vec<Damage>,
}

impl Place {
    fn new(segment: &Segment) -> Place {
        Place {
            object: segment.object,
            position: 0,
            offset: segment.object.base,
            end: segment.bytes,
            largest: segment.largest,
            damaged: segment.damaged.clone(),
        }
    }

    /// The place moved to an index entry, if there is one.
    fn at(mut self, entry: Option<IndexEntry>) -> Place {
        if let Some(entry) = entry {
            self.position = entry.position;
            self.offset = entry.offset;
        }
        self
    }

    /// Where the undamaged batches that begin at `position` end: at the next damage, or at the end of
    /// the segment.
    fn readable_end(&self, position: u64) -> u64 {
        let damaged = self.damaged.iter().map(|d| d.position).filter(|p| *p > position);
        damaged.min().unwrap_or(self.end).min(self.end)
    }
}

impl Shared {
    /// The answer from memory; `None` if the bytes are not there.
    pub(in crate::log) fn read_memory(
        &self,
        request: &ReadRequest,
    ) -> Result<Option<ReadResult>, ReadError> {
        let (span, window) = self.window(request)?;
        if window.from >= window.limit {
            return Ok(Some(ReadResult { records: Bytes::new(), span, aborted: Vec::new() }));
        }
        let readable = self.readable();
        let records = readable.tail.read(window);
        Ok(records.map(|records| result(&readable, request, span, records)))
    }

    /// The answer, from memory or disk.
    pub(in crate::log) fn read(&self, request: &ReadRequest) -> Result<ReadResult, ReadError> {
        // Taken before the read: batches appended from now on do not lie behind damage that this read
        // meets.
        let end = self.span.borrow().high_watermark;
        let mut result = self.look_again(|| self.read_anywhere(request));
        if let Err(ReadError::Corrupt { offset, next, reason }) = &mut result {
            *next = [*next, self.segment_after(*offset)].into_iter().flatten().min();
            *next = next.or_else(|| (end > *offset).then_some(end));
            let next = next.map(Offset::get);
            tracing::error!(log = self.settings.label(self.id), %offset, next, reason, "read met a damaged batch");
            self.met_damage(*offset, reason);
        }
        result
    }

    /// Counts damage that a read met, and tells the log's writer to refuse appends.
    fn met_damage(&self, offset: Offset, reason: &str) {
        self.settings.meter.corrupt_reads.inc();
        if !self.settings.refusals.has(self.id) {
            let reason = format!("the batch at offset {offset} is damaged: {reason}");
            // A writer that is gone appends no more anyway.
            drop(self.send(Command::Refuse(self.id, Refusal::damage(reason))));
        }
    }

    /// The header of the batch that holds `offset`, or of the next one, below the high watermark.
    pub(in crate::log) fn header_at(
        &self,
        offset: Offset,
    ) -> Result<Option<BatchHeader>, ReadError> {
        self.look_again(|| {
            if self.is_deleted() {
                return Err(ReadError::Deleted);
            }
            let end = self.span.borrow().high_watermark;
            let mut base = None;
            while offset < end
                && let Some(place) = self.place(offset, base)
            {
                base = Some(place.object.base);
                if let Some((_, header)) = self.locate(&place, offset)? {
                    return Ok((header.base_offset < end).then_some(header));
                }
            }
            Ok(None)
        })
    }

    /// Runs `look`, which reads segments, and runs it again if it failed while a segment was deleted or
    /// replaced under it, and once if it met damage: a bit that flipped on the way from the disk, or in
    /// the page cache, is right at the second reading, and must not stop a log.
    fn look_again<T>(&self, look: impl Fn() -> Result<T, ReadError>) -> Result<T, ReadError> {
        let mut met: Option<(Offset, String)> = None;
        loop {
            let before = self.readable().departures;
            let outcome = look();
            let is_replaced = self.readable().departures != before;
            match (&outcome, &met) {
                (Ok(_), Some((offset, reason))) if !is_replaced => {
                    self.met_passing(*offset, reason)
                }
                (Err(ReadError::Corrupt { offset, reason, .. }), None)
                    if !is_replaced && !self.settings.refusals.has(self.id) =>
                {
                    self.drop_cached(*offset);
                    met = Some((*offset, reason.clone()));
                    continue;
                }
                _ => {}
            }
            if outcome.is_ok() || !is_replaced {
                return outcome;
            }
        }
    }

    /// Has the next read of the segments around `offset` ask the disk.
    fn drop_cached(&self, offset: Offset) {
        let mut base = None;
        // Damage at the end of a segment may be found at an offset of the next one.
        for _ in 0..2 {
            let Some(place) = self.place(offset, base) else { return };
            base = Some(place.object.base);
            self.settings.store.drop_cached(place.object);
        }
    }

    /// Counts damage that was gone when the bytes were read again.
    fn met_passing(&self, offset: Offset, reason: &str) {
        self.settings.meter.reread_reads.inc();
        let log = self.settings.label(self.id);
        tracing::warn!(
            log, %offset, reason,
            "a batch was damaged when it was read and whole when it was read again: check the machine's memory and disk"
        );
    }

    fn read_anywhere(&self, request: &ReadRequest) -> Result<ReadResult, ReadError> {
        if let Some(result) = self.read_memory(request)? {
            return Ok(result);
        }
        if let Some(result) = self.read_past(request) {
            return Ok(result);
        }
        let (span, window) = self.window(request)?;
        loop {
            let before = self.readable().departures;
            let records = self.read_segments(window)?;
            let readable = self.readable();
            // A compaction removes aborted transactions from the list together with their records. So
            // records that were read before it must not be filtered by the list from after it.
            let is_uncommitted = request.isolation == Isolation::ReadUncommitted;
            let is_trimmed = request.from < self.span.borrow().start;
            if is_uncommitted || (readable.departures == before && !is_trimmed) {
                return Ok(result(&readable, request, span, records));
            }
            drop(readable);
            // If the log's start was raised beyond the request, this answers with `OutOfRange`.
            self.window(request)?;
        }
    }

    pub(in crate::log) fn window(
        &self,
        request: &ReadRequest,
    ) -> Result<(OffsetSpan, Window), ReadError> {
        if self.is_deleted() {
            return Err(ReadError::Deleted);
        }
        let span = *self.span.borrow();
        if request.from < span.start || request.from > span.end {
            return Err(ReadError::OutOfRange {
                from: request.from,
                start: span.start,
                end: span.end,
            });
        }
        let limit = match request.isolation {
            Isolation::ReadUncommitted => span.high_watermark,
            Isolation::ReadCommitted => span.last_stable,
        };
        let window = Window {
            from: request.from,
            limit,
            bytes_max: request.bytes_max.min(READ_BYTES_MAX),
            at_least_one: request.at_least_one,
        };
        Ok((span, window))
    }

    fn read_segments(&self, window: Window) -> Result<Bytes, ReadError> {
        let mut base = None;
        while let Some(place) = self.place(window.from, base) {
            if base.is_some() && place.object.base > window.from {
                return Err(corrupt(window.from, None, "the segment that held it is missing"));
            }
            base = Some(place.object.base);
            if let Some(records) = self.read_place(place, window)? {
                return Ok(records);
            }
            // Nothing of this segment is at or after the offset: it was damaged to its end.
        }
        // Readers ask for nothing past the limit, so the offset was here once.
        Err(corrupt(window.from, None, "its batch is missing"))
    }

    /// Where the first segment begins that has nothing of `offset`.
    fn segment_after(&self, offset: Offset) -> Option<Offset> {
        let readable = self.readable();
        readable.segments.iter().map(|segment| segment.object.base).find(|base| *base > offset)
    }

    /// Where to look for `from`: in the segment after the one with base `after`, if given.
    fn place(&self, from: Offset, after: Option<Offset>) -> Option<Place> {
        let readable = self.readable();
        let segments = &readable.segments;
        let index = match after {
            None => segments.partition_point(|s| s.object.base <= from).saturating_sub(1),
            Some(base) => segments.partition_point(|s| s.object.base <= base),
        };
        let segment = segments.get(index)?;
        let entry = segment::floor_by_offset(&segment.index, from);
        let place = Place::new(segment);
        drop(readable);
        // Entries that the writer moved to the view are looked up there.
        let entry = entry.or_else(|| {
            let page = self.settings.view.index_page_at(self.id, place.object.segment(), from);
            segment::floor_by_offset(&self.or_scan(page), from)
        });
        Some(place.at(entry))
    }

    /// Whole batches of one segment; `None` when it ends before the window's offset.
    fn read_place(&self, mut place: Place, window: Window) -> Result<Option<Bytes>, ReadError> {
        loop {
            let Some((position, header)) = self.locate(&place, window.from)? else {
                return Ok(None);
            };
            let fits = header.bytes <= window.bytes_max || window.at_least_one;
            if header.base_offset >= window.limit || !fits {
                return Ok(Some(Bytes::new()));
            }
            let end = place.readable_end(position);
            let wanted = header.bytes.max(window.bytes_max) as u64;
            let location = Location {
                object: place.object,
                position,
                length: wanted.min(end - position) as usize,
            };
            let (bytes, way) = match self.bytes_past(location) {
                Some(past) => past,
                None => {
                    let read = self.settings.store.read(location);
                    (read.map_err(|e| self.failed(&e))?, Way::Kept)
                }
            };
            let taken = window.over(&bytes, 0);
            if let Some(records) = checked(bytes.slice(taken.from..taken.to)) {
                if let Some(last) = last_offset(&records) {
                    let behind = position + (taken.from + records.len()) as u64;
                    self.read_to(last.plus(1), location, behind, way);
                }
                return Ok(Some(buffers::part_of(&bytes, records)));
            }
            // A damaged header may claim offsets that are its neighbour's.
            let mut scan = Scan::new(&*self.settings.store, place.object, position, place.end);
            let reason = "its CRC does not match its bytes";
            (place.position, place.offset) =
                self.behind(&mut scan, header.base_offset, window.from, reason)?;
        }
    }

    /// Where the log is valid again behind damage at the walk's position, if that is at or before
    /// `from`; else the damage is what was asked for.
    fn behind(
        &self,
        scan: &mut Scan<'_>,
        damaged: Offset,
        from: Offset,
        reason: &str,
    ) -> Result<(u64, Offset), ReadError> {
        let position = scan.position();
        match scan.resync(position, damaged.plus(1)..=Offset::MAX).map_err(|e| self.failed(&e))? {
            Some((behind, offset)) if offset <= from => Ok((behind, offset)),
            next => Err(corrupt(from, next.map(|(_, offset)| offset), reason)),
        }
    }

    /// Where the batch begins that holds `from`, or the first one after it.
    fn locate(&self, place: &Place, from: Offset) -> Result<Option<(u64, BatchHeader)>, ReadError> {
        let mut scan = Scan::new(&*self.settings.store, place.object, place.position, place.end);
        let mut expected = place.offset;
        // Batches from here on were skipped by their headers alone, without a CRC check.
        let mut believed = (place.position, place.offset);
        loop {
            let position = scan.position();
            if let Some(damage) = place.damaged.iter().find(|d| d.position == position) {
                if from < damage.next {
                    return Err(corrupt(from, Some(damage.next), &damage.reason));
                }
                scan.seek(damage.end);
                expected = damage.next;
                believed = (damage.end, expected);
                continue;
            }
            let reason = match scan.peek().map_err(|e| self.failed(&e))? {
                None => return Ok(None),
                // The CRC does not cover the base offset, so it is compared with the offset at which
                // the batch before it ended.
                Some(Ok(header)) if header.base_offset != expected => {
                    format!("its base offset is {} instead of {expected}", header.base_offset)
                }
                Some(Ok(header))
                    if header.bytes as u64 > place.readable_end(position) - position =>
                {
                    "it ends before its own length".to_owned()
                }
                Some(Ok(header)) if header.last_offset() >= from => {
                    return Ok(Some((position, header)));
                }
                Some(Ok(header)) => {
                    scan.seek(position + header.bytes as u64);
                    expected = header.next_offset();
                    continue;
                }
                Some(Err(e)) => e.to_string(),
            };
            // The damage is newer than the opening of the log: continue behind it if the request begins
            // there. It may have begun in an earlier batch, whose damaged length led here.
            let damaged = first_damaged(&mut scan, believed).map_err(|e| self.failed(&e))?;
            let (behind, offset) = self.behind(&mut scan, damaged, from, &reason)?;
            scan.seek(behind);
            expected = offset;
            believed = (behind, offset);
        }
    }

    /// The index entries, or none if the view fails: then the scan begins at the segment's first byte.
    fn or_scan(&self, page: Result<Vec<IndexEntry>, StoreError>) -> Vec<IndexEntry> {
        page.unwrap_or_else(|error| {
            tracing::warn!(log = self.settings.label(self.id), %error, "index page was not found, scanning instead");
            Vec::new()
        })
    }

    fn failed(&self, error: &io::Error) -> ReadError {
        if self.is_deleted() {
            return ReadError::Deleted;
        }
        tracing::error!(log = self.settings.label(self.id), %error, "log could not be read");
        ReadError::Storage { log: self.id, reason: error.to_string() }
    }
}

pub(in crate::log) fn result(
    readable: &Readable,
    request: &ReadRequest,
    span: OffsetSpan,
    records: Bytes,
) -> ReadResult {
    let aborted = match request.isolation {
        Isolation::ReadUncommitted => Vec::new(),
        Isolation::ReadCommitted => match last_offset(&records) {
            Some(last) => aborted_between(&readable.aborted, request.from, last),
            None => Vec::new(),
        },
    };
    ReadResult { records, span, aborted }
}

/// Aborted transactions that overlap the offsets `from..=last`, ordered by the offset of the marker.
fn aborted_between(aborted: &[AbortedTxn], from: Offset, last: Offset) -> Vec<AbortedTxn> {
    let first = aborted.partition_point(|txn| txn.last_offset < from);
    aborted.iter().skip(first).filter(|txn| txn.first_offset <= last).copied().collect()
}

/// Finds where damage began, after a scan that skips by headers has met something wrong. Walks again from
/// the position and offset of `from`, checks every batch, and leaves the scan at the first batch that is
/// damaged or has the wrong offset. Returns the offset that this batch should have.
fn first_damaged(scan: &mut Scan<'_>, from: (u64, Offset)) -> io::Result<Offset> {
    let met = scan.position();
    let (mut position, mut expected) = from;
    scan.seek(position);
    while position < met {
        match scan.advance()? {
            Some(Found::Batch { header, .. }) if header.base_offset == expected => {
                expected = header.next_offset();
                position = scan.position();
            }
            _ => break,
        }
    }
    scan.seek(position);
    Ok(expected)
}

/// The batches from the beginning of `records` up to the first one with a wrong CRC or offset; `None` if
/// that is the first batch.
pub(in crate::log) fn checked(records: Bytes) -> Option<Bytes> {
    let mut good = 0;
    let mut expected = None;
    while let Some(rest) = records.get(good..).filter(|rest| !rest.is_empty()) {
        let valid = BatchHeader::parse(rest).ok().filter(|header| {
            expected.is_none_or(|offset| header.base_offset == offset)
                && rest.get(..header.bytes).is_some_and(|batch| header.crc_matches(batch))
        });
        let Some(header) = valid else { break };
        good += header.bytes;
        expected = Some(header.next_offset());
    }
    (good > 0).then(|| records.slice(..good))
}

fn corrupt(offset: Offset, next: Option<Offset>, reason: &str) -> ReadError {
    ReadError::Corrupt { offset, next, reason: reason.to_owned() }
}

/// Offset of the first record in whole batches.
pub(in crate::log) fn first_offset(records: &[u8]) -> Option<Offset> {
    BatchHeader::parse(records).ok().map(|header| header.base_offset)
}

/// Offset of the last record in whole batches.
pub(in crate::log) fn last_offset(records: &[u8]) -> Option<Offset> {
    let mut last = None;
    let mut rest = records;
    while let Ok(header) = BatchHeader::parse(rest) {
        last = Some(header.last_offset());
        rest = rest.get(header.bytes..).unwrap_or_default();
    }
    last
}
