//! What the value of a config must look like, of the broker's configs and of its topics' alike, with
//! Kafka's bounds where the config is Kafka's.

use std::net::IpAddr;

use super::ConfigType;

/// What a config takes; the bounds of numbers are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
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
    /// These words with commas, each at most once; none only where that is allowed.
    List {
        /// The words.
        words: &'static [&'static str],
        /// Whether there may be none.
        may_be_empty: bool,
    },
    /// A whole number.
    Number {
        /// Smallest allowed.
        min: i64,
        /// Largest allowed.
        max: i64,
    },
    /// -1, which the config's doc explains, or a whole number.
    Limit {
        /// Smallest allowed beside -1.
        min: i64,
        /// Largest allowed.
        max: i64,
    },
    /// A number from 0 to 1.
    Ratio,
    /// Nothing, so that another config decides, or what the inner kind takes.
    Optional(&'static Kind),
}

impl Kind {
    /// What a value must look like, to end the sentence "it must be".
    pub fn allowed(self) -> String {
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
            Kind::List { words, may_be_empty } => {
                let or_nothing = if may_be_empty { ", or nothing" } else { "" };
                format!("{}, several with commas{or_nothing}", words.join(" or "))
            }
            Kind::Number { min: i64::MIN, .. } => "a whole number".to_owned(),
            Kind::Number { min, max } if min == max => min.to_string(),
            Kind::Number { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Limit { min, max } => format!("-1 or a whole number from {min} to {max}"),
            Kind::Ratio => "a number from 0 to 1".to_owned(),
            Kind::Optional(kind) => format!("nothing or {}", kind.allowed()),
        }
    }

    /// What Kafka would call it.
    pub fn config_type(self) -> ConfigType {
        const INT_MAX: i64 = i32::MAX as i64;
        match self {
            Kind::Bool => ConfigType::Boolean,
            Kind::List { .. } => ConfigType::List,
            Kind::Path
            | Kind::Address
            | Kind::Listeners
            | Kind::Protocols
            | Kind::Host
            | Kind::Choice(_) => ConfigType::String,
            Kind::Number { max, .. } | Kind::Limit { max, .. } if max > INT_MAX => ConfigType::Long,
            Kind::Number { .. } | Kind::Limit { .. } => ConfigType::Int,
            Kind::Ratio => ConfigType::Double,
            Kind::Optional(kind) => kind.config_type(),
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
            | Kind::List { .. }
            | Kind::Optional(_) => true,
            Kind::Bool | Kind::Number { .. } | Kind::Limit { .. } | Kind::Ratio => false,
        }
    }

    /// The value as Kafka shows it: numbers without signs that say nothing, lists without blanks and
    /// repetitions. `None` if it is no such value. Of addresses, listeners and protocols only
    /// `Value::parse` can tell whether they are any.
    pub fn canonical(self, text: &str) -> Option<String> {
        match self {
            Kind::Number { min, max } => {
                let number: i64 = text.parse().ok()?;
                (min..=max).contains(&number).then(|| number.to_string())
            }
            Kind::Limit { min, max } => {
                let number: i64 = text.parse().ok()?;
                (number == -1 || (min..=max).contains(&number)).then(|| number.to_string())
            }
            Kind::Ratio => {
                let ratio: f64 = text.parse().ok()?;
                // Java writes the fraction of whole numbers too.
                (0.0..=1.0).contains(&ratio).then(|| format!("{ratio:?}"))
            }
            Kind::Optional(_) if text.is_empty() => Some(String::new()),
            Kind::Optional(kind) => kind.canonical(text),
            Kind::Path => (!text.is_empty()).then(|| text.to_owned()),
            // A port belongs to advertised.listeners; clients would look the whole text up as a name.
            Kind::Host => {
                let named = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
                let is_host = text.bytes().all(named) || text.parse::<IpAddr>().is_ok();
                is_host.then(|| text.to_owned())
            }
            Kind::Bool => ["true", "false"].contains(&text).then(|| text.to_owned()),
            Kind::Choice(words) => words.contains(&text).then(|| text.to_owned()),
            Kind::List { words: known, may_be_empty } => {
                let words = list(text);
                let is_such = words.iter().all(|word| known.contains(word))
                    && (may_be_empty || !words.is_empty());
                is_such.then(|| join(&words))
            }
            Kind::Address | Kind::Listeners | Kind::Protocols => Some(text.to_owned()),
        }
    }
}

/// The words of a list in their order, each once; none for an empty text.
pub fn list(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    if text.trim().is_empty() {
        return words;
    }
    for word in text.split(',').map(str::trim) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

/// A list as text.
pub fn join(words: &[&str]) -> String {
    words.join(",")
}

/// The name most like `name`, if any is close enough to have been meant.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const LIKENESS_MIN: f64 = 0.75;
    names
        .map(|known| (strsim::normalized_damerau_levenshtein(known, name), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .map(|(_, known)| known)
}
