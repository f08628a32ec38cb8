//! Lays file, environment and flags over the defaults. A key is looked up in one place, whatever
//! source it came from, so that all three speak of it in the same words.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Config;
use super::error::ConfigError;
use super::fixed::{self, FIXED, Fixed};
use super::table::{self, Key, NOT_IMPLEMENTED};

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
        for setting in from_file(path, &text)? {
            apply(&mut config, setting, &mut fixed)?;
        }
    }
    for setting in from_environment(&sources.environment) {
        apply(&mut config, setting, &mut fixed)?;
    }
    for setting in sources.flags.clone() {
        apply(&mut config, setting, &mut fixed)?;
    }
    // At the end, since their values may follow from other keys.
    for (key, setting) in fixed {
        unchanged(&config, key, setting)?;
    }
    agree(&config)?;
    Ok(config)
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
    let key = lookup(&setting)?;
    if key.kind.admits(&setting.value) && (key.set)(config, &setting.value) {
        return Ok(());
    }
    Err(ConfigError::Value {
        place: setting.source.to_string(),
        key: key.name,
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

fn lookup(setting: &Setting) -> Result<&'static Key, ConfigError> {
    if let Some(key) = table::find(table::current_name(&setting.key)) {
        return Ok(key);
    }
    let place = setting.source.to_string();
    if let Some((_, meanwhile)) = NOT_IMPLEMENTED.iter().find(|(name, _)| *name == setting.key) {
        return Err(ConfigError::NotImplemented { place, key: setting.key.clone(), meanwhile });
    }
    let hint = match table::nearest(&setting.key) {
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
    earlier
        .chain(table::KEYS.iter().map(|key| key.name))
        .chain(FIXED.iter().map(|key| key.name))
        .filter_map(|key| {
            let name = table::environment_name(key);
            let (_, value) = environment.iter().find(|(variable, _)| *variable == name)?;
            Some(Setting {
                key: key.to_owned(),
                value: value.clone(),
                source: Source::Environment(name),
            })
        })
        .collect()
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
    if config.message_max_bytes as usize > config.socket_request_max_bytes {
        return Err(ConfigError::Contradiction(format!(
            "config 'message.max.bytes' ({}) is above 'socket.request.max.bytes' ({}); no request \
             could carry such a batch: raise the latter",
            config.message_max_bytes, config.socket_request_max_bytes
        )));
    }
    if config.kafka_listen.port() != 0 && config.kafka_listen == config.http_listen {
        return Err(ConfigError::Contradiction(format!(
            "config 'kafka.listen' and 'http.listen' are both {}; give them different ports",
            config.kafka_listen
        )));
    }
    Ok(())
}
