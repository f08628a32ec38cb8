//! The configs that may change while the broker runs: those that Kafka calls dynamic and that Ottla
//! has. What was set while running is laid over what was set at the start; the metadata keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use tracing::warn;

use super::secret::Secret;
use super::table::{self, Field};
use super::{CleanupPolicy, Compression, Config, ConfigType, Kind, TimestampType, load};

/// The values that hold at one moment. Field names follow the config keys in the comments.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicConfig {
    /// `message.max.bytes`: largest record batch.
    pub message_max_bytes: u32,
    /// `log.segment.bytes`.
    pub log_segment_bytes: u64,
    /// `log.index.interval.bytes`: log bytes between two sparse index entries.
    pub log_index_interval_bytes: u64,
    /// `log.roll.ms`; `None` leaves it to the hours. See `Config::log_roll`.
    pub log_roll_ms: Option<i64>,
    /// `log.roll.jitter.ms`; `None` leaves it to the hours. See `Config::log_roll_jitter`.
    pub log_roll_jitter_ms: Option<i64>,
    /// `log.message.timestamp.type`.
    pub log_message_timestamp_type: TimestampType,
    /// `log.message.timestamp.before.max.ms`; `i64::MAX` ms is no bound.
    pub log_message_timestamp_before_max: Duration,
    /// `log.message.timestamp.after.max.ms`; `i64::MAX` ms is no bound.
    pub log_message_timestamp_after_max: Duration,
    /// `compression.type`.
    pub compression_type: Compression,
    /// `compression.gzip.level`; -1 is zlib's default.
    pub compression_gzip_level: i32,
    /// `compression.lz4.level`; only Kafka's default is possible.
    pub compression_lz4_level: i32,
    /// `compression.zstd.level`.
    pub compression_zstd_level: i32,
    /// `log.cleanup.policy`.
    pub log_cleanup_policy: CleanupPolicy,
    /// `log.retention.ms`, -1 for ever; `None` leaves it to the minutes. See
    /// `Config::log_retention`.
    pub log_retention_ms: Option<i64>,
    /// `log.retention.bytes`: of a partition; `None` is no bound.
    pub log_retention_bytes: Option<u64>,
    /// `log.cleaner.min.cleanable.ratio`, 0 to 1.
    pub log_cleaner_min_cleanable_ratio: f64,
    /// `log.cleaner.min.compaction.lag.ms`.
    pub log_cleaner_min_compaction_lag: Duration,
    /// `log.cleaner.max.compaction.lag.ms`; `i64::MAX` ms is no bound.
    pub log_cleaner_max_compaction_lag: Duration,
    /// `log.cleaner.delete.retention.ms`.
    pub log_cleaner_delete_retention: Duration,
    /// `log.cleaner.dedupe.buffer.size`.
    pub log_cleaner_dedupe_buffer_bytes: usize,
    /// `log.cleaner.backoff.ms`: pause of the cleaner when nothing is worth cleaning.
    pub log_cleaner_backoff: Duration,
    /// `producer.id.expiration.ms`: how long a partition remembers an idle producer.
    pub producer_id_expiration: Duration,
    /// `max.connections`. See `Config::connections_max`.
    pub max_connections: usize,
    /// What was set while running, of which these values are made.
    pub overlays: Overlays,
}

impl Default for DynamicConfig {
    fn default() -> DynamicConfig {
        DynamicConfig {
            message_max_bytes: 1_048_588,
            log_segment_bytes: 1 << 30,
            log_index_interval_bytes: 4096,
            log_roll_ms: None,
            log_roll_jitter_ms: None,
            log_message_timestamp_type: TimestampType::CreateTime,
            log_message_timestamp_before_max: Duration::from_millis(i64::MAX as u64),
            log_message_timestamp_after_max: Duration::from_secs(3600),
            compression_type: Compression::Producer,
            compression_gzip_level: -1,
            compression_lz4_level: 9,
            compression_zstd_level: 3,
            log_cleanup_policy: CleanupPolicy { delete: true, compact: false },
            log_retention_ms: None,
            log_retention_bytes: None,
            log_cleaner_min_cleanable_ratio: 0.5,
            log_cleaner_min_compaction_lag: Duration::ZERO,
            log_cleaner_max_compaction_lag: Duration::from_millis(i64::MAX as u64),
            log_cleaner_delete_retention: Duration::from_secs(86_400),
            log_cleaner_dedupe_buffer_bytes: 128 << 20,
            log_cleaner_backoff: Duration::from_secs(15),
            producer_id_expiration: Duration::from_secs(24 * 60 * 60),
            max_connections: 10_000,
            overlays: Overlays::default(),
        }
    }
}

/// Configs by name, as text.
pub type Overlay = BTreeMap<String, Secret>;

/// What was set while running.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlays {
    /// For all brokers.
    pub cluster: Overlay,
    /// For this broker alone, which beats the former.
    pub broker: Overlay,
}

/// The values that hold now. A clone has values of its own from then on; see `share`.
#[derive(Debug)]
pub struct Dynamic {
    current: Arc<ArcSwap<DynamicConfig>>,
    /// What was set at the start, without overlays.
    started: Arc<DynamicConfig>,
    changed: watch::Sender<()>,
}

impl Default for Dynamic {
    fn default() -> Dynamic {
        Dynamic::started(DynamicConfig::default())
    }
}

impl Clone for Dynamic {
    fn clone(&self) -> Dynamic {
        let current = Arc::new(ArcSwap::new(self.current.load_full()));
        Dynamic { current, started: self.started.clone(), changed: watch::Sender::new(()) }
    }
}

impl Dynamic {
    fn started(values: DynamicConfig) -> Dynamic {
        let started = Arc::new(values);
        let current = Arc::new(ArcSwap::new(started.clone()));
        Dynamic { current, started, changed: watch::Sender::new(()) }
    }

    /// The values of this moment. Never keep them: they do not follow.
    pub fn load(&self) -> Guard<Arc<DynamicConfig>> {
        self.current.load()
    }

    /// Another handle to the same values.
    pub fn share(&self) -> Dynamic {
        let (started, changed) = (self.started.clone(), self.changed.clone());
        Dynamic { current: self.current.clone(), started, changed }
    }

    /// Told after each change: for what waits for one, since most readers look at each use.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What was set at the start.
    pub(super) fn at_start(&self) -> &DynamicConfig {
        &self.started
    }

    /// Changes what is set at the start, before anything runs.
    pub(super) fn start_with(&mut self, change: impl FnOnce(&mut DynamicConfig)) {
        let mut values = DynamicConfig::clone(&self.started);
        change(&mut values);
        *self = Dynamic::started(values);
    }
}

impl Config {
    /// The same config with other values at the start of those that may change while running.
    pub fn starting_with(mut self, change: impl FnOnce(&mut DynamicConfig)) -> Config {
        self.dynamic.start_with(change);
        self
    }

    /// Makes `overlays` hold from now on, in all rooms. Of an overlay that another version wrote, what
    /// this one does not understand is left out.
    pub fn overlay(&self, overlays: Overlays) {
        let mut values = DynamicConfig::clone(self.dynamic.at_start());
        for (name, value) in overlays.cluster.iter().chain(&overlays.broker) {
            if let Err(reason) = lay(&mut values, name, value) {
                // Without the value, which may be a secret.
                warn!(config = name, %reason, "a config that was set while running is not understood and left out");
            }
        }
        values.overlays = overlays;
        self.dynamic.current.store(Arc::new(values));
        self.dynamic.changed.send_replace(());
    }

    /// Checks what `overlays` together would make of this config.
    pub fn check_overlays(&self, overlays: &Overlays) -> Result<(), String> {
        let mut values = DynamicConfig::clone(self.dynamic.at_start());
        for (name, value) in overlays.cluster.iter().chain(&overlays.broker) {
            lay(&mut values, name, value)?;
        }
        load::agree_on_batches(self, &values).map_err(|error| error.to_string())
    }

    /// A copy of this config as it is now, with other values of those that may change while running.
    pub fn now_with(&self, change: impl FnOnce(&mut DynamicConfig)) -> Config {
        let copy = self.clone();
        let mut values = DynamicConfig::clone(&copy.dynamic.load());
        change(&mut values);
        copy.dynamic.current.store(Arc::new(values));
        copy
    }
}

/// Sets one value. The reason does not tell it: it may be a secret.
fn lay(values: &mut DynamicConfig, name: &str, value: &Secret) -> Result<(), String> {
    let key = dynamic_key(name)?;
    let Field::Dynamic { set, .. } = &key.field else { return Err(not_dynamic(name)) };
    let checked = kind(key).canonical(value.reveal());
    if checked.is_some_and(|text| set(values, &text)) {
        return Ok(());
    }
    Err(format!("Invalid value for configuration {name}: it must be {}", kind(key).allowed()))
}

/// What a value must be that is set while running: to leave it to another config, it is unset.
fn kind(key: &table::Key) -> Kind {
    match key.kind {
        Kind::Optional(kind) => *kind,
        kind => kind,
    }
}

/// A config that may change while the broker runs.
#[derive(Clone, Copy)]
pub struct DynamicKey(&'static table::Key);

impl DynamicKey {
    /// The config of that name, or why it cannot be changed while the broker runs.
    pub fn find(name: &str) -> Result<DynamicKey, String> {
        dynamic_key(name).map(DynamicKey)
    }

    /// All of them, by name.
    pub fn names() -> impl Iterator<Item = &'static str> {
        table::KEYS.iter().filter(|key| key.is_dynamic()).map(|key| key.name)
    }

    /// The value as it is kept, or why it cannot be one. The reason tells it to who sent it.
    pub fn checked(self, value: &str) -> Result<String, String> {
        let DynamicKey(key) = self;
        let text = value.trim();
        let canonical = kind(key).canonical(text);
        let is_such = |text: &String| match &key.field {
            Field::Dynamic { set, .. } => set(&mut DynamicConfig::default(), text),
            Field::Start { .. } => false,
        };
        canonical.filter(is_such).ok_or_else(|| {
            let (name, allowed) = (key.name, kind(key).allowed());
            format!("Invalid value {text} for configuration {name}: it must be {allowed}")
        })
    }

    /// Whether it is a list, to which words can be added.
    pub fn is_list(self) -> bool {
        kind(self.0).config_type() == ConfigType::List
    }
}

fn dynamic_key(name: &str) -> Result<&'static table::Key, String> {
    match table::find(name) {
        Some(key) if key.is_dynamic() => Ok(key),
        Some(_) => Err(not_dynamic(name)),
        None if super::fixed::find(name).is_some() => Err(not_dynamic(name)),
        None => Err(match super::nearest(name, DynamicKey::names()) {
            Some(near) => format!("Unknown config '{name}'; did you mean '{near}'?"),
            None => format!("Unknown config '{name}'"),
        }),
    }
}

fn not_dynamic(name: &str) -> String {
    format!(
        "Cannot update these configs dynamically: [{name}]; set it in the broker's configuration and restart it"
    )
}
