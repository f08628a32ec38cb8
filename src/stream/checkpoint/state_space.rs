//! What of `__ottla_state` is still needed: what a restore of each job's newest decided checkpoint
//! reads, and what checkpoints under way have written. Everything before that is trimmed.
//!
//! The order in which things are looked at is the whole of it. A checkpoint announces where its
//! entries will begin before any of them is written, and takes that back only when the journal
//! knows its decision. A trim looks at the log's end first, then at the announcements, then at the
//! journal: a checkpoint that it does not see yet writes behind that end.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::debug;

use super::journal::JobJournal;
use crate::log::Partition;
use crate::stream::operator::Failure;
use crate::types::{Offset, PartitionId};

/// Where checkpoints under way began to write, by job.
#[derive(Debug, Default)]
pub struct StateSpace {
    writing: Mutex<BTreeMap<String, (PartitionId, Offset)>>,
}

impl StateSpace {
    /// A barrier is about to be sent: what it writes comes after all that the log holds.
    pub fn begin(&self, job: &str, log: &Partition) {
        let place = (log.id().partition, log.span().end);
        // Of an earlier checkpoint that was never decided: it may be after all, until its job is
        // read from the journal again.
        self.writing().entry(job.to_owned()).or_insert(place);
    }

    /// The journal's picture of the job tells all it needs.
    pub fn decided(&self, job: &str) {
        self.writing().remove(job);
    }

    /// The first offset that is needed of a partition of the state topic.
    async fn needed_from(&self, journal: &JobJournal, log: &Partition) -> Offset {
        let end = log.span().end;
        let partition = log.id().partition;
        let announced = self.announced(partition);
        let decided = journal.state_from(partition).await;
        [announced, decided].into_iter().flatten().fold(end, Offset::min)
    }

    /// Trims what nobody needs; returns where the log starts then.
    pub async fn trim(&self, journal: &JobJournal, log: &Partition) -> Result<Offset, Failure> {
        let needed = self.needed_from(journal, log).await;
        let start = log.span().start;
        if needed <= start {
            return Ok(start);
        }
        let trimmed = log.trim(needed).await;
        let trimmed = trimmed.map_err(|error| Failure::Storage(error.to_string()))?;
        debug!(log = %log.id(), from = %start, to = %trimmed, "forgot state that no job needs");
        Ok(trimmed)
    }

    fn announced(&self, partition: PartitionId) -> Option<Offset> {
        let writing = self.writing();
        writing.values().filter(|(of, _)| *of == partition).map(|(_, offset)| *offset).min()
    }

    // Whoever panicked with the lock held left a map that is whole.
    fn writing(&self) -> MutexGuard<'_, BTreeMap<String, (PartitionId, Offset)>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tempfile::TempDir;

    use super::*;
    use crate::config::Config;
    use crate::log::batch::{self, NewRecord};
    use crate::log::{AppendOptions, AppendOrigin, Durable, Logs};
    use crate::metadata::tests::journal::MemoryJournal;
    use crate::metrics::Metrics;
    use crate::stream::checkpoint::record::{Commit, Ended, Event, StateManifest};
    use crate::types::{LeaderEpoch, LogId, ManualClock, Timestamp, TopicId};

    const HERE: PartitionId = PartitionId(3);

    struct Fixture {
        log: Partition,
        journal: JobJournal,
        _logs: Logs,
        _dir: TempDir,
    }

    impl Fixture {
        async fn new() -> Fixture {
            let dir = TempDir::new().unwrap();
            let logs = Logs::over_directories(
                &dir.path().join("logs"),
                &dir.path().join("view"),
                &Config::default(),
                Arc::new(ManualClock::at(Timestamp(0))),
                LeaderEpoch(0),
                &Metrics::default(),
            );
            let log = logs.open(LogId { topic: TopicId::random(), partition: HERE }).unwrap();
            let memory = Arc::new(MemoryJournal::default());
            let journal = JobJournal::open(Arc::new(memory)).await.unwrap();
            Fixture { log, journal, _logs: logs, _dir: dir }
        }

        async fn write(&self, records: usize) {
            let records = vec![NewRecord::default(); records];
            let options = AppendOptions {
                durable: Durable::Synced,
                batch_bytes_max: 1 << 20,
                origin: AppendOrigin::Broker,
            };
            self.log.append(batch::encode(&records, None), options).await.unwrap();
        }

        async fn commit(&self, job: &str, partition: PartitionId, from: u64) {
            let to = self.log.span().end.get();
            let state = StateManifest { partition: partition.0, base_epoch: 1, from, to };
            let commit = Commit { state: Some(state), ..Commit::default() };
            self.journal.append(job, Event::Committed(Box::new(commit))).await.unwrap();
            self.journal.state_space().decided(job);
        }

        async fn end(&self, job: &str) {
            let ended = Ended { state: "finished".to_owned(), failure: None, at_ms: None };
            self.journal.append(job, Event::Ended(ended)).await.unwrap();
            self.journal.state_space().decided(job);
        }

        fn begin(&self, job: &str) {
            self.journal.state_space().begin(job, &self.log);
        }

        async fn trim(&self) -> u64 {
            self.journal.state_space().trim(&self.journal, &self.log).await.unwrap().get()
        }
    }

    #[tokio::test]
    async fn state_is_kept_for_the_job_of_the_partition_that_needs_the_oldest() {
        let fixture = Fixture::new().await;
        fixture.write(20).await;
        fixture.commit("a", HERE, 2).await;
        fixture.commit("b", HERE, 5).await;
        fixture.commit("elsewhere", PartitionId(4), 0).await;
        assert_eq!(fixture.trim().await, 2);
        fixture.commit("a", HERE, 12).await;
        assert_eq!(fixture.trim().await, 5);
        fixture.end("b").await;
        assert_eq!(fixture.trim().await, 12);
        fixture.end("a").await;
        assert_eq!(fixture.trim().await, 20);
    }

    #[tokio::test]
    async fn what_a_checkpoint_under_way_has_written_is_kept_until_it_is_decided() {
        let fixture = Fixture::new().await;
        fixture.write(10).await;
        fixture.begin("a");
        fixture.write(10).await;
        fixture.commit("b", HERE, 15).await;
        assert_eq!(fixture.trim().await, 10);
        // Not decided, and begun again by the next attempt: the first one may count yet.
        fixture.begin("a");
        assert_eq!(fixture.trim().await, 10);
        fixture.commit("a", HERE, 17).await;
        assert_eq!(fixture.trim().await, 15);
    }

    #[tokio::test]
    async fn a_job_without_state_holds_nobody_up() {
        let fixture = Fixture::new().await;
        fixture.begin("stateless");
        let commit = Event::Committed(Box::default());
        fixture.journal.append("stateless", commit).await.unwrap();
        fixture.journal.state_space().decided("stateless");
        fixture.write(10).await;
        fixture.commit("a", HERE, 8).await;
        assert_eq!(fixture.trim().await, 8);
    }
}
