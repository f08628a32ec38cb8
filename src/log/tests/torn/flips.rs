//! Logs in which one bit flips: every bit of a batch's header, and one in each byte of its records.

use super::*;

/// Two segments of three batches each, of three, one and two records.
const BATCHES: [(u64, u64); 6] = [(0, 3), (3, 4), (4, 6), (6, 9), (9, 10), (10, 12)];

/// A bit of a batch.
#[derive(Clone, Copy, Debug)]
struct Flip {
    batch: usize,
    byte: usize,
    bit: u8,
}

impl Flip {
    /// A flip that is not noticed: neither the CRC nor the neighbouring batches cover the leader epoch.
    fn is_in_the_leader_epoch(self) -> bool {
        (12..16).contains(&self.byte)
    }

    /// A flip that leaves the CRC right.
    fn is_beside_the_crc(self) -> bool {
        self.byte < 17
    }

    /// Whether the snapshot no longer fits the log's last batch.
    fn is_in_the_anchor(self) -> bool {
        let byte = self.byte;
        self.batch == 5 && !self.is_in_the_leader_epoch() && (byte < 21 || (23..27).contains(&byte))
    }
}

/// The log as it was written, and the view of it.
struct Written {
    image: Image,
    known: Known,
    /// Each batch on the disk.
    batches: Vec<Vec<u8>>,
    /// The bits that are flipped.
    flips: Vec<Flip>,
}

impl Written {
    fn new() -> Written {
        let values = ["some", "values", "here"];
        let steps = history(&[&|fixture| {
            for (producer, (from, to)) in (9..).zip(BATCHES.into_iter().take(3)) {
                let first = by(producer, 0, 0, false, &values[..(to - from) as usize]);
                fixture.append(first).unwrap();
            }
            roll(fixture);
            fixture.append(plain(&values)).unwrap();
            fixture.append(by(9, 0, 3, true, &values[..1])).unwrap();
            let last = by(10, 0, 1, false, &values[..2]);
            fixture.append(compressed(&last, Codec::Lz4)).unwrap();
        }]);
        let (image, known) = steps.into_iter().next().unwrap();
        let mut batches = Vec::new();
        for (_, bytes) in &image {
            let mut rest = &bytes[..];
            while let Ok(header) = batch::BatchHeader::parse(rest) {
                let (from, to) = BATCHES[batches.len()];
                assert_eq!((header.base_offset.get(), header.next_offset().get()), (from, to));
                batches.push(rest[..header.bytes].to_vec());
                rest = &rest[header.bytes..];
            }
        }
        let mut random = Random(4711);
        let mut flips = Vec::new();
        for (batch, bytes) in batches.iter().enumerate() {
            let header =
                (0..batch::HEADER_BYTES).flat_map(|byte| (0..8).map(move |bit| (byte, bit)));
            let body =
                (batch::HEADER_BYTES..bytes.len()).map(|byte| (byte, random.next() as u8 % 8));
            flips.extend(header.chain(body).map(|(byte, bit)| Flip { batch, byte, bit }));
        }
        Written { image, known, batches, flips }
    }

    /// The image with one bit flipped.
    fn flipped(&self, flip: Flip) -> Image {
        let (segment, within) = (flip.batch / 3, flip.batch % 3);
        let before: usize = self.batches[segment * 3..][..within].iter().map(Vec::len).sum();
        let mut image = self.image.clone();
        image[segment].1[before + flip.byte] ^= 1 << flip.bit;
        image
    }

    /// Every read from every offset is right: whole batches as they were written up to the damaged
    /// one, an error for that one which says where it goes on, and the others again.
    fn check(&self, fixture: &Fixture, flip: Flip) {
        if flip.is_in_the_leader_epoch() {
            return self.check_unprotected(fixture, flip);
        }
        for (batch, (first, end)) in BATCHES.into_iter().enumerate() {
            for from in first..end {
                if batch == flip.batch {
                    assert_eq!(read_corrupt(fixture, from), Some(end), "{flip:?}, from {from}");
                    continue;
                }
                let read = fixture.log.read_blocking(request(from, Isolation::ReadUncommitted));
                let Ok(read) = read else { panic!("{flip:?}, from {from}: {read:?}") };
                let to = if flip.batch > batch { flip.batch } else { 6 }.min(batch / 3 * 3 + 3);
                let expected = self.batches[batch..to].concat();
                assert!(!read.records.is_empty(), "{flip:?}, from {from}");
                assert!(expected.starts_with(&read.records), "{flip:?}, from {from}");
            }
        }
    }

    fn check_unprotected(&self, fixture: &Fixture, flip: Flip) {
        let (segment, within) = (flip.batch / 3, flip.batch % 3);
        let read = fixture.read(BATCHES[segment * 3].0, Isolation::ReadUncommitted).records;
        let mut read = read.to_vec();
        let before: usize = self.batches[segment * 3..][..within].iter().map(Vec::len).sum();
        read[before + flip.byte] ^= 1 << flip.bit;
        assert_eq!(read, self.image[segment].1, "{flip:?}");
        assert!(!fixture.logs.refusals().has(fixture.log.id()), "{flip:?}");
    }
}

fn refuses(fixture: &Fixture) -> bool {
    matches!(fixture.append(plain(&["new"])), Err(AppendError::Storage { .. }))
}

#[test]
fn a_bit_that_flipped_before_a_start_without_a_view_is_found_by_the_start() {
    let written = Written::new();
    let bench = Bench::new();
    for flip in &written.flips {
        let flipped = written.flipped(*flip);
        let fixture = bench.open(&flipped, &Known::default());
        if flip.batch == 5 && !flip.is_in_the_leader_epoch() && !flip.is_beside_the_crc() {
            // It is beyond the durable end that is known, so it looks like a torn write.
            assert_eq!(fixture.log.span().end, Offset::new(10), "{flip:?}");
            assert!(!refuses(&fixture), "{flip:?}");
            continue;
        }
        assert_eq!(fixture.log.span().end, Offset::new(12), "{flip:?}");
        let is_found = fixture.logs.refusals().has(fixture.log.id());
        assert_eq!(is_found, !flip.is_in_the_leader_epoch(), "{flip:?}");
        written.check(&fixture, *flip);
        assert_eq!(bench.image(&fixture.log), flipped, "{flip:?}");
        assert_eq!(refuses(&fixture), is_found, "{flip:?}");
    }
}

#[test]
fn a_bit_that_flipped_before_a_start_with_a_view_is_found_by_the_start_or_by_readers() {
    let written = Written::new();
    let bench = Bench::new();
    for flip in &written.flips {
        let flipped = written.flipped(*flip);
        let fixture = bench.open(&flipped, &written.known);
        assert_eq!(fixture.log.span().end, Offset::new(12), "{flip:?}");
        let is_found = fixture.logs.refusals().has(fixture.log.id());
        assert_eq!(is_found, flip.is_in_the_anchor(), "{flip:?}");
        written.check(&fixture, *flip);
        assert_eq!(bench.image(&fixture.log), flipped, "{flip:?}");
        assert_eq!(refuses(&fixture), !flip.is_in_the_leader_epoch(), "{flip:?}");
    }
}

#[test]
fn the_scrub_finds_every_flipped_bit_and_says_where_the_log_goes_on() {
    let written = Written::new();
    let bench = Bench::new();
    let opened: Vec<(Flip, Fixture)> = written
        .flips
        .iter()
        .map(|flip| (*flip, bench.open(&written.flipped(*flip), &written.known)))
        .collect();
    super::super::upkeep::scrub(&bench.logs);
    for (flip, fixture) in &opened {
        let readable = fixture.log.shared.readable();
        let damaged: Vec<_> = readable.segments.iter().flat_map(|s| s.damaged.clone()).collect();
        drop(readable);
        if !flip.is_in_the_leader_epoch() {
            let (first, end) = BATCHES[flip.batch];
            let [damage] = &damaged[..] else { panic!("{flip:?}: {damaged:?}") };
            assert_eq!((damage.offset.get(), damage.next.get()), (first, end), "{flip:?}");
        }
        written.check(fixture, *flip);
        assert_eq!(bench.image(&fixture.log), written.flipped(*flip), "{flip:?}");
        assert_eq!(refuses(fixture), !flip.is_in_the_leader_epoch(), "{flip:?}");
    }
    let found = opened.iter().filter(|(flip, _)| !flip.is_in_the_leader_epoch()).count();
    assert_eq!(bench.logs.inner.settings.meter.damaged.get(), found as u64);
}

#[test]
fn a_bit_that_flips_under_a_running_broker_is_met_by_every_reader() {
    let written = Written::new();
    let bench = Bench::new();
    // With an index entry for every batch, and with one for every other.
    for known in [&written.known, &Known::default()] {
        let fixture = bench.open(&written.image, known);
        let put = |image: Image| {
            for (base, bytes) in image {
                bench.store.put(ObjectId::appended(fixture.log.id(), Offset::new(base)), bytes);
            }
        };
        for flip in &written.flips {
            if flip.is_in_the_leader_epoch() {
                continue;
            }
            put(written.flipped(*flip));
            written.check(&fixture, *flip);
        }
        put(written.image.clone());
        assert_eq!([read_on(&fixture, 0)], [joined(&written.image)]);
        assert!(refuses(&fixture));
    }
}
