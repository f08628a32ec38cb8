//! What the value of a topic config must look like, with Kafka's bounds.

/// What a key takes; the bounds of numbers are inclusive.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A whole number.
    Number { min: i64, max: i64 },
    /// zlib's: -1 or 1 to 9.
    GzipLevel,
    /// A number from 0 to 1.
    Ratio,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of `delete` and `compact`, which may be empty.
    Policy,
}

impl Kind {
    /// The value as Kafka shows it: without blanks around it, signs and repetitions. `None` if it
    /// is no such value.
    pub(super) fn canonical(self, text: &str) -> Option<String> {
        match self {
            Kind::Number { min, max } => {
                let number: i64 = text.parse().ok()?;
                (min..=max).contains(&number).then(|| number.to_string())
            }
            Kind::GzipLevel => {
                let level: i64 = text.parse().ok()?;
                (level == -1 || (1..=9).contains(&level)).then(|| level.to_string())
            }
            Kind::Ratio => {
                let ratio: f64 = text.parse().ok()?;
                // Java writes the fraction of whole numbers too.
                (0.0..=1.0).contains(&ratio).then(|| format!("{ratio:?}"))
            }
            Kind::Word(words) => words.contains(&text).then(|| text.to_owned()),
            Kind::Policy => {
                let words = list(text);
                words.iter().all(|word| ["delete", "compact"].contains(word)).then(|| join(&words))
            }
        }
    }

    /// What a value must look like, to end the sentence "it must be".
    pub(super) fn allowed(self) -> String {
        match self {
            Kind::Number { min: i64::MIN, .. } => "a whole number".to_owned(),
            Kind::Number { min, max } => format!("a whole number from {min} to {max}"),
            Kind::GzipLevel => "-1 or a whole number from 1 to 9".to_owned(),
            Kind::Ratio => "a number from 0 to 1".to_owned(),
            Kind::Word(words) => format!("one of {}", words.join(", ")),
            Kind::Policy => "delete, compact, both with a comma, or nothing".to_owned(),
        }
    }
}

/// The words of a list in their order, each once; none for an empty text.
pub(super) fn list(text: &str) -> Vec<&str> {
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
pub(super) fn join(words: &[&str]) -> String {
    words.join(",")
}
