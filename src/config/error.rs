//! What a config can get wrong. Every message names the key, where it stands and the next step.

use std::path::PathBuf;

use thiserror::Error;

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file given with `--config` cannot be read.
    #[error("config file {path}: {source}; check --config")]
    File {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("config file {path} is not valid TOML, line {line}: {reason}")]
    Toml {
        /// Which file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// The parser's words.
        reason: String,
    },
    /// A key is given twice in one file.
    #[error("{place}: config '{key}' is set twice; keep one")]
    Twice {
        /// File and line.
        place: String,
        /// Which key.
        key: String,
    },
    /// No such key.
    #[error("{place}: unknown config '{key}'; {hint}")]
    UnknownKey {
        /// File and line, flag, or variable.
        place: String,
        /// What was written.
        key: String,
        /// The nearest valid key, or where all of them are listed.
        hint: String,
    },
    /// A key of Kafka that does nothing here yet, so accepting it would deceive.
    #[error("{place}: config '{key}' is not implemented yet: {meanwhile}")]
    NotImplemented {
        /// File and line, flag, or variable.
        place: String,
        /// Which key.
        key: String,
        /// What holds instead.
        meanwhile: &'static str,
    },
    /// A value the key does not take.
    #[error("{place}: config '{key}' cannot be '{value}': it must be {allowed}")]
    Value {
        /// File and line, flag, or variable.
        place: String,
        /// Which key.
        key: String,
        /// What was written.
        value: String,
        /// What it takes.
        allowed: String,
    },
    /// Another value of a config that has only one here.
    #[error("{place}: config '{key}' cannot be '{value}': it is always {only}, since {because}")]
    Fixed {
        /// File and line, flag, or variable.
        place: String,
        /// Which key.
        key: &'static str,
        /// What was written.
        value: String,
        /// The value it has.
        only: String,
        /// Why.
        because: &'static str,
    },
    /// A `--set` without `=`.
    #[error("--set '{0}' has no '='; write --set key=value, for example --set num.partitions=4")]
    NoEquals(String),
    /// Two keys that contradict each other.
    #[error("{0}")]
    Contradiction(String),
}
