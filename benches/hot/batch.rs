//! What every produced batch costs before it is queued: its header, and its CRC.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use ottla::log::batch::BatchHeader;

use crate::batch_of;

/// Header and CRC of batches of three sizes.
pub fn check(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch header and CRC");
    for kib in [1, 16, 256] {
        let batch = batch_of(kib << 10);
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{kib} KiB")), |bencher| {
            bencher.iter(|| {
                let header = BatchHeader::parse(black_box(&batch)).unwrap();
                assert!(header.crc_matches(&batch));
            });
        });
    }
    group.finish();
}
