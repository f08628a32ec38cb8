//! Lays file, environment and flags over the defaults. A key is looked up in one place, whatever
//! source it came from, so that all three speak of it in the same words.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::fixed::{self, FIXED, Fixed};
use super::listeners::Endpoint;
use super::table::{self, Key, NOT_IMPLEMENTED};
use super::{Config, DynamicConfig, Listener};
use crate::types::ListenerName;

/// Where configs come from; later fields beat earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The process environment, or a test's.
    pub environment: Vec<(String, String)>,
    /// Flags, in the order they were given.
    pub flags: Vec<Setting>,
}

/// One `key = value` with the place that said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The config's key, unchecked.
    pub key: String,
    /// Its value, unchecked.
    pub value: String,
    /// Who said so.
    pub source: Source,
}

/// Where a setting was written, as an error names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A line of the config file.
    File {
        /// Which file.
        path: PathBuf,
        /// 1-based.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag, such as `--data-dir`.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Source::Environment(name) => write!(f, "environment variable {name}"),
            Source::Flag(flag) => f.write_str(flag),
        }
    }
}

impl Sources {
    /// Adds `--set key=value`.
    pub fn set(&mut self, assignment: &str) -> Result<(), ConfigError> {
        let (key, value) = assignment
            .split_once('=')
            .ok_or_else(|| ConfigError::NoEquals(assignment.to_owned()))?;
        self.flags.push(Setting {
            key: key.trim().to_owned(),
            value: value.trim().to_owned(),
            source: Source::Flag("--set"),
        });
        Ok(())
    }

    /// Adds a flag of its own, such as `--data-dir`.
    pub fn flag(&mut self, flag: &'static str, key: &str, value: String) {
        self.flags.push(Setting { key: key.to_owned(), value, source: Source::Flag(flag) });
    }
}

pub(super) fn load(sources: &Sources) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    let mut fixed = Vec::new();
    if let Some(path) = &sources.file {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::File { path: path.clone(), source })?;
        overlay(&mut config, from_file(path, &text)?, &mut fixed)?;
    }
    overlay(&mut config, from_environment(&sources.environment), &mut fixed)?;
    overlay(&mut config, sources.flags.clone(), &mut fixed)?;
    // At the end, since their values may follow from other keys.
    for (key, setting) in fixed {
        unchanged(&config, key, setting)?;
    }
    agree(&config)?;
    Ok(config)
}

/// Keys of Ottla's own that stand for one of Kafka's. Whichever of the two a stronger source sets
/// holds; one source may not set both.
const SHORT_FOR: &[(&str, &str)] =
    &[("kafka.listen", "listeners"), ("advertised.host", "advertised.listeners")];

/// Lays what one source says over the config.
fn overlay(
    config: &mut Config,
    settings: Vec<Setting>,
    fixed: &mut Vec<(&'static Fixed, Setting)>,
) -> Result<(), ConfigError> {
    let says = |key: &str| {
        settings.iter().rfind(|setting| setting.key == key && !setting.value.is_empty())
    };
    for (short, long) in SHORT_FOR {
        if let (Some(short), Some(long)) = (says(short), says(long))
            // The default file has every key.
            && !is_default(long)
        {
            return Err(ConfigError::Contradiction(format!(
                "{}: config '{}' is set and so is '{}' ({}), which says the same and more; keep \
                 one of them",
                short.source, short.key, long.key, long.source
            )));
        }
    }
    let is_short = says("kafka.listen").is_some();
    let is_long = says("listeners").is_some();
    let is_short_advertised = says("advertised.host").is_some();
    let is_long_advertised = says("advertised.listeners").is_some();
    for setting in settings {
        apply(config, setting, fixed)?;
    }
    if is_short {
        config.listeners = config.kafka_listen.map(Endpoint::plaintext).into_iter().collect();
    } else if is_long {
        config.kafka_listen = None;
    }
    if is_short_advertised {
        config.advertised_listeners = None;
    } else if is_long_advertised {
        config.advertised_host = None;
    }
    Ok(())
}

fn is_default(setting: &Setting) -> bool {
    let defaults = Config::default();
    table::find(&setting.key).is_some_and(|key| key.at_start(&defaults) == setting.value)
}

/// Sets the key, or leaves it in `fixed` if it has one value only.
fn apply(
    config: &mut Config,
    setting: Setting,
    fixed: &mut Vec<(&'static Fixed, Setting)>,
) -> Result<(), ConfigError> {
    if let Some(key) = fixed::find(&setting.key) {
        fixed.push((key, setting));
        return Ok(());
    }
    if let Some(key) = setting.key.strip_prefix("listener.name.") {
        return apply_to_listener(config, &setting, key);
    }
    let key = lookup(&setting)?;
    if key.set(config, &setting.value) {
        return Ok(());
    }
    Err(ConfigError::Value {
        place: setting.source.to_string(),
        key: key.name.to_owned(),
        value: setting.value.clone(),
        allowed: key.kind.allowed(),
    })
}

/// Refuses to set a key to another value than it has.
fn unchanged(config: &Config, key: &Fixed, setting: Setting) -> Result<(), ConfigError> {
    let only = (key.value)(config);
    if setting.value == only {
        return Ok(());
    }
    Err(ConfigError::Fixed {
        place: setting.source.to_string(),
        key: key.name,
        value: setting.value,
        only,
        because: key.because,
    })
}

/// A config of one listener: `key` is what follows `listener.name.`.
fn apply_to_listener(config: &mut Config, setting: &Setting, key: &str) -> Result<(), ConfigError> {
    let place = setting.source.to_string();
    let of_listener = key
        .strip_suffix(".max.connections")
        .and_then(|name| Some((ListenerName::parse(name).ok()?, table::find("max.connections")?)));
    let Some((listener, limit)) = of_listener else {
        let meanwhile =
            "the only config of a single listener is listener.name.<listener>.max.connections";
        return Err(ConfigError::NotImplemented { place, key: setting.key.clone(), meanwhile });
    };
    match setting.value.parse() {
        Ok(connections) if limit.kind.canonical(&setting.value).is_some() => {
            config.listener_connections_max.insert(listener, connections);
            Ok(())
        }
        _ => Err(ConfigError::Value {
            place,
            key: setting.key.clone(),
            value: setting.value.clone(),
            allowed: limit.kind.allowed(),
        }),
    }
}

fn lookup(setting: &Setting) -> Result<&'static Key, ConfigError> {
    if let Some(key) = table::find(table::current_name(&setting.key)) {
        return Ok(key);
    }
    let place = setting.source.to_string();
    if let Some((_, meanwhile)) = NOT_IMPLEMENTED.iter().find(|(name, _)| *name == setting.key) {
        return Err(ConfigError::NotImplemented { place, key: setting.key.clone(), meanwhile });
    }
    let hint = match super::nearest(&setting.key, table::KEYS.iter().map(|key| key.name)) {
        Some(name) => format!("did you mean '{name}'?"),
        None => "config/ottla.toml lists every config".to_owned(),
    };
    Err(ConfigError::UnknownKey { place, key: setting.key.clone(), hint })
}

/// Variables of other programs may begin with `OTTLA_` too (Kubernetes makes `OTTLA_SERVICE_HOST`
/// of a service's name), so only those that name a key are read.
fn from_environment(environment: &[(String, String)]) -> Vec<Setting> {
    // Earlier names first: where both are set, today's name wins.
    let earlier = table::RENAMED.iter().map(|(earlier, _)| *earlier);
    let keys = earlier
        .chain(table::KEYS.iter().map(|key| key.name))
        .chain(FIXED.iter().map(|key| key.name))
        .map(|key| (table::environment_name(key), key.to_owned()));
    // A variable cannot tell the '.' and '-' of a listener's name from '_'.
    let of_listeners = environment.iter().filter_map(|(variable, _)| {
        let name = variable.strip_prefix("OTTLA_LISTENER_NAME_")?;
        let name = name.strip_suffix("_MAX_CONNECTIONS")?.to_ascii_lowercase();
        Some((variable.clone(), format!("listener.name.{name}.max.connections")))
    });
    let settings = keys.chain(of_listeners).filter_map(|(name, key)| {
        let (_, value) = environment.iter().find(|(variable, _)| *variable == name)?;
        Some(Setting { key, value: value.clone(), source: Source::Environment(name) })
    });
    settings.collect()
}

fn from_file(path: &Path, text: &str) -> Result<Vec<Setting>, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| ConfigError::Toml {
        path: path.to_owned(),
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        reason: error.message().to_owned(),
    })?;
    let mut settings = Vec::new();
    flatten(path, text, "", table.get_ref(), &mut settings)?;
    let mut seen = HashSet::new();
    for setting in &settings {
        if !seen.insert(table::current_name(&setting.key)) {
            return Err(ConfigError::Twice {
                place: setting.source.to_string(),
                key: setting.key.clone(),
            });
        }
    }
    Ok(settings)
}

/// `log.segment.bytes = 1`, `"log.segment.bytes" = 1` and a `[log]` table all mean the same key.
fn flatten(
    path: &Path,
    text: &str,
    prefix: &str,
    table: &DeTable<'_>,
    settings: &mut Vec<Setting>,
) -> Result<(), ConfigError> {
    for (name, value) in table.iter() {
        let key = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        if let DeValue::Table(inner) = value.get_ref() {
            flatten(path, text, &key, inner, settings)?;
            continue;
        }
        let source = Source::File { path: path.to_owned(), line: line_of(text, name.span().start) };
        settings.push(Setting { key, value: scalar(text, value), source });
    }
    Ok(())
}

/// A scalar as `Value::parse` wants it; anything else stays as written and is refused there.
fn scalar(text: &str, value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::String(string) => string.to_string(),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Integer(integer) => match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => number.to_string(),
            Err(_) => integer.to_string(),
        },
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            text.get(value.span()).unwrap_or_default().to_owned()
        }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

fn agree(config: &Config) -> Result<(), ConfigError> {
    let (min, max) = (config.group_min_session_timeout, config.group_max_session_timeout);
    if min > max {
        return Err(ConfigError::Contradiction(format!(
            "config 'group.min.session.timeout.ms' ({}) is above 'group.max.session.timeout.ms' ({}); \
             no member could join: change one of them",
            min.as_millis(),
            max.as_millis()
        )));
    }
    agree_on_batches(config, config.dynamic.at_start())?;
    let http = config.http_listen;
    let is_http = |listener: &Listener| {
        let Endpoint { port, .. } = listener.endpoint;
        port != 0 && port == http.port() && listener.endpoint.ip() == Some(http.ip())
    };
    if let Some(listener) = config.kafka_listeners()?.into_iter().find(is_http) {
        return Err(ConfigError::Contradiction(format!(
            "config 'listeners' has {}, and 'http.listen' is {http}; give them different ports",
            listener.endpoint
        )));
    }
    Ok(())
}

/// Checks what the largest batch and the largest request together must not say.
pub(super) fn agree_on_batches(config: &Config, values: &DynamicConfig) -> Result<(), ConfigError> {
    if values.message_max_bytes as usize > config.socket_request_max_bytes {
        return Err(ConfigError::Contradiction(format!(
            "config 'message.max.bytes' ({}) is above 'socket.request.max.bytes' ({}); no request \
             could carry such a batch: raise the latter",
            values.message_max_bytes, config.socket_request_max_bytes
        )));
    }
    Ok(())
}
