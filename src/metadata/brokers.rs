//! The part of the image that holds the broker configs which were changed while running.

use std::collections::BTreeMap;

use imbl::OrdMap;

use super::change::{BrokerChange, Change};
use super::config_change::{ConfigKeys, Delta};
use crate::config::{Config, DynamicKey, Overlay, Overlays, Secret};

/// Which brokers a config is changed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerScope {
    /// All of them.
    Cluster,
    /// The one with this id, for which it beats what is set for all.
    Broker(i32),
}

/// What was set, for all brokers and for single ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerConfigs {
    cluster: Overlay,
    brokers: OrdMap<i32, Overlay>,
}

impl BrokerConfigs {
    /// What lies over the config of the broker `node`.
    pub(super) fn overlays(&self, node: i32) -> Overlays {
        Overlays {
            cluster: self.cluster.clone(),
            broker: self.brokers.get(&node).cloned().unwrap_or_default(),
        }
    }

    /// What is set for `scope`.
    pub(super) fn set(&self, scope: BrokerScope) -> BTreeMap<String, String> {
        let overlay = match scope {
            BrokerScope::Cluster => Some(&self.cluster),
            BrokerScope::Broker(node) => self.brokers.get(&node),
        };
        let pairs = overlay.into_iter().flatten();
        pairs.map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect()
    }

    /// See [`super::Image::apply`].
    pub(super) fn apply(&mut self, change: &BrokerChange) {
        let BrokerChange { scope, set, unset } = change;
        let mut overlay = match scope {
            BrokerScope::Cluster => std::mem::take(&mut self.cluster),
            BrokerScope::Broker(node) => self.brokers.remove(node).unwrap_or_default(),
        };
        overlay.retain(|name, _| !unset.contains(name));
        overlay.extend(set.iter().map(|(name, value)| (name.clone(), value.clone())));
        match scope {
            BrokerScope::Cluster => self.cluster = overlay,
            BrokerScope::Broker(_) if overlay.is_empty() => {}
            BrokerScope::Broker(node) => drop(self.brokers.insert(*node, overlay)),
        }
    }

    /// What makes this part out of an empty one.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> {
        let cluster = (!self.cluster.is_empty()).then_some((BrokerScope::Cluster, &self.cluster));
        let brokers = self.brokers.iter().map(|(node, set)| (BrokerScope::Broker(*node), set));
        cluster.into_iter().chain(brokers).map(|(scope, set)| {
            let (set, unset) = (set.clone(), Default::default());
            Change::Broker(BrokerChange { scope, set, unset })
        })
    }
}

impl BrokerChange {
    /// The change that `delta` is for `scope`.
    pub(super) fn new(scope: BrokerScope, delta: Delta) -> BrokerChange {
        let hidden = |(name, value)| (name, Secret::new(value));
        let set = delta.set.into_iter().map(|(name, value): (_, String)| hidden((name, value)));
        BrokerChange { scope, set: set.collect(), unset: delta.unset }
    }
}

/// The broker configs that may change while running.
pub(super) struct BrokerKeys<'a>(pub(super) &'a Config);

impl ConfigKeys for BrokerKeys<'_> {
    const NOUN: &'static str = "broker config";

    fn checked(&self, name: &str, value: &str) -> Result<String, String> {
        DynamicKey::find(name)?.checked(value)
    }

    fn list(&self, name: &str) -> Result<Option<String>, String> {
        let key = DynamicKey::find(name)?;
        Ok(key.is_list().then(|| self.0.text(name)))
    }
}
