//! The job records in the metadata journal: replayed at start, appended to at the next vacant
//! position. A slot that is mostly history may be trimmed; the local journal keeps it all.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;

use super::record::{Event, Image, Record, VERSION};
use crate::catalog::journal::{Journal, JournalError, SLOTS, Slot};
use crate::stream::operator::Failure;
use crate::stream::state;

/// Slots 0 and 1 belong to the catalog and to producer ids.
const SLOT_FIRST: u16 = 2;
/// History kept in a slot before it is written anew and trimmed.
const RECORDS_MAX: u64 = 4096;

/// The job records of all slots.
pub struct JobJournal {
    journal: Arc<dyn Journal>,
    slots: Vec<Mutex<Tail>>,
}

/// What this node knows of a slot.
#[derive(Default)]
struct Tail {
    /// Position of the oldest record that may matter.
    first: u64,
    /// Next position to read or claim.
    next: u64,
    jobs: BTreeMap<String, Image>,
}

impl JobJournal {
    /// Replays every slot that can hold jobs.
    pub async fn open(journal: Arc<dyn Journal>) -> Result<JobJournal, Failure> {
        let mut slots = Vec::new();
        for slot in SLOT_FIRST..SLOTS {
            let mut tail = Tail::default();
            catch_up(&*journal, Slot(slot), &mut tail).await?;
            slots.push(Mutex::new(tail));
        }
        Ok(JobJournal { journal, slots })
    }

    /// Every job found.
    pub async fn jobs(&self) -> Vec<(String, Image)> {
        let mut jobs = Vec::new();
        for slot in &self.slots {
            let tail = slot.lock().await;
            jobs.extend(tail.jobs.iter().map(|(id, image)| (id.clone(), image.clone())));
        }
        jobs
    }

    /// The job as the journal tells it now. Reads what an earlier append may have left behind
    /// without an answer.
    pub async fn image(&self, job: &str) -> Result<Image, Failure> {
        let index = index(job);
        let mut tail = self.slots[index].lock().await;
        catch_up(&*self.journal, slot(index), &mut tail).await?;
        Ok(tail.jobs.get(job).cloned().unwrap_or_default())
    }

    /// Durably adds a record. A commit or start of an attempt that a newer one has fenced is
    /// refused.
    pub async fn append(&self, job: &str, event: Event) -> Result<(), Failure> {
        let index = index(job);
        let slot = slot(index);
        let mut tail = self.slots[index].lock().await;
        let record = Record { v: VERSION, job: job.to_owned(), event };
        let bytes = encode(&record)?;
        loop {
            fenced(tail.jobs.get(job), &record.event)?;
            match self.journal.append(slot, tail.next, bytes.clone()).await {
                Ok(()) => break,
                Err(JournalError::Occupied { .. }) => {
                    let before = tail.next;
                    catch_up(&*self.journal, slot, &mut tail).await?;
                    if tail.next == before {
                        return Err(Failure::Storage(format!(
                            "journal slot {} refuses position {before} but has no record there",
                            slot.0
                        )));
                    }
                }
                Err(error @ JournalError::Storage(_)) => return Err(storage(&error)),
            }
        }
        tail.next += 1;
        tail.jobs.entry(record.job).or_default().apply(record.event);
        if tail.next - tail.first > RECORDS_MAX {
            self.rewrite(slot, &mut tail).await?;
        }
        Ok(())
    }

    /// Writes what the slot's records say once more and forgets the records before. Jobs that
    /// ended are forgotten with them.
    async fn rewrite(&self, slot: Slot, tail: &mut Tail) -> Result<(), Failure> {
        let first = tail.next;
        tail.jobs.retain(|_, image| image.ended.is_none());
        let records: Vec<Record> =
            tail.jobs.iter().flat_map(|(job, image)| image.records(job)).collect();
        for record in records {
            match self.journal.append(slot, tail.next, encode(&record)?).await {
                Ok(()) => tail.next += 1,
                // Another writer is at work: nothing is lost, the next append tries again.
                Err(JournalError::Occupied { .. }) => return Ok(()),
                Err(error) => return Err(storage(&error)),
            }
        }
        self.journal.trim(slot, first).await.map_err(|error| storage(&error))?;
        tail.first = first;
        Ok(())
    }
}

/// Position in `JobJournal::slots` of a job's slot.
fn index(job: &str) -> usize {
    (state::hash(job.as_bytes()) % u64::from(SLOTS - SLOT_FIRST)) as usize
}

fn slot(index: usize) -> Slot {
    Slot(SLOT_FIRST + index as u16)
}

fn storage(error: &JournalError) -> Failure {
    Failure::Storage(error.to_string())
}

fn encode(record: &Record) -> Result<Bytes, Failure> {
    serde_json::to_vec(record)
        .map(Bytes::from)
        .map_err(|error| Failure::Storage(format!("a job record cannot be written: {error}")))
}

fn fenced(image: Option<&Image>, event: &Event) -> Result<(), Failure> {
    let newest = image.map_or(0, Image::attempt);
    let attempt = match event {
        Event::Started(started) => started.attempt,
        Event::Committed(commit) => commit.attempt,
        Event::Submitted(_) | Event::Ended(_) => return Ok(()),
    };
    if attempt < newest {
        return Err(Failure::Storage(format!("attempt {attempt} was fenced by attempt {newest}")));
    }
    Ok(())
}

async fn catch_up(journal: &dyn Journal, slot: Slot, tail: &mut Tail) -> Result<(), Failure> {
    loop {
        let records = journal.read(slot, tail.next).await.map_err(|error| storage(&error))?;
        if records.is_empty() {
            return Ok(());
        }
        for (position, bytes) in records {
            let record: Record = serde_json::from_slice(&bytes).map_err(|error| {
                Failure::Storage(format!(
                    "journal slot {} position {position} holds no job record: {error}",
                    slot.0
                ))
            })?;
            if record.v > VERSION {
                return Err(Failure::Storage(format!(
                    "job '{}' was written with record version {}, this binary reads {VERSION}; \
                     run a newer Ottla",
                    record.job, record.v
                )));
            }
            if tail.jobs.is_empty() && tail.next == 0 {
                tail.first = position;
            }
            tail.jobs.entry(record.job).or_default().apply(record.event);
            tail.next = position + 1;
        }
    }
}
