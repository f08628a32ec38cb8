//! Topic names and Kafka's rules for them.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// A legal topic name: 1 to 249 of `[a-zA-Z0-9._-]`, and neither `.` nor `..`
/// (Kafka's `Topic.validate`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// Why a name is not a legal topic name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopicNameError {
    /// The empty string, `.` or `..`.
    #[error("topic name '{0}' is not allowed: it may not be empty, '.' or '..'")]
    Reserved(String),
    /// Longer than 249 characters.
    #[error("topic name is {0} characters long, at most 249 are allowed")]
    TooLong(usize),
    /// A character outside `[a-zA-Z0-9._-]`.
    #[error(
        "topic name '{0}' has the character {1:?}: only ASCII letters, digits, '.', '_' and '-' are allowed"
    )]
    Character(String, char),
}

impl TopicName {
    /// Checks `name` against Kafka's rules.
    pub fn parse(name: &str) -> Result<TopicName, TopicNameError> {
        const LENGTH_MAX: usize = 249;
        if name.is_empty() || name == "." || name == ".." {
            return Err(TopicNameError::Reserved(name.to_owned()));
        }
        if name.len() > LENGTH_MAX {
            return Err(TopicNameError::TooLong(name.chars().count()));
        }
        match name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-')) {
            Some(c) => Err(TopicNameError::Character(name.to_owned(), c)),
            None => Ok(TopicName(name.into())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether two names share their metric name: Kafka refuses `a_b` beside `a.b`.
    pub fn collides_with(&self, other: &TopicName) -> bool {
        let plain = |byte: u8| if byte == b'.' { b'_' } else { byte };
        self != other && self.0.bytes().map(plain).eq(other.0.bytes().map(plain))
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        assert!(TopicName::parse("clicks.v1_a-B").is_ok());
        assert!(TopicName::parse(&"x".repeat(249)).is_ok());
        assert_eq!(TopicName::parse(&"x".repeat(250)), Err(TopicNameError::TooLong(250)));
        assert!(matches!(TopicName::parse("../x"), Err(TopicNameError::Character(_, '/'))));
        assert!(matches!(TopicName::parse(".."), Err(TopicNameError::Reserved(_))));
    }

    #[test]
    fn dots_and_underscores_collide() {
        let (dotted, under) = (TopicName::parse("a.b").unwrap(), TopicName::parse("a_b").unwrap());
        assert!(dotted.collides_with(&under));
        assert!(!dotted.collides_with(&dotted.clone()));
        assert!(!dotted.collides_with(&TopicName::parse("a_b_c").unwrap()));
    }
}
