//! Appends to a log and reads from it, through the handle that requests use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use ottla::config::Config;
use ottla::log::data_dir::DataDir;
use ottla::log::{AppendOptions, AppendOrigin, Durable, Isolation, Logs, Partition, ReadRequest};
use ottla::metrics::Metrics;
use ottla::store::Store;
use ottla::types::{LogId, ManualClock, Offset, PartitionId, TopicId};
use tempfile::TempDir;

use crate::{NOW, batch_of};

/// More than the memory that all logs share for their tails, so that a log's start is on disk only.
const BEYOND_TAIL_BYTES: usize = 160 << 20;
const READ_BYTES_MAX: usize = 1 << 20;

struct Bench {
    logs: Logs,
    _dir: DataDir,
    _tmp: TempDir,
}

impl Bench {
    fn start() -> Bench {
        let tmp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&tmp.path().join("data")).unwrap();
        let store = Store::open(&dir.view()).unwrap();
        let config = Config::default();
        let clock = Arc::new(ManualClock::at(NOW));
        let metrics = Metrics::default();
        let logs =
            Logs::start(&dir.logs(), dir.boot(), store, &config, clock, dir.epoch(), &metrics)
                .unwrap();
        Bench { logs, _dir: dir, _tmp: tmp }
    }

    /// An empty log.
    fn log(&self) -> Partition {
        let id = LogId { topic: TopicId::random(), partition: PartitionId(0) };
        self.logs.open(id).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.logs.shutdown();
    }
}

fn options(durable: Durable) -> AppendOptions {
    AppendOptions { durable, batch_bytes_max: 1 << 20, origin: AppendOrigin::Client }
}

/// One append after the other, each waiting for its answer.
pub fn append(criterion: &mut Criterion) {
    let bench = Bench::start();
    for (durable, acks) in [(Durable::Written, "acks=1"), (Durable::Synced, "acks=all")] {
        let mut group = criterion.benchmark_group(format!("append, {acks}"));
        group.sample_size(20).warm_up_time(Duration::from_secs(1));
        for kib in [1, 16, 256] {
            let batch = batch_of(kib << 10);
            group.throughput(Throughput::Bytes(batch.len() as u64));
            group.bench_function(BenchmarkId::from_parameter(format!("{kib} KiB")), |bencher| {
                // A log per sample, which goes with it: the disk does not fill up.
                bencher.iter_custom(|times| {
                    let log = bench.log();
                    let began = Instant::now();
                    for _ in 0..times {
                        log.append_blocking(batch.clone(), options(durable)).unwrap();
                    }
                    let took = began.elapsed();
                    bench.logs.delete_topic(log.id().topic).unwrap();
                    took
                });
            });
        }
        group.finish();
    }
}

/// Reads of 1 MiB from memory at the log's end, and from its file at the start.
pub fn read(criterion: &mut Criterion) {
    let bench = Bench::start();
    let log = bench.log();
    let batch = batch_of(16 << 10);
    let mut last = Offset::ZERO;
    for _ in 0..BEYOND_TAIL_BYTES / batch.len() {
        last = log.append_blocking(batch.clone(), options(Durable::Written)).unwrap().base_offset;
    }
    let near_end = Offset::new(last.get() - (READ_BYTES_MAX >> 10) as u64);
    let mut group = criterion.benchmark_group("read 1 MiB");
    for (place, from) in [("tail", near_end), ("segment file", Offset::ZERO)] {
        let request = ReadRequest {
            from,
            bytes_max: READ_BYTES_MAX,
            at_least_one: true,
            isolation: Isolation::ReadUncommitted,
        };
        let bytes = log.read_blocking(request).unwrap().records.len();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(place, |bencher| {
            bencher.iter(|| assert_eq!(log.read_blocking(request).unwrap().records.len(), bytes));
        });
    }
    group.finish();
}
