//! One typed `Config`, parsed once from file, environment and flags. Flags beat environment, which
//! beats the file. Some of it may change while the broker runs: see `dynamic`. Knows no room but
//! `types`.
//!
//! `table` lists every key once; parsing, the environment's names, `entries` and the commented
//! default file all follow from it. `fixed` lists those of Kafka's that have one value here. `load`
//! lays the sources over each other.

mod dynamic;
mod error;
mod fixed;
mod kind;
mod listeners;
mod load;
mod render;
mod secret;
mod table;
mod topics;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::types::ListenerName;

pub use dynamic::{Dynamic, DynamicConfig, DynamicKey, Overlay, Overlays};
pub use error::ConfigError;
pub use fixed::{GROUP_MEMBERS_MAX, OFFSET_METADATA_LENGTH_MAX};
pub use kind::{Kind, join, list, nearest};
pub use listeners::{Advertised, Endpoint, Listener, SecurityProtocol};
pub use load::{Setting, Source, Sources};
pub use secret::Secret;
pub use topics::{CleanupPolicy, Compression, TimestampType};

/// When an append with `acks=all` is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After fdatasync (group commit): survives power loss.
    Disk,
    /// After the write reached the page cache: Kafka's default behaviour.
    PageCache,
}

/// Everything a broker can be told at start. Field names follow the config keys in the comments.
#[derive(Clone, Debug)]
pub struct Config {
    /// `data.dir`.
    pub data_dir: PathBuf,
    /// `listeners`; port 0 picks a free one. See `Config::kafka_listeners`.
    pub listeners: Vec<Endpoint>,
    /// `kafka.listen`: stands for `listeners` with one plaintext listener.
    pub kafka_listen: Option<SocketAddr>,
    /// `advertised.listeners`.
    pub advertised_listeners: Option<Vec<Endpoint>>,
    /// `listener.security.protocol.map`.
    pub listener_protocols: BTreeMap<ListenerName, SecurityProtocol>,
    /// `listener.name.<listener>.max.connections`.
    pub listener_connections_max: BTreeMap<ListenerName, usize>,
    /// `http.listen`; port 0 picks a free one.
    pub http_listen: SocketAddr,
    /// `advertised.host`: stands for `advertised.listeners` with this host for every listener.
    pub advertised_host: Option<String>,
    /// `durability` = `disk` | `page-cache`.
    pub durability: Durability,
    /// `node.id`.
    pub node_id: i32,
    /// `num.partitions`: of a topic created without a count.
    pub num_partitions: u32,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// Those that may change while the broker runs: `config.dynamic.load()` has what holds now.
    pub dynamic: Dynamic,
    /// `log.writer.threads`.
    pub log_writer_threads: usize,
    /// Files of logs that are kept open. No config of its own: what the limit of open files leaves.
    pub log_open_files_max: usize,
    /// `log.append.queue.bytes`: bound of each writer's queue.
    pub log_append_queue_bytes: usize,
    /// `log.roll.hours`.
    pub log_roll_hours: i64,
    /// `log.roll.jitter.hours`.
    pub log_roll_jitter_hours: i64,
    /// `log.check.compressed.records`: whether the records of compressed batches are checked too.
    pub log_check_compressed_records: bool,
    /// `log.retention.minutes`, -1 for ever; `None` leaves it to the hours.
    pub log_retention_minutes: Option<i64>,
    /// `log.retention.hours`, -1 for ever.
    pub log_retention_hours: i64,
    /// `log.retention.check.interval.ms`.
    pub log_retention_check_interval: Duration,
    /// `log.initial.task.delay.ms`: pause before retention looks and the scrub begins.
    pub log_initial_task_delay: Duration,
    /// `log.wal.bytes`: disk space of each writer's write-ahead log; 0 is off.
    pub log_wal_bytes: u64,
    /// `log.scrub.bytes.per.second`: rate at which stored batches are checked again; 0 is off.
    pub log_scrub_bytes_per_second: u64,
    /// `log.scrub.interval.ms`: pause between two rounds of that.
    pub log_scrub_interval: Duration,
    /// `offsets.topic.num.partitions`.
    pub offsets_topic_partitions: u32,
    /// `offsets.retention.minutes`. See `Config::offsets_retention`.
    pub offsets_retention_minutes: u32,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval: Duration,
    /// `group.initial.rebalance.delay.ms`.
    pub group_initial_rebalance_delay: Duration,
    /// `group.min.session.timeout.ms`.
    pub group_min_session_timeout: Duration,
    /// `group.max.session.timeout.ms`.
    pub group_max_session_timeout: Duration,
    /// `socket.request.max.bytes`: largest frame that may carry records.
    pub socket_request_max_bytes: usize,
    /// `queued.max.response.bytes`.
    pub queued_max_response_bytes: usize,
    /// Connections that leave file handles for logs. No config of its own: what the limit of open
    /// files leaves. See `Config::connections_max`.
    pub connection_handles_max: usize,
    /// `connections.max.idle.ms`.
    pub connections_max_idle: Duration,
    /// `stream.checkpoint.interval.ms`: default of `execution.checkpointing.interval`.
    pub stream_checkpoint_interval: Duration,
    /// `stream.parallelism`: default of `parallelism.default`.
    pub stream_parallelism: usize,
    /// `stream.ring.bytes`: bound of each exchange ring.
    pub stream_ring_bytes: usize,
    /// `stream.state.bytes.max`: bound of a job's operator state in memory.
    pub stream_state_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data_dir: PathBuf::from("ottla-data"),
            listeners: vec![Endpoint::plaintext(SocketAddr::from(([127, 0, 0, 1], 9092)))],
            kafka_listen: None,
            advertised_listeners: None,
            listener_protocols: listeners::default_protocols(),
            listener_connections_max: BTreeMap::new(),
            http_listen: SocketAddr::from(([127, 0, 0, 1], 9644)),
            advertised_host: None,
            durability: Durability::Disk,
            node_id: 1,
            num_partitions: 1,
            auto_create_topics: true,
            dynamic: Dynamic::default(),
            log_writer_threads: 1,
            log_open_files_max: 512,
            log_append_queue_bytes: 64 << 20,
            log_roll_hours: 168,
            log_roll_jitter_hours: 0,
            log_check_compressed_records: true,
            log_retention_minutes: None,
            log_retention_hours: 168,
            log_retention_check_interval: Duration::from_secs(300),
            log_initial_task_delay: Duration::from_secs(30),
            log_wal_bytes: 128 << 20,
            log_scrub_bytes_per_second: 4 << 20,
            log_scrub_interval: Duration::from_secs(3_600),
            offsets_topic_partitions: 50,
            offsets_retention_minutes: 7 * 24 * 60,
            offsets_retention_check_interval: Duration::from_secs(600),
            group_initial_rebalance_delay: Duration::from_secs(3),
            group_min_session_timeout: Duration::from_secs(6),
            group_max_session_timeout: Duration::from_secs(1800),
            socket_request_max_bytes: 100 << 20,
            queued_max_response_bytes: 256 << 20,
            connection_handles_max: usize::MAX,
            connections_max_idle: Duration::from_secs(600),
            stream_checkpoint_interval: Duration::from_secs(1),
            stream_parallelism: 1,
            stream_ring_bytes: 8 << 20,
            stream_state_bytes_max: 256 << 20,
        }
    }
}

/// What kind of value a config has, in Kafka's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigType {
    /// `true` or `false`.
    Boolean,
    /// Text.
    String,
    /// 16 bits.
    Short,
    /// 32 bits.
    Int,
    /// 64 bits.
    Long,
    /// A fraction.
    Double,
    /// Words with commas.
    List,
}

/// One config as DescribeConfigs shows it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its key: Kafka's name where Kafka has one.
    pub name: &'static str,
    /// What kind of value it has.
    pub kind: ConfigType,
    /// Its current value as text; `None` if it is left to another key.
    pub value: Option<String>,
    /// Where it has a value, with that value: the first is the one that holds. None if it is left to
    /// another key.
    pub origins: Vec<(Origin, String)>,
    /// Whether it may change while the broker runs.
    pub is_dynamic: bool,
    /// What it does, in a sentence.
    pub doc: &'static str,
}

/// Where a config has its value from; the first beat the later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Set while running, for this broker.
    Broker,
    /// Set while running, for all brokers.
    Cluster,
    /// Set at the start, to another value than the default.
    Start,
    /// Not set at all.
    Default,
}

impl Config {
    /// The defaults, overlaid by file, environment and flags, and checked.
    pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
        load::load(sources)
    }

    /// The listeners of the Kafka protocol, with what their clients are told to connect to; or why
    /// there can be none such, which `load` has checked.
    pub fn kafka_listeners(&self) -> Result<Vec<Listener>, ConfigError> {
        listeners::resolve(self)
    }

    /// How many connections there may be now: `max.connections`, as far as file handles go.
    pub fn connections_max(&self) -> usize {
        self.dynamic.load().max_connections.min(self.connection_handles_max)
    }

    /// Every config with its current value: those that can be set, in the default file's order, then
    /// those of Kafka that have one value here.
    pub fn entries(&self) -> Vec<Entry> {
        let defaults = Config::default();
        let keys = table::KEYS.iter().map(|key| key.entry(self, &defaults));
        keys.chain(fixed::FIXED.iter().map(|key| key.entry(self))).collect()
    }

    /// Whether Ottla has a config of that name, or one value for it.
    pub fn is_known(name: &str) -> bool {
        table::find(name).is_some() || fixed::find(name).is_some()
    }

    /// One config, if Ottla has it.
    pub fn entry(&self, name: &str) -> Option<Entry> {
        match table::find(name) {
            Some(key) => Some(key.entry(self, &Config::default())),
            None => Some(fixed::find(name)?.entry(self)),
        }
    }

    /// The value of one config as text; empty for one that is not set or not known.
    pub fn text(&self, name: &str) -> String {
        match (table::find(name), fixed::find(name)) {
            (Some(key), _) => key.text(self),
            (None, Some(key)) => (key.value)(self),
            (None, None) => String::new(),
        }
    }

    /// The commented default file, as `config/ottla.toml` holds it.
    pub fn default_file() -> String {
        render::default_file()
    }
}
