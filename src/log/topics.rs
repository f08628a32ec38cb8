//! What the logs know about each topic: its name, for log lines, and its configs. One entry for all
//! partitions of a topic.

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
    /// Its name, if it is known.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.get().map(String::as_str)
    }

    /// Its current configs.
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
    /// No topics yet. A topic that was not configured has the configs `unconfigured`.
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

    /// Sets a topic's name, which never changes.
    pub(super) fn name(&self, topic: TopicId, name: &str) {
        self.of(topic).name.get_or_init(|| name.to_owned());
    }

    /// Sets a topic's name, and its configs from now on.
    pub(super) fn configure(&self, topic: TopicId, name: &str, config: LogConfig) {
        self.name(topic, name);
        self.of(topic).config.store(Arc::new(config));
    }

    /// Forgets a deleted topic.
    pub(super) fn forget(&self, topic: TopicId) {
        self.topics.remove(&topic);
    }
}
