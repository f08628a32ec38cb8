//! Journal records of formats 1 and 2, which earlier versions wrote: one JSON object per change, of
//! topics only. They are read, and never written.
//!
//! ```json
//! {"version":1,"change":"topic_created","id":"…","name":"clicks","partitions":1,"configs":{},"internal":false}
//! {"version":1,"change":"partitions_added","id":"…","count":4}
//! {"version":1,"change":"topic_deleted","id":"…"}
//! {"version":2,"change":"configs_changed","id":"…","set":{"retention.ms":"1000"},"unset":[]}
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, de};
use uuid::Uuid;

use super::{Change, TopicChange};
use crate::types::TopicId;

/// The last format of this kind.
const VERSION: u16 = 2;

#[derive(Deserialize)]
struct Version {
    version: u16,
}

#[derive(Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
enum Text {
    TopicCreated {
        #[serde(deserialize_with = "uuid")]
        id: Uuid,
        name: String,
        partitions: u32,
        configs: BTreeMap<String, String>,
        internal: bool,
    },
    PartitionsAdded {
        #[serde(deserialize_with = "uuid")]
        id: Uuid,
        count: u32,
    },
    ConfigsChanged {
        #[serde(deserialize_with = "uuid")]
        id: Uuid,
        set: BTreeMap<String, String>,
        unset: BTreeSet<String>,
    },
    TopicDeleted {
        #[serde(deserialize_with = "uuid")]
        id: Uuid,
    },
}

/// Ids are hyphenated text.
fn uuid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
    let text = String::deserialize(deserializer)?;
    Uuid::parse_str(&text).map_err(de::Error::custom)
}

/// Whether a record is of this kind: all others begin with the number of their format.
pub(in crate::metadata) fn is_text(record: &[u8]) -> bool {
    record.first() == Some(&b'{')
}

/// The change of a record.
pub(in crate::metadata) fn read(record: &[u8]) -> Result<Change, String> {
    let Version { version } = serde_json::from_slice(record).map_err(|error| error.to_string())?;
    if version > VERSION {
        return Err(format!("it is text of format {version}, which no version of Ottla wrote"));
    }
    let text: Text = serde_json::from_slice(record).map_err(|error| error.to_string())?;
    Ok(Change::Topic(match text {
        Text::TopicCreated { id, name, partitions, configs, internal } => {
            TopicChange::Created { id: TopicId(id), name, partitions, configs, internal }
        }
        Text::PartitionsAdded { id, count } => {
            TopicChange::PartitionsAdded { id: TopicId(id), count }
        }
        Text::ConfigsChanged { id, set, unset } => {
            TopicChange::ConfigsChanged { id: TopicId(id), set, unset }
        }
        Text::TopicDeleted { id } => TopicChange::Deleted { id: TopicId(id) },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TopicId = TopicId(Uuid::NAMESPACE_URL);

    #[test]
    fn format_1_stays_readable() {
        let created = br#"{"version":1,"change":"topic_created","id":"6ba7b811-9dad-11d1-80b4-00c04fd430c8",
            "name":"clicks","partitions":3,"configs":{"max.message.bytes":"2000"},"internal":false}"#;
        let change = TopicChange::Created {
            id: ID,
            name: "clicks".to_owned(),
            partitions: 3,
            configs: [("max.message.bytes".to_owned(), "2000".to_owned())].into(),
            internal: false,
        };
        assert_eq!(read(created), Ok(Change::Topic(change)));
        let added = br#"{"version":1,"change":"partitions_added","id":"6ba7b811-9dad-11d1-80b4-00c04fd430c8","count":4}"#;
        let change = TopicChange::PartitionsAdded { id: ID, count: 4 };
        assert_eq!(read(added), Ok(Change::Topic(change)));
        let deleted = br#"{"version":1,"change":"topic_deleted","id":"6ba7b811-9dad-11d1-80b4-00c04fd430c8"}"#;
        assert_eq!(read(deleted), Ok(Change::Topic(TopicChange::Deleted { id: ID })));
    }

    #[test]
    fn format_2_stays_readable() {
        let changed = br#"{"version":2,"change":"configs_changed","id":"6ba7b811-9dad-11d1-80b4-00c04fd430c8",
            "set":{"retention.ms":"1000"},"unset":["segment.ms"]}"#;
        let change = TopicChange::ConfigsChanged {
            id: ID,
            set: [("retention.ms".to_owned(), "1000".to_owned())].into(),
            unset: ["segment.ms".to_owned()].into(),
        };
        assert_eq!(read(changed), Ok(Change::Topic(change)));
    }

    #[test]
    fn a_newer_format_is_refused_by_number() {
        let refusal = read(br#"{"version":3,"change":"something_new"}"#).unwrap_err();
        assert!(refusal.contains("format 3"), "{refusal}");
    }

    #[test]
    fn damaged_records_are_refused() {
        for record in [&b""[..], b"{", b"{\"version\":1}", b"\xff\xff"] {
            assert!(read(record).is_err());
        }
    }
}
