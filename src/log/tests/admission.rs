//! Appends whose topic's configs ask for more than the batch as it came, and look-ups by timestamp
//! around damage.

use super::*;
use crate::log::format::batch::BatchHeader;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap()
}

fn configure(fixture: &Fixture, change: impl FnOnce(&mut LogConfig)) {
    let mut configured = LogConfig::internal(&config());
    change(&mut configured);
    fixture.logs.configure(id().topic, "clicks", configured);
}

/// The headers of all that is stored.
fn stored(fixture: &Fixture) -> Vec<BatchHeader> {
    let mut rest = fixture.read(0, Isolation::ReadUncommitted).records;
    let mut headers = Vec::new();
    while !rest.is_empty() {
        let header = BatchHeader::parse(&rest).unwrap();
        assert!(header.crc_matches(&rest.split_to(header.bytes)));
        headers.push(header);
    }
    headers
}

#[test]
fn a_codec_configured_at_run_time_holds_for_the_next_append_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let runtime = runtime();
    let codecs = [Codec::Zstd(3), Codec::Lz4, Codec::Snappy, Codec::Gzip(-1), Codec::Uncompressed];
    fixture.append(plain(&["as it came"])).unwrap();
    for codec in codecs {
        configure(&fixture, |config| config.codec = Some(codec));
        let appended = runtime.block_on(fixture.log.append(plain(&["first", "second"]), synced()));
        // The same outside the runtime.
        assert_eq!(appended.unwrap().last_offset.plus(1), fixture.log.span().end);
        fixture.append(plain(&["third"])).unwrap();
    }
    configure(&fixture, |config| config.codec = None);
    fixture.append(plain(&["as it came"])).unwrap();
    let check = |fixture: &Fixture| {
        let found: Vec<_> = stored(fixture).iter().map(BatchHeader::compression).collect();
        assert_eq!(found, [0, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0, 0]);
        let three = ["first", "second", "third"];
        let expected = [&["as it came"][..], &three.repeat(5), &["as it came"]].concat();
        assert_eq!(fixture.values(0), expected);
    };
    check(&fixture);
    fixture.logs.shutdown();
    drop(fixture);
    check(&Fixture::open(dir.path()));
}

#[test]
fn appends_enqueued_one_after_the_other_keep_their_order_and_their_sequence_under_another_codec() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    configure(&fixture, |config| config.codec = Some(Codec::Lz4));
    runtime().block_on(async {
        let mut pending = Vec::new();
        for at in 0..50 {
            let value = format!("{at} {}", "x".repeat(20_000 * (at % 3)));
            let batch = by(7, 0, at as i32, false, &[&value]);
            pending.push(fixture.log.enqueue(batch, synced()).await);
        }
        for (at, pending) in pending.into_iter().enumerate() {
            assert_eq!(pending.await.unwrap().base_offset, Offset::new(at as u64));
        }
        let last =
            fixture.log.append(by(7, 0, 49, false, &["sent again"]), synced()).await.unwrap();
        assert!(last.duplicate && last.base_offset == Offset::new(49));
    });
    assert!(stored(&fixture).iter().all(|header| header.compression() == 3));
}

#[test]
fn bounds_on_timestamps_hold_from_the_next_append_on() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    // The fixture's clock stands at 1,000,000; these records are of the time 1000.
    let second = std::time::Duration::from_secs(1);
    fixture.append(plain(&["old"])).unwrap();
    configure(&fixture, |config| config.timestamp_before_max = Some(second));
    let refused = fixture.append(plain(&["old", "old"]));
    assert!(matches!(&refused, Err(AppendError::TimestampRange { count: 2, .. })), "{refused:?}");
    configure(&fixture, |config| config.timestamp_after_max = Some(second));
    fixture.append(plain(&["old"])).unwrap();
    let late = NewRecord { timestamp: Timestamp(1_001_001), ..NewRecord::default() };
    let refused = fixture.append(batch::encode(std::slice::from_ref(&late), None));
    assert!(matches!(&refused, Err(AppendError::TimestampRange { count: 1, .. })), "{refused:?}");
    configure(&fixture, |config| {
        config.timestamp_after_max = Some(second);
        config.timestamp_type = TimestampType::LogAppendTime;
    });
    fixture.append(batch::encode(&[late], None)).unwrap();
    let times: Vec<_> = stored(&fixture).iter().map(|header| header.max_timestamp.0).collect();
    assert_eq!(times, [1000, 1000, 1_000_000]);
}

#[test]
fn a_look_up_by_timestamp_goes_on_behind_damage() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let at = |ms| {
        let record = NewRecord { timestamp: Timestamp(ms), ..NewRecord::default() };
        batch::encode(&[record], None)
    };
    for ms in [1000, 2000, 3000] {
        fixture.append(at(ms)).unwrap();
    }
    let bytes = fixture.log.size_bytes() as usize / 3;
    fixture.logs.shutdown();
    drop(fixture);
    let fixture = Fixture::open(dir.path());
    let path = segment(dir.path(), 0);
    let whole = std::fs::read(&path).unwrap();
    let find = |ms| {
        let found = runtime().block_on(fixture.log.first_at_or_after(Timestamp(ms))).unwrap();
        found.map(|found| (found.timestamp.0, found.offset.get()))
    };
    assert_eq!(find(1001), Some((2000, 1)));
    // Base offset, length (far and near), magic, last offset delta, payload.
    for (byte, mask) in [(7, 1), (10, 1), (11, 2), (11, 32), (16, 1), (26, 1), (62, 1)] {
        let mut flipped = whole.clone();
        flipped[bytes + byte] ^= mask;
        std::fs::write(&path, &flipped).unwrap();
        assert_eq!(find(0), Some((1000, 0)), "flipped byte {byte}");
        assert_eq!(find(1001), Some((3000, 2)), "flipped byte {byte}");
        assert_eq!(find(2001), Some((3000, 2)), "flipped byte {byte}");
    }
    // Nothing is behind the last batch.
    let mut flipped = whole.clone();
    flipped[2 * bytes + 62] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    assert_eq!(find(1001), Some((2000, 1)));
    assert_eq!(find(2001), None);
    // A log that is known to be damaged refuses appends.
    let refused = fixture.append(at(4000));
    assert!(matches!(refused, Err(AppendError::Storage { .. })), "{refused:?}");
}
