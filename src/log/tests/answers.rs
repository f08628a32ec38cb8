//! The order in which callers are answered.

use std::future::Future;
use std::sync::Mutex;
use std::task::{Context, Wake, Waker};

use super::*;
use crate::log::append::writer::Writer;
use crate::log::object::local_store::LocalRecordStore;
use crate::log::settings::Settings;
use crate::log::wal::WalConfig;

/// Notes when a caller is woken.
struct Caller {
    number: usize,
    woken: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Caller {
    fn wake(self: Arc<Self>) {
        self.woken.lock().unwrap().push(self.number);
    }
}

/// The numbers of the callers in the order in which they are woken, when each has appended to one of
/// `logs` and the writer takes all appends as one group.
fn woken(logs: &[&Partition], writer: &mut Writer) -> Vec<usize> {
    let woken = Arc::default();
    let mut pending = Vec::new();
    for (number, log) in logs.iter().enumerate() {
        let waker = Waker::from(Arc::new(Caller { number, woken: Arc::clone(&woken) }));
        let mut outcome = Box::pin(log.append(plain(&["a"]), synced()));
        assert!(outcome.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        pending.push(outcome);
    }
    let _ = writer.cycle();
    std::mem::take(&mut woken.lock().unwrap())
}

#[test]
fn of_the_appends_that_share_a_sync_the_first_is_answered_last() {
    let dir = tempfile::tempdir().unwrap();
    let wal = WalConfig { writers: 1, file_bytes: 64 << 10, syncs_min: 1 };
    let (config, metrics) = (config(), Metrics::default());
    let records = LocalRecordStore::open(&dir.path().join("logs"), Boot::default()).unwrap();
    let records = records.with_wal(wal, meter::wal_off(&metrics).unwrap());
    let view = Store::open(&dir.path().join("view")).unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
    let settings =
        Settings::new(Arc::new(records), view, &config, clock, LeaderEpoch(3), &metrics).unwrap();
    let (logs, mut writers) = Logs::with(Arc::new(settings), &config, 0);
    let mut writer = writers.pop().unwrap();
    let topic = id().topic;
    let [a, b, c] = [0, 1, 2]
        .map(|partition| logs.open(LogId { topic, partition: PartitionId(partition) }).unwrap());
    let _ = writer.cycle();
    // Without files yet, each log is synced by itself, and answered when it is.
    for _ in 0..2 {
        assert_eq!(woken(&[&a, &b, &a, &c], &mut writer), [2, 0, 1, 3]);
    }
    crate::log::upkeep::checkpoint_round(&logs.inner.open, &logs.inner.settings);
    assert_eq!(woken(&[&a, &b, &a, &c], &mut writer), [3, 1, 2, 0]);
    // A large append is synced by itself, when the others have their answers.
    let large = plain(&["b".repeat(200 << 10).as_str()]);
    let mut alone = Box::pin(b.append(large, synced()));
    assert!(alone.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(woken(&[&b, &a, &c], &mut writer), [2, 1, 0]);
}
