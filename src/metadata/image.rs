//! Everything that the cluster knows, at one position of the journal.

use std::sync::Arc;

use super::brokers::BrokerConfigs;
use super::change::Change;
use super::features::Features;
use super::topics::{Topic, Topics};
use crate::types::TopicId;

/// See the module's header. Immutable once it is published. Each part is behind its own `Arc`:
/// a change copies the part it is in, which in turn shares all but a few nodes with its
/// predecessor, and leaves the other parts alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Topics and their configs.
    pub(super) topics: Arc<Topics>,
    /// Broker configs that were changed while running.
    pub(super) brokers: Arc<BrokerConfigs>,
    features: Arc<Features>,
}

impl Image {
    /// The topic of that name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.named(name)
    }

    /// The topic of that id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.with_id(id)
    }

    /// All topics in name order.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.iter()
    }

    /// The finalized features.
    pub fn features(&self) -> &Arc<Features> {
        &self.features
    }

    /// Carries out the changes of the record at `position`, all of them or, where one cannot be,
    /// none. This is the only code that changes an image, live and at a replay alike.
    pub(super) fn apply(&mut self, position: u64, changes: &[Change]) -> Result<(), String> {
        let mut next = self.clone();
        for change in changes {
            match change {
                Change::Topic(change) => Arc::make_mut(&mut next.topics).apply(change)?,
                Change::Broker(change) => Arc::make_mut(&mut next.brokers).apply(change),
                Change::Feature(change) => {
                    Arc::make_mut(&mut next.features).apply(position, change);
                }
            }
        }
        *self = next;
        Ok(())
    }

    /// Changes that make this image out of an empty one.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> {
        self.topics.changes().chain(self.brokers.changes()).chain(self.features.changes())
    }
}
