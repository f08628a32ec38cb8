//! Every config key once: its name, what it takes, which field it sets and what it does.

use super::value::Value;
use super::{Config, DynamicConfig, Entry, Kind, Origin};

/// One row of the table.
pub(super) struct Key {
    /// Kafka's name where Kafka has one.
    pub(super) name: &'static str,
    /// Heading in the default file.
    pub(super) section: &'static str,
    /// What it takes.
    pub(super) kind: Kind,
    /// What it does, in one or two sentences.
    pub(super) doc: &'static str,
    /// Where its value is.
    pub(super) field: Field,
}

/// Where a key's value is: `set` parses a text into it, and is false when it is no such value,
/// `render` is the value as text.
pub(super) enum Field {
    /// Set at the start alone.
    Start { set: fn(&mut Config, &str) -> bool, render: fn(&Config) -> String },
    /// May change while the broker runs.
    Dynamic { set: fn(&mut DynamicConfig, &str) -> bool, render: fn(&DynamicConfig) -> String },
}

impl Key {
    /// Whether it may change while the broker runs.
    pub(super) fn is_dynamic(&self) -> bool {
        matches!(self.field, Field::Dynamic { .. })
    }

    /// Sets what it is at the start; false when it is no such value.
    pub(super) fn set(&self, config: &mut Config, text: &str) -> bool {
        let Some(text) = self.kind.canonical(text) else { return false };
        match &self.field {
            Field::Start { set, .. } => set(config, &text),
            Field::Dynamic { set, .. } => {
                let mut is_set = false;
                config.dynamic.start_with(|values| is_set = set(values, &text));
                is_set
            }
        }
    }

    /// What it is at the start.
    pub(super) fn at_start(&self, config: &Config) -> String {
        match &self.field {
            Field::Start { render, .. } => render(config),
            Field::Dynamic { render, .. } => render(config.dynamic.at_start()),
        }
    }

    /// What it is now.
    pub(super) fn text(&self, config: &Config) -> String {
        match &self.field {
            Field::Start { render, .. } => render(config),
            Field::Dynamic { render, .. } => render(&config.dynamic.load()),
        }
    }

    /// The key as it stands in `config`.
    pub(super) fn entry(&self, config: &Config, defaults: &Config) -> Entry {
        let values = config.dynamic.load();
        let (value, start, default) =
            (self.text(config), self.at_start(config), self.at_start(defaults));
        // Only an optional key says by an empty value that another one decides.
        let told = |text: String| {
            let is_left = matches!(self.kind, Kind::Optional(_) | Kind::Host) && text.is_empty();
            (!is_left).then_some(text)
        };
        let overlaid = |overlay: &super::Overlay, origin| {
            Some((origin, overlay.get(self.name)?.reveal().to_owned()))
        };
        let at_start = (start != default).then_some((Origin::Start, start));
        let of_all = [at_start, Some((Origin::Default, default))];
        let of_all =
            of_all.into_iter().flatten().filter_map(|(origin, it)| Some((origin, told(it)?)));
        let dynamic = [
            overlaid(&values.overlays.broker, Origin::Broker),
            overlaid(&values.overlays.cluster, Origin::Cluster),
        ];
        Entry {
            name: self.name,
            kind: self.kind.config_type(),
            value: told(value),
            origins: dynamic.into_iter().flatten().chain(of_all).collect(),
            is_dynamic: self.is_dynamic(),
            doc: self.doc,
        }
    }
}

/// `log.segment.bytes` is `OTTLA_LOG_SEGMENT_BYTES`.
pub(super) fn environment_name(key: &str) -> String {
    format!("OTTLA_{}", key.replace(['.', '-'], "_").to_ascii_uppercase())
}

/// Earlier names of keys, with today's.
pub(super) const RENAMED: [(&str, &str); 1] = [("log.redo.bytes", "log.wal.bytes")];

/// Today's name of a key that may be called by an earlier one.
pub(super) fn current_name(name: &str) -> &str {
    RENAMED.iter().find(|(earlier, _)| *earlier == name).map_or(name, |(_, today)| today)
}

/// The row of a key.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Rows of the table: `name => field: kind, doc;`, with `(dynamic)` before the field of a key that may
/// change while the broker runs.
macro_rules! keys {
    ($($section:literal {
        $($name:literal => $(($dynamic:ident))? $field:ident: $kind:expr, $doc:expr;)*
    })*) => {
        &[$($(Key {
            name: $name,
            section: $section,
            kind: $kind,
            doc: $doc,
            field: field!($(($dynamic))? $field),
        },)*)*]
    };
}

macro_rules! field {
    ((dynamic) $field:ident) => {
        Field::Dynamic {
            set: |values, text| assign!(values.$field, text),
            render: |values| Value::render(&values.$field),
        }
    };
    ($field:ident) => {
        Field::Start {
            set: |config, text| assign!(config.$field, text),
            render: |config| Value::render(&config.$field),
        }
    };
}

macro_rules! assign {
    ($field:expr, $text:expr) => {
        match Value::parse($text) {
            Some(value) => {
                $field = value;
                true
            }
            None => false,
        }
    };
}

const fn integer(min: i64, max: i64) -> Kind {
    Kind::Number { min, max }
}

/// -1, or a whole number.
const fn limit(min: i64, max: i64) -> Kind {
    Kind::Limit { min, max }
}

/// May be left empty, so that a coarser key decides.
const fn finer(kind: &'static Kind) -> Kind {
    Kind::Optional(kind)
}

const INT_MAX: i64 = i32::MAX as i64;
const LONG_MAX: i64 = i64::MAX;
const DAY_MS: i64 = 86_400_000;

/// In the default file's order.
pub(super) const KEYS: &[Key] = keys! {
    "Where" {
        "data.dir" => data_dir: Kind::Path,
            "Where everything lies that must survive. Created if it does not exist.";
        "listeners" => listeners: Kind::Listeners,
            "Where the Kafka protocol is spoken. An empty host is every address of the machine, port 0 a free one. \
             docs/running.md has examples.";
        "advertised.listeners" => advertised_listeners: Kind::Optional(&Kind::Listeners),
            "What the clients of each listener are told to connect to. Empty: the addresses in listeners.";
        "listener.security.protocol.map" => listener_protocols: Kind::Protocols,
            "How the clients of each listener speak. Only PLAINTEXT listeners are possible yet. Connections of one \
             listener are limited with listener.name.<listener>.max.connections.";
        "kafka.listen" => kafka_listen: Kind::Optional(&Kind::Address),
            "Short for listeners with one PLAINTEXT listener at this address. Empty: see listeners.";
        "http.listen" => http_listen: Kind::Address,
            "Address of metrics, health, SQL and jobs. It has no authentication yet: keep it on loopback.";
        "advertised.host" => advertised_host: Kind::Host,
            "Short for advertised.listeners with this host for every listener. Empty: see advertised.listeners.";
        "node.id" => node_id: integer(0, INT_MAX),
            "This broker's id.";
    }
    "Topics" {
        "auto.create.topics.enable" => auto_create_topics: Kind::Bool,
            "Whether a topic is created when a client first asks for it.";
        "num.partitions" => num_partitions: integer(1, 10_000),
            "Partitions of a topic that is created without a count.";
        "message.max.bytes" => (dynamic) message_max_bytes: integer(1_024, INT_MAX),
            "Largest record batch a topic takes, after compression.";
    }
    "Log" {
        "durability" => durability: Kind::Choice(&["disk", "page-cache"]),
            "When acks=all is answered: \"disk\" after fdatasync, \"page-cache\" after the write, as Kafka does.";
        "log.segment.bytes" => (dynamic) log_segment_bytes: integer(1_024, 1 << 40),
            "Size at which a segment file is closed and the next one begun.";
        "log.index.interval.bytes" => (dynamic) log_index_interval_bytes: integer(0, INT_MAX),
            "Log bytes between two entries of the sparse offset index.";
        "log.writer.threads" => log_writer_threads: integer(1, 256),
            "Threads that append, each for its own share of the partitions. Appends of the same thread share \
             their syncs, so more threads help only if one cannot keep up with the disk.";
        "log.append.queue.bytes" => log_append_queue_bytes: integer(1 << 20, 1 << 36),
            "Bound of each writer's queue. When it is full, producers wait.";
        "log.roll.ms" => (dynamic) log_roll_ms: finer(&integer(1, LONG_MAX)),
            "Age at which a segment is closed, measured by the timestamps of its records. Empty: see log.roll.hours.";
        "log.roll.hours" => log_roll_hours: integer(1, INT_MAX),
            "The same in hours; log.roll.ms beats it.";
        "log.roll.jitter.ms" => (dynamic) log_roll_jitter_ms: finer(&integer(0, LONG_MAX)),
            "The most by which a segment is closed earlier, at random. Empty: see log.roll.jitter.hours.";
        "log.roll.jitter.hours" => log_roll_jitter_hours: integer(0, INT_MAX),
            "The same in hours; log.roll.jitter.ms beats it.";
        "log.message.timestamp.type" => (dynamic) log_message_timestamp_type:
            Kind::Choice(&["CreateTime", "LogAppendTime"]),
            "Whose time records carry: the producer's, or the broker's when it appends them.";
        "log.message.timestamp.before.max.ms" => (dynamic) log_message_timestamp_before_max:
            integer(0, LONG_MAX),
            "How far a record's time may lie in the past. The largest number means any.";
        "log.message.timestamp.after.max.ms" => (dynamic) log_message_timestamp_after_max:
            integer(0, LONG_MAX),
            "How far a record's time may lie in the future. The largest number means any.";
        "log.check.compressed.records" => log_check_compressed_records: Kind::Bool,
            "Whether the records of compressed batches are decompressed and checked when they are produced, as Kafka does. \
             false trusts producers: a body that is no such compression, a wrong record count or largest timestamp is stored as it comes, \
             and consumers may fail on it. Uncompressed batches are always checked.";
        "compression.type" => (dynamic) compression_type:
            Kind::Choice(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
            "How batches are compressed on disk; \"producer\" keeps them as they came.";
        "compression.gzip.level" => (dynamic) compression_gzip_level: limit(1, 9),
            "Level of compression.type=gzip; -1 is zlib's default.";
        "compression.lz4.level" => (dynamic) compression_lz4_level: integer(9, 9),
            "Level of compression.type=lz4. Accepted for compatibility: there is one level.";
        "compression.zstd.level" => (dynamic) compression_zstd_level: integer(-131_072, 22),
            "Level of compression.type=zstd.";
    }
    "Retention and compaction" {
        "log.cleanup.policy" => (dynamic) log_cleanup_policy:
            Kind::List { words: &["delete", "compact"], may_be_empty: false },
            "What happens to old records: delete drops them by age and size, compact keeps the newest record of each key.";
        "log.retention.ms" => (dynamic) log_retention_ms: finer(&limit(1, LONG_MAX)),
            "How long records are kept at least; -1 is for ever. Empty: see log.retention.minutes.";
        "log.retention.minutes" => log_retention_minutes: finer(&limit(1, INT_MAX)),
            "The same in minutes; log.retention.ms beats it. Empty: see log.retention.hours.";
        "log.retention.hours" => log_retention_hours: limit(1, INT_MAX),
            "The same in hours; both finer keys beat it.";
        "log.retention.bytes" => (dynamic) log_retention_bytes: limit(0, LONG_MAX),
            "Bytes of a partition above which its oldest segments are dropped; -1 is no bound.";
        "log.retention.check.interval.ms" => log_retention_check_interval: integer(1, LONG_MAX),
            "How often the broker looks for segments to delete.";
        "log.cleaner.min.cleanable.ratio" => (dynamic) log_cleaner_min_cleanable_ratio: Kind::Ratio,
            "A log is compacted when a larger share of its bytes than this is not compacted yet.";
        "log.cleaner.min.compaction.lag.ms" => (dynamic) log_cleaner_min_compaction_lag:
            integer(0, LONG_MAX),
            "How long a record stays uncompacted at least.";
        "log.cleaner.max.compaction.lag.ms" => (dynamic) log_cleaner_max_compaction_lag:
            integer(1, LONG_MAX),
            "How long a record stays uncompacted at most. The largest number means any.";
        "log.cleaner.delete.retention.ms" => (dynamic) log_cleaner_delete_retention: integer(0, LONG_MAX),
            "How long a compacted log keeps its tombstones readable.";
        "log.cleaner.dedupe.buffer.size" => (dynamic) log_cleaner_dedupe_buffer_bytes:
            integer(1 << 20, 1 << 40),
            "Memory for the keys of a log while it is compacted. Used only then.";
        "log.cleaner.backoff.ms" => (dynamic) log_cleaner_backoff: integer(0, LONG_MAX),
            "Pause of the cleaner when no log is worth compacting, and its first pause after a failure or a full disk, which doubles up to 15 minutes.";
        "log.initial.task.delay.ms" => log_initial_task_delay: integer(0, LONG_MAX),
            "How long after the start retention is first applied and the scrub begins.";
        "log.wal.bytes" => log_wal_bytes: integer(0, 1 << 40),
            "Size of each writer's write-ahead log, which syncs the appends to many logs together; 0 syncs each log by itself. Its earlier name, log.redo.bytes, is accepted.";
        "producer.id.expiration.ms" => (dynamic) producer_id_expiration: integer(1, INT_MAX),
            "How long a partition remembers the last batches of an idle producer, to recognise duplicates.";
        "log.scrub.bytes.per.second" => log_scrub_bytes_per_second: integer(0, 1 << 40),
            "Rate at which the scrub reads stored batches again and checks them, in the background; 0 turns it off.";
        "log.scrub.interval.ms" => log_scrub_interval: integer(1, LONG_MAX),
            "Pause of the scrub after it has checked all stored batches.";
    }
    "Groups" {
        "offsets.topic.num.partitions" => offsets_topic_partitions: integer(1, 10_000),
            "Partitions of __consumer_offsets. Only read when that topic is created, at the first start.";
        "offsets.retention.minutes" => offsets_retention_minutes: integer(1, INT_MAX),
            "How long committed offsets are kept after their group has lost its last member, or after their commit \
             if nobody has joined it.";
        "offsets.retention.check.interval.ms" => offsets_retention_check_interval:
            integer(1, LONG_MAX),
            "How often the broker looks for committed offsets that have expired, and for groups without offsets and members.";
        "group.initial.rebalance.delay.ms" => group_initial_rebalance_delay: integer(0, DAY_MS),
            "How long the first member of an empty group waits for others to join.";
        "group.min.session.timeout.ms" => group_min_session_timeout: integer(1, DAY_MS),
            "Shortest session timeout a member may ask for.";
        "group.max.session.timeout.ms" => group_max_session_timeout: integer(1, DAY_MS),
            "Longest session timeout a member may ask for.";
    }
    "Connections" {
        "max.connections" => (dynamic) max_connections: integer(1, 1_000_000),
            "Connections at a time. More wait until one is closed.";
        "connections.max.idle.ms" => connections_max_idle: integer(1_000, 365 * DAY_MS),
            "A connection silent for this long is closed.";
        "socket.request.max.bytes" => socket_request_max_bytes: integer(64 << 10, INT_MAX),
            "Largest request. Requests that carry no records have a lower bound of their own.";
        "queued.max.response.bytes" => queued_max_response_bytes: integer(16 << 20, 1 << 40),
            "Bytes of answers in memory that clients have not read yet; a sixteenth is for answers without records. A \
             fetch gets at most a sixteenth of what is free. When nothing is free, large answers wait, and clients \
             are disconnected that read nothing for 10 seconds, or less than 64 KiB/s for 30 seconds.";
    }
    "Streaming SQL" {
        "stream.checkpoint.interval.ms" => stream_checkpoint_interval: integer(10, DAY_MS),
            "Default of execution.checkpointing.interval: results become visible at each checkpoint.";
        "stream.parallelism" => stream_parallelism: integer(1, 128),
            "Default of parallelism.default: subtasks of an operator.";
        "stream.ring.bytes" => stream_ring_bytes: integer(64 << 10, 1 << 32),
            "Bound of each ring between two subtasks.";
        "stream.state.bytes.max" => stream_state_bytes_max: integer(64 << 10, 1 << 40),
            "Bound of one job's operator state in memory; a job that needs more fails and says so.";
    }
};

/// Keys of Kafka that Ottla knows of but does not honour yet, with what holds meanwhile.
pub(super) const NOT_IMPLEMENTED: &[(&str, &str)] = &[
    ("inter.broker.listener.name", "one broker has no others to talk to"),
    ("security.inter.broker.protocol", "one broker has no others to talk to"),
    ("controller.listener.names", "Ottla needs no controller"),
    ("max.connection.creation.rate", "see max.connections"),
    ("log.dir", "set data.dir instead"),
    ("log.dirs", "set data.dir instead"),
    ("log.flush.interval.messages", "see durability"),
    ("log.flush.interval.ms", "see durability"),
    ("max.connections.per.ip", "see max.connections"),
    ("num.network.threads", "threads follow the number of cores"),
    ("num.io.threads", "threads follow the number of cores"),
    ("transaction.max.timeout.ms", "client transactions are not offered"),
    ("authorizer.class.name", "there are no access controls"),
    ("sasl.enabled.mechanisms", "there is no authentication"),
    ("ssl.keystore.location", "there is no TLS"),
    ("ssl.truststore.location", "there is no TLS"),
    ("process.roles", "Ottla is one process with every role"),
    ("controller.quorum.voters", "Ottla needs no controller quorum"),
    ("zookeeper.connect", "Ottla needs no ZooKeeper"),
];
