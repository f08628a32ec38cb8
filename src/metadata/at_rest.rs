//! What topics a stopped broker's journal tells of, for people who look at its directory. Reads what
//! can be read: a journal that is damaged itself must not hide the rest.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::change::{Change, TopicChange};
use super::journal::Slot;
use super::local_journal::journal_topic;
use super::record::{self, JournalRecord};
use super::replay::Replay;
use crate::log::LogError;
use crate::log::records::{self, DecodeError};
use crate::log::verify::AtRest;
use crate::types::{LogId, Offset, PartitionId, TopicId};

/// Journal records are the broker's own: only the format limits their size.
const INFLATED_BYTES_MAX: usize = i32::MAX as usize;

/// What is known of topics by their ids.
#[derive(Clone, Debug, Default)]
pub struct TopicsAtRest {
    /// Every topic that was ever created, as far as the journal can be read.
    names: BTreeMap<TopicId, String>,
    /// Begins with the first record that is there.
    replay: Option<Replay>,
    /// Records that cannot be read or contradict others: no broker starts on them.
    pub unreadable: u64,
    /// Where the first of them lies, and what is wrong with it.
    pub first_unreadable: Option<(Offset, String)>,
}

/// What a log belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belongs {
    /// The broker's own journal.
    Journal,
    /// A topic; whether it is internal.
    Topic {
        /// Marked so in the metadata.
        internal: bool,
    },
    /// A topic that was deleted: the next start removes the log.
    Deleted,
    /// Nothing that the journal tells of.
    Nothing,
}

impl TopicsAtRest {
    /// Reads the metadata's slot of the journal as it lies on disk.
    pub fn read(logs: &AtRest) -> Result<TopicsAtRest, LogError> {
        let partition = PartitionId(u32::from(Slot::METADATA.0));
        let mut topics = TopicsAtRest::default();
        topics.names.insert(journal_topic(), "__ottla_journal".to_owned());
        for batch in logs.batches(LogId { topic: journal_topic(), partition })? {
            match records::decode(batch, INFLATED_BYTES_MAX) {
                Ok(batches) => {
                    for record in batches.into_iter().flat_map(|batch| batch.records) {
                        let value = record.value.unwrap_or_default();
                        let applied = topics.apply(record.offset.get(), value);
                        applied.unwrap_or_else(|reason| topics.note(record.offset, reason));
                    }
                }
                Err(DecodeError::Corrupt(offset, reason)) => topics.note(offset, reason),
                Err(error @ DecodeError::TooLarge(offset, _)) => {
                    topics.note(offset, error.to_string());
                }
            }
        }
        Ok(topics)
    }

    fn apply(&mut self, position: u64, bytes: Bytes) -> Result<(), String> {
        let replay = self.replay.get_or_insert_with(|| Replay::beginning_at(position));
        let length = bytes.len();
        let record = record::decode(bytes)?;
        let (JournalRecord::Changes(changes) | JournalRecord::ImagePart { changes, .. }) = &record;
        for change in changes {
            if let Change::Topic(TopicChange::Created { id, name, .. }) = change {
                self.names.insert(*id, name.clone());
            }
        }
        // A damaged record is passed over: the topics that it does not tell of are fewer than those
        // that the records behind it do.
        replay.take(position, length, &record)
    }

    fn note(&mut self, offset: Offset, reason: String) {
        self.unreadable += 1;
        self.first_unreadable.get_or_insert((offset, reason));
    }

    /// A log as log lines name it: `clicks-3 (<topic uuid>-3)`, or its id alone.
    pub fn label(&self, log: LogId) -> String {
        match self.names.get(&log.topic) {
            Some(name) => format!("{name}-{} ({log})", log.partition),
            None => log.to_string(),
        }
    }

    /// A topic's name, or its id.
    pub fn name(&self, topic: TopicId) -> String {
        self.names.get(&topic).cloned().unwrap_or_else(|| topic.to_string())
    }

    /// What a log belongs to.
    pub fn belongs(&self, log: LogId) -> Belongs {
        if log.topic == journal_topic() {
            return Belongs::Journal;
        }
        let image = self.replay.as_ref().map(Replay::image);
        match image.and_then(|image| image.topic_by_id(log.topic)) {
            Some(topic) if log.partition.0 < topic.partitions => {
                Belongs::Topic { internal: topic.internal }
            }
            Some(_) => Belongs::Nothing,
            None if self.names.contains_key(&log.topic) || self.leaves_logs(log.topic) => {
                Belongs::Deleted
            }
            None => Belongs::Nothing,
        }
    }

    fn leaves_logs(&self, topic: TopicId) -> bool {
        self.replay.as_ref().is_some_and(|replay| replay.image().topics.leaves_logs(topic))
    }
}
