//! Look-ups by timestamp: the first record at or after a time, and the record with the largest timestamp.

use std::cell::Cell;

use bytes::Bytes;

use super::Place;
use crate::log::format::batch::BatchHeader;
use crate::log::format::scan::{Found, Scan};
use crate::log::format::times::first_wanted;
use crate::log::outcome::{OffsetSpan, ReadError, TimestampOffset};
use crate::log::partition::Shared;
use crate::log::segment::{self, LargestTimestamp, Segment};
use crate::types::{Offset, Timestamp};

impl Shared {
    /// The first record at or after `timestamp`, below the high watermark.
    pub(in crate::log) fn first_at_or_after(
        &self,
        timestamp: Timestamp,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        self.look_again(|| self.look_up_time(timestamp))
    }

    fn look_up_time(&self, timestamp: Timestamp) -> Result<Option<TimestampOffset>, ReadError> {
        if self.is_deleted() {
            return Err(ReadError::Deleted);
        }
        let span = *self.span.borrow();
        let mut base = None;
        while let Some(place) = self.place_by_time(timestamp, base) {
            base = Some(place.object.base);
            let found = self.find_record(&place, span.start, |record| record >= timestamp)?;
            if let Some(found) = found {
                return Ok((found.offset < span.high_watermark).then_some(found));
            }
        }
        Ok(None)
    }

    /// The earliest record with the largest timestamp, below the high watermark.
    pub(in crate::log) fn max_timestamp(&self) -> Result<Option<TimestampOffset>, ReadError> {
        self.look_again(|| self.look_up_largest())
    }

    fn look_up_largest(&self) -> Result<Option<TimestampOffset>, ReadError> {
        if self.is_deleted() {
            return Err(ReadError::Deleted);
        }
        let OffsetSpan { start, high_watermark: end, .. } = *self.span.borrow();
        let known = {
            let readable = self.readable();
            let both = [readable.largest(), readable.published_largest].into_iter().flatten();
            both.into_iter().find(|largest| (start..end).contains(&largest.batch))
        };
        let largest = match known {
            Some(known) => Some(known),
            None => self.largest_between(start, end)?,
        };
        let Some(largest) = largest else { return Ok(None) };
        let Some(place) = self.place(largest.batch, None) else { return Ok(None) };
        let Some((position, _)) = self.locate(&place, largest.batch)? else { return Ok(None) };
        let place = Place { position, offset: largest.batch, ..place };
        self.find_record(&place, start, |record| record >= largest.timestamp)
    }

    /// The largest timestamp from `start` up to `end`, and the first batch that has it. Reads only
    /// segments whose own largest timestamp lies outside of that range: at most the first and the last.
    fn largest_between(
        &self,
        start: Offset,
        end: Offset,
    ) -> Result<Option<LargestTimestamp>, ReadError> {
        let mut largest: Option<LargestTimestamp> = None;
        let mut base = None;
        while let Some(place) = self.place(start, base) {
            base = Some(place.object.base);
            let here = match place.largest {
                Some(known) if !(start..end).contains(&known.batch) => {
                    self.largest_in(&place, start, end)?
                }
                known => known,
            };
            let is_larger = |here: &LargestTimestamp| {
                largest.is_none_or(|largest| here.timestamp > largest.timestamp)
            };
            largest = here.filter(is_larger).or(largest);
        }
        Ok(largest)
    }

    /// `largest_between` for one segment, which it reads from `place` on.
    fn largest_in(
        &self,
        place: &Place,
        start: Offset,
        end: Offset,
    ) -> Result<Option<LargestTimestamp>, ReadError> {
        let largest = Cell::new(None::<LargestTimestamp>);
        let meet = |timestamp, batch| {
            if largest.get().is_none_or(|largest| timestamp > largest.timestamp) {
                largest.set(Some(LargestTimestamp { timestamp, batch }));
            }
        };
        let begins_before = |header: &BatchHeader| {
            if (start..end).contains(&header.base_offset) && header.record_count > 0 {
                meet(header.max_timestamp, header.base_offset);
            }
            header.base_offset < start && header.last_offset() >= start
        };
        self.walk(place, begins_before, |header, bytes| {
            let unread = first_wanted(header, bytes, start, |timestamp| {
                meet(timestamp, header.base_offset);
                false
            });
            if let Some(unread) = unread {
                meet(unread.timestamp, header.base_offset);
            }
            None::<()>
        })?;
        Ok(largest.get())
    }

    /// The first segment that has a record at or after `timestamp`; with `after`, only segments behind
    /// the one with that base offset.
    fn place_by_time(&self, timestamp: Timestamp, after: Option<Offset>) -> Option<Place> {
        let readable = self.readable();
        let late = |segment: &&Segment| {
            after.is_none_or(|base| segment.object.base > base)
                && segment.largest.is_some_and(|largest| largest.timestamp >= timestamp)
        };
        let segment = readable.segments.iter().find(late)?;
        let place = Place::new(segment);
        let in_memory = segment::floor_by_time(&segment.index, timestamp);
        drop(readable);
        let entry = in_memory.or_else(|| {
            let page =
                self.settings.view.index_page_before(self.id, place.object.segment(), timestamp);
            segment::floor_by_time(&self.or_scan(page), timestamp)
        });
        Some(place.at(entry))
    }

    /// The first record of a segment, from `place` on and not before the offset `start`, whose
    /// timestamp is `wanted`.
    fn find_record(
        &self,
        place: &Place,
        start: Offset,
        wanted: impl Fn(Timestamp) -> bool,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        let may_have =
            |header: &BatchHeader| header.last_offset() >= start && wanted(header.max_timestamp);
        self.walk(place, may_have, |header, bytes| first_wanted(header, bytes, start, &wanted))
    }

    /// Walks a segment from `place` on, calls `look` for each batch of records whose header `is_for`
    /// accepts, and returns the first thing that `look` finds. Damaged batches are skipped: their records
    /// cannot be found any more.
    fn walk<T>(
        &self,
        place: &Place,
        is_for: impl Fn(&BatchHeader) -> bool,
        look: impl Fn(&BatchHeader, &Bytes) -> Option<T>,
    ) -> Result<Option<T>, ReadError> {
        let mut scan = Scan::new(&*self.settings.store, place.object, place.position, place.end);
        let mut expected = place.offset;
        // The last batch that was skipped by its header alone: if its length was damaged, the walk went
        // to a wrong position.
        let mut unchecked = None;
        loop {
            let position = scan.position();
            if let Some(damage) = place.damaged.iter().find(|d| d.position == position) {
                scan.seek(damage.end);
                expected = damage.next;
                continue;
            }
            let reason = match scan.peek().map_err(|e| self.failed(&e))? {
                None => return Ok(None),
                Some(Err(e)) => e.to_string(),
                Some(Ok(header)) if header.base_offset != expected => {
                    format!("its base offset is {} instead of {expected}", header.base_offset)
                }
                Some(Ok(header))
                    if header.bytes as u64 > place.readable_end(position) - position =>
                {
                    "it ends before its own length".to_owned()
                }
                Some(Ok(header)) => {
                    if header.control() || !is_for(&header) {
                        unchecked = Some((position, expected));
                        scan.seek(position + header.bytes as u64);
                        expected = header.next_offset();
                        continue;
                    }
                    match scan.advance().map_err(|e| self.failed(&e))? {
                        None => return Ok(None),
                        Some(Found::Bad { reason, .. }) => reason,
                        Some(Found::Batch { header, bytes, .. }) => {
                            if let Some(found) = look(&header, &bytes) {
                                return Ok(Some(found));
                            }
                            unchecked = None;
                            expected = header.next_offset();
                            continue;
                        }
                    }
                }
            };
            tracing::error!(log = self.settings.label(self.id), offset = %expected, reason, "look-up by timestamp passed over a damaged batch");
            self.met_damage(expected, &reason);
            let (from, offset) = unchecked.take().unwrap_or((position, expected));
            let behind =
                scan.resync(from, offset.plus(1)..=Offset::MAX).map_err(|e| self.failed(&e))?;
            let Some((behind, offset)) = behind else { return Ok(None) };
            scan.seek(behind);
            expected = offset;
        }
    }
}
