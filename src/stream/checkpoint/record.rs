//! What the journal knows of a job: submitted, started, committed, ended. JSON, each record with
//! its own version, so that a person can read a broken journal.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::{LogId, PartitionId, ProducerId, TopicId};

/// Version of `Record`; a newer one is refused by name.
pub const VERSION: u8 = 1;

/// One journal record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `VERSION`.
    pub v: u8,
    /// The job's id.
    pub job: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// It exists.
    Submitted(Submitted),
    /// An attempt was begun; older attempts are fenced.
    Started(Started),
    /// An epoch was committed.
    Committed(Box<Commit>),
    /// It will not run again.
    Ended(Ended),
}

/// A job as it was submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// For people.
    pub name: String,
    /// For the planner.
    pub definition: String,
    /// `execution.checkpointing.interval`.
    pub checkpoint_interval: Duration,
    /// `parallelism.default`.
    pub parallelism: usize,
    /// When, ms.
    pub at_ms: i64,
}

/// A begun attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// From 1.
    pub attempt: u32,
    /// The epoch of its producers.
    pub producer_epoch: i16,
    /// Two producer ids per writer; epochs alternate between them.
    pub producers: Vec<[i64; 2]>,
}

impl Started {
    /// All its producer ids.
    pub fn producers(&self) -> HashSet<ProducerId> {
        self.producers.iter().flatten().copied().map(ProducerId).collect()
    }
}

/// The commit decision of one epoch: everything that must be known to go on from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The epoch, from 1.
    pub epoch: u64,
    /// The attempt that made it.
    pub attempt: u32,
    /// When it was triggered, ms.
    pub at_ms: i64,
    /// From barrier to this record.
    pub took_ms: u64,
    /// State bytes written by it.
    pub state_bytes: u64,
    /// Where the sources go on.
    pub positions: Vec<SourcePosition>,
    /// Where the operators' state lies, if there is any.
    pub state: Option<StateManifest>,
    /// Where output and state of this epoch lie: these get COMMIT markers.
    pub outputs: Vec<Touched>,
}

/// A source's place in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePosition {
    /// The source's node id.
    pub node: u32,
    /// The topic's id as a UUID.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// Next offset to read.
    pub offset: u64,
    /// The partition's watermark in ms, so that event time stands where it stood.
    pub watermark_ms: Option<i64>,
}

/// Which entries of the state topic make up the state: those of this attempt with epochs from
/// `base_epoch` on, between two offsets of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateManifest {
    /// Partition of the state topic.
    pub partition: u32,
    /// The epoch that wrote all state; later ones wrote what changed.
    pub base_epoch: u64,
    /// First offset.
    pub from: u64,
    /// One past the last offset.
    pub to: u64,
}

/// A partition that an epoch wrote to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// The topic's id as a UUID.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// Under which producer id.
    pub producer: i64,
    /// Offset of the epoch's last record there: an open transaction that begins after it belongs
    /// to a later epoch.
    pub last_offset: u64,
}

impl Touched {
    /// Its log, if the id is one.
    pub fn log(&self) -> Option<LogId> {
        Some(LogId { topic: topic_id(&self.topic)?, partition: PartitionId(self.partition) })
    }

    /// Its producer.
    pub fn producer(&self) -> ProducerId {
        ProducerId(self.producer)
    }
}

/// A topic id from its text.
pub fn topic_id(text: &str) -> Option<TopicId> {
    uuid::Uuid::parse_str(text).ok().map(TopicId)
}

/// An ended job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// `finished`, `canceled` or `failed`.
    pub state: String,
    /// Why it failed.
    pub failure: Option<String>,
    /// When, in milliseconds since 1970; records of old lack it.
    #[serde(default)]
    pub at_ms: Option<i64>,
}

/// A job as its records tell it; the last of each kind counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobImage {
    /// How it was submitted.
    pub submitted: Option<Submitted>,
    /// Its newest attempt.
    pub started: Option<Started>,
    /// Its newest commit.
    pub commit: Option<Commit>,
    /// How it ended.
    pub ended: Option<Ended>,
}

impl JobImage {
    /// Takes the next record. A commit of a fenced attempt does not count.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Submitted(submitted) => self.submitted = Some(submitted),
            Event::Started(started) => {
                if started.attempt >= self.attempt() {
                    self.started = Some(started);
                }
            }
            Event::Committed(commit) => {
                if commit.attempt >= self.attempt() || self.commit.is_none() {
                    self.commit = Some(*commit);
                }
            }
            Event::Ended(ended) => self.ended = Some(ended),
        }
    }

    /// The newest attempt, 0 before the first.
    pub fn attempt(&self) -> u32 {
        self.started.as_ref().map_or(0, |started| started.attempt)
    }

    /// The records that rebuild it, oldest kind first: written when the journal is trimmed.
    pub fn records(&self, job: &str) -> Vec<Record> {
        let commit = self.commit.clone();
        let events = [
            self.submitted.clone().map(Event::Submitted),
            // The commit first: it may be of an attempt before the newest.
            commit.map(|commit| Event::Committed(Box::new(commit))),
            self.started.clone().map(Event::Started),
            self.ended.clone().map(Event::Ended),
        ];
        events
            .into_iter()
            .flatten()
            .map(|event| Record { v: VERSION, job: job.to_owned(), event })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(attempt: u32, epoch: u64) -> Event {
        Event::Committed(Box::new(Commit { attempt, epoch, ..Commit::default() }))
    }

    fn started(attempt: u32) -> Event {
        Event::Started(Started { attempt, ..Started::default() })
    }

    #[test]
    fn a_commit_of_a_fenced_attempt_does_not_count() {
        let mut image = JobImage::default();
        for event in [started(1), commit(1, 1), started(2), commit(1, 2)] {
            image.apply(event);
        }
        assert_eq!(image.commit.as_ref().unwrap().epoch, 1);
        image.apply(commit(2, 2));
        assert_eq!(image.commit.unwrap().epoch, 2);
    }

    #[test]
    fn an_image_is_rebuilt_from_its_records_through_json() {
        let mut image = JobImage::default();
        for event in [started(1), commit(1, 3), started(2)] {
            image.apply(event);
        }
        let mut again = JobImage::default();
        for record in image.records("j") {
            let text = serde_json::to_string(&record).unwrap();
            let record: Record = serde_json::from_str(&text).unwrap();
            again.apply(record.event);
        }
        assert_eq!(again, image);
    }
}
