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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::change::TopicChange;

    fn created(index: u128) -> Change {
        Change::Topic(TopicChange::Created {
            id: TopicId(uuid::Uuid::from_u128(index)),
            name: format!("topic-{index}"),
            partitions: 1,
            configs: Default::default(),
            internal: false,
        })
    }

    #[test]
    fn a_change_of_one_topic_shares_all_others_and_is_all_that_differs() {
        let mut before = Image::default();
        before.apply(0, &(0..1000).map(created).collect::<Vec<_>>()).unwrap();
        let id = TopicId(uuid::Uuid::from_u128(500));
        let mut after = before.clone();
        let added = TopicChange::PartitionsAdded { id, count: 2 };
        after.apply(1, &[Change::Topic(added), created(1000)]).unwrap();
        assert_eq!(before.topic_by_id(id).unwrap().partitions, 1);
        assert!(Arc::ptr_eq(&before.brokers, &after.brokers));
        for topic in before.topics().filter(|topic| topic.id != id) {
            assert!(Arc::ptr_eq(topic, after.topic_by_id(topic.id).unwrap()), "{}", topic.name);
        }
        let changed: Vec<_> = before
            .topics
            .changed_in(&after.topics)
            .map(|(old, new)| (old.map(|it| it.partitions), new.name.as_str(), new.partitions))
            .collect();
        assert_eq!(changed, [(Some(1), "topic-500", 2), (None, "topic-1000", 1)]);
    }
}
