//! Readers that continue where an earlier read ended.

use super::*;

fn ask(from: u64, bytes_max: usize) -> ReadRequest {
    ReadRequest { bytes_max, ..request(from, Isolation::ReadUncommitted) }
}

/// A log of one-record batches, `a` to `d`, with nothing in memory.
fn reopened(dir: &Path, config: &Config) -> Fixture {
    let fixture = Fixture::with(dir, config);
    for value in ["a", "b", "c", "d"] {
        fixture.append(plain(&[value])).unwrap();
    }
    drop(fixture);
    Fixture::with(dir, config)
}

#[test]
fn a_reader_goes_on_where_it_was_also_in_the_next_segment() {
    let one_batch = batch::encode(&records(&["a"]), None).len();
    for segment_bytes in [1 << 20, 2 * one_batch as u64] {
        let dir = tempfile::tempdir().unwrap();
        let config = config().starting_with(|it| it.log_segment_bytes = segment_bytes);
        let Fixture { log, logs: _logs } = reopened(dir.path(), &config);
        assert_eq!(log.shared.read_ready(&ask(0, one_batch)), None, "nobody has read yet");
        assert_eq!(values(log.read_blocking(ask(0, one_batch)).unwrap().records), ["a"]);
        for (from, value) in [(1, "b"), (2, "c"), (3, "d")] {
            // A segment that is not open yet is read on a thread that may wait.
            let next = ask(from, one_batch);
            let ready = log.shared.read_ready(&next);
            let read = log.read_blocking(next).unwrap();
            assert_eq!(values(read.records.clone()), [value]);
            assert!(ready.is_none_or(|ready| ready == read));
            assert!(log.shared.read_ready(&next).is_some_and(|ready| ready == read));
        }
        assert_eq!(
            log.shared.read_ready(&ask(1, one_batch - 1)),
            None,
            "a batch that does not fit"
        );
    }
}

#[test]
fn a_reader_that_goes_on_meets_damage_and_deletion_as_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let Fixture { log, logs } = reopened(dir.path(), &config());
    let one_batch = batch::encode(&records(&["a"]), None).len();
    log.read_blocking(ask(0, one_batch)).unwrap();
    let path = segment(dir.path(), 0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[2 * one_batch - 1] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(log.shared.read_ready(&ask(1, 1 << 20)), None);
    let met = log.read_blocking(ask(1, 1 << 20));
    assert!(matches!(met, Err(ReadError::Corrupt { .. })));
    assert_eq!(values(log.read_blocking(ask(2, one_batch)).unwrap().records), ["c"]);
    assert!(log.shared.read_ready(&ask(3, 1 << 20)).is_some());
    assert_eq!(log.trim_blocking(Offset::new(4)), Ok(Offset::new(4)));
    assert_eq!(log.shared.read_ready(&ask(3, 1 << 20)), None);
    logs.delete_topic(id().topic).unwrap();
    assert_eq!(log.shared.read_ready(&ask(4, 1 << 20)), None);
}
