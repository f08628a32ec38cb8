use super::*;
use crate::log::format::batch::{NewRecord, Producer, encode, encode_filler, leader_epoch, patch};
use crate::log::format::records::decode;
use crate::types::{LeaderEpoch, ProducerEpoch, ProducerId};

const CODECS: [Codec; 5] =
    [Codec::Uncompressed, Codec::Gzip(-1), Codec::Snappy, Codec::Lz4, Codec::Zstd(3)];

const PRODUCER: Producer =
    Producer { id: ProducerId(9), epoch: ProducerEpoch(2), base_sequence: 70, transactional: true };

/// Five records at offset 1000, the third without a value, in the epoch 4.
fn sample(codec: Codec) -> Bytes {
    let records: Vec<_> = [500, 300, 900, 100, 700]
        .into_iter()
        .enumerate()
        .map(|(index, ms)| NewRecord {
            key: Some(Bytes::from(format!("key {index}"))),
            value: (index != 2).then(|| Bytes::from(vec![b'v'; 300 * index])),
            headers: vec![("h".to_owned(), Some(Bytes::from_static(b"1")))],
            timestamp: Timestamp(ms),
        })
        .collect();
    let mut batch = encode(&records, Some(PRODUCER)).to_vec();
    patch(&mut batch, Offset::new(1000), LeaderEpoch(4));
    recompressed(&Bytes::from(batch), codec)
}

fn recompressed(batch: &Bytes, codec: Codec) -> Bytes {
    let opened = open(batch);
    recompress(&opened.head, &opened.body, codec, Changes::none(&opened.header)).unwrap()
}

fn open(batch: &Bytes) -> RawBatch {
    let header = BatchHeader::parse(batch).unwrap();
    assert!(header.crc_matches(batch));
    RawBatch::open(&header, batch, 1 << 20).unwrap()
}

fn raw(batch: &RawBatch) -> Vec<RawRecord<'_>> {
    batch.records().collect::<Result<_, _>>().unwrap()
}

#[test]
fn raw_records_are_what_the_decoder_sees_under_every_codec() {
    for codec in CODECS {
        let batch = sample(codec);
        let opened = open(&batch);
        assert_eq!(opened.header.compression(), codec.number());
        let decoded = decode(batch.clone(), 1 << 20).unwrap().remove(0).records;
        let raw = raw(&opened);
        assert_eq!((raw.len(), opened.count()), (decoded.len(), 5));
        for (raw, record) in raw.iter().zip(&decoded) {
            assert_eq!(record.offset, Offset::new(1000 + u64::from(raw.offset_delta)));
            assert_eq!(record.timestamp, raw.timestamp);
            assert_eq!((record.key.as_deref(), record.value.as_deref()), (raw.key, raw.value));
            assert_eq!(raw.headers, [&[2, 2][..], b"h", &[2], b"1"].concat());
        }
        let bytes: usize = raw.iter().map(|record| record.whole.len()).sum();
        assert_eq!(bytes, opened.body().len());
    }
}

#[test]
fn recompression_changes_the_codec_and_nothing_else() {
    for from in CODECS {
        for to in CODECS {
            let batch = sample(from);
            let other = recompressed(&batch, to);
            let expected = BatchHeader::parse(&batch).unwrap();
            let header = BatchHeader::parse(&other).unwrap();
            assert_eq!(
                BatchHeader { attributes: 0, crc: 0, bytes: 0, ..header },
                BatchHeader { attributes: 0, crc: 0, bytes: 0, ..expected }
            );
            assert_eq!(header.attributes & !7, expected.attributes & !7);
            assert_eq!(header.compression(), to.number());
            assert_eq!(open(&other).body(), open(&batch).body());
            assert_eq!(leader_epoch(&other), LeaderEpoch(4));
        }
    }
}

#[test]
fn kept_records_stay_where_they_were_and_the_header_follows_them() {
    for codec in CODECS {
        let opened = open(&sample(codec));
        let kept = opened.keep([raw(&opened)[1], raw(&opened)[4]], None).unwrap();
        let header = BatchHeader::parse(&kept).unwrap();
        assert_eq!(
            (header.base_offset, header.last_offset()),
            (Offset::new(1000), Offset::new(1004))
        );
        assert_eq!((header.record_count, header.max_timestamp), (2, Timestamp(700)));
        assert_eq!((header.producer, header.transactional()), (Some(PRODUCER), true));
        assert_eq!((header.compression(), leader_epoch(&kept)), (codec.number(), LeaderEpoch(4)));
        let decoded = decode(kept, 1 << 20).unwrap().remove(0).records;
        let all = decode(sample(codec), 1 << 20).unwrap().remove(0).records;
        assert_eq!(decoded, [all[1].clone(), all[4].clone()]);
    }
}

#[test]
fn a_delete_horizon_stands_in_for_the_base_timestamp_and_changes_no_record() {
    for codec in CODECS {
        let opened = open(&sample(codec));
        let horizon = Timestamp(1_000_000);
        let kept = opened.keep(raw(&opened), Some(horizon)).unwrap();
        let header = BatchHeader::parse(&kept).unwrap();
        assert_eq!(header.delete_horizon(), Some(horizon));
        assert_eq!(header.max_timestamp, Timestamp(900));
        let all = decode(sample(codec), 1 << 20).unwrap().remove(0).records;
        assert_eq!(decode(kept.clone(), 1 << 20).unwrap().remove(0).records, all);
        // A later pass keeps the horizon that an earlier one has set.
        let opened = open(&kept);
        let again = opened.keep([raw(&opened)[2]], None).unwrap();
        assert_eq!(BatchHeader::parse(&again).unwrap().delete_horizon(), Some(horizon));
        assert_eq!(decode(again, 1 << 20).unwrap().remove(0).records, all[2..3]);
    }
}

#[test]
fn a_horizon_out_of_reach_is_an_error() {
    let far = NewRecord { timestamp: Timestamp(i64::MIN), ..NewRecord::default() };
    let opened = open(&encode(&[far], None));
    assert!(opened.keep(raw(&opened), Some(Timestamp(1))).is_err());
}

#[test]
fn append_time_stays_the_time_of_every_record_kept() {
    let mut batch = sample(Codec::Zstd(3)).to_vec();
    batch[22] |= 0x08;
    let header = BatchHeader::parse(&batch).unwrap();
    let opened = RawBatch::open(&header, &Bytes::from(batch), 1 << 20).unwrap();
    let records = raw(&opened);
    assert!(records.iter().all(|record| record.timestamp == Timestamp(900)));
    for horizon in [None, Some(Timestamp(5))] {
        let kept = opened.keep([records[3]], horizon).unwrap();
        let header = BatchHeader::parse(&kept).unwrap();
        assert!(header.log_append_time() && header.crc_matches(&kept));
        assert_eq!(header.max_timestamp, Timestamp(900));
        assert_eq!(decode(kept, 1 << 20).unwrap()[0].records[0].timestamp, Timestamp(900));
    }
}

#[test]
fn a_batch_with_nothing_kept_is_a_header_that_tells_the_producers_sequence() {
    for codec in CODECS {
        let empty = open(&sample(codec)).keep([], None).unwrap();
        assert_eq!(empty.len(), HEADER_BYTES);
        let header = BatchHeader::parse(&empty).unwrap();
        assert_eq!((header.record_count, header.last_offset()), (0, Offset::new(1004)));
        assert_eq!((header.compression(), header.max_timestamp), (0, Timestamp(900)));
        assert_eq!(header.producer, Some(PRODUCER));
        assert!(decode(empty.clone(), 0).unwrap()[0].records.is_empty());
        assert_eq!(raw(&open(&empty)), []);
    }
}

#[test]
fn a_filler_takes_offsets_and_holds_nothing() {
    for offsets in [1, 2, 1 << 20, i32::MAX as u32] {
        let filler = encode_filler(Offset::new(77), offsets, LeaderEpoch(3));
        let header = BatchHeader::parse(&filler).unwrap();
        assert_eq!(filler.len(), HEADER_BYTES);
        assert!(header.crc_matches(&filler));
        assert_eq!(header.base_offset, Offset::new(77));
        assert_eq!(header.next_offset(), Offset::new(77 + u64::from(offsets)));
        assert_eq!((header.record_count, header.attributes, header.producer), (0, 0, None));
        assert_eq!(leader_epoch(&filler), LeaderEpoch(3));
        assert_eq!(raw(&open(&filler)), []);
    }
}

#[test]
fn bodies_cut_or_too_long_are_errors_and_end_the_records() {
    let whole = sample(Codec::Uncompressed);
    let mut longer = whole.to_vec();
    longer.push(0);
    for body in (HEADER_BYTES..whole.len()).map(|cut| whole[..cut].to_vec()).chain([longer]) {
        let header = BatchHeader { bytes: body.len(), ..BatchHeader::parse(&whole).unwrap() };
        if let Ok(opened) = RawBatch::open(&header, &Bytes::from(body), 1 << 20) {
            let records: Vec<_> = opened.records().take(100).collect();
            assert!(records.len() <= 6 && records.last().is_some_and(Result::is_err));
        }
    }
    let header = BatchHeader::parse(&whole).unwrap();
    assert!(RawBatch::open(&header, &whole.slice(1..), 1 << 20).is_err());
}
