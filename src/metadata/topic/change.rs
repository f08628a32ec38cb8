//! Changes of a topic's configs: what a client asks for becomes what is set and what is unset.

use std::collections::{BTreeMap, BTreeSet};

use super::kind::{join, list};
use super::table;
use crate::config::{Config, ConfigType};

/// What to do with one config (KIP-339).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// It has this value from here on.
    Set(String),
    /// The default holds again.
    Unset,
    /// These words are added to the list that holds, those it has already excepted.
    Append(String),
    /// These words are taken out of the list that holds.
    Subtract(String),
}

/// How a topic's configs are to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChanges {
    /// Those named; the others stay.
    Some(BTreeMap<String, ConfigChange>),
    /// To exactly these.
    All(BTreeMap<String, String>),
}

/// What changes compared with what was set, all values checked on their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::metadata) struct Delta {
    /// Keys with their new values.
    pub(in crate::metadata) set: BTreeMap<String, String>,
    /// Keys that are set no more.
    pub(in crate::metadata) unset: BTreeSet<String>,
}

impl Delta {
    /// Whether nothing changes.
    pub(in crate::metadata) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.unset.is_empty()
    }

    /// What is set afterwards.
    pub(in crate::metadata) fn apply(&self, configs: &mut BTreeMap<String, String>) {
        change(configs, &self.set, &self.unset);
    }
}

/// Gives `configs` the values of `set` and takes out those of `unset`.
pub(in crate::metadata) fn change(
    configs: &mut BTreeMap<String, String>,
    set: &BTreeMap<String, String>,
    unset: &BTreeSet<String>,
) {
    configs.retain(|name, _| !unset.contains(name));
    configs.extend(set.iter().map(|(name, value)| (name.clone(), value.clone())));
}

/// What `changes` amount to for a topic that has `set` so far.
pub(in crate::metadata) fn delta(
    set: &BTreeMap<String, String>,
    changes: ConfigChanges,
    broker: &Config,
) -> Result<Delta, String> {
    let mut delta = Delta::default();
    match changes {
        ConfigChanges::Some(changes) => {
            for (name, change) in changes {
                match resolved(set, &name, change, broker)? {
                    Some(value) => drop(delta.set.insert(name, value)),
                    None => drop(delta.unset.insert(name)),
                }
            }
        }
        ConfigChanges::All(all) => {
            delta.unset = set.keys().filter(|name| !all.contains_key(*name)).cloned().collect();
            for (name, value) in all {
                let value = table::find(&name)?.checked(&value)?;
                delta.set.insert(name, value);
            }
        }
    }
    // What stays as it is needs no record in the journal.
    delta.set.retain(|name, value| set.get(name) != Some(value));
    delta.unset.retain(|name| set.contains_key(name));
    Ok(delta)
}

/// The new value of a config; `None` when it is to be unset.
fn resolved(
    set: &BTreeMap<String, String>,
    name: &str,
    change: ConfigChange,
    broker: &Config,
) -> Result<Option<String>, String> {
    let (verb, words) = match &change {
        ConfigChange::Set(value) => return table::find(name)?.checked(value).map(Some),
        // As in Kafka, also for a key that does not exist: it is not set afterwards.
        ConfigChange::Unset => return Ok(None),
        ConfigChange::Append(words) => ("append to", words),
        ConfigChange::Subtract(words) => ("subtract from", words),
    };
    let key = table::find(name)?;
    if key.kind != ConfigType::List {
        return Err(format!("cannot {verb} topic config {name}: it is not a list; set it instead"));
    }
    let holds = match set.get(name) {
        Some(own) => own.clone(),
        None => key.default(broker).unwrap_or_default(),
    };
    let mut result = list(&holds);
    let words = list(words);
    match &change {
        ConfigChange::Subtract(_) => result.retain(|word| !words.contains(word)),
        _ => {
            let added = words.into_iter().filter(|word| !list(&holds).contains(word));
            result.extend(added.collect::<Vec<_>>());
        }
    }
    key.checked(&join(&result)).map(Some)
}
