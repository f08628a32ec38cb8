//! Names of listeners, by Kafka's rules.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// The name of a listener, in upper case: `internal` and `INTERNAL` are the same listener
/// (Kafka's `ListenerName.normalised`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerName(Arc<str>);

/// A text that cannot name a listener.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("'{0}' is not a listener's name: it must be letters, digits, '_', '-' and '.'")]
pub struct ListenerNameError(String);

impl ListenerName {
    /// The listener that `name` names, in upper or lower case.
    pub fn parse(name: &str) -> Result<ListenerName, ListenerNameError> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || !name.chars().all(is_part) {
            return Err(ListenerNameError(name.to_owned()));
        }
        Ok(ListenerName(name.to_ascii_uppercase().into()))
    }

    /// The listener that a broker has unless it is told otherwise.
    pub fn plaintext() -> ListenerName {
        ListenerName("PLAINTEXT".into())
    }

    /// The name as text, in upper case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ListenerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_by_more_than_case() {
        assert_eq!(ListenerName::parse("plaintext"), Ok(ListenerName::plaintext()));
        assert_eq!(ListenerName::parse("Internal_2").unwrap().as_str(), "INTERNAL_2");
        for wrong in ["", " ", "a b", "a:b", "a/b"] {
            assert!(ListenerName::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
