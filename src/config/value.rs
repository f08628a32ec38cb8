//! How a config's text becomes a value and back. Sizes and durations are plain integers in the unit
//! their key's name ends with, as Kafka writes them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::listeners::{self, Endpoint, ProtocolMap};
use super::{CleanupPolicy, Compression, ConfigType, Durability, TimestampType};

/// What a key takes; the bounds of integers are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file-system path.
    Path,
    /// `ip:port`, or `localhost:port`.
    Address,
    /// `NAME://HOST:PORT` of listeners, with commas.
    Listeners,
    /// `NAME:PROTOCOL` of listeners, with commas.
    Protocols,
    /// A host name or address without a port; empty means not set.
    Host,
    /// `true` or `false`.
    Bool,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number.
    Integer {
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// -1, which the key's doc explains, or a whole number.
    Limit {
        /// Smallest allowed beside -1.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// A whole number that may be negative.
    Signed {
        /// Smallest allowed.
        min: i64,
        /// Largest allowed.
        max: i64,
    },
    /// A number from 0 to 1.
    Ratio,
    /// Nothing, so that another key decides, or what the inner kind takes.
    Optional(&'static Kind),
}

impl Kind {
    /// What a value must look like, to end the sentence "must be".
    pub(super) fn allowed(self) -> String {
        match self {
            Kind::Path => "a path".to_owned(),
            Kind::Address => "an address with a port, like 127.0.0.1:9092".to_owned(),
            Kind::Host => "a host name or address without a port, like broker.example".to_owned(),
            Kind::Listeners => "NAME://HOST:PORT with commas, like \
                                PLAINTEXT://127.0.0.1:9092,LAN://0.0.0.0:9093"
                .to_owned(),
            Kind::Protocols => "NAME:PROTOCOL with commas, each name once, with protocols \
                                PLAINTEXT, SSL, SASL_PLAINTEXT and SASL_SSL"
                .to_owned(),
            Kind::Bool => "true or false".to_owned(),
            Kind::Choice(words) => words.join(" or "),
            Kind::Integer { min, max } if min == max => min.to_string(),
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Limit { min, max } => format!("-1 or a whole number from {min} to {max}"),
            Kind::Signed { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Ratio => "a number from 0 to 1".to_owned(),
            Kind::Optional(kind) => format!("nothing or {}", kind.allowed()),
        }
    }

    /// What Kafka would call it.
    pub(super) fn config_type(self, name: &str) -> ConfigType {
        const INT_MAX: u64 = i32::MAX as u64;
        match self {
            Kind::Bool => ConfigType::Boolean,
            Kind::Choice(_) if name == "log.cleanup.policy" => ConfigType::List,
            Kind::Path
            | Kind::Address
            | Kind::Listeners
            | Kind::Protocols
            | Kind::Host
            | Kind::Choice(_) => ConfigType::String,
            Kind::Integer { max, .. } | Kind::Limit { max, .. } if max > INT_MAX => {
                ConfigType::Long
            }
            Kind::Integer { .. } | Kind::Limit { .. } | Kind::Signed { .. } => ConfigType::Int,
            Kind::Ratio => ConfigType::Double,
            Kind::Optional(kind) => kind.config_type(name),
        }
    }

    /// Whether the file writes such values in quotes.
    pub(super) fn quoted(self) -> bool {
        match self {
            Kind::Path
            | Kind::Address
            | Kind::Listeners
            | Kind::Protocols
            | Kind::Host
            | Kind::Choice(_)
            | Kind::Optional(_) => true,
            Kind::Bool
            | Kind::Integer { .. }
            | Kind::Limit { .. }
            | Kind::Signed { .. }
            | Kind::Ratio => false,
        }
    }

    /// Whether `text` is inside the bounds; types are checked by `Value::parse`.
    pub(super) fn admits(self, text: &str) -> bool {
        match self {
            Kind::Integer { min, max } => {
                text.parse::<u64>().is_ok_and(|number| (min..=max).contains(&number))
            }
            Kind::Limit { min, max } => text == "-1" || Kind::Integer { min, max }.admits(text),
            Kind::Signed { min, max } => {
                text.parse::<i64>().is_ok_and(|number| (min..=max).contains(&number))
            }
            Kind::Ratio => text.parse::<f64>().is_ok_and(|ratio| (0.0..=1.0).contains(&ratio)),
            Kind::Optional(kind) => text.is_empty() || kind.admits(text),
            Kind::Path => !text.is_empty(),
            // A port belongs to advertised.listeners; clients would look the whole text up as a name.
            Kind::Host => {
                let named = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
                text.bytes().all(named) || text.parse::<IpAddr>().is_ok()
            }
            Kind::Address | Kind::Listeners | Kind::Protocols | Kind::Bool | Kind::Choice(_) => {
                true
            }
        }
    }
}

/// A config's value as text and back; `parse(render(v)) == Some(v)`.
pub(super) trait Value: Sized {
    /// `None` when the text is no such value.
    fn parse(text: &str) -> Option<Self>;
    /// The shortest text that `parse` understands.
    fn render(&self) -> String;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Value for $number {
            fn parse(text: &str) -> Option<$number> {
                text.parse().ok()
            }
            fn render(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

numbers!(i32, u32, i64, u64, usize, f64);

/// A key that may be left empty.
impl Value for Option<i64> {
    fn parse(text: &str) -> Option<Option<i64>> {
        if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
    }

    fn render(&self) -> String {
        self.map(|number| number.to_string()).unwrap_or_default()
    }
}

/// -1 is no bound.
impl Value for Option<u64> {
    fn parse(text: &str) -> Option<Option<u64>> {
        if text == "-1" { Some(None) } else { text.parse().ok().map(Some) }
    }

    fn render(&self) -> String {
        self.map_or_else(|| "-1".to_owned(), |number| number.to_string())
    }
}

impl Value for bool {
    fn parse(text: &str) -> Option<bool> {
        text.parse().ok()
    }

    fn render(&self) -> String {
        self.to_string()
    }
}

impl Value for PathBuf {
    fn parse(text: &str) -> Option<PathBuf> {
        Some(PathBuf::from(text))
    }

    fn render(&self) -> String {
        self.display().to_string()
    }
}

impl Value for SocketAddr {
    fn parse(text: &str) -> Option<SocketAddr> {
        // No name service at start-up: `localhost` is the one name everybody writes.
        match text.strip_prefix("localhost:") {
            Some(port) => {
                Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?))
            }
            None => text.parse().ok(),
        }
    }

    fn render(&self) -> String {
        self.to_string()
    }
}

impl Value for Option<SocketAddr> {
    fn parse(text: &str) -> Option<Option<SocketAddr>> {
        if text.is_empty() { Some(None) } else { Value::parse(text).map(Some) }
    }

    fn render(&self) -> String {
        self.map(|address| address.to_string()).unwrap_or_default()
    }
}

impl Value for Vec<Endpoint> {
    fn parse(text: &str) -> Option<Vec<Endpoint>> {
        listeners::parse_endpoints(text)
    }

    fn render(&self) -> String {
        listeners::render_endpoints(self)
    }
}

impl Value for Option<Vec<Endpoint>> {
    fn parse(text: &str) -> Option<Option<Vec<Endpoint>>> {
        if text.is_empty() { Some(None) } else { Value::parse(text).map(Some) }
    }

    fn render(&self) -> String {
        self.as_ref().map(Value::render).unwrap_or_default()
    }
}

impl Value for ProtocolMap {
    fn parse(text: &str) -> Option<ProtocolMap> {
        listeners::parse_protocols(text)
    }

    fn render(&self) -> String {
        listeners::render_protocols(self)
    }
}

impl Value for Option<String> {
    fn parse(text: &str) -> Option<Option<String>> {
        Some(if text.is_empty() { None } else { Some(text.to_owned()) })
    }

    fn render(&self) -> String {
        self.clone().unwrap_or_default()
    }
}

impl Value for Durability {
    fn parse(text: &str) -> Option<Durability> {
        match text {
            "disk" => Some(Durability::Disk),
            "page-cache" => Some(Durability::PageCache),
            _ => None,
        }
    }

    fn render(&self) -> String {
        match self {
            Durability::Disk => "disk".to_owned(),
            Durability::PageCache => "page-cache".to_owned(),
        }
    }
}

impl Value for TimestampType {
    fn parse(text: &str) -> Option<TimestampType> {
        TimestampType::parse(text)
    }

    fn render(&self) -> String {
        self.name().to_owned()
    }
}

impl Value for Compression {
    fn parse(text: &str) -> Option<Compression> {
        Compression::parse(text)
    }

    fn render(&self) -> String {
        self.name().to_owned()
    }
}

impl Value for CleanupPolicy {
    fn parse(text: &str) -> Option<CleanupPolicy> {
        CleanupPolicy::parse(text)
    }

    fn render(&self) -> String {
        self.to_string()
    }
}

impl Value for Duration {
    fn parse(text: &str) -> Option<Duration> {
        text.parse().ok().map(Duration::from_millis)
    }

    fn render(&self) -> String {
        self.as_millis().to_string()
    }
}
