//! How a config's text becomes a value and back. Sizes and durations are plain integers in the unit
//! their key's name ends with, as Kafka writes them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::Durability;

/// What a key takes; the bounds of integers are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file-system path.
    Path,
    /// `ip:port`, or `localhost:port`.
    Address,
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
}

impl Kind {
    /// What a value must look like, to end the sentence "must be".
    pub(super) fn allowed(self) -> String {
        match self {
            Kind::Path => "a path".to_owned(),
            Kind::Address => "an address with a port, like 127.0.0.1:9092".to_owned(),
            Kind::Host => "a host name or address without a port, like broker.example".to_owned(),
            Kind::Bool => "true or false".to_owned(),
            Kind::Choice(words) => words.join(" or "),
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
        }
    }

    /// Whether the file writes such values in quotes.
    pub(super) fn quoted(self) -> bool {
        !matches!(self, Kind::Bool | Kind::Integer { .. })
    }

    /// Whether `text` is inside the bounds; types are checked by `Value::parse`.
    pub(super) fn admits(self, text: &str) -> bool {
        match self {
            Kind::Integer { min, max } => {
                text.parse::<u64>().is_ok_and(|number| (min..=max).contains(&number))
            }
            Kind::Path => !text.is_empty(),
            // A port belongs to kafka.listen; clients would look the whole text up as a name.
            Kind::Host => {
                let named = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
                text.bytes().all(named) || text.parse::<IpAddr>().is_ok()
            }
            Kind::Address | Kind::Bool | Kind::Choice(_) => true,
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

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Value for $integer {
            fn parse(text: &str) -> Option<$integer> {
                text.parse().ok()
            }
            fn render(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

integers!(i32, u32, u64, usize);

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

impl Value for Duration {
    fn parse(text: &str) -> Option<Duration> {
        text.parse().ok().map(Duration::from_millis)
    }

    fn render(&self) -> String {
        self.as_millis().to_string()
    }
}
