//! What the metadata writes to the journal: one JSON object per change, with its format version, so
//! that people can read a data directory and an older binary can refuse a newer one.
//!
//! ```json
//! {"version":1,"change":"topic_created","id":"…","name":"clicks","partitions":1,"configs":{},"internal":false}
//! {"version":1,"change":"partitions_added","id":"…","count":4}
//! {"version":1,"change":"topic_deleted","id":"…"}
//! {"version":2,"change":"configs_changed","id":"…","set":{"retention.ms":"1000"},"unset":[]}
//! ```
//!
//! Each change carries the first version that has it, so that an older binary opens a directory in
//! which it was never needed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The newest format this binary reads and writes. Persisted.
const VERSION: u16 = 2;

/// One decision about topics. Persisted: change it only by adding a format version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub(super) enum Change {
    /// A topic exists from here on.
    TopicCreated {
        #[serde(with = "uuid_text")]
        id: Uuid,
        name: String,
        partitions: u32,
        configs: BTreeMap<String, String>,
        internal: bool,
    },
    /// A topic has more partitions from here on.
    PartitionsAdded {
        #[serde(with = "uuid_text")]
        id: Uuid,
        count: u32,
    },
    /// Configs of a topic have other values from here on, or none of their own. Since format 2.
    ConfigsChanged {
        #[serde(with = "uuid_text")]
        id: Uuid,
        set: BTreeMap<String, String>,
        unset: BTreeSet<String>,
    },
    /// A topic is gone; its logs may be removed at any time after this.
    TopicDeleted {
        #[serde(with = "uuid_text")]
        id: Uuid,
    },
}

impl Change {
    fn version(&self) -> u16 {
        match self {
            Change::TopicCreated { .. }
            | Change::PartitionsAdded { .. }
            | Change::TopicDeleted { .. } => 1,
            Change::ConfigsChanged { .. } => VERSION,
        }
    }
}

#[derive(Deserialize)]
struct Version {
    version: u16,
}

#[derive(Serialize, Deserialize)]
struct Versioned<C> {
    version: u16,
    #[serde(flatten)]
    change: C,
}

/// Ids as hyphenated text.
mod uuid_text {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use uuid::Uuid;

    pub(super) fn serialize<S: Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Uuid, D::Error> {
        let text = String::deserialize(deserializer)?;
        Uuid::parse_str(&text).map_err(de::Error::custom)
    }
}

/// The record of a change.
pub(super) fn encode(change: &Change) -> Result<Bytes, String> {
    let json = serde_json::to_vec(&Versioned { version: change.version(), change });
    json.map(Bytes::from).map_err(|error| error.to_string())
}

/// The change of a record.
pub(super) fn decode(record: &[u8]) -> Result<Change, String> {
    let Version { version } = serde_json::from_slice(record).map_err(|error| error.to_string())?;
    if version > VERSION {
        return Err(format!(
            "it has format {version}, this version reads up to {VERSION}; run a newer Ottla"
        ));
    }
    let versioned: Versioned<Change> =
        serde_json::from_slice(record).map_err(|error| error.to_string())?;
    Ok(versioned.change)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_1_stays_readable() {
        let created = br#"{"version":1,"change":"topic_created","id":"6ba7b811-9dad-11d1-80b4-00c04fd430c8",
            "name":"clicks","partitions":3,"configs":{"max.message.bytes":"2000"},"internal":false}"#;
        let id = Uuid::NAMESPACE_URL;
        let change = Change::TopicCreated {
            id,
            name: "clicks".to_owned(),
            partitions: 3,
            configs: [("max.message.bytes".to_owned(), "2000".to_owned())].into(),
            internal: false,
        };
        assert_eq!(decode(created), Ok(change.clone()));
        assert_eq!(decode(&encode(&change).unwrap()), Ok(change));
        let added = br#"{"version":1,"change":"partitions_added","id":"6ba7b811-9dad-11d1-80b4-00c04fd430c8","count":4}"#;
        assert_eq!(decode(added), Ok(Change::PartitionsAdded { id, count: 4 }));
        let deleted = br#"{"version":1,"change":"topic_deleted","id":"6ba7b811-9dad-11d1-80b4-00c04fd430c8"}"#;
        assert_eq!(decode(deleted), Ok(Change::TopicDeleted { id }));
    }

    #[test]
    fn format_2_stays_readable_and_is_written_only_where_it_is_needed() {
        let changed = br#"{"version":2,"change":"configs_changed","id":"6ba7b811-9dad-11d1-80b4-00c04fd430c8",
            "set":{"retention.ms":"1000"},"unset":["segment.ms"]}"#;
        let id = Uuid::NAMESPACE_URL;
        let change = Change::ConfigsChanged {
            id,
            set: [("retention.ms".to_owned(), "1000".to_owned())].into(),
            unset: ["segment.ms".to_owned()].into(),
        };
        assert_eq!(decode(changed), Ok(change.clone()));
        let written = encode(&change).unwrap();
        assert_eq!(decode(&written), Ok(change));
        let is_first = |record: &Bytes| record.starts_with(br#"{"version":1,"#);
        assert!(!is_first(&written));
        assert!(is_first(&encode(&Change::TopicDeleted { id }).unwrap()));
    }

    #[test]
    fn a_newer_format_is_refused_by_number() {
        let refusal = decode(br#"{"version":3,"change":"something_new"}"#).unwrap_err();
        assert!(refusal.contains("format 3"), "{refusal}");
    }

    #[test]
    fn damaged_records_are_refused() {
        for record in [&b""[..], b"{", b"{\"version\":1}", b"\xff\xff"] {
            assert!(decode(record).is_err());
        }
    }
}
