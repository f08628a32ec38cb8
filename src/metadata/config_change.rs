//! Changes of configs, of a topic's and of brokers' alike: what a client asks for becomes what is set
//! and what is unset.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{join, list};

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

/// How the configs of a topic, a broker or all brokers are to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChanges {
    /// Those named; the others stay.
    Some(BTreeMap<String, ConfigChange>),
    /// To exactly these.
    All(BTreeMap<String, String>),
}

/// What changes compared with what was set, all values checked on their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    /// Keys with their new values.
    pub(super) set: BTreeMap<String, String>,
    /// Keys that are set no more.
    pub(super) unset: BTreeSet<String>,
}

impl Delta {
    /// Whether nothing changes.
    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.unset.is_empty()
    }

    /// What is set afterwards.
    pub(super) fn apply(&self, configs: &mut BTreeMap<String, String>) {
        change(configs, &self.set, &self.unset);
    }
}

/// Gives `configs` the values of `set` and takes out those of `unset`.
pub(super) fn change(
    configs: &mut BTreeMap<String, String>,
    set: &BTreeMap<String, String>,
    unset: &BTreeSet<String>,
) {
    configs.retain(|name, _| !unset.contains(name));
    configs.extend(set.iter().map(|(name, value)| (name.clone(), value.clone())));
}

/// What configs there are.
pub(super) trait ConfigKeys {
    /// How errors name such a config.
    const NOUN: &'static str;

    /// `value` as it is kept and shown, or why the config cannot have it.
    fn checked(&self, name: &str, value: &str) -> Result<String, String>;

    /// Of a list what holds where it is not set; `None` for a config that is no list.
    fn list(&self, name: &str) -> Result<Option<String>, String>;
}

/// What `changes` amount to where `set` is set so far.
pub(super) fn delta(
    set: &BTreeMap<String, String>,
    changes: ConfigChanges,
    keys: &impl ConfigKeys,
) -> Result<Delta, String> {
    let mut delta = Delta::default();
    match changes {
        ConfigChanges::Some(changes) => {
            for (name, change) in changes {
                match resolved(set, &name, change, keys)? {
                    Some(value) => drop(delta.set.insert(name, value)),
                    None => drop(delta.unset.insert(name)),
                }
            }
        }
        ConfigChanges::All(all) => {
            delta.unset = set.keys().filter(|name| !all.contains_key(*name)).cloned().collect();
            for (name, value) in all {
                let value = keys.checked(&name, &value)?;
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
fn resolved<K: ConfigKeys>(
    set: &BTreeMap<String, String>,
    name: &str,
    change: ConfigChange,
    keys: &K,
) -> Result<Option<String>, String> {
    let (verb, words) = match &change {
        ConfigChange::Set(value) => return keys.checked(name, value).map(Some),
        // As in Kafka, also for a key that does not exist: it is not set afterwards.
        ConfigChange::Unset => return Ok(None),
        ConfigChange::Append(words) => ("append to", words),
        ConfigChange::Subtract(words) => ("subtract from", words),
    };
    let Some(default) = keys.list(name)? else {
        let noun = K::NOUN;
        return Err(format!("cannot {verb} {noun} {name}: it is not a list; set it instead"));
    };
    let holds = set.get(name).unwrap_or(&default);
    let mut result = list(holds);
    let words = list(words);
    match &change {
        ConfigChange::Subtract(_) => result.retain(|word| !words.contains(word)),
        _ => {
            let added = words.into_iter().filter(|word| !list(holds).contains(word));
            result.extend(added.collect::<Vec<_>>());
        }
    }
    keys.checked(name, &join(&result)).map(Some)
}
