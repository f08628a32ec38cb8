//! The scrub: slowly reads every log, over and over, and checks the CRC and the offset of each batch, so
//! that damage is found while there may still be another copy of the records. It changes nothing: it tells
//! the log's writer what it found. A batch that is in the page cache is checked there; a later round will
//! read it from the disk.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::periodic::Pace;
use crate::log::append::owner::out_of_handles;
use crate::log::append::queue::block_on;
use crate::log::append::writer::{Command, Discovery, Fault};
use crate::log::format::scan::{Found, Scan};
use crate::log::logs::OpenLogs;
use crate::log::object::record_store::ObjectId;
use crate::log::partition::Shared;
use crate::log::segment::{Damage, Segment};
use crate::log::settings::Settings;
use crate::types::{LogId, Offset};

/// After this many bytes the scrub rests, so that it keeps to its bytes per second.
const STRIDE_BYTES: u64 = 256 << 10;

/// See the module's header. Holds no `Logs`, so it does not keep them alive.
pub(in crate::log) struct Scrub {
    open: Arc<OpenLogs>,
    settings: Arc<Settings>,
    bytes_per_second: u64,
    /// Bytes read since the last rest.
    read_bytes: u64,
}

/// How the check of a log or segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// All of it was checked.
    Whole,
    /// The broker is stopping.
    Stopped,
}

/// A segment as it was when its check began.
struct Look {
    object: ObjectId,
    bytes: u64,
    damaged: Vec<Damage>,
    /// The first offset of the next segment; `None` for the active segment.
    following: Option<Offset>,
    /// The high watermark at that time.
    published: Offset,
    departures: u64,
    /// Where the check begins: a position, and the offset of the batch that should be there.
    from: (u64, Offset),
}

impl Look {
    fn at(shared: &Shared, choose: impl Fn(&Segment) -> bool) -> Option<Look> {
        // Taken before the segment: batches appended after this are above it and are not checked.
        let published = shared.span.borrow().high_watermark;
        let readable = shared.readable();
        let index = readable.segments.iter().position(choose)?;
        let segment = readable.segments.get(index)?;
        Some(Look {
            object: segment.object,
            bytes: segment.bytes,
            damaged: segment.damaged.clone(),
            following: readable.segments.get(index + 1).map(|next| next.object.base),
            published,
            departures: readable.departures,
            from: (0, segment.object.base),
        })
    }

    /// Whether the segment may have been deleted or replaced since.
    fn is_outdated(&self, shared: &Shared) -> bool {
        shared.is_deleted() || shared.readable().departures != self.departures
    }

    fn scan<'a>(&self, shared: &'a Shared, position: u64) -> Scan<'a> {
        Scan::once(&*shared.settings.store, self.object, position, self.bytes)
    }
}

impl Scrub {
    pub(in crate::log) fn new(
        open: Arc<OpenLogs>,
        settings: Arc<Settings>,
        bytes_per_second: u64,
    ) -> Scrub {
        Scrub { open, settings, bytes_per_second, read_bytes: 0 }
    }

    /// Checks every log once. Blocking.
    pub(in crate::log) fn round(&mut self, pace: &Pace) {
        let mut logs: Vec<LogId> = self.open.iter().map(|entry| *entry.key()).collect();
        logs.sort_unstable();
        // Begin with another log after each start: a broker that is restarted often would otherwise
        // never reach the last logs.
        if let Some(turn) = (self.settings.epoch.0.unsigned_abs() as usize).checked_rem(logs.len())
        {
            logs.rotate_left(turn);
        }
        for id in logs {
            let partition = self.open.get(&id).map(|partition| partition.clone());
            if let Some(partition) = partition
                && self.log(&partition.shared, pace) == Ended::Stopped
            {
                return;
            }
        }
        self.settings.meter.scrub_ended.set(self.settings.clock.now().0 as f64 / 1000.0);
    }

    fn log(&mut self, shared: &Shared, pace: &Pace) -> Ended {
        let mut look = Look::at(shared, |_| true);
        while let Some(segment) = look {
            let base = segment.object.base;
            if self.segment(shared, segment, pace) == Ended::Stopped {
                return Ended::Stopped;
            }
            look = Look::at(shared, |segment| segment.object.base > base);
        }
        Ended::Whole
    }

    /// Checks a segment from the place where a compaction met something wrong, and tells the log's writer
    /// what it is. Blocking.
    pub(in crate::log) fn look_again(
        &mut self,
        shared: &Shared,
        object: ObjectId,
        position: u64,
        offset: Offset,
        pace: &Pace,
    ) {
        if let Some(look) = Look::at(shared, |segment| segment.object == object) {
            self.segment(shared, Look { from: (position, offset), ..look }, pace);
        }
    }

    fn segment(&mut self, shared: &Shared, mut look: Look, pace: &Pace) -> Ended {
        let (from, mut expected) = look.from;
        let mut scan = look.scan(shared, from);
        // The position that failed its check once: it is read a second time before it counts as damaged.
        let mut doubted = None;
        while expected < look.published && scan.position() < look.bytes {
            let position = scan.position();
            if let Some(known) = look.damaged.iter().find(|known| known.position == position) {
                scan.seek(known.end);
                expected = known.next;
                continue;
            }
            let fault = match scan.advance() {
                Ok(Some(Found::Batch { header, .. })) if header.base_offset == expected => {
                    expected = header.next_offset();
                    self.settings.meter.scrubbed_bytes.inc_by(header.bytes as u64);
                    if !self.passed(header.bytes as u64, pace) {
                        return Ended::Stopped;
                    }
                    continue;
                }
                Ok(None) => return Ended::Whole,
                Ok(Some(Found::Batch { header, .. })) => {
                    Ok(format!("its base offset is {} instead of {expected}", header.base_offset))
                }
                Ok(Some(Found::Bad { reason, .. })) => Ok(reason),
                Err(error) => Err(error),
            };
            // A segment that is being deleted or replaced may look damaged.
            if look.is_outdated(shared) {
                return Ended::Whole;
            }
            if doubted.replace(position) != Some(position) {
                scan = look.scan(shared, position);
                continue;
            }
            let reason = match fault {
                Ok(reason) => reason,
                Err(error) => {
                    self.unread(shared, &look, position, &error);
                    return Ended::Whole;
                }
            };
            let bound = look.following.unwrap_or(look.published);
            let offsets = expected.plus(1)..=bound;
            let behind = scan.resync_while(position, offsets, |bytes| self.passed(bytes, pace));
            let behind = match behind {
                Ok(behind) => behind,
                Err(error) => {
                    self.unread(shared, &look, position, &error);
                    return Ended::Whole;
                }
            };
            if !pace.goes_on() {
                return Ended::Stopped;
            }
            let to_the_end = behind.is_none();
            let (end, next) = behind.unwrap_or((look.bytes, bound));
            let damage = Damage { offset: expected, next, position, end, reason };
            if self.note(shared, &look, Fault::Damage { damage, to_the_end }) {
                scan.seek(end);
                expected = next;
                continue;
            }
            // The writer did not note it: batches were appended behind it, or the segment is gone.
            let object = look.object;
            match Look::at(shared, |segment| segment.object == object) {
                Some(again) if again.bytes > look.bytes => look = again,
                _ => return Ended::Whole,
            }
            scan = look.scan(shared, position);
            doubted = None;
        }
        Ended::Whole
    }

    /// Tells the log's writer about a fault. Returns false if the writer did not note it, or has ended.
    fn note(&self, shared: &Shared, look: &Look, fault: Fault) -> bool {
        let (reply, noted) = oneshot::channel();
        let discovery = Discovery { object: look.object, fault, reply };
        shared.send(Command::Discovered(discovery)).is_ok() && block_on(noted).unwrap_or(false)
    }

    fn unread(&self, shared: &Shared, look: &Look, position: u64, error: &io::Error) {
        let log = self.settings.label(shared.id);
        if look.is_outdated(shared) {
            return;
        }
        if out_of_handles(error) {
            debug!(log, segment = %look.object, %error, "a segment is left to the next scrub");
            return;
        }
        warn!(log, segment = %look.object, position, %error, "the scrub could not read a segment");
        let reason = format!("segment {} cannot be read at byte {position}: {error}", look.object);
        self.note(shared, look, Fault::Disk(reason));
    }

    /// Counts bytes that were read, and rests if it is time. Returns whether to continue.
    fn passed(&mut self, bytes: u64, pace: &Pace) -> bool {
        self.read_bytes += bytes;
        if self.read_bytes < STRIDE_BYTES.min(self.bytes_per_second) {
            return true;
        }
        let seconds = self.read_bytes as f64 / self.bytes_per_second.max(1) as f64;
        self.read_bytes = 0;
        pace.rest(Duration::from_secs_f64(seconds))
    }
}
