use super::*;
use crate::config::Config;
use crate::log::config::Compaction;
use crate::log::format::batch::{NewRecord, Producer, encode};
use crate::log::format::records::decode;
use crate::log::format::validate;
use crate::types::{ProducerEpoch, ProducerId};

const NOW: Timestamp = Timestamp(1_000_000);
const BATCH_BYTES_MAX: u32 = 1 << 20;
const CODECS: [Codec; 5] =
    [Codec::Uncompressed, Codec::Gzip(-1), Codec::Snappy, Codec::Lz4, Codec::Zstd(3)];

fn plain() -> LogConfig {
    LogConfig::internal(&Config::default())
}

fn batch(times: &[i64]) -> Bytes {
    let producer = Producer {
        id: ProducerId(4),
        epoch: ProducerEpoch(1),
        base_sequence: 9,
        transactional: false,
    };
    let records: Vec<_> = times
        .iter()
        .map(|ms| NewRecord {
            key: Some(Bytes::from_static(b"k")),
            value: Some(Bytes::from(vec![b'v'; 100])),
            timestamp: Timestamp(*ms),
            ..NewRecord::default()
        })
        .collect();
    encode(&records, Some(producer))
}

fn keyless() -> Bytes {
    let with = |key: Option<&'static str>| NewRecord {
        key: key.map(Bytes::from),
        timestamp: NOW,
        ..NewRecord::default()
    };
    encode(&[with(Some("k")), with(None), with(Some("")), with(None)], None)
}

fn header(batch: &Bytes) -> BatchHeader {
    BatchHeader::parse(batch).unwrap()
}

/// The same records under `codec`.
fn under(codec: Codec, batch: &Bytes) -> Bytes {
    let header = header(batch);
    let raw = RawBatch::open(&header, batch, 1 << 30).unwrap();
    raw.recompress(codec, Changes::none(&header)).unwrap()
}

/// The same bytes under other header fields.
fn changed(batch: &Bytes, change: impl FnOnce(&mut Changes)) -> Bytes {
    let mut changes = Changes::none(&header(batch));
    change(&mut changes);
    let mut out = batch.to_vec();
    batch::rewrite(&mut out, &changes);
    Bytes::from(out)
}

/// What becomes of an append.
fn admit(config: &LogConfig, batches: &Bytes) -> Result<Bytes, AppendError> {
    let headers = validate::headers(batches, BATCH_BYTES_MAX)?;
    if as_they_are(config, &headers, || NOW) {
        return Ok(batches.clone());
    }
    let (stored, headers) = look(config, batches, &headers, NOW, BATCH_BYTES_MAX)?;
    assert_eq!(validate::headers(&stored, u32::MAX).unwrap(), headers);
    Ok(stored)
}

fn fault_indexes(outcome: &Result<Bytes, AppendError>) -> Vec<i32> {
    outcome.as_ref().unwrap_err().faults().iter().map(|fault| fault.index).collect()
}

#[test]
fn a_topic_that_asks_for_nothing_takes_every_batch_by_its_header() {
    for codec in CODECS {
        let batch = under(codec, &batch(&[i64::MIN / 2, -1, i64::MAX / 4]));
        let headers = [header(&batch)];
        let asked = || unreachable!("the clock is not looked at");
        assert!(as_they_are(&plain(), &headers, asked));
        let same = LogConfig { codec: Some(codec), ..plain() };
        assert!(as_they_are(&same, &headers, asked));
    }
}

#[test]
fn a_batch_under_another_codec_is_given_the_topics_one_and_nothing_else_changes() {
    for to in CODECS {
        let config = LogConfig { codec: Some(to), ..plain() };
        for from in CODECS {
            let sent = under(from, &batch(&[500, 900, 700]));
            let stored = admit(&config, &sent).unwrap();
            if from == to {
                assert_eq!(stored, sent, "{from:?}");
                continue;
            }
            let (was, is) = (header(&sent), header(&stored));
            assert_eq!(is.compression(), to.number());
            assert_eq!(
                BatchHeader { crc: 0, attributes: 0, bytes: 0, ..is },
                BatchHeader { crc: 0, attributes: 0, bytes: 0, ..was }
            );
            let records = |batch| decode(batch, 1 << 20).unwrap().remove(0).records;
            assert_eq!(records(stored), records(sent), "{from:?} to {to:?}");
        }
    }
}

#[test]
fn every_batch_of_an_append_is_looked_at() {
    let config = LogConfig { codec: Some(Codec::Zstd(1)), ..plain() };
    let sent =
        [batch(&[1]), under(Codec::Gzip(1), &batch(&[2])), under(Codec::Zstd(9), &batch(&[3]))];
    let stored = admit(&config, &Bytes::from(sent.concat())).unwrap();
    let decoded = decode(stored.clone(), 1 << 20).unwrap();
    let times: Vec<_> = decoded.iter().map(|batch| batch.records[0].timestamp.0).collect();
    assert_eq!(times, [1, 2, 3]);
    // The one that has the codec already is kept as it came.
    assert!(stored.ends_with(&sent[2]));
    let late = LogConfig { timestamp_after_max: Some(Duration::ZERO), ..plain() };
    let sent = [batch(&[1]), batch(&[NOW.0 + 1])].concat();
    assert_eq!(fault_indexes(&admit(&late, &Bytes::from(sent))), [0]);
}

#[test]
fn a_bomb_is_refused_within_the_bound() {
    // 65 MiB, and below the bound for one batch when compressed.
    let value = Bytes::from(vec![0; 65 << 20]);
    let record = NewRecord { value: Some(value), ..NewRecord::default() };
    let bomb = under(Codec::Zstd(3), &encode(&[record], None));
    for codec in [Codec::Gzip(1), Codec::Snappy, Codec::Lz4] {
        let config = LogConfig { codec: Some(codec), ..plain() };
        let refused = Err(AppendError::Inflates { bytes_max: INFLATED_BYTES_MAX });
        assert_eq!(admit(&config, &bomb), refused);
    }
    let config = LogConfig { codec: Some(Codec::Uncompressed), ..plain() };
    let bytes_max = BATCH_BYTES_MAX as usize - HEADER_BYTES;
    assert_eq!(admit(&config, &bomb), Err(AppendError::Inflates { bytes_max }));
    // Nobody asks what is in it where its own codec is kept.
    assert!(admit(&plain(), &bomb).is_ok());
}

#[test]
fn a_batch_that_grows_over_the_largest_size_is_refused() {
    let noise: Vec<u8> = (0..BATCH_BYTES_MAX - 100)
        .scan(1u32, |state, _| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some((*state >> 24) as u8)
        })
        .collect();
    let record = NewRecord { value: Some(Bytes::from(noise)), ..NewRecord::default() };
    let config = LogConfig { codec: Some(Codec::Snappy), ..plain() };
    let outcome = admit(&config, &encode(&[record], None));
    assert!(matches!(outcome, Err(AppendError::TooLarge { .. })), "{outcome:?}");
}

#[test]
fn bodies_that_are_not_what_they_say_are_refused_where_they_are_looked_at() {
    let config = LogConfig { codec: Some(Codec::Lz4), ..plain() };
    for codec in CODECS.into_iter().filter(|codec| *codec != Codec::Lz4) {
        let mut sent = under(codec, &batch(&[1, 2, 3])).to_vec();
        sent[HEADER_BYTES..].fill(0xee);
        let sent = changed(&Bytes::from(sent), |_| {});
        assert!(matches!(admit(&config, &sent), Err(AppendError::Invalid(_))), "{codec:?}");
        assert!(admit(&plain(), &sent).is_ok());
    }
}

#[test]
fn times_after_the_bound_are_refused_and_those_on_it_are_not() {
    let after_max = Some(Duration::from_secs(1));
    let config = LogConfig { timestamp_after_max: after_max, ..plain() };
    for codec in CODECS {
        let on = under(codec, &batch(&[0, NOW.0 + 1000, -1]));
        assert_eq!(admit(&config, &on).unwrap(), on);
        let over = under(codec, &batch(&[0, NOW.0 + 1001, NOW.0, i64::MAX - 10]));
        let outcome = admit(&config, &over);
        assert!(matches!(outcome, Err(AppendError::TimestampRange { count: 2, .. })));
        assert_eq!(fault_indexes(&outcome), [1, 3]);
        // The broker's time is not the producer's fault.
        let stamped = LogConfig { timestamp_type: TimestampType::LogAppendTime, ..config.clone() };
        assert_eq!(admit(&stamped, &over).unwrap(), over);
    }
}

#[test]
fn times_before_the_bound_are_refused_record_by_record() {
    let before_max = Some(Duration::from_secs(1));
    let config = LogConfig { timestamp_before_max: before_max, ..plain() };
    for codec in CODECS {
        let on = under(codec, &batch(&[NOW.0 - 1000, -1, NOW.0, i64::MAX / 2]));
        assert_eq!(admit(&config, &on).unwrap(), on);
        let over = under(codec, &batch(&[NOW.0, NOW.0 - 1001, 0, NOW.0, -2]));
        assert_eq!(fault_indexes(&admit(&config, &over)), [1, 2, 4]);
        let stamped = LogConfig { timestamp_type: TimestampType::LogAppendTime, ..config.clone() };
        assert_eq!(admit(&stamped, &over).unwrap(), over);
    }
}

#[test]
fn many_faults_are_counted_and_the_first_ones_named() {
    let config = LogConfig { timestamp_before_max: Some(Duration::ZERO), ..plain() };
    let outcome = admit(&config, &batch(&vec![5; FAULTS_MAX + 7]));
    let Err(AppendError::TimestampRange { count, faults }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!((count, faults.len()), (FAULTS_MAX + 7, FAULTS_MAX));
}

#[test]
fn a_compacted_topic_wants_keys() {
    let compaction = Compaction {
        dirty_ratio_min: 0.5,
        lag_min: Duration::ZERO,
        lag_max: None,
        delete_retention: Duration::ZERO,
    };
    let config = LogConfig { compaction: Some(compaction), ..plain() };
    for codec in CODECS {
        let good = under(codec, &batch(&[1, 2]));
        assert_eq!(admit(&config, &good).unwrap(), good);
        let outcome = admit(&config, &under(codec, &keyless()));
        assert!(matches!(outcome, Err(AppendError::NoKey { count: 2, .. })));
        assert_eq!(fault_indexes(&outcome), [1, 3]);
        assert!(admit(&plain(), &under(codec, &keyless())).is_ok());
    }
}

#[test]
fn a_largest_timestamp_that_is_not_the_records_is_put_right_where_it_is_looked_at() {
    let config = LogConfig { timestamp_after_max: Some(Duration::ZERO), ..plain() };
    for codec in CODECS {
        let right = under(codec, &batch(&[100, 300, 200]));
        let wrong = changed(&right, |changes| changes.max_timestamp = Timestamp(NOW.0 + 1));
        assert_eq!(admit(&config, &wrong).unwrap(), right);
    }
}

#[test]
fn a_claim_of_append_time_is_forgiven_where_producers_tell_the_time() {
    let claims = changed(&batch(&[100, 300, 200]), |changes| changes.log_append_time = true);
    assert_eq!(admit(&plain(), &claims).unwrap(), batch(&[100, 300, 200]));
    let timeless = changed(&batch(&[-1]), |changes| changes.log_append_time = true);
    assert_eq!(admit(&plain(), &timeless), Err(AppendError::TimestampType));
    let stamped = LogConfig { timestamp_type: TimestampType::LogAppendTime, ..plain() };
    assert_eq!(admit(&stamped, &claims), Err(AppendError::TimestampType));
}

#[test]
fn only_small_appends_without_compression_are_light() {
    let small = batch(&[1, 2, 3]);
    assert!(is_light(&plain(), &[header(&small)]));
    assert!(!is_light(&plain(), &[header(&under(Codec::Lz4, &small))]));
    let compressing = LogConfig { codec: Some(Codec::Lz4), ..plain() };
    assert!(!is_light(&compressing, &[header(&small)]));
    assert!(!is_light(&plain(), &[header(&batch(&[0; 400]))]));
}
