//! Random logs, compacted at random moments and opened again, against a model.

use super::*;

/// Xorshift: the same numbers on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What was written.
#[derive(Default)]
struct Model {
    /// By offset; those of aborted transactions are not here.
    committed: BTreeMap<u64, (String, Option<String>)>,
    /// By producer: the records of its open transaction.
    open: BTreeMap<i64, Vec<Read>>,
    sequences: BTreeMap<i64, i32>,
}

impl Model {
    fn newest(&self) -> BTreeMap<String, (u64, Option<String>)> {
        let mut newest = BTreeMap::new();
        for (offset, (key, value)) in &self.committed {
            newest.insert(key.clone(), (*offset, value.clone()));
        }
        newest
    }
}

fn write(log: &Compacted, model: &mut Model, random: &mut Random) {
    let codecs = [Codec::Uncompressed, Codec::Gzip(-1), Codec::Snappy, Codec::Lz4, Codec::Zstd(1)];
    let count = 1 + random.below(4);
    let records: Vec<(String, Option<String>)> = (0..count)
        .map(|_| {
            let key = format!("k{}", random.below(12));
            let value = "v".repeat(1 + random.below(30) as usize) + &random.below(1000).to_string();
            (key, (random.below(4) > 0).then_some(value))
        })
        .collect();
    let writer = random.below(6) as i64;
    // The first three are transactional, the next two idempotent.
    let sequence = model.sequences.entry(writer).or_default();
    let by = (writer < 5).then(|| producer(writer, *sequence, writer < 3)).flatten();
    *sequence += count as i32;
    let borrowed: Vec<(&str, Option<&str>)> =
        records.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
    let codec = codecs[random.below(5) as usize];
    let base = log.append(compressed(&keyed(&borrowed, by), codec)).unwrap().base_offset.get();
    let written = (base..).zip(records);
    if writer < 3 {
        let read = written.map(|(offset, (key, value))| (offset, key, value));
        model.open.entry(writer).or_default().extend(read);
    } else {
        model.committed.extend(written);
    }
}

fn end(log: &Compacted, model: &mut Model, writer: i64, marker: Marker) {
    let Some(records) = model.open.remove(&writer) else { return };
    log.end(writer, marker);
    if marker == Marker::Commit {
        let records = records.into_iter().map(|(offset, key, value)| (offset, (key, value)));
        model.committed.extend(records);
    }
}

/// Holds what a reader sees against the model.
fn check(log: &Compacted, model: &Model, seed: u64) {
    let last_stable = log.log.span().last_stable.get();
    let read = log.committed();
    assert!(read.windows(2).all(|pair| pair[0].0 < pair[1].0), "seed {seed}");
    let mut seen = BTreeMap::new();
    for (offset, key, value) in read {
        let written = model.committed.get(&offset);
        assert_eq!(written, Some(&(key.clone(), value.clone())), "seed {seed} offset {offset}");
        seen.insert(key, (offset, value));
    }
    let below: Model = Model {
        committed: model.committed.range(..last_stable).map(|(o, r)| (*o, r.clone())).collect(),
        ..Model::default()
    };
    for (key, (offset, value)) in below.newest() {
        match value {
            Some(_) => assert_eq!(seen.get(&key), Some(&(offset, value)), "seed {seed} key {key}"),
            // A tombstone may be gone, and then so is all before it.
            None => assert!(seen.get(&key).is_none_or(|(_, value)| value.is_none()), "seed {seed}"),
        }
    }
    log.on_disk();
}

#[test]
fn compacted_logs_tell_what_was_written_last() {
    for seed in 1..=40u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let dir = tempfile::tempdir().unwrap();
        let mut log = Compacted::open(dir.path(), NOW);
        let mut now = NOW;
        let mut model = Model::default();
        for _ in 0..60 {
            match random.below(16) {
                0..9 => write(&log, &mut model, &mut random),
                9..11 => {
                    let marker = if random.below(2) == 0 { Marker::Commit } else { Marker::Abort };
                    end(&log, &mut model, random.below(3) as i64, marker);
                }
                11 => log.roll(),
                12 => {
                    let step = Duration::from_millis(random.below(1500));
                    log.clock.advance(step);
                    now = Timestamp(now.0 + step.as_millis() as i64);
                }
                13 | 14 => {
                    // Room for two keys up to room for all.
                    let room = [100, 400, ROOM][random.below(3) as usize];
                    assert_eq!(log.logs.compact_now(room), 0);
                    check(&log, &model, seed);
                }
                _ => {
                    match random.below(3) {
                        0 => log.logs.shutdown(),
                        1 => {}
                        _ => {
                            drop(log);
                            std::fs::remove_dir_all(dir.path().join("view")).unwrap();
                            log = Compacted::open(dir.path(), now);
                            continue;
                        }
                    }
                    drop(log);
                    log = Compacted::open(dir.path(), now);
                    check(&log, &model, seed);
                }
            }
        }
        for writer in 0..3 {
            end(&log, &mut model, writer, Marker::Commit);
        }
        for _ in 0..3 {
            log.roll();
            log.compact();
            log.clock.advance(Duration::from_secs(2));
            model.committed.insert(log.log.span().end.get(), ("other".into(), Some("x".into())));
            log.compact_again();
        }
        check(&log, &model, seed);
        // Nothing but the newest is left, apart from the segment that is appended to.
        let keys: Vec<String> = log.committed().into_iter().map(|(_, key, _)| key).collect();
        let distinct: HashSet<&String> = keys.iter().collect();
        assert_eq!(keys.len(), distinct.len(), "seed {seed}: {keys:?}");
    }
}
