//! How a config's text becomes a value and back. Sizes and durations are plain integers in the unit
//! their key's name ends with, as Kafka writes them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::listeners::{self, Endpoint, ProtocolMap};
use super::{CleanupPolicy, Compression, Durability, TimestampType};

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
