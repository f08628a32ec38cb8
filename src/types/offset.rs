//! The position of a record in a partition.

use std::fmt;

/// A record's position in its partition, from 0. Kafka's negative sentinels never become an
/// `Offset`: `api/` turns them into `Option` or an enum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Offset = Offset(0);

    /// One that no record reaches.
    pub const MAX: Offset = Offset(u64::MAX);

    /// An offset from its number.
    pub const fn new(value: u64) -> Offset {
        Offset(value)
    }

    /// An offset as the protocol carries it; `None` for every negative sentinel.
    pub fn from_wire(value: i64) -> Option<Offset> {
        u64::try_from(value).ok().map(Offset)
    }

    /// The protocol's signed form. Offsets above `i64::MAX` are unreachable: 2^63 records.
    pub const fn to_wire(self) -> i64 {
        self.0 as i64
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset `records` further on.
    #[must_use]
    pub const fn plus(self, records: u64) -> Offset {
        Offset(self.0.saturating_add(records))
    }

    /// How many records lie between `earlier` and this offset, 0 if `earlier` is later.
    pub const fn since(self, earlier: Offset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_wire_offsets_are_no_offsets() {
        assert_eq!(Offset::from_wire(-1), None);
        assert_eq!(Offset::from_wire(7), Some(Offset::new(7)));
        assert_eq!(Offset::new(7).to_wire(), 7);
    }

    #[test]
    fn distance_to_a_later_offset_is_zero() {
        assert_eq!(Offset::new(3).since(Offset::new(5)), 0);
        assert_eq!(Offset::new(5).since(Offset::new(3)), 2);
    }
}
