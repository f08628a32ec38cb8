//! The `WITH` clause of a table over a topic: each key of Flink's kafka connector is known, and acted
//! on, or refused by name.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use datafusion_sql::sqlparser::tokenizer::Location;

use super::fault::{Fault, Result};
use crate::config::{Config, Endpoint, Listener};
use crate::stream::graph::{Emit, Format, Json, Startup};
use crate::types::{Timestamp, TopicName};

/// A table's options, understood.
#[derive(Clone, Debug)]
pub(super) struct TableOptions {
    pub(super) topic: String,
    pub(super) format: Format,
    pub(super) startup: Startup,
    pub(super) group: Option<String>,
    pub(super) emit: Option<Emit>,
    pub(super) idle_timeout: Option<Duration>,
}

/// Keys that a table of ours acts on.
const KNOWN: [&str; 15] = [
    "connector",
    "topic",
    "format",
    "value.format",
    "scan.startup.mode",
    "scan.startup.timestamp-millis",
    "scan.watermark.emit.strategy",
    "scan.watermark.idle-timeout",
    "properties.bootstrap.servers",
    "properties.group.id",
    "properties.auto.offset.reset",
    "json.ignore-parse-errors",
    "json.fail-on-missing-field",
    "json.timestamp-format.standard",
    "json.encode.decimal-as-plain-number",
];

/// Keys of Flink's connector that are accepted because nothing they say is untrue here: the sink is
/// exactly-once whatever is asked for, and partitions are discovered at once.
const ACCEPTED: [&str; 3] = [
    "sink.transactional-id-prefix",
    "scan.topic-partition-discovery.interval",
    "properties.transaction.timeout.ms",
];

/// Keys that may only have the value that describes what happens anyway.
const FIXED: [(&str, &[&str]); 7] = [
    ("scan.bounded.mode", &["unbounded"]),
    ("value.fields-include", &["ALL"]),
    ("sink.partitioner", &["default"]),
    ("sink.delivery-guarantee", &["exactly-once", "at-least-once", "none"]),
    ("json.map-null-key.mode", &["FAIL"]),
    ("json.encode.ignore-null-fields", &["false"]),
    ("json.decode.json-parser.enabled", &["true", "false"]),
];

/// Keys of Flink's connector that would change what a job does, and are not there yet.
const UNSUPPORTED: [&str; 14] = [
    "topic-pattern",
    "key.format",
    "key.fields",
    "key.fields-prefix",
    "scan.startup.specific-offsets",
    "scan.bounded.specific-offsets",
    "scan.bounded.timestamp-millis",
    "scan.parallelism",
    "scan.watermark.emit.on-event.gap",
    "scan.watermark.alignment.group",
    "scan.watermark.alignment.max-drift",
    "scan.watermark.alignment.update-interval",
    "sink.parallelism",
    "json.map-null-key.literal",
];

/// Periodic watermarks are sent this often, as `pipeline.auto-watermark-interval` has it.
pub(super) const EMIT_PERIOD: Duration = Duration::from_millis(200);

struct Options<'a> {
    values: BTreeMap<&'a str, (&'a str, Location)>,
}

impl<'a> Options<'a> {
    fn value(&self, key: &str) -> Option<(&'a str, Location)> {
        self.values.get(key).copied()
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.value(key) {
            None => Ok(false),
            Some((value, _)) if value.eq_ignore_ascii_case("true") => Ok(true),
            Some((value, _)) if value.eq_ignore_ascii_case("false") => Ok(false),
            Some((value, at)) => Err(wrong_value(key, value, &["true", "false"]).at(at)),
        }
    }
}

/// Understands a `WITH` clause.
pub(super) fn parse(
    options: &[(String, String, Location)],
    config: &Config,
) -> Result<TableOptions> {
    let mut values = BTreeMap::new();
    for (key, value, at) in options {
        check_key(key, value).map_err(|fault| fault.at(*at))?;
        if values.insert(key.as_str(), (value.as_str(), *at)).is_some() {
            return Err(Fault::new(format!("option '{key}' is given twice")).at(*at));
        }
    }
    let options = Options { values };
    match options.value("connector") {
        Some(("kafka", _)) => {}
        Some((other, at)) => {
            return Err(Fault::unsupported(format!("connector '{other}'"))
                .at(at)
                .hint("'kafka' is"));
        }
        None => {
            return Err(Fault::new("option 'connector' is missing")
                .hint("add WITH ('connector' = 'kafka', 'topic' = …, 'format' = 'json')"));
        }
    }
    if let Some((servers, at)) = options.value("properties.bootstrap.servers") {
        check_servers(servers, config).map_err(|fault| fault.at(at))?;
    }
    Ok(TableOptions {
        topic: topic(&options)?,
        format: format(&options)?,
        startup: startup(&options)?,
        group: options.value("properties.group.id").map(|(group, _)| group.to_owned()),
        emit: emit(&options)?,
        idle_timeout: idle_timeout(&options)?,
    })
}

fn check_key(key: &str, value: &str) -> Result<()> {
    if KNOWN.contains(&key) || ACCEPTED.contains(&key) {
        return Ok(());
    }
    if let Some((_, allowed)) = FIXED.iter().find(|(name, _)| *name == key) {
        return match allowed.contains(&value) {
            true => Ok(()),
            false => Err(Fault::unsupported(format!("'{key}' = '{value}'"))
                .hint(format!("{} is", quoted(allowed)))),
        };
    }
    if UNSUPPORTED.contains(&key) {
        return Err(Fault::unsupported(format!("option '{key}'")));
    }
    // Settings of Kafka's own clients: there is no client between the job and its topic.
    if key.starts_with("properties.") {
        return Ok(());
    }
    let names = KNOWN.iter().chain(&ACCEPTED).copied().chain(FIXED.iter().map(|(name, _)| *name));
    Err(Fault::unknown("option", key, names))
}

fn topic(options: &Options<'_>) -> Result<String> {
    let Some((topic, at)) = options.value("topic") else {
        return Err(Fault::new("option 'topic' is missing").hint("add 'topic' = '<name>'"));
    };
    if topic.contains(';') {
        return Err(Fault::unsupported("a list of topics").at(at).hint("name one topic"));
    }
    TopicName::parse(topic).map_err(|error| Fault::new(error.to_string()).at(at))?;
    Ok(topic.to_owned())
}

fn format(options: &Options<'_>) -> Result<Format> {
    let (format, value_format) = (options.value("format"), options.value("value.format"));
    match (format, value_format) {
        (Some(("json", _)), None) | (None, Some(("json", _))) => {}
        (Some(_), Some((_, at))) => {
            return Err(Fault::new("'format' and 'value.format' exclude each other").at(at));
        }
        (Some((other, at)), None) | (None, Some((other, at))) => {
            return Err(Fault::unsupported(format!("format '{other}'")).at(at).hint("'json' is"));
        }
        (None, None) => {
            return Err(Fault::new("option 'format' is missing").hint("add 'format' = 'json'"));
        }
    }
    let json = Json {
        ignore_parse_errors: options.flag("json.ignore-parse-errors")?,
        fail_on_missing_field: options.flag("json.fail-on-missing-field")?,
        timestamp_iso: match options.value("json.timestamp-format.standard") {
            None | Some(("SQL", _)) => false,
            Some(("ISO-8601", _)) => true,
            Some((other, at)) => {
                let key = "json.timestamp-format.standard";
                return Err(wrong_value(key, other, &["SQL", "ISO-8601"]).at(at));
            }
        },
        decimal_as_plain_number: options.flag("json.encode.decimal-as-plain-number")?,
    };
    if json.ignore_parse_errors && json.fail_on_missing_field {
        return Err(Fault::new(
            "'json.ignore-parse-errors' and 'json.fail-on-missing-field' exclude each other",
        ));
    }
    Ok(Format::Json(json))
}

fn startup(options: &Options<'_>) -> Result<Startup> {
    let key = "scan.startup.mode";
    let modes = ["earliest-offset", "latest-offset", "group-offsets", "timestamp"];
    match options.value(key) {
        Some(("earliest-offset", _)) => Ok(Startup::Earliest),
        Some(("latest-offset", _)) => Ok(Startup::Latest),
        Some(("timestamp", at)) => {
            let millis = options.value("scan.startup.timestamp-millis");
            match millis.map(|(millis, at)| (millis.parse(), at)) {
                Some((Ok(millis), _)) => Ok(Startup::Timestamp(Timestamp(millis))),
                Some((Err(_), at)) => {
                    Err(Fault::new("'scan.startup.timestamp-millis' is not a number").at(at))
                }
                None => Err(Fault::new("'scan.startup.timestamp-millis' is missing").at(at)),
            }
        }
        Some(("specific-offsets", at)) => {
            Err(Fault::unsupported(format!("'{key}' = 'specific-offsets'")).at(at))
        }
        None | Some(("group-offsets", _)) => group_offsets(options),
        Some((other, at)) => Err(wrong_value(key, other, &modes).at(at)),
    }
}

fn group_offsets(options: &Options<'_>) -> Result<Startup> {
    let key = "properties.auto.offset.reset";
    let reset = match options.value(key) {
        None | Some(("none", _)) => None,
        Some(("earliest", _)) => Some(Box::new(Startup::Earliest)),
        Some(("latest", _)) => Some(Box::new(Startup::Latest)),
        Some((other, at)) => {
            return Err(wrong_value(key, other, &["earliest", "latest", "none"]).at(at));
        }
    };
    Ok(Startup::GroupOffsets { reset })
}

fn emit(options: &Options<'_>) -> Result<Option<Emit>> {
    let key = "scan.watermark.emit.strategy";
    match options.value(key) {
        None => Ok(None),
        Some(("on-periodic", _)) => Ok(Some(Emit::Periodic(EMIT_PERIOD))),
        Some(("on-event", _)) => Ok(Some(Emit::OnEvent)),
        Some((other, at)) => Err(wrong_value(key, other, &["on-periodic", "on-event"]).at(at)),
    }
}

fn idle_timeout(options: &Options<'_>) -> Result<Option<Duration>> {
    match options.value("scan.watermark.idle-timeout") {
        None => Ok(None),
        Some((text, at)) => match parse_duration(text).map_err(|fault| fault.at(at))? {
            // Flink reads 0 as "no time-out".
            Duration::ZERO => Ok(None),
            timeout => Ok(Some(timeout)),
        },
    }
}

/// Every address must be this broker's: a job reads and writes it in process.
fn check_servers(servers: &str, config: &Config) -> Result<()> {
    for server in servers.split(',').map(str::trim) {
        let Some((host, port)) = server.rsplit_once(':') else {
            return Err(Fault::new(format!("'{server}' is not host:port")));
        };
        let listeners = config.kafka_listeners().unwrap_or_default();
        if !listeners.iter().any(|listener| is_reached_at(listener, host, port)) {
            return Err(Fault::new(format!("'{server}' is not this broker"))
                .hint("leave 'properties.bootstrap.servers' out: jobs read this broker's topics"));
        }
    }
    Ok(())
}

/// Whether `host:port` is where a listener is, or what its clients are told.
fn is_reached_at(listener: &Listener, host: &str, port: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    // With port 0 the broker listens on a port that it does not know beforehand.
    let is_port = |own: u16| own == 0 || port.parse() == Ok(own);
    let Endpoint { host: own_host, port: own_port, .. } = &listener.endpoint;
    let is_told = listener.advertised.as_ref().is_some_and(|told| {
        told.host.as_deref() == Some(host) && is_port(told.port.unwrap_or(*own_port))
    });
    let (ip, own_ip) = (host.parse::<IpAddr>().ok(), listener.endpoint.ip());
    let is_local = host.eq_ignore_ascii_case("localhost") || ip.is_some_and(|ip| ip.is_loopback());
    let is_own_host = own_host.eq_ignore_ascii_case(host) || (ip.is_some() && ip == own_ip);
    let answers_locally = own_host.eq_ignore_ascii_case("localhost")
        || listener.endpoint.named_host().is_none()
        || own_ip.is_some_and(|ip| ip.is_loopback());
    is_told || (is_port(*own_port) && (is_own_host || (is_local && answers_locally)))
}

fn wrong_value(key: &str, value: &str, allowed: &[&str]) -> Fault {
    Fault::new(format!("'{value}' is not a value of '{key}'"))
        .hint(format!("it is one of {}", quoted(allowed)))
}

fn quoted(values: &[&str]) -> String {
    values.iter().map(|value| format!("'{value}'")).collect::<Vec<_>>().join(", ")
}

/// Flink's durations: `10 s`, `500ms`, `1 min`; a bare number is milliseconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration> {
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let nanos: u64 = match unit.trim().to_lowercase().as_str() {
        "" | "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
        "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => 1,
        "us" | "µs" | "micro" | "micros" | "microsecond" | "microseconds" => 1_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
        "m" | "min" | "minute" | "minutes" => 60_000_000_000,
        "h" | "hour" | "hours" => 3_600_000_000_000,
        "d" | "day" | "days" => 86_400_000_000_000,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(nanos)) {
        Some(total) if nanos > 0 => Ok(Duration::from_nanos(total)),
        _ => Err(Fault::new(format!("'{text}' is not a duration"))
            .hint("write a number and a unit: '10 s', '500 ms', '1 min'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(options: &[(&str, &str)]) -> Result<TableOptions> {
        let base = [("connector", "kafka"), ("topic", "clicks"), ("format", "json")];
        let options: Vec<_> = base
            .iter()
            .chain(options)
            .map(|(key, value)| {
                (key.to_string(), value.to_string(), Location { line: 0, column: 0 })
            })
            .collect();
        parse(&options, &Config::default())
    }

    #[test]
    fn the_default_start_is_the_groups_offsets_as_in_flink() {
        assert_eq!(with(&[]).unwrap().startup, Startup::GroupOffsets { reset: None });
        let reset = with(&[("properties.auto.offset.reset", "earliest")]).unwrap().startup;
        assert_eq!(reset, Startup::GroupOffsets { reset: Some(Box::new(Startup::Earliest)) });
    }

    #[test]
    fn an_unknown_option_names_the_nearest() {
        assert_eq!(
            with(&[("scan.startup.modus", "x")]).unwrap_err().to_string(),
            "unknown option 'scan.startup.modus'; did you mean 'scan.startup.mode'?"
        );
    }

    #[test]
    fn only_this_broker_may_be_the_bootstrap_server() {
        let servers = |servers| with(&[("properties.bootstrap.servers", servers)]);
        assert!(servers("localhost:9092").is_ok());
        assert!(servers("127.0.0.1:9092,localhost:9092").is_ok());
        assert!(servers("localhost:9093").is_err());
        assert!(servers("kafka.example.com:9092").is_err());
    }

    #[test]
    fn any_listener_of_this_broker_may_be_the_bootstrap_server() {
        let mut sources = crate::config::Sources::default();
        for setting in [
            "listeners=PLAINTEXT://:9092,LAN://10.0.0.1:9093",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,LAN:PLAINTEXT",
            "advertised.listeners=PLAINTEXT://broker.example:19092,LAN://10.0.0.1:9093",
        ] {
            sources.set(setting).unwrap();
        }
        let config = Config::load(&sources).unwrap();
        for ours in ["broker.example:19092", "localhost:9092", "[::1]:9092", "10.0.0.1:9093"] {
            assert!(check_servers(ours, &config).is_ok(), "{ours}");
        }
        for other in ["broker.example:9092", "localhost:9093", "10.0.0.1:9092"] {
            assert!(check_servers(other, &config).is_err(), "{other}");
        }
    }

    #[test]
    fn durations_read_as_in_flink() {
        assert_eq!(parse_duration("10 s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("3"), Ok(Duration::from_millis(3)));
        assert!(parse_duration("ten seconds").is_err());
        assert!(parse_duration("99999999999999999999 d").is_err());
    }
}
