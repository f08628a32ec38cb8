//! The logs of topics: what a crash left of deleted ones is removed at the start, all others are
//! opened, and they follow their topics' configs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tracing::{info, warn};

use super::image::Image;
use super::local_journal::journal_topic;
use super::topics::Topic;
use super::{MetadataError, topic};
use crate::config::Config;
use crate::log::{LogError, Logs};
use crate::types::{Clock, LogId, TopicId};

/// A start that takes longer says so.
const START_WORTH_TELLING: Duration = Duration::from_secs(1);

/// Threads that open logs, for each core: most of the time they wait for the disk, and file systems
/// sync many files at once for little more than one.
const OPENERS_PER_CORE: usize = 8;

/// Removes what a crash left of deleted topics.
pub(super) async fn delete_orphans(logs: &Logs, image: &Image) -> Result<(), MetadataError> {
    let listing = logs.clone();
    let on_disk = blocking(move || listing.on_disk()).await?;
    let topics: BTreeSet<TopicId> = on_disk.iter().map(|log| log.topic).collect();
    for topic in topics {
        if topic == journal_topic() || image.topic_by_id(topic).is_some() {
            continue;
        }
        if image.topics.leaves_logs(topic) {
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
