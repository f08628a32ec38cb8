//! What a log must hold: every append that was tried, what became of it, and what a reader may find.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::log::Durable;
use crate::log::Marker;
use crate::log::append::producer::REMEMBERED_BATCHES;
use crate::log::format::batch::{BatchHeader, marker_of};
use crate::types::{Offset, ProducerEpoch, ProducerId};

/// A batch as the log must keep it: all but its base offset, length and leader epoch.
pub fn body(batch: &[u8]) -> Vec<u8> {
    batch[16..].to_vec()
}

/// What a marker is recognised by: its bytes are the log's own.
pub fn marker_key(id: ProducerId, epoch: ProducerEpoch, marker: Marker, now: i64) -> Vec<u8> {
    format!("{id} {epoch} {marker:?} {now}").into_bytes()
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not answered, or with an error: it may be there.
    Open,
    /// There, as somebody was told; a power loss may take it with all that follows.
    Told(Offset),
    /// There for good.
    Kept(Offset),
    /// Gone, or never there.
    Gone,
}

/// An append that was tried.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub batch: Bytes,
    pub offsets: u64,
    pub durable: Durable,
    pub fate: Fate,
}

/// A batch as it was found in a log.
#[derive(Clone, Debug)]
pub struct Found {
    pub header: BatchHeader,
    pub marker: Option<Marker>,
    pub attempt: usize,
}

/// What must be true of one log.
#[derive(Default)]
pub struct Model {
    pub attempts: Vec<Attempt>,
    pub by_key: HashMap<Vec<u8>, usize>,
    /// The highest start that was acknowledged.
    pub start: Offset,
    /// Starts that were asked for and not acknowledged.
    pub starts_tried: Vec<Offset>,
    /// What was found last, with what was trimmed since.
    pub history: Vec<Found>,
}

/// What transactions a list of batches makes.
#[derive(Debug, Default, PartialEq)]
pub struct Txns {
    pub open: BTreeMap<ProducerId, Offset>,
    /// First offset by marker and producer.
    pub aborted: BTreeMap<(Offset, ProducerId), Offset>,
}

impl Model {
    pub fn attempt(&mut self, batch: Bytes, key: Vec<u8>, offsets: u64, durable: Durable) -> usize {
        let index = self.attempts.len();
        self.by_key.insert(key, index);
        self.attempts.push(Attempt { batch, offsets, durable, fate: Fate::Open });
        index
    }

    /// Takes whole batches apart and recognises each.
    pub fn recognise(&self, mut bytes: &[u8]) -> Result<Vec<Found>, String> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let header = BatchHeader::parse(bytes).map_err(|e| e.to_string())?;
            let (batch, rest) = bytes.split_at(header.bytes);
            bytes = rest;
            let marker = header.control().then(|| marker_of(batch)).flatten();
            let key = match (marker, header.producer) {
                (Some(marker), Some(producer)) => {
                    marker_key(producer.id, producer.epoch, marker, header.max_timestamp.0)
                }
                _ => body(batch),
            };
            let offset = header.base_offset;
            let Some(attempt) = self.by_key.get(&key) else {
                return Err(format!("the batch at {offset} is none that was sent: {header:?}"));
            };
            found.push(Found { header, marker, attempt: *attempt });
        }
        Ok(found)
    }

    /// Checks what a log was found to hold between `start` and `end`, and believes it from then on.
    /// `lossy` says that the machine lost power since, `synced` that what is found is on the disk.
    pub fn found(
        &mut self,
        found: Vec<Found>,
        (start, end): (Offset, Offset),
        lossy: bool,
        synced: bool,
    ) -> Result<(), String> {
        let mut at: HashMap<usize, Offset> = HashMap::new();
        for Found { header, attempt, .. } in &found {
            let offset = header.base_offset;
            if let Some(other) = at.insert(*attempt, offset) {
                return Err(format!("attempt {attempt} is there twice: at {other} and {offset}"));
            }
        }
        for (index, attempt) in self.attempts.iter_mut().enumerate() {
            let found = at.get(&index).copied();
            let (told, kept) = match attempt.fate {
                Fate::Open => {
                    attempt.fate = match found {
                        Some(base) if synced => Fate::Kept(base),
                        Some(base) => Fate::Told(base),
                        None => Fate::Gone,
                    };
                    continue;
                }
                Fate::Gone if found.is_some() => {
                    return Err(format!(
                        "attempt {index} had been gone and came back at {found:?}"
                    ));
                }
                Fate::Gone => continue,
                Fate::Told(base) => (base, false),
                Fate::Kept(base) => (base, true),
            };
            match found {
                Some(base) if base != told => {
                    return Err(format!("attempt {index} moved from {told} to {base}"));
                }
                Some(base) if synced => attempt.fate = Fate::Kept(base),
                Some(_) => {}
                // Nobody asks for it any more.
                None if told.plus(attempt.offsets) <= start => {}
                None if lossy && !kept && told >= end => attempt.fate = Fate::Gone,
                None => {
                    return Err(format!(
                        "attempt {index} ({:?}) was at {told} and is gone, the log is {start}..{end}",
                        attempt.fate
                    ));
                }
            }
        }
        let first = found.first().map_or(end, |found| found.header.base_offset);
        self.history.retain(|old| old.header.base_offset < first);
        self.history.extend(found);
        Ok(())
    }

    /// Checks a log that came up refusing appends after power was lost in the middle of unsynced
    /// writes: a batch that was torn then has whole ones behind it, which nobody may cut. All that
    /// was there for good still is, before the first damage.
    pub fn found_damaged(
        &self,
        found: &[Found],
        start: Offset,
        first_damaged: Option<Offset>,
        garbage: bool,
    ) -> Result<(), String> {
        let first_damaged = first_damaged.ok_or("it refuses appends and has no damage")?;
        let at: HashMap<usize, Offset> =
            found.iter().map(|found| (found.attempt, found.header.base_offset)).collect();
        if at.len() != found.len() {
            return Err("an attempt is there twice".to_owned());
        }
        for (index, attempt) in self.attempts.iter().enumerate() {
            let found = at.get(&index).copied();
            match attempt.fate {
                Fate::Gone if found.is_some() => {
                    return Err(format!("attempt {index} was gone and came back at {found:?}"));
                }
                Fate::Told(base) | Fate::Kept(base) if found.is_some_and(|at| at != base) => {
                    return Err(format!("attempt {index} moved from {base} to {found:?}"));
                }
                Fate::Kept(base)
                    if base.plus(attempt.offsets) > start
                        && (found.is_none() || (base >= first_damaged && !garbage)) =>
                {
                    return Err(format!(
                        "attempt {index} was kept at {base}, damage begins at {first_damaged}"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The last batches of each producer's current epoch, oldest first, of those that a reader finds.
    pub fn remembered(&self) -> BTreeMap<ProducerId, (ProducerEpoch, Vec<Found>)> {
        let mut producers: BTreeMap<ProducerId, (ProducerEpoch, Vec<Found>)> = BTreeMap::new();
        let readable = self.history.iter().filter(|found| found.header.base_offset >= self.start);
        for found in readable {
            let Some(producer) = found.header.producer else { continue };
            let (epoch, batches) =
                producers.entry(producer.id).or_insert((producer.epoch, Vec::new()));
            if producer.epoch > *epoch {
                *epoch = producer.epoch;
                batches.clear();
            }
            if found.marker.is_none() {
                batches.push(found.clone());
            }
            let surplus = batches.len().saturating_sub(REMEMBERED_BATCHES);
            batches.drain(..surplus);
        }
        producers
    }

    /// The transactions of everything, and of what lies at or after the start.
    pub fn transactions(&self) -> (Txns, Txns) {
        let readable = self.history.iter().filter(|found| found.header.base_offset >= self.start);
        (txns(self.history.iter()), txns(readable))
    }
}

fn txns<'a>(found: impl Iterator<Item = &'a Found>) -> Txns {
    let mut txns = Txns::default();
    for Found { header, marker, .. } in found {
        let Some(producer) = header.producer.filter(|p| p.transactional) else { continue };
        match marker {
            None => {
                txns.open.entry(producer.id).or_insert(header.base_offset);
            }
            Some(marker) => {
                if let Some(first) = txns.open.remove(&producer.id)
                    && *marker == Marker::Abort
                {
                    txns.aborted.insert((header.base_offset, producer.id), first);
                }
            }
        }
    }
    txns
}
