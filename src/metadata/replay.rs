//! Start-up: the journal's records become the first image, logs of deleted topics are removed,
//! all others are opened.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tracing::{info, warn};

use super::journal::{Journal, Slot};
use super::local_journal::journal_topic;
use super::record::{self, Change};
use super::{Image, MetadataError, Topic, topic};
use crate::config::Config;
use crate::log::{LogError, Logs};
use crate::types::{Clock, LogId, TopicId, TopicName};

/// A start that takes longer says so.
const START_WORTH_TELLING: Duration = Duration::from_secs(1);

/// Threads that open logs, for each core: most of the time they wait for the disk, and file systems
/// sync many files at once for little more than one.
const OPENERS_PER_CORE: usize = 8;

/// What the journal says.
pub(super) struct Replayed {
    /// The topics.
    pub(super) image: Image,
    /// Topics that were, whose logs may still be on disk.
    pub(super) deleted: BTreeSet<TopicId>,
    /// The journal's next vacant position.
    pub(super) next: u64,
}

/// Reads the metadata's slot to its end.
pub(super) async fn replay(journal: &dyn Journal) -> Result<Replayed, MetadataError> {
    let mut replayed = Replayed { image: Image::default(), deleted: BTreeSet::new(), next: 0 };
    loop {
        let records = journal
            .read(Slot::METADATA, replayed.next)
            .await
            .map_err(|error| MetadataError::Storage(error.to_string()))?;
        if records.is_empty() {
            return Ok(replayed);
        }
        for (seq, bytes) in records {
            let change = record::decode(&bytes).map_err(|reason| unreadable(seq, &reason))?;
            if let Change::TopicDeleted { id } = &change {
                replayed.deleted.insert(TopicId(*id));
            }
            apply(&mut replayed.image, change).map_err(|reason| unreadable(seq, &reason))?;
            replayed.next = seq + 1;
        }
    }
}

fn unreadable(seq: u64, reason: &str) -> MetadataError {
    MetadataError::Storage(format!("record {seq} of the metadata's journal: {reason}"))
}

/// Applies one decision. The only way a image changes, at start and later.
pub(super) fn apply(image: &mut Image, change: Change) -> Result<(), String> {
    match change {
        Change::TopicCreated { id, name, partitions, configs, internal } => {
            let name = TopicName::parse(&name).map_err(|error| error.to_string())?;
            if image.topic(name.as_str()).is_some() {
                return Err(format!("topic '{name}' is created twice"));
            }
            image.insert(Topic { id: TopicId(id), name, partitions, configs, internal });
        }
        Change::PartitionsAdded { id, count } => {
            let topic = image.remove(TopicId(id)).ok_or(format!("topic {id} does not exist"))?;
            image.insert(Topic { partitions: count, ..Topic::clone(&topic) });
        }
        Change::ConfigsChanged { id, set, unset } => {
            let topic = image.remove(TopicId(id)).ok_or(format!("topic {id} does not exist"))?;
            let mut topic = Topic::clone(&topic);
            topic::Delta { set, unset }.apply(&mut topic.configs);
            image.insert(topic);
        }
        Change::TopicDeleted { id } => {
            image.remove(TopicId(id)).ok_or(format!("topic {id} does not exist"))?;
        }
    }
    Ok(())
}

/// Removes what a crash left of deleted topics.
pub(super) async fn delete_orphans(logs: &Logs, replayed: &Replayed) -> Result<(), MetadataError> {
    let listing = logs.clone();
    let on_disk = blocking(move || listing.on_disk()).await?;
    let topics: BTreeSet<TopicId> = on_disk.iter().map(|log| log.topic).collect();
    for topic in topics {
        if topic == journal_topic() || replayed.image.topic_by_id(topic).is_some() {
            continue;
        }
        if replayed.deleted.contains(&topic) {
            info!(%topic, "removing the logs of a deleted topic");
            let logs = logs.clone();
            blocking(move || logs.delete_topic(topic)).await?;
        } else {
            // Never delete on absence alone: a journal that was lost must not take the records
            // with it.
            warn!(%topic, "logs on disk belong to no topic in the metadata, left alone");
        }
    }
    Ok(())
}

/// Opens every topic's logs.
pub(super) async fn open_logs(
    logs: &Logs,
    image: &Image,
    config: &Config,
    clock: &dyn Clock,
) -> Result<(), MetadataError> {
    let begun = clock.monotonic();
    let scanned_before = logs.progress().stage().scanned_bytes;
    // What the broker itself keeps must be whole; a client's log that cannot be read is offline.
    let (own, clients): (Vec<_>, Vec<_>) = image.topics().partition(|topic| topic.internal);
    let logs_of = |topics: &[&Arc<Topic>]| -> Vec<LogId> {
        topics.iter().flat_map(|topic| topic.logs()).collect()
    };
    let (own, clients) = (logs_of(&own), logs_of(&clients));
    for topic in image.topics() {
        configure(logs, topic, config)?;
    }
    let partitions = own.len() + clients.len();
    logs.progress().begin("opening partition logs", partitions as u64);
    open(logs, own).await?;
    open_each(logs, clients, |logs, id| {
        logs.open_or_refuse(id);
        Ok(())
    })
    .await?;
    let took = clock.monotonic().saturating_sub(begun);
    let scanned_bytes = logs.progress().stage().scanned_bytes - scanned_before;
    if scanned_bytes > 0 || took > START_WORTH_TELLING {
        let took_ms = took.as_millis() as u64;
        info!(partitions, scanned_bytes, took_ms, "opened all partition logs");
    }
    Ok(())
}

/// Tells a topic's logs what it asks of them.
pub(super) fn configure(logs: &Logs, topic: &Topic, broker: &Config) -> Result<(), MetadataError> {
    let config = topic::resolve(&topic.configs, topic.internal, broker)
        .map_err(|reason| MetadataError::Storage(format!("topic '{}': {reason}", topic.name)))?;
    logs.configure(topic.id, topic.name.as_str(), config);
    Ok(())
}

/// Opens logs in parallel.
pub(super) async fn open(logs: &Logs, ids: Vec<LogId>) -> Result<(), MetadataError> {
    open_each(logs, ids, |logs, id| logs.open(id).map(drop)).await
}

async fn open_each(
    logs: &Logs,
    ids: Vec<LogId>,
    open: fn(&Logs, LogId) -> Result<(), LogError>,
) -> Result<(), MetadataError> {
    let threads = thread::available_parallelism().map_or(1, usize::from) * OPENERS_PER_CORE;
    let threads = threads.min(ids.len());
    let (ids, next) = (Arc::new(ids), Arc::new(AtomicUsize::new(0)));
    let openers: Vec<_> = (0..threads)
        .map(|_| {
            let (logs, ids, next) = (logs.clone(), ids.clone(), next.clone());
            tokio::spawn(blocking(move || {
                // One by one: some take a moment and some a minute, and nobody knows which.
                while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                    open(&logs, *id)?;
                    logs.progress().advance();
                }
                Ok(())
            }))
        })
        .collect();
    for opener in openers {
        opener.await.map_err(|error| MetadataError::Storage(error.to_string()))??;
    }
    Ok(())
}

/// Runs file work off the network threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, MetadataError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| MetadataError::Storage(error.to_string()))?
        .map_err(|error| MetadataError::Storage(error.to_string()))
}
