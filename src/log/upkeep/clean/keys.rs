//! The newest offset of each key, in a hash table of fixed size. A key is represented by a keyed hash of 128
//! bits: two keys do not get the same hash by chance, and a hostile producer cannot construct two that do.

use siphasher::sip128::SipHasher24;
use uuid::Uuid;

use crate::types::Offset;

/// A hash, and its key's newest offset plus one; 0 there is an empty slot.
type Slot = [u64; 3];

/// Bytes of one slot.
pub(super) const SLOT_BYTES: usize = size_of::<Slot>();

/// At most this share of the slots is used: in a fuller table a look-up takes many more steps.
const FILLED_PERCENT_MAX: usize = 80;

/// See the module's header.
pub(super) struct KeyMap {
    hasher: SipHasher24,
    /// Never resized. Pages that were never written cost no memory.
    slots: Vec<Slot>,
    filled: usize,
}

impl KeyMap {
    /// A table of at most `bytes_max`, and no larger than `keys_max` keys need. It has room for at least
    /// one key.
    pub(super) fn new(bytes_max: usize, keys_max: u64) -> KeyMap {
        let affordable = bytes_max / SLOT_BYTES;
        let wanted = usize::try_from(keys_max).unwrap_or(usize::MAX);
        let wanted = (wanted / FILLED_PERCENT_MAX).saturating_add(1).saturating_mul(100);
        let hasher = SipHasher24::new_with_key(Uuid::new_v4().as_bytes());
        KeyMap { hasher, slots: vec![Slot::default(); affordable.min(wanted).max(2)], filled: 0 }
    }

    /// Notes that `key` is at `offset`, which is higher than all offsets before. Returns false if the
    /// table has no room for a new key.
    pub(super) fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        let (high, low) = self.hasher.hash(key).as_u64();
        let index = self.slot(high, low);
        let is_full = (self.filled + 1) * 100 > self.slots.len() * FILLED_PERCENT_MAX;
        let Some(slot) = self.slots.get_mut(index) else { return false };
        if slot[2] == 0 {
            if is_full {
                return false;
            }
            self.filled += 1;
        }
        *slot = [high, low, offset.get() + 1];
        true
    }

    /// The newest offset of `key`.
    pub(super) fn newest(&self, key: &[u8]) -> Option<Offset> {
        let (high, low) = self.hasher.hash(key).as_u64();
        let slot = self.slots.get(self.slot(high, low))?;
        slot[2].checked_sub(1).map(Offset::new)
    }

    /// The slot with this hash, or the empty slot where it belongs. Ends always, since one slot is always
    /// empty.
    fn slot(&self, high: u64, low: u64) -> usize {
        let count = self.slots.len();
        let mut index = (low % count as u64) as usize;
        loop {
            match self.slots.get(index) {
                Some(slot) if slot[2] != 0 && (slot[0], slot[1]) != (high, low) => {}
                _ => return index,
            }
            index = if index + 1 == count { 0 } else { index + 1 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_offset_of_each_key_is_found() {
        let mut keys = KeyMap::new(1 << 20, 1000);
        for offset in 0..2000u64 {
            assert!(keys.put(&(offset % 1000).to_be_bytes(), Offset::new(offset)));
        }
        for key in 0..1000u64 {
            assert_eq!(keys.newest(&key.to_be_bytes()), Some(Offset::new(1000 + key)));
        }
        assert_eq!(keys.newest(b"another"), None);
        assert!(keys.put(b"", Offset::ZERO));
        assert_eq!(keys.newest(b""), Some(Offset::ZERO));
    }

    #[test]
    fn a_full_table_takes_no_new_key_and_still_moves_those_it_has() {
        let mut keys = KeyMap::new(100 * SLOT_BYTES, u64::MAX);
        assert_eq!(keys.slots.len(), 100);
        let taken = (0..1000u64).take_while(|key| keys.put(&key.to_be_bytes(), Offset::new(*key)));
        assert_eq!(taken.count(), 80);
        assert!(keys.put(&7u64.to_be_bytes(), Offset::new(5000)));
        assert_eq!(keys.newest(&7u64.to_be_bytes()), Some(Offset::new(5000)));
        assert_eq!(keys.newest(&80u64.to_be_bytes()), None);
    }

    #[test]
    fn the_smallest_table_has_room_for_one_key() {
        let mut keys = KeyMap::new(0, u64::MAX);
        assert!(keys.put(b"a", Offset::ZERO));
        assert!(!keys.put(b"b", Offset::new(1)));
        assert!(keys.put(b"a", Offset::new(2)));
        assert_eq!((keys.newest(b"a"), keys.newest(b"b")), (Some(Offset::new(2)), None));
    }
}
