//! Principals: who asks, in the words of Kafka's ACLs.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use crate::types::ListenerName;

/// Who asks for something, and from where.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Whom the client acts for.
    pub principal: &'a Principal,
    /// Its address.
    pub host: IpAddr,
    /// The listener that accepted it.
    pub listener: &'a ListenerName,
}

/// Kafka's `KafkaPrincipal`: a type and a name, shown as `User:alice`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    kind: Cow<'static, str>,
    name: Cow<'static, str>,
}

impl Principal {
    /// Every client of a listener that asks for no authentication.
    pub const ANONYMOUS: Principal =
        Principal { kind: Cow::Borrowed("User"), name: Cow::Borrowed("ANONYMOUS") };

    /// The user of that name.
    pub fn user(name: impl Into<String>) -> Principal {
        Principal { kind: Cow::Borrowed("User"), name: Cow::Owned(name.into()) }
    }

    /// The type, `User` unless a principal builder says otherwise.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The name within its type.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_are_shown_as_kafka_shows_them() {
        assert_eq!(Principal::ANONYMOUS.to_string(), "User:ANONYMOUS");
        assert_eq!(Principal::user("alice").to_string(), "User:alice");
    }
}
