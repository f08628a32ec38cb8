//! What SET may say: each key acts, or is refused by name.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fault::{Fault, Result};
use super::options::parse_duration;
use super::types::UTC;
use crate::config::Config;
use crate::stream::job::JobOptions;

/// A session's properties.
pub(super) type Settings = BTreeMap<String, String>;

const CHECKPOINT_INTERVAL: &str = "execution.checkpointing.interval";
const PARALLELISM: &str = "parallelism.default";
const JOB_NAME: &str = "pipeline.name";

const KNOWN: [&str; 3] = [CHECKPOINT_INTERVAL, PARALLELISM, JOB_NAME];

/// Keys that may only say what happens anyway.
const FIXED: [(&str, &[&str]); 8] = [
    ("execution.runtime-mode", &["streaming", "STREAMING"]),
    ("execution.checkpointing.mode", &["EXACTLY_ONCE", "exactly-once"]),
    ("table.local-time-zone", &[UTC]),
    ("table.dml-sync", &["false"]),
    ("table.sql-dialect", &["default"]),
    ("table.exec.sink.not-null-enforcer", &["ERROR", "error"]),
    ("table.exec.sink.type-length-enforcer", &["IGNORE", "ignore"]),
    ("pipeline.auto-watermark-interval", &["200ms", "200 ms", "200"]),
];

/// More subtasks than this only wait for each other on one machine.
const PARALLELISM_MAX: usize = 128;
const CHECKPOINT_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Checks one `SET 'key' = 'value'`.
pub(super) fn check(key: &str, value: &str) -> Result<()> {
    match key {
        CHECKPOINT_INTERVAL => checkpoint_interval(value).map(drop),
        PARALLELISM => parallelism(value).map(drop),
        JOB_NAME => Ok(()),
        // How Flink's SQL client shows results is the client's business.
        _ if key.starts_with("sql-client.") => Ok(()),
        _ => match FIXED.iter().find(|(name, _)| *name == key) {
            Some((_, allowed)) if allowed.contains(&value) => Ok(()),
            Some((_, allowed)) => Err(Fault::unsupported(format!("'{key}' = '{value}'"))
                .hint(format!("'{}' is", allowed[0]))),
            None => {
                let names = KNOWN.iter().copied().chain(FIXED.iter().map(|(name, _)| *name));
                Err(Fault::unknown("property", key, names))
            }
        },
    }
}

/// How a job of the session runs.
pub(super) fn job_options(settings: &Settings, config: &Config) -> Result<JobOptions> {
    Ok(JobOptions {
        checkpoint_interval: match settings.get(CHECKPOINT_INTERVAL) {
            Some(value) => checkpoint_interval(value)?,
            None => config.stream_checkpoint_interval,
        },
        parallelism: match settings.get(PARALLELISM) {
            Some(value) => parallelism(value)?,
            None => config.stream_parallelism,
        },
    })
}

/// `pipeline.name`, or Flink's name for an INSERT.
pub(super) fn job_name(settings: &Settings, sinks: &[String]) -> String {
    match settings.get(JOB_NAME) {
        Some(name) => name.clone(),
        None => format!("insert-into_{}", sinks.join("_")),
    }
}

fn checkpoint_interval(value: &str) -> Result<Duration> {
    let interval = parse_duration(value)?;
    match interval >= CHECKPOINT_INTERVAL_MIN {
        true => Ok(interval),
        false => Err(Fault::new(format!("'{CHECKPOINT_INTERVAL}' = '{value}' is too short"))
            .hint("it is at least 10 ms")),
    }
}

fn parallelism(value: &str) -> Result<usize> {
    match value.parse() {
        Ok(parallelism) if (1..=PARALLELISM_MAX).contains(&parallelism) => Ok(parallelism),
        _ => Err(Fault::new(format!("'{PARALLELISM}' = '{value}' is not a number from 1 to 128"))),
    }
}
