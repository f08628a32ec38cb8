//! What is known of each topic: its name, for people who read log lines, and what it asks of its
//! logs. One entry for all partitions of a topic.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use dashmap::DashMap;

use crate::log::config::LogConfig;
use crate::types::TopicId;

/// One topic.
pub(super) struct TopicSettings {
    name: OnceLock<String>,
    config: ArcSwap<LogConfig>,
}

impl TopicSettings {
    /// What people call it, if anyone has told.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.get().map(String::as_str)
    }

    /// What it asks of its logs now.
    pub(super) fn config(&self) -> Arc<LogConfig> {
        self.config.load_full()
    }
}

/// Every topic that has a log, or will have.
pub(super) struct Topics {
    topics: DashMap<TopicId, Arc<TopicSettings>>,
    unconfigured: Arc<LogConfig>,
}

impl Topics {
    /// None yet; `unconfigured` holds for those that nobody configures.
    pub(super) fn new(unconfigured: LogConfig) -> Topics {
        Topics { topics: DashMap::new(), unconfigured: Arc::new(unconfigured) }
    }

    /// A topic's settings.
    pub(super) fn of(&self, topic: TopicId) -> Arc<TopicSettings> {
        if let Some(settings) = self.topics.get(&topic) {
            return settings.clone();
        }
        let unconfigured = || {
            let config = ArcSwap::new(self.unconfigured.clone());
            Arc::new(TopicSettings { name: OnceLock::new(), config })
        };
        self.topics.entry(topic).or_insert_with(unconfigured).clone()
    }

    /// Tells a topic's name, which never changes.
    pub(super) fn name(&self, topic: TopicId, name: &str) {
        self.of(topic).name.get_or_init(|| name.to_owned());
    }

    /// Tells a topic's name and what it asks of its logs from now on.
    pub(super) fn configure(&self, topic: TopicId, name: &str, config: LogConfig) {
        self.name(topic, name);
        self.of(topic).config.store(Arc::new(config));
    }

    /// Forgets a deleted topic.
    pub(super) fn forget(&self, topic: TopicId) {
        self.topics.remove(&topic);
    }
}
