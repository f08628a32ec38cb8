//! Keyed state: keys are row-encoded bytes in one buffer, hashed into key groups that subtasks own;
//! values live in accumulators beside them, addressed by the key's position. No object per key.

mod budget;
mod codec;
mod key;

pub use budget::StateBudget;
pub use codec::{decode, encode};
pub use key::{EncodedKeys, KeyEncoder, KeyIndex};

/// How many groups keys hash to: the unit in which state moves between subtasks (Flink's default
/// maximum parallelism).
pub const KEY_GROUPS: u64 = 128;

/// The key groups of one subtask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyGroups {
    /// Which subtask, from 0.
    pub subtask: usize,
    /// Of how many.
    pub parallelism: usize,
}

impl KeyGroups {
    /// All of them: one subtask.
    pub const ALL: KeyGroups = KeyGroups { subtask: 0, parallelism: 1 };

    /// Whether a key with this hash belongs to the subtask.
    pub fn own(&self, hash: u64) -> bool {
        subtask(hash, self.parallelism) == self.subtask
    }
}

/// The subtask that owns a key: contiguous ranges of groups, as Flink assigns them.
pub fn subtask(hash: u64, parallelism: usize) -> usize {
    ((hash % KEY_GROUPS) as usize * parallelism) / KEY_GROUPS as usize
}

/// A 64-bit hash of a key's bytes: multiply and fold eight bytes at a time (wyhash's mixing step),
/// the same on every machine and in every version.
pub fn hash(bytes: &[u8]) -> u64 {
    const SEED: u64 = 0x9E37_79B9_7F4A_7C15;
    const FACTOR: u64 = 0xA076_1D64_78BD_642F;
    let mix = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product as u64) ^ ((product >> 64) as u64)
    };
    let mut state = SEED ^ bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = mix(state ^ u64::from_le_bytes(word), FACTOR) ^ SEED;
    }
    mix(state, FACTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_exactly_one_owner_at_each_parallelism() {
        for parallelism in 1..=7 {
            for key in 0..500_u32 {
                let hash = hash(&key.to_be_bytes());
                let owners = (0..parallelism)
                    .filter(|&subtask| KeyGroups { subtask, parallelism }.own(hash))
                    .count();
                assert_eq!(owners, 1);
            }
        }
    }

    #[test]
    fn keys_spread_over_the_groups() {
        let mut seen = std::collections::HashSet::new();
        for key in 0..2000_u64 {
            seen.insert(hash(&key.to_be_bytes()) % KEY_GROUPS);
        }
        assert_eq!(seen.len() as u64, KEY_GROUPS);
    }
}
