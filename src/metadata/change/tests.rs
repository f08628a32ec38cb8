//! Changes as bytes: they come back, old ones stay readable, and damage is refused.

use super::*;
use crate::config::{Overlay, Secret};
use crate::metadata::BrokerScope;
use crate::types::TopicId;

/// One of each.
pub(in crate::metadata) fn each() -> Vec<Change> {
    let id = TopicId(uuid::Uuid::NAMESPACE_URL);
    let other = TopicId(uuid::Uuid::NAMESPACE_DNS);
    let pairs = [("retention.ms".to_owned(), "1000".to_owned())];
    vec![
        Change::Topic(TopicChange::Created {
            id,
            name: "clicks".to_owned(),
            partitions: 3,
            configs: pairs.clone().into(),
            internal: false,
        }),
        Change::Topic(TopicChange::PartitionsAdded { id, count: 4 }),
        Change::Topic(TopicChange::ConfigsChanged {
            id,
            set: pairs.into(),
            unset: ["segment.ms".to_owned()].into(),
        }),
        Change::Topic(TopicChange::Deleted { id }),
        Change::Topic(TopicChange::LogsLeft { ids: vec![id, other] }),
        Change::Topic(TopicChange::LogsRemoved { ids: vec![other] }),
        Change::Broker(BrokerChange {
            scope: BrokerScope::Cluster,
            set: [("log.retention.ms".to_owned(), Secret::new("7"))].into(),
            unset: ["log.roll.ms".to_owned()].into(),
        }),
        Change::Broker(BrokerChange {
            scope: BrokerScope::Broker(i32::MAX),
            set: Overlay::new(),
            unset: ["log.roll.ms".to_owned()].into(),
        }),
        Change::Feature(FeatureChange::Finalized { name: "group.version".to_owned(), level: 1 }),
        Change::Feature(FeatureChange::All {
            epoch: u64::MAX,
            levels: [("group.version".to_owned(), 1)].into(),
        }),
    ]
}

fn written(changes: &[Change]) -> Bytes {
    let mut out = BytesMut::new();
    put(changes, &mut out);
    out.freeze()
}

#[test]
fn changes_come_back_in_their_order() {
    assert_eq!(read(written(&each())), Ok(each()));
    assert_eq!(read(Bytes::new()), Ok(Vec::new()));
}

#[test]
fn what_is_on_disks_stays_readable() {
    let deleted =
        b"\x01\x00\0\0\0\x11\x03\x6b\xa7\xb8\x11\x9d\xad\x11\xd1\x80\xb4\x00\xc0\x4f\xd4\x30\xc8";
    let id = TopicId(uuid::Uuid::NAMESPACE_URL);
    let change = Change::Topic(TopicChange::Deleted { id });
    assert_eq!(read(Bytes::from_static(deleted)), Ok(vec![change.clone()]));
    assert_eq!(written(&[change]), deleted.as_slice());
}

#[test]
fn changes_cut_anywhere_are_refused() {
    for change in each() {
        let whole = written(&[change]);
        for end in 1..whole.len() {
            assert!(read(whole.slice(..end)).is_err(), "{whole:?} up to {end}");
        }
    }
}

#[test]
fn a_field_too_many_is_refused() {
    for change in each() {
        let mut longer = BytesMut::from(&written(&[change])[..]);
        let fields = u32::from_be_bytes(longer[2..6].try_into().unwrap()) + 1;
        longer[2..6].copy_from_slice(&fields.to_be_bytes());
        longer.put_u8(0);
        let refusal = read(longer.freeze()).unwrap_err();
        assert!(refusal.contains("1 bytes too many"), "{refusal}");
    }
}

#[test]
fn newer_areas_and_versions_are_refused_by_number() {
    let of = |area: u8, version: u8| read(Bytes::from(vec![area, version, 0, 0, 0, 0]));
    let refusal = of(99, 0).unwrap_err();
    assert!(refusal.contains("area 99") && refusal.contains("newer Ottla"), "{refusal}");
    let refusal = of(TopicChange::NUMBER, 9).unwrap_err();
    assert!(refusal.contains("topics has version 9"), "{refusal}");
}
