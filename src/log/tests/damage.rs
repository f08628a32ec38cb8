//! Damage of a batch whose records hold what looks like batches themselves.

use super::*;

/// Where the length of a batch is.
const LENGTH_AT: usize = 11;

/// A batch with a record that holds a whole batch of an offset far behind the log's end.
fn outer() -> Bytes {
    let mut inner = plain(&["inner"]).to_vec();
    batch::patch(&mut inner, Offset::new(1_000_000_000), LeaderEpoch(3));
    let record = NewRecord { value: Some(Bytes::from(inner)), ..NewRecord::default() };
    batch::encode(&[record], None)
}

/// Appends such a batch and others behind it, and flips a bit of the first; where the files are.
fn flip(dir: &Path, config: &Config, at: impl Fn(usize) -> usize) {
    let fixture = Fixture::with(dir, config);
    fixture.append(outer()).unwrap();
    for value in ["b", "c", "d", "e"] {
        fixture.append(plain(&[value])).unwrap();
    }
    drop(fixture);
    std::fs::remove_dir_all(dir.join("view")).unwrap();
    let path = segment(dir, 0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at(outer().len())] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

fn lengths(dir: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(dir.join(format!("logs/{}", id()))).unwrap();
    let mut lengths: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())
        })
        .collect();
    lengths.sort_unstable();
    lengths
}

#[test]
fn a_damaged_batch_hides_none_of_those_behind_it_whatever_it_held() {
    for segment_bytes in [300, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let config = config().starting_with(|it| it.log_segment_bytes = segment_bytes);
        flip(dir.path(), &config, |length| length - 1);
        let before = lengths(dir.path());
        let fixture = Fixture::with(dir.path(), &config);
        assert_eq!(fixture.logs.refusals().list().len(), 1);
        assert_eq!(fixture.log.span().end, Offset::new(5));
        let all: Vec<String> = (1..5).map(|from| fixture.values(from).swap_remove(0)).collect();
        assert_eq!(all, ["b", "c", "d", "e"]);
        let damaged = fixture.log.read_blocking(request(0, Isolation::ReadUncommitted));
        assert!(
            matches!(damaged, Err(ReadError::Corrupt { next, .. }) if next == Some(Offset::new(1)))
        );
        assert_eq!(lengths(dir.path()), before);
    }
}

#[test]
fn nothing_is_removed_of_a_log_whose_damage_hides_where_its_batches_begin() {
    for segment_bytes in [300, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let config = config().starting_with(|it| it.log_segment_bytes = segment_bytes);
        flip(dir.path(), &config, |_| LENGTH_AT);
        let before = lengths(dir.path());
        let fixture = Fixture::with(dir.path(), &config);
        assert_eq!(fixture.logs.refusals().list().len(), 1);
        assert_eq!(lengths(dir.path()), before, "segments of {segment_bytes} bytes");
        if segment_bytes == 300 {
            assert_eq!(fixture.log.span().end, Offset::new(5));
            assert_eq!(fixture.values(4), ["e"]);
        }
    }
}
