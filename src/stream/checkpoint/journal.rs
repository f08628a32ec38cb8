//! The job records in the metadata journal: replayed at start, appended to at the next vacant
//! position. A slot that is mostly history is written anew and trimmed, so that what a start reads
//! depends on the jobs there are and not on the checkpoints they ever took.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;
use tracing::warn;

use super::record::{Event, JobImage, Record, VERSION};
use super::state_space::StateSpace;
use crate::metadata::journal::{History, Journal, JournalError, Slot, SlotSize};
use crate::stream::operator::Failure;
use crate::stream::state;
use crate::types::{Offset, PartitionId};

/// The job records of all slots.
pub struct JobJournal {
    journal: Arc<dyn Journal>,
    slots: Vec<Mutex<Tail>>,
    state_space: StateSpace,
}

/// What this node knows of a slot.
#[derive(Default)]
struct Tail {
    /// Next position to read or claim.
    next: u64,
    history: History,
    jobs: BTreeMap<String, JobImage>,
}

impl JobJournal {
    /// Replays every slot that can hold jobs.
    pub async fn open(journal: Arc<dyn Journal>) -> Result<JobJournal, Failure> {
        let mut slots = Vec::new();
        for slot in Slot::JOBS {
            let mut tail = Tail::default();
            catch_up(&*journal, Slot(slot), &mut tail).await?;
            slots.push(Mutex::new(tail));
        }
        Ok(JobJournal { journal, slots, state_space: StateSpace::default() })
    }

    /// What of the state topic is needed by the jobs written here.
    pub fn state_space(&self) -> &StateSpace {
        &self.state_space
    }

    /// The first offset of a partition of the state topic that a job which has not ended would read
    /// to restore its newest checkpoint.
    pub async fn state_from(&self, partition: PartitionId) -> Option<Offset> {
        let mut first = None;
        for slot in &self.slots {
            let tail = slot.lock().await;
            let live = tail.jobs.values().filter(|image| image.ended.is_none());
            let states = live.filter_map(|image| image.commit.as_ref()?.state.as_ref());
            let here = states.filter(|state| state.partition == partition.0);
            first = first.into_iter().chain(here.map(|state| Offset::new(state.from))).min();
        }
        first
    }

    /// Every job found.
    pub async fn jobs(&self) -> Vec<(String, JobImage)> {
        let mut jobs = Vec::new();
        for slot in &self.slots {
            let tail = slot.lock().await;
            jobs.extend(tail.jobs.iter().map(|(id, image)| (id.clone(), image.clone())));
        }
        jobs
    }

    /// The job as the journal tells it now. Reads what an earlier append may have left behind
    /// without an answer.
    pub async fn image(&self, job: &str) -> Result<JobImage, Failure> {
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
        tail.history.add(bytes.len());
        tail.jobs.entry(record.job).or_default().apply(record.event);
        if tail.history.is_most() {
            // The record above is written, whatever becomes of those before it.
            if let Err(failure) = self.rewrite(slot, &mut tail).await {
                warn!(slot = slot.0, %failure, "a slot of the job journal could not be written anew, it grows for now");
            }
            tail.history.put_off();
        }
        Ok(())
    }

    /// Drops a job that has ended: its records go when its slot is written anew.
    pub async fn forget(&self, job: &str) {
        let mut tail = self.slots[index(job)].lock().await;
        if tail.jobs.get(job).is_some_and(|image| image.ended.is_some()) {
            tail.jobs.remove(job);
        }
    }

    /// Writes what the slot's records say once more and forgets the records before. A crash in
    /// between leaves the same things said twice.
    async fn rewrite(&self, slot: Slot, tail: &mut Tail) -> Result<(), Failure> {
        let first = tail.next;
        let mut written = SlotSize::default();
        let records: Vec<Record> =
            tail.jobs.iter().flat_map(|(job, image)| image.records(job)).collect();
        for record in records {
            let bytes = encode(&record)?;
            match self.journal.append(slot, tail.next, bytes.clone()).await {
                Ok(()) => tail.next += 1,
                // Another writer is at work. Its record may follow from what this node has not
                // read: nothing is trimmed.
                Err(JournalError::Occupied { .. }) => return Ok(()),
                Err(error) => return Err(storage(&error)),
            }
            written.add(bytes.len());
            tail.history.add(bytes.len());
        }
        self.journal.trim(slot, first).await.map_err(|error| storage(&error))?;
        tail.history.rewritten(written);
        Ok(())
    }
}

/// Position in `JobJournal::slots` of a job's slot.
fn index(job: &str) -> usize {
    (state::hash(job.as_bytes()) % Slot::JOBS.len() as u64) as usize
}

fn slot(index: usize) -> Slot {
    Slot(Slot::JOBS.start + index as u16)
}

fn storage(error: &JournalError) -> Failure {
    Failure::Storage(error.to_string())
}

fn encode(record: &Record) -> Result<Bytes, Failure> {
    serde_json::to_vec(record)
        .map(Bytes::from)
        .map_err(|error| Failure::Storage(format!("a job record cannot be written: {error}")))
}

fn fenced(image: Option<&JobImage>, event: &Event) -> Result<(), Failure> {
    let newest = image.map_or(0, JobImage::attempt);
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
            if position > tail.next {
                // Another writer has trimmed the slot: what follows is all that counts.
                *tail = Tail::default();
            }
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
            tail.history.add(bytes.len());
            tail.jobs.entry(record.job).or_default().apply(record.event);
            tail.next = position + 1;
        }
    }
}

#[cfg(test)]
mod tests;
