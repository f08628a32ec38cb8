//! Changes of topics and of their configs.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};

use super::{Area, codec, unknown_tag};
use crate::types::TopicId;

/// One decision about topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::metadata) enum TopicChange {
    /// A topic exists from here on.
    Created {
        id: TopicId,
        name: String,
        partitions: u32,
        configs: BTreeMap<String, String>,
        internal: bool,
    },
    /// A topic has more partitions from here on.
    PartitionsAdded { id: TopicId, count: u32 },
    /// Configs of a topic have other values from here on, or none of their own.
    ConfigsChanged { id: TopicId, set: BTreeMap<String, String>, unset: BTreeSet<String> },
    /// A topic is gone; its logs may be removed at any time after this.
    Deleted { id: TopicId },
    /// These topics were deleted, and their logs may still be there. Said when the journal is
    /// written anew, after the records that deleted them.
    LogsLeft { ids: Vec<TopicId> },
    /// The logs of these deleted topics are removed.
    LogsRemoved { ids: Vec<TopicId> },
}

/// Persisted. Never reuse a number.
mod tag {
    pub(super) const CREATED: u8 = 0;
    pub(super) const PARTITIONS_ADDED: u8 = 1;
    pub(super) const CONFIGS_CHANGED: u8 = 2;
    pub(super) const DELETED: u8 = 3;
    pub(super) const LOGS_LEFT: u8 = 4;
    pub(super) const LOGS_REMOVED: u8 = 5;
}

impl Area for TopicChange {
    const NUMBER: u8 = 1;
    const VERSION: u8 = 0;
    const NAME: &'static str = "topics";

    fn version(&self) -> u8 {
        0
    }

    fn put(&self, out: &mut BytesMut) {
        match self {
            TopicChange::Created { id, name, partitions, configs, internal } => {
                out.put_u8(tag::CREATED);
                codec::put_topic(out, *id);
                codec::put_text(out, name);
                out.put_u32(*partitions);
                codec::put_pairs(out, configs);
                out.put_u8(u8::from(*internal));
            }
            TopicChange::PartitionsAdded { id, count } => {
                out.put_u8(tag::PARTITIONS_ADDED);
                codec::put_topic(out, *id);
                out.put_u32(*count);
            }
            TopicChange::ConfigsChanged { id, set, unset } => {
                out.put_u8(tag::CONFIGS_CHANGED);
                codec::put_topic(out, *id);
                codec::put_pairs(out, set);
                codec::put_texts(out, unset);
            }
            TopicChange::Deleted { id } => {
                out.put_u8(tag::DELETED);
                codec::put_topic(out, *id);
            }
            TopicChange::LogsLeft { ids } => {
                out.put_u8(tag::LOGS_LEFT);
                codec::put_list(out, ids.iter(), |out, id| codec::put_topic(out, *id));
            }
            TopicChange::LogsRemoved { ids } => {
                out.put_u8(tag::LOGS_REMOVED);
                codec::put_list(out, ids.iter(), |out, id| codec::put_topic(out, *id));
            }
        }
    }

    fn read(_: u8, from: &mut Bytes) -> Result<TopicChange, String> {
        match codec::byte(from)? {
            tag::CREATED => Ok(TopicChange::Created {
                id: codec::topic(from)?,
                name: codec::text(from)?,
                partitions: codec::number(from)?,
                configs: codec::pairs(from)?,
                internal: codec::flag(from)?,
            }),
            tag::PARTITIONS_ADDED => Ok(TopicChange::PartitionsAdded {
                id: codec::topic(from)?,
                count: codec::number(from)?,
            }),
            tag::CONFIGS_CHANGED => Ok(TopicChange::ConfigsChanged {
                id: codec::topic(from)?,
                set: codec::pairs(from)?,
                unset: codec::texts(from)?,
            }),
            tag::DELETED => Ok(TopicChange::Deleted { id: codec::topic(from)? }),
            tag::LOGS_LEFT => Ok(TopicChange::LogsLeft { ids: codec::list(from, codec::topic)? }),
            tag::LOGS_REMOVED => {
                Ok(TopicChange::LogsRemoved { ids: codec::list(from, codec::topic)? })
            }
            tag => Err(unknown_tag(Self::NAME, tag)),
        }
    }
}
