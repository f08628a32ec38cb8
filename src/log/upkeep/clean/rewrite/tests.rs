use std::time::Duration;

use super::*;
use crate::log::AbortedTxn;
use crate::log::Marker;
use crate::log::format::batch::{NewRecord, Producer};

const NOW: Timestamp = Timestamp(10_000);

fn record(key: &str, value: Option<&str>) -> NewRecord {
    NewRecord {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
        timestamp: Timestamp(500),
        ..NewRecord::default()
    }
}

fn batch_at(base: u64, records: &[NewRecord], producer: Option<Producer>) -> (BatchHeader, Bytes) {
    let mut bytes = batch::encode(records, producer).to_vec();
    batch::patch(&mut bytes, Offset::new(base), crate::types::LeaderEpoch(1));
    (BatchHeader::parse(&bytes).unwrap(), Bytes::from(bytes))
}

fn by(id: i64, transactional: bool) -> Option<Producer> {
    let (id, epoch) = (ProducerId(id), ProducerEpoch(0));
    Some(Producer { id, epoch, base_sequence: 0, transactional })
}

fn keys(newest: &[(&str, u64)]) -> KeyMap {
    let mut keys = KeyMap::new(1 << 10, 100);
    for (key, offset) in newest {
        assert!(keys.put(key.as_bytes(), Offset::new(*offset)));
    }
    keys
}

fn rewriter<'a>(
    keys: &'a KeyMap,
    aborted: &[AbortedTxn],
    producers: &'a [ProducerEntry],
) -> Rewriter<'a> {
    Rewriter::new(Surroundings {
        keys,
        reached: Offset::new(100),
        start: Offset::new(2),
        transactions: Transactions::new(aborted),
        producers,
        now: NOW,
        delete_retention: Duration::from_secs(5),
    })
}

#[test]
fn a_batch_that_loses_nothing_is_not_touched() {
    let keys = keys(&[("a", 10), ("b", 11)]);
    let (header, bytes) = batch_at(10, &[record("a", Some("1")), record("b", Some("1"))], None);
    assert_eq!(rewriter(&keys, &[], &[]).batch(&header, &bytes), Left::All);
    // Offsets that the table does not cover.
    let (header, bytes) = batch_at(100, &[record("a", Some("1")), record("a", None)], None);
    let Left::Rewritten(dated) = rewriter(&keys, &[], &[]).batch(&header, &bytes) else { panic!() };
    assert_eq!(BatchHeader::parse(&dated).unwrap().record_count, 2);
}

#[test]
fn superseded_keyless_and_unreadable_records_go() {
    let keys = keys(&[("a", 11), ("b", 1)]);
    let mut rewriter = rewriter(&keys, &[], &[]);
    let (header, bytes) = batch_at(10, &[record("a", Some("1")), record("a", Some("2"))], None);
    let Left::Rewritten(left) = rewriter.batch(&header, &bytes) else { panic!() };
    let left = BatchHeader::parse(&left).unwrap();
    assert_eq!((left.base_offset, left.last_offset_delta), (Offset::new(10), 1));
    assert_eq!(left.record_count, 1);
    let (header, bytes) = batch_at(10, &[NewRecord::default()], None);
    assert_eq!(rewriter.batch(&header, &bytes), Left::Nothing);
    let (header, bytes) = batch_at(1, &[record("b", Some("1"))], None);
    assert_eq!(rewriter.batch(&header, &bytes), Left::Nothing);
}

#[test]
fn a_tombstone_gets_a_horizon_once_and_goes_after_it() {
    let keys = keys(&[("a", 10)]);
    let (header, bytes) = batch_at(10, &[record("a", None)], None);
    let Left::Rewritten(dated) = rewriter(&keys, &[], &[]).batch(&header, &bytes) else { panic!() };
    let header = BatchHeader::parse(&dated).unwrap();
    assert_eq!(header.delete_horizon(), Some(Timestamp(15_000)));
    assert_eq!(header.max_timestamp, Timestamp(500));
    assert!(header.crc_matches(&dated));
    let at = |now| {
        let mut rewriter = rewriter(&keys, &[], &[]);
        rewriter.now = Timestamp(now);
        rewriter.batch(&header, &dated)
    };
    assert_eq!((at(14_999), at(15_000)), (Left::All, Left::Nothing));
}

#[test]
fn an_aborted_batch_goes_and_its_marker_follows_one_compaction_and_a_horizon_later() {
    let keys = keys(&[]);
    let aborted = [AbortedTxn {
        producer: ProducerId(1),
        first_offset: Offset::new(10),
        last_offset: Offset::new(11),
    }];
    let (header, bytes) = batch_at(10, &[record("a", Some("1"))], by(1, true));
    let marker =
        batch::encode_marker(ProducerId(1), ProducerEpoch(0), Marker::Abort, 0, Timestamp(7));
    let mut marker = marker.to_vec();
    batch::patch(&mut marker, Offset::new(11), crate::types::LeaderEpoch(1));
    let (marker_header, marker) = (BatchHeader::parse(&marker).unwrap(), Bytes::from(marker));

    let mut first = rewriter(&keys, &aborted, &[]);
    assert_eq!(first.batch(&header, &bytes), Left::Nothing);
    assert_eq!(first.batch(&marker_header, &marker), Left::All);
    let mut second = rewriter(&keys, &[], &[]);
    let Left::Rewritten(dated) = second.batch(&marker_header, &marker) else { panic!() };
    let dated_header = BatchHeader::parse(&dated).unwrap();
    assert_eq!(dated_header.delete_horizon(), Some(Timestamp(15_000)));
    assert_eq!(batch::marker_of(&dated), Some(Marker::Abort));
    let mut third = rewriter(&keys, &[], &[]);
    assert_eq!(third.batch(&dated_header, &dated), Left::All);
    third.now = Timestamp(15_000);
    assert_eq!(third.batch(&dated_header, &dated), Left::Nothing);
    // It tells the producer's epoch, if nothing else does.
    let producer = ProducerEntry {
        id: ProducerId(1),
        epoch: ProducerEpoch(0),
        last_timestamp: Timestamp(0),
        txn_first: None,
        batches: Vec::new(),
    };
    let producers = [producer];
    let mut fourth = rewriter(&keys, &[], &producers);
    fourth.now = Timestamp(15_000);
    assert_eq!(fourth.batch(&dated_header, &dated), Left::All);
}

#[test]
fn the_last_batch_of_a_remembered_producer_stays_without_its_records() {
    let keys = keys(&[("a", 50)]);
    let producers = [ProducerEntry {
        id: ProducerId(1),
        epoch: ProducerEpoch(0),
        last_timestamp: Timestamp(0),
        txn_first: None,
        batches: vec![
            (0, 0, Offset::new(9), Offset::new(9)),
            (1, 2, Offset::new(10), Offset::new(11)),
        ],
    }];
    let two = [record("a", Some("1")), record("a", Some("2"))];
    let (header, bytes) = batch_at(10, &two, by(1, false));
    let mut rewriter = rewriter(&keys, &[], &producers);
    let Left::Rewritten(empty) = rewriter.batch(&header, &bytes) else { panic!() };
    let empty_header = BatchHeader::parse(&empty).unwrap();
    assert_eq!((empty.len(), empty_header.record_count), (batch::HEADER_BYTES, 0));
    assert_eq!((empty_header.producer, empty_header.offsets()), (header.producer, 2));
    assert!(empty_header.crc_matches(&empty));
    assert_eq!(rewriter.batch(&empty_header, &empty), Left::All);
    let (header, bytes) = batch_at(9, &two[..1], by(1, false));
    assert_eq!(rewriter.batch(&header, &bytes), Left::Nothing);
    // Somebody else's, and fillers.
    let (header, bytes) = batch_at(10, &two, by(2, false));
    assert_eq!(rewriter.batch(&header, &bytes), Left::Nothing);
    let filler = batch::encode_filler(Offset::new(20), 5, crate::types::LeaderEpoch(1));
    let header = BatchHeader::parse(&filler).unwrap();
    assert_eq!(rewriter.batch(&header, &filler), Left::Nothing);
}
