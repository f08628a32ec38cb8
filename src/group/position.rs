//! Where a group goes on in a partition, as a client committed it.

use crate::types::Offset;

/// A committed position: an offset, or a negative number of the client's own. Kafka stores and tells
/// both without a look: kafkajs commits -2 for the start of a partition, ruby-kafka -1 for its end, and
/// what such a number means is between them and their consumers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position(i64);

impl Position {
    /// Any number is a position.
    pub const fn from_wire(number: i64) -> Position {
        Position(number)
    }

    /// The number that was committed.
    pub const fn to_wire(self) -> i64 {
        self.0
    }

    /// The next offset to read; `None` where the client committed a number that is none.
    pub fn offset(self) -> Option<Offset> {
        Offset::from_wire(self.0)
    }
}

impl From<Offset> for Position {
    fn from(offset: Offset) -> Position {
        Position(offset.to_wire())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_positions_are_kept_and_are_no_offsets() {
        for number in [-1, -2, i64::MIN] {
            assert_eq!(Position::from_wire(number).offset(), None);
            assert_eq!(Position::from_wire(number).to_wire(), number);
        }
        assert_eq!(Position::from_wire(7), Offset::new(7).into());
        assert_eq!(Position::from_wire(7).offset(), Some(Offset::new(7)));
    }
}
