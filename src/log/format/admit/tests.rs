use super::*;
use crate::config::Config;
use crate::log::config::Compaction;
use crate::log::format::batch::{self, NewRecord, Producer, encode};
use crate::log::format::records::decode;
use crate::log::format::validate;
use crate::log::outcome::Durable;
use crate::types::{LeaderEpoch, ProducerEpoch, ProducerId};

mod property;

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
    let (head, body) = batch.split_at(HEADER_BYTES);
    raw_records::recompress(head, body, codec, Changes::none(&header(batch))).unwrap()
}

/// The same bytes under other header fields.
fn changed(batch: &Bytes, change: impl FnOnce(&mut Changes)) -> Bytes {
    let mut changes = Changes::none(&header(batch));
    change(&mut changes);
    let mut out = batch.to_vec();
    batch::rewrite(&mut out, &changes);
    Bytes::from(out)
}

const CLIENT: AppendOptions = AppendOptions {
    durable: Durable::Written,
    batch_bytes_max: BATCH_BYTES_MAX,
    origin: AppendOrigin::Client,
};

/// What is stored of an append: the bytes, and what the writer puts into them.
fn admit_by(terms: &Terms<'_>, batches: &Bytes) -> Result<Bytes, AppendError> {
    let sent = validate::headers(batches, BATCH_BYTES_MAX)?;
    let mut headers = sent.clone();
    let outcome = terms.admit(batches, &mut headers, Effort::Full);
    let mut brief_headers = sent.clone();
    match terms.admit(batches, &mut brief_headers, Effort::Brief) {
        Err(Unadmitted::Later) => assert_eq!(brief_headers, sent),
        brief => assert_eq!((&brief, &brief_headers), (&outcome, &headers)),
    }
    let stored = match outcome {
        Ok(stored) => stored.unwrap_or_else(|| batches.clone()),
        Err(Unadmitted::Refused(error)) => return Err(error),
        Err(Unadmitted::Later) => panic!("a full effort is made at once"),
    };
    let mut stored = stored.to_vec();
    let mut from = 0;
    for header in &headers {
        batch::put(&mut stored[from..], header, LeaderEpoch(-1));
        from += header.bytes;
    }
    assert_eq!(validate::headers(&stored, u32::MAX).unwrap(), headers);
    Ok(Bytes::from(stored))
}

/// The same for a producer whose compressed batches are checked.
fn admit(config: &LogConfig, batches: &Bytes) -> Result<Bytes, AppendError> {
    admit_by(&Terms::new(config, CLIENT, true, NOW), batches)
}

fn fault_indexes(outcome: &Result<Bytes, AppendError>) -> Vec<i32> {
    outcome.as_ref().unwrap_err().faults().iter().map(|fault| fault.index).collect()
}

#[test]
fn batches_that_are_what_they_say_are_stored_as_they_came() {
    for codec in CODECS {
        let batch = under(codec, &batch(&[-1, NOW.0 - 5, 0, NOW.0]));
        assert_eq!(admit(&plain(), &batch).unwrap(), batch);
        let same = LogConfig { codec: Some(codec), ..plain() };
        assert_eq!(admit(&same, &batch).unwrap(), batch);
    }
}

#[test]
fn the_brokers_own_batches_and_compressed_ones_of_trusted_producers_are_believed() {
    let config = LogConfig { timestamp_after_max: Some(Duration::from_secs(1)), ..plain() };
    let broken = |codec| {
        let mut sent = under(codec, &batch(&[1, 2, 3])).to_vec();
        sent[HEADER_BYTES..].fill(0xee);
        changed(&Bytes::from(sent), |_| {})
    };
    let own = AppendOptions { origin: AppendOrigin::Broker, ..CLIENT };
    let own = Terms::new(&config, own, true, NOW);
    let trusted = Terms::new(&config, CLIENT, false, NOW);
    for codec in CODECS {
        let sent = broken(codec);
        assert_eq!(admit_by(&own, &sent).unwrap(), sent);
        let outcome = admit_by(&trusted, &sent);
        assert_eq!(outcome.is_ok(), codec != Codec::Uncompressed, "{codec:?}: {outcome:?}");
        // A bound that the header breaks is looked into all the same.
        let late = changed(&sent, |changes| changes.max_timestamp = Timestamp(i64::MAX));
        assert!(admit_by(&trusted, &late).is_err(), "{codec:?}");
        assert!(admit_by(&own, &late).is_err(), "{codec:?}");
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
    // Where its own codec is kept, its records are checked, up to the same bound.
    let refused = Err(AppendError::Inflates { bytes_max: INFLATED_BYTES_MAX });
    assert_eq!(admit(&plain(), &bomb), refused);
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
fn bodies_that_the_codec_has_not_written_are_undecodable() {
    for config in [plain(), LogConfig { codec: Some(Codec::Lz4), ..plain() }] {
        for codec in CODECS {
            let mut sent = under(codec, &batch(&[1, 2, 3])).to_vec();
            sent[HEADER_BYTES..].fill(0xee);
            let sent = changed(&Bytes::from(sent), |_| {});
            let outcome = admit(&config, &sent);
            assert!(matches!(outcome, Err(AppendError::Undecodable(_))), "{codec:?}: {outcome:?}");
        }
    }
}

#[test]
fn a_record_at_fault_is_named_whatever_becomes_of_the_batch() {
    for config in [plain(), LogConfig { codec: Some(Codec::Lz4), ..plain() }] {
        for codec in CODECS {
            let sent = under(codec, &batch(&[1, 2, 3]));
            let count = changed(&sent, |changes| changes.record_count = 4);
            let mut count = count.to_vec();
            count[23..27].copy_from_slice(&3i32.to_be_bytes());
            let count = changed(&Bytes::from(count), |_| {});
            let expected = "record 3 of 4: the batch ends within it".to_owned();
            assert_eq!(admit(&config, &count), Err(AppendError::Invalid(expected)), "{codec:?}");
        }
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
fn a_largest_timestamp_that_is_not_the_records_is_put_right() {
    let bounded = LogConfig { timestamp_after_max: Some(Duration::ZERO), ..plain() };
    for codec in CODECS {
        let right = under(codec, &batch(&[100, 300, 200]));
        // Old sarama's, the last record's, one that looks expired, and one of the future.
        for wrong in [-1, 200, 0, NOW.0 + 1, i64::MIN, i64::MAX] {
            let wrong = changed(&right, |changes| changes.max_timestamp = Timestamp(wrong));
            assert_eq!(admit(&plain(), &wrong).unwrap(), right);
            assert_eq!(admit(&bounded, &wrong).unwrap(), right);
        }
        // Records without a time leave none, and the broker's time is put in by the writer.
        let timeless = under(codec, &batch(&[-1, -7]));
        let wrong = changed(&timeless, |changes| changes.max_timestamp = Timestamp(9));
        assert_eq!(admit(&plain(), &wrong).unwrap(), timeless);
        let stamped = LogConfig { timestamp_type: TimestampType::LogAppendTime, ..plain() };
        assert_eq!(admit(&stamped, &wrong).unwrap(), wrong);
    }
}

#[test]
fn each_batch_of_an_append_gets_its_own_largest_timestamp() {
    let right = [batch(&[100, 300]), under(Codec::Zstd(3), &batch(&[700, 200]))];
    let wrong =
        right.clone().map(|batch| changed(&batch, |changes| changes.max_timestamp = Timestamp(-1)));
    let outcome = admit(&plain(), &Bytes::from(wrong.concat()));
    assert_eq!(outcome.unwrap(), right.concat());
}

#[test]
fn a_time_that_wraps_is_out_of_range() {
    let config = LogConfig { timestamp_after_max: Some(Duration::from_secs(1)), ..plain() };
    let wraps = changed(&batch(&[0, i64::MAX]), |changes| changes.base_timestamp = NOW);
    assert_eq!(fault_indexes(&admit(&config, &wraps)), [1]);
}

#[test]
fn a_claim_of_append_time_is_forgiven_where_producers_tell_the_time() {
    let claims = changed(&batch(&[100, 300, 200]), |changes| changes.log_append_time = true);
    assert_eq!(admit(&plain(), &claims).unwrap(), batch(&[100, 300, 200]));
    // What it claims is not what the records say, which holds once the claim is gone.
    let early = changed(&claims, |changes| changes.max_timestamp = Timestamp(5));
    assert_eq!(admit(&plain(), &early).unwrap(), batch(&[100, 300, 200]));
    let bounded = LogConfig { timestamp_after_max: Some(Duration::ZERO), ..plain() };
    let late = changed(&claims, |changes| changes.max_timestamp = Timestamp(NOW.0 + 1));
    assert_eq!(fault_indexes(&admit(&bounded, &late)), [0, 1, 2]);
    let timeless = changed(&batch(&[-1]), |changes| changes.log_append_time = true);
    let claims_of = |outcome: Result<Bytes, AppendError>| match outcome {
        Err(AppendError::TimestampType { faults }) => faults.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(claims_of(admit(&plain(), &timeless)), 1);
    let stamped = LogConfig { timestamp_type: TimestampType::LogAppendTime, ..plain() };
    assert_eq!(claims_of(admit(&stamped, &claims)), 3);
}

#[test]
fn what_takes_longer_than_a_network_thread_can_be_spared_is_left_for_later() {
    let config = plain();
    let is_later = |config: &LogConfig, batch: &Bytes| {
        let terms = Terms::new(config, CLIENT, true, NOW);
        let outcome = terms.admit(batch, &mut [header(batch)], Effort::Brief);
        outcome == Err(Unadmitted::Later)
    };
    let small = batch(&[1, 2, 3]);
    for codec in CODECS {
        assert!(!is_later(&config, &under(codec, &small)), "{codec:?}");
    }
    let compressing = LogConfig { codec: Some(Codec::Lz4), ..plain() };
    assert!(is_later(&compressing, &small));
    // Few bytes that hold many.
    let large = batch(&[1; 700]);
    assert!(!is_later(&config, &large));
    for codec in [Codec::Gzip(9), Codec::Lz4, Codec::Zstd(3)] {
        let deflated = under(codec, &large);
        assert!(deflated.len() < LIGHT_COMPRESSED_BYTES_MAX);
        assert!(is_later(&config, &deflated), "{codec:?}");
    }
    // Many records, and many bytes.
    let records = encode(&vec![NewRecord::default(); 20_000], None);
    assert!(is_later(&config, &records));
    let record = NewRecord { value: Some(vec![0; 2 << 20].into()), ..NewRecord::default() };
    assert!(is_later(&config, &encode(&[record], None)));
}
