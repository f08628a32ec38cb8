//! Random batches, whole and mutated: nothing panics, what is right is stored as it came, and what is
//! stored can be read.

use super::*;

/// A small generator of numbers, so that a failure can be repeated by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn bytes(&mut self, length_bound: u64) -> Bytes {
        let length = self.below(length_bound);
        // Some of it compresses.
        let symbols = 1 + self.below(255);
        (0..length).map(|_| self.below(symbols) as u8).collect()
    }

    fn nullable(&mut self, length_bound: u64) -> Option<Bytes> {
        (self.below(4) > 0).then(|| self.bytes(length_bound))
    }

    fn record(&mut self) -> NewRecord {
        let headers = (0..self.below(4)).map(|at| (format!("h{at}"), self.nullable(20))).collect();
        let length_bound = [2, 100, 3000][self.below(3) as usize];
        NewRecord {
            key: self.nullable(30),
            value: self.nullable(length_bound),
            headers,
            timestamp: Timestamp(self.below(NOW.0 as u64 + 1) as i64 - 1),
        }
    }

    fn batch(&mut self) -> Bytes {
        let records: Vec<_> = (0..1 + self.below(20)).map(|_| self.record()).collect();
        let codec = CODECS[self.below(CODECS.len() as u64) as usize];
        under(codec, &encode(&records, None))
    }
}

/// What is stored is readable, has its offsets in a row, and the largest timestamp in its header.
#[track_caller]
fn assert_readable(stored: &Bytes, seed: u64) {
    let decoded = decode(stored.clone(), 1 << 20)
        .unwrap_or_else(|error| panic!("seed {seed}: what was stored is unreadable: {error}"));
    let [batch] = &decoded[..] else { panic!("seed {seed}: one batch went in") };
    let offsets: Vec<_> = batch.records.iter().map(|record| record.offset.get()).collect();
    let expected: Vec<_> = (batch.base_offset.get()..=batch.last_offset.get()).collect();
    assert_eq!(offsets, expected, "seed {seed}");
    let largest = batch.records.iter().map(|record| record.timestamp).max().unwrap();
    assert_eq!(header(stored).max_timestamp, largest.max(NO_TIMESTAMP), "seed {seed}");
}

#[test]
fn random_batches_are_stored_as_they_came_and_random_mutations_are_refused_or_readable() {
    let config = plain();
    let terms = Terms::new(&config, CLIENT, true, NOW);
    let (mut accepted, mut refused) = (0, 0);
    for seed in 1..=400 {
        let mut random = Random(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let batch = random.batch();
        let stored = admit_by(&terms, &batch);
        assert_eq!(stored.as_ref(), Ok(&batch), "seed {seed}");
        assert_readable(&batch, seed);
        for _ in 0..50 {
            let mut mutated = batch.to_vec();
            for _ in 0..1 + random.below(3) {
                // Any byte of the records, or of what the header says of them.
                let at = match random.below(4) {
                    0 => 21 + random.below(40) as usize,
                    _ => HEADER_BYTES + random.below((batch.len() - HEADER_BYTES) as u64) as usize,
                };
                match random.below(8) {
                    0 => mutated.truncate(at.max(HEADER_BYTES)),
                    1 => {
                        mutated.insert(at.max(HEADER_BYTES).min(mutated.len()), random.next() as u8)
                    }
                    2 if at < mutated.len() => mutated[at] = random.next() as u8,
                    _ if at < mutated.len() => mutated[at] ^= 1 << random.below(8),
                    _ => {}
                }
            }
            let length = (mutated.len() - 12) as i32;
            mutated[8..12].copy_from_slice(&length.to_be_bytes());
            let crc = crc32c::crc32c(&mutated[21..]);
            mutated[17..21].copy_from_slice(&crc.to_be_bytes());
            match admit_by(&terms, &Bytes::from(mutated)) {
                Ok(stored) => {
                    accepted += 1;
                    assert_readable(&stored, seed);
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted} accepted, {refused} refused");
}
