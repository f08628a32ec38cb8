//! Sources, precedence and what is said about mistakes.

use std::io::Write;

use super::*;

fn file(text: &str) -> (tempfile::NamedTempFile, Sources) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
    (file, sources)
}

fn refusal(sources: &Sources) -> String {
    Config::load(sources).unwrap_err().to_string()
}

fn flags(assignments: &[&str]) -> Sources {
    let mut sources = Sources::default();
    for assignment in assignments {
        sources.set(assignment).unwrap();
    }
    sources
}

#[test]
fn the_default_file_is_what_the_table_renders() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/ottla.toml");
    if std::env::var_os("OTTLA_WRITE_DEFAULT_FILE").is_some() {
        std::fs::write(path, Config::default_file()).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        Config::default_file(),
        "run the test once with OTTLA_WRITE_DEFAULT_FILE=1 and commit the file"
    );
}

#[test]
fn the_default_file_says_nothing_but_the_defaults() {
    let (_file, sources) = file(&Config::default_file());
    let config = Config::load(&sources).unwrap();
    assert!(
        config.entries().iter().all(|entry| entry
            .origins
            .first()
            .is_none_or(|(origin, _)| *origin == Origin::Default))
    );
    for key in table::KEYS {
        assert!(key.kind.canonical(&key.at_start(&Config::default())).is_some(), "{}", key.name);
    }
}

#[test]
fn flat_quoted_and_nested_keys_mean_the_same() {
    for text in [
        "log.segment.bytes = 65536",
        "\"log.segment.bytes\" = 65_536",
        "[log]\nsegment.bytes = 0x10000",
        "[log.segment]\nbytes = \"65536\"",
    ] {
        let (_file, sources) = file(text);
        assert_eq!(
            Config::load(&sources).unwrap().dynamic.load().log_segment_bytes,
            65536,
            "{text}"
        );
    }
}

#[test]
fn flags_beat_environment_which_beats_the_file() {
    let (_file, mut sources) = file(
        "num.partitions = 2\ndata.dir = \"from-file\"\nnode.id = 7\nkafka.listen = \"localhost:1\"",
    );
    sources.environment = vec![
        ("OTTLA_NUM_PARTITIONS".to_owned(), "3".to_owned()),
        ("OTTLA_DATA_DIR".to_owned(), "from-environment".to_owned()),
        ("OTTLA_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned()),
    ];
    sources.set("num.partitions=4").unwrap();
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.num_partitions, 4);
    assert_eq!(config.data_dir, PathBuf::from("from-environment"));
    assert_eq!(config.node_id, 7);
    assert_eq!(config.text("listeners"), "PLAINTEXT://127.0.0.1:1");
}

#[test]
fn an_earlier_name_of_a_key_sets_the_same() {
    let (_file, mut sources) = file("log.redo.bytes = 1048576");
    assert_eq!(Config::load(&sources).unwrap().log_wal_bytes, 1 << 20);
    sources.environment = vec![("OTTLA_LOG_REDO_BYTES".to_owned(), "2097152".to_owned())];
    assert_eq!(Config::load(&sources).unwrap().log_wal_bytes, 2 << 20);
    sources.environment.push(("OTTLA_LOG_WAL_BYTES".to_owned(), "4194304".to_owned()));
    assert_eq!(Config::load(&sources).unwrap().log_wal_bytes, 4 << 20);
    sources.set("log.redo.bytes=0").unwrap();
    assert_eq!(Config::load(&sources).unwrap().log_wal_bytes, 0);
    let (_file, both) = file("log.redo.bytes = 0\nlog.wal.bytes = 0");
    assert!(refusal(&both).contains("log.wal.bytes"), "{}", refusal(&both));
}

#[test]
fn a_wrong_key_is_named_with_its_place_and_the_nearest_valid_one() {
    let (_file, sources) = file("node.id = 1\n\nnum.partition = 4\n");
    let said = refusal(&sources);
    assert!(said.contains(", line 3: unknown config 'num.partition'"), "{said}");
    assert!(said.ends_with("did you mean 'num.partitions'?"), "{said}");
    assert_eq!(
        refusal(&flags(&["nonsense=1"])),
        "--set: unknown config 'nonsense'; config/ottla.toml lists every config"
    );
}

#[test]
fn a_wrong_value_is_named_with_what_is_allowed() {
    assert_eq!(
        refusal(&flags(&["num.partitions=many"])),
        "--set: config 'num.partitions' cannot be 'many': it must be a whole number from 1 to 10000"
    );
    assert_eq!(
        refusal(&flags(&["durability=ram"])),
        "--set: config 'durability' cannot be 'ram': it must be disk or page-cache"
    );
    assert_eq!(
        refusal(&flags(&["advertised.host=broker.example:9092"])),
        "--set: config 'advertised.host' cannot be 'broker.example:9092': it must be a host name \
         or address without a port, like broker.example"
    );
    let (_file, sources) = file("advertised.host = \" \"");
    assert!(refusal(&sources).contains("'advertised.host' cannot be ' '"));
    assert!(Config::load(&flags(&["advertised.host=fe80::1"])).is_ok());
    let (_file, sources) = file("num.partitions = 1.5");
    assert!(refusal(&sources).contains("cannot be '1.5'"));
    let (_file, sources) = file("node.id = -1");
    assert!(refusal(&sources).contains("cannot be '-1'"));
    let environment = vec![("OTTLA_HTTP_LISTEN".to_owned(), "9644".to_owned())];
    let sources = Sources { environment, ..Sources::default() };
    assert!(refusal(&sources).starts_with("environment variable OTTLA_HTTP_LISTEN: config"));
}

#[test]
fn keys_of_kafka_without_effect_are_refused_by_name() {
    assert_eq!(
        refusal(&flags(&["log.flush.interval.ms=1000"])),
        "--set: config 'log.flush.interval.ms' is not implemented yet: see durability"
    );
    for (name, _) in table::NOT_IMPLEMENTED {
        assert!(table::find(name).is_none(), "{name} is implemented");
        assert!(fixed::find(name).is_none(), "{name} has a value");
    }
}

#[test]
fn keys_with_one_value_take_that_one_and_no_other() {
    let config = Config::load(&flags(&["min.insync.replicas=1", "broker.id=7", "node.id=7"]));
    assert_eq!(config.unwrap().text("broker.id"), "7");
    assert_eq!(
        refusal(&flags(&["offsets.topic.replication.factor=3"])),
        "--set: config 'offsets.topic.replication.factor' cannot be '3': it is always 1, since one \
         machine keeps one copy of each record"
    );
    let (_file, sources) = file("broker.id = 2\nnode.id = 3\n");
    assert!(refusal(&sources).contains("line 1: config 'broker.id' cannot be '2'"));
    let environment = vec![("OTTLA_DELETE_TOPIC_ENABLE".to_owned(), "false".to_owned())];
    let sources = Sources { environment, ..Sources::default() };
    assert!(
        refusal(&sources).starts_with("environment variable OTTLA_DELETE_TOPIC_ENABLE: config")
    );
    let names: Vec<_> = fixed::FIXED.iter().map(|key| key.name).collect();
    assert!(names.is_sorted() && names.iter().all(|name| table::find(name).is_none()));
}

#[test]
fn the_finest_unit_of_a_period_wins() {
    let retention =
        |assignments: &[&str]| Config::load(&flags(assignments)).unwrap().log_retention();
    assert_eq!(retention(&[]), Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(retention(&["log.retention.hours=2"]), Some(Duration::from_secs(7_200)));
    let minutes = "log.retention.minutes=3";
    assert_eq!(retention(&["log.retention.hours=-1", minutes]), Some(Duration::from_secs(180)));
    assert_eq!(retention(&["log.retention.ms=-1", minutes]), None);
    assert_eq!(retention(&["log.retention.ms=5", minutes]), Some(Duration::from_millis(5)));
    let roll = |assignments: &[&str]| Config::load(&flags(assignments)).unwrap();
    assert_eq!(roll(&["log.roll.hours=1"]).log_roll(), Duration::from_secs(3_600));
    assert_eq!(roll(&["log.roll.hours=1", "log.roll.ms=9"]).log_roll(), Duration::from_millis(9));
    assert_eq!(roll(&[]).log_roll_jitter(), Duration::ZERO);
    assert_eq!(roll(&["log.roll.jitter.ms=4"]).log_roll_jitter(), Duration::from_millis(4));
    assert_eq!(
        Config::load(&flags(&["log.retention.ms="])).unwrap().dynamic.load().log_retention_ms,
        None
    );
}

#[test]
fn bounds_of_the_logs_configs_are_kafkas() {
    for wrong in [
        "log.retention.ms=0",
        "log.retention.hours=-2",
        "log.retention.bytes=-2",
        "log.roll.ms=0",
        "log.roll.ms=-1",
        "log.roll.hours=0",
        "log.cleaner.min.cleanable.ratio=1.1",
        "log.cleaner.min.cleanable.ratio=NaN",
        "log.cleanup.policy=drop",
        "log.cleanup.policy=",
        "compression.type=brotli",
        "compression.gzip.level=0",
        "compression.zstd.level=23",
        "compression.lz4.level=3",
        "log.message.timestamp.type=createtime",
    ] {
        assert!(Config::load(&flags(&[wrong])).is_err(), "{wrong}");
    }
    let config = Config::load(&flags(&[
        "log.retention.bytes=-1",
        "log.cleaner.min.cleanable.ratio=0.01",
        "log.cleanup.policy=delete, compact",
        "compression.type=zstd",
        "compression.zstd.level=-5",
        "compression.gzip.level=-1",
        "log.message.timestamp.type=LogAppendTime",
        "log.message.timestamp.after.max.ms=9223372036854775807",
    ]))
    .unwrap();
    let config = config.dynamic.load();
    assert_eq!(config.log_retention_bytes, None);
    assert_eq!(config.log_cleanup_policy, CleanupPolicy { delete: true, compact: true });
    assert_eq!(config.compression_type, Compression::Zstd);
    assert_eq!(config.log_message_timestamp_type, TimestampType::LogAppendTime);
    let said = refusal(&flags(&["log.retention.ms=soon"]));
    assert!(said.contains("it must be nothing or -1 or a whole number from 1"), "{said}");
}

#[test]
fn broken_files_are_named_with_their_line() {
    let (_file, sources) = file("node.id = 1\nnum.partitions = = 2\n");
    let said = refusal(&sources);
    assert!(said.contains("is not valid TOML, line 2"), "{said}");
    let (_file, sources) = file("\"node.id\" = 1\nnode.id = 2\n");
    assert!(refusal(&sources).contains("config 'node.id' is set twice"));
    let sources = Sources { file: Some("absent.toml".into()), ..Sources::default() };
    assert!(refusal(&sources).starts_with("config file absent.toml: "));
}

#[test]
fn contradicting_keys_are_refused() {
    let said = refusal(&flags(&["group.min.session.timeout.ms=2000000"]));
    assert!(said.contains("is above 'group.max.session.timeout.ms'"), "{said}");
    let said = refusal(&flags(&["http.listen=127.0.0.1:9092"]));
    assert!(said.contains("different ports"), "{said}");
}

#[test]
fn every_key_has_a_name_of_its_own_in_the_environment() {
    let mut names: Vec<_> =
        table::KEYS.iter().map(|key| table::environment_name(key.name)).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), table::KEYS.len());
    assert!(names.contains(&"OTTLA_LOG_SEGMENT_BYTES".to_owned()));
}

fn overlay(pairs: &[(&str, &str)]) -> Overlay {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect()
}

#[test]
fn what_is_set_while_running_beats_the_start_and_a_broker_beats_the_cluster() {
    let config = Config::load(&flags(&["log.retention.ms=7", "log.segment.bytes=5000"])).unwrap();
    let shared = config.dynamic.share();
    let copy = config.clone();
    config.overlay(Overlays {
        cluster: overlay(&[("log.retention.ms", "8"), ("message.max.bytes", "2000")]),
        broker: overlay(&[("log.retention.ms", "9")]),
    });
    assert_eq!(shared.load().log_retention_ms, Some(9));
    assert_eq!((shared.load().message_max_bytes, shared.load().log_segment_bytes), (2000, 5000));
    assert_eq!(copy.dynamic.load().log_retention_ms, Some(7), "a copy is on its own");
    let entry = config.entry("log.retention.ms").unwrap();
    let of = |origin, value: &str| (origin, value.to_owned());
    let origins = [of(Origin::Broker, "9"), of(Origin::Cluster, "8"), of(Origin::Start, "7")];
    assert_eq!((entry.value.as_deref(), entry.origins), (Some("9"), origins.into()));
    assert!(entry.is_dynamic);
    config.overlay(Overlays::default());
    assert_eq!(config.log_retention(), Some(Duration::from_millis(7)));
    assert_eq!(config.text("message.max.bytes"), "1048588");
}

#[test]
fn what_cannot_be_set_while_running_is_refused() {
    let refusal = |name| DynamicKey::find(name).err().unwrap();
    assert!(
        refusal("num.partitions")
            .starts_with("Cannot update these configs dynamically: [num.partitions]")
    );
    assert!(refusal("broker.id").contains("dynamically"));
    assert!(refusal("log.retention.mss").contains("did you mean 'log.retention.ms'?"));
    let bytes = DynamicKey::find("message.max.bytes").unwrap();
    assert_eq!(bytes.checked(" 2000 ").as_deref(), Ok("2000"));
    let said = bytes.checked("abc").unwrap_err();
    assert!(said.starts_with("Invalid value abc for configuration message.max.bytes: "), "{said}");
    let emptied = DynamicKey::find("log.retention.ms").unwrap().checked("").unwrap_err();
    assert!(emptied.contains("it must be -1 or a whole number"), "{emptied}");
    let config = Config::default();
    let above = Overlays {
        cluster: overlay(&[("message.max.bytes", "2147483647")]),
        ..Overlays::default()
    };
    assert!(config.check_overlays(&above).unwrap_err().contains("socket.request.max.bytes"));
    // What a later version left: the rest holds.
    let odd = [("no.such", "1"), ("log.retention.ms", "soon"), ("log.segment.bytes", "4096")];
    config.overlay(Overlays { cluster: overlay(&odd), ..Overlays::default() });
    assert_eq!(config.dynamic.load().log_segment_bytes, 4096);
    assert_eq!(config.dynamic.load().log_retention_ms, None);
}
