//! The part of the image that holds the cluster's finalized features (KIP-584): what its brokers have
//! agreed to use, and the levels that this version supports.

use std::collections::BTreeMap;

use super::change::{Change, FeatureChange};

/// A feature and the levels of it that a broker can work at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SupportedFeature {
    /// Kafka's name where Kafka has it.
    pub name: &'static str,
    /// The lowest level.
    pub level_min: i16,
    /// The highest level. A start finalizes it where the feature has no level yet.
    pub level_max: i16,
}

/// What this version supports. None of Kafka's features is there yet: a row is all that one needs.
pub const SUPPORTED_FEATURES: &[SupportedFeature] = &[];

/// The levels that are finalized.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    levels: BTreeMap<String, i16>,
    epoch: Option<u64>,
}

impl Features {
    /// These levels since the change at position `epoch`.
    #[cfg(test)]
    pub(crate) fn of(levels: &[(&str, i16)], epoch: u64) -> Features {
        let levels = levels.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect();
        Features { levels, epoch: Some(epoch) }
    }

    /// Names and levels, in name order.
    pub fn levels(&self) -> impl Iterator<Item = (&str, i16)> {
        self.levels.iter().map(|(name, level)| (name.as_str(), *level))
    }

    /// The journal's position of the last change; `None` before the first one.
    pub fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// What makes those of `supported` final that have no level yet.
    pub(super) fn missing(&self, supported: &[SupportedFeature]) -> Vec<Change> {
        let missing = supported.iter().filter(|feature| !self.levels.contains_key(feature.name));
        let finalized = missing.map(|feature| FeatureChange::Finalized {
            name: feature.name.to_owned(),
            level: feature.level_max,
        });
        finalized.map(Change::Feature).collect()
    }

    /// See [`super::Image::apply`].
    pub(super) fn apply(&mut self, position: u64, change: &FeatureChange) {
        match change {
            FeatureChange::Finalized { name, level } => {
                self.levels.insert(name.clone(), *level);
                self.epoch = Some(position);
            }
            FeatureChange::All { epoch, levels } => {
                (self.levels, self.epoch) = (levels.clone(), Some(*epoch));
            }
        }
    }

    /// What makes this part out of an empty one.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> {
        let all = |epoch| FeatureChange::All { epoch, levels: self.levels.clone() };
        self.epoch.map(all).map(Change::Feature).into_iter()
    }
}
