//! A JSON scanner that hands out the fields of one object as slices of the text: numbers keep the
//! digits they were written with, and what no column wants is checked but never built.

use std::borrow::Cow;

/// How deep values may be nested, as in Jackson.
const DEPTH_MAX: usize = 1000;

/// A value as it stands in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    True,
    False,
    /// Its digits.
    Number(&'a str),
    /// Between the quotes, escapes and all.
    String(&'a str),
    /// An object or array with its brackets.
    Nested(&'a str),
}

impl<'a> Value<'a> {
    /// The text of a scalar, as Jackson's `getText`.
    pub(super) fn text(self) -> Cow<'a, str> {
        match self {
            Value::Null => Cow::Borrowed("null"),
            Value::True => Cow::Borrowed("true"),
            Value::False => Cow::Borrowed("false"),
            Value::Number(text) | Value::Nested(text) => Cow::Borrowed(text),
            Value::String(raw) => unescape(raw),
        }
    }
}

/// Calls `field` for each field of the object in `text`, in order. What follows the object is not
/// looked at, as in Flink. The error says what is wrong and at which byte.
pub(super) fn object<'a>(
    text: &'a str,
    mut field: impl FnMut(Cow<'a, str>, Value<'a>),
) -> Result<(), String> {
    let mut scanner = Scanner { text, at: 0 };
    scanner.blank();
    if scanner.peek() != Some(b'{') {
        return Err(scanner.wrong("an object"));
    }
    scanner.fields(0, &mut field)
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn wrong(&self, expected: &str) -> String {
        match self.text[self.at..].chars().next() {
            Some(found) => format!("expected {expected} at byte {}, found {found:?}", self.at),
            None => format!("expected {expected} at byte {}, found the end", self.at),
        }
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn byte(&mut self, expected: u8, name: &str) -> Result<(), String> {
        self.blank();
        if self.peek() != Some(expected) {
            return Err(self.wrong(name));
        }
        self.at += 1;
        Ok(())
    }

    fn fields(
        &mut self,
        depth: usize,
        field: &mut dyn FnMut(Cow<'a, str>, Value<'a>),
    ) -> Result<(), String> {
        self.byte(b'{', "'{'")?;
        self.blank();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.blank();
            if self.peek() != Some(b'"') {
                return Err(self.wrong("a field name"));
            }
            let name = self.string()?;
            self.byte(b':', "':'")?;
            let value = self.value(depth + 1)?;
            field(unescape(name), value);
            self.blank();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.wrong("',' or '}'")),
            }
        }
    }

    fn elements(&mut self, depth: usize) -> Result<(), String> {
        self.byte(b'[', "'['")?;
        self.blank();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            self.blank();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.wrong("',' or ']'")),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, String> {
        if depth > DEPTH_MAX {
            return Err(format!("values are nested deeper than {DEPTH_MAX}"));
        }
        self.blank();
        let start = self.at;
        match self.peek() {
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b'{') => {
                self.fields(depth, &mut |_, _| ())?;
                Ok(Value::Nested(&self.text[start..self.at]))
            }
            Some(b'[') => {
                self.elements(depth)?;
                Ok(Value::Nested(&self.text[start..self.at]))
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::True),
            Some(b'f') => self.word("false", Value::False),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(self.wrong("a value")),
        }
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, String> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.wrong("a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn digits(&mut self) -> Result<(), String> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.wrong("a digit")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Value<'a>, String> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
            if matches!(self.peek(), Some(b'0'..=b'9')) {
                return Err(format!("leading zero in a number at byte {start}"));
            }
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(Value::Number(&self.text[start..self.at]))
    }

    /// What stands between the quotes, with its escapes checked.
    fn string(&mut self) -> Result<&'a str, String> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    let raw = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(raw);
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                            self.at += 1;
                        }
                        Some(b'u') => {
                            let hex = self.text.as_bytes().get(self.at + 1..self.at + 5);
                            if !hex.is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) {
                                return Err(self.wrong("'u' and four hex digits"));
                            }
                            self.at += 5;
                        }
                        _ => return Err(self.wrong("an escape")),
                    }
                }
                Some(0..=0x1F) => return Err(self.wrong("no control character in a string")),
                Some(_) => self.at += 1,
                None => return Err(self.wrong("'\"'")),
            }
        }
    }
}

/// Resolves the escapes of a string that was scanned before. A lone surrogate, which has no UTF-8,
/// becomes U+FFFD.
fn unescape(raw: &str) -> Cow<'_, str> {
    let Some(first) = raw.find('\\') else { return Cow::Borrowed(raw) };
    let mut text = String::with_capacity(raw.len());
    text.push_str(&raw[..first]);
    let mut rest = raw[first..].chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match rest.next() {
            Some('b') => text.push('\u{8}'),
            Some('f') => text.push('\u{C}'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('t') => text.push('\t'),
            Some('u') => {
                let mut unit = hex4(&mut rest);
                if (0xD800..0xDC00).contains(&unit) && rest.as_str().starts_with("\\u") {
                    let mut ahead = rest.clone();
                    ahead.next();
                    ahead.next();
                    let low = hex4(&mut ahead);
                    if (0xDC00..0xE000).contains(&low) {
                        unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                        rest = ahead;
                    }
                }
                text.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => text.push(other),
            None => {}
        }
    }
    Cow::Owned(text)
}

fn hex4(rest: &mut std::str::Chars<'_>) -> u32 {
    rest.by_ref().take(4).fold(0, |unit, c| unit * 16 + c.to_digit(16).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Result<Vec<(String, Value<'_>)>, String> {
        let mut seen = Vec::new();
        object(text, |name, value| seen.push((name.into_owned(), value)))?;
        Ok(seen)
    }

    #[test]
    fn fields_come_in_order_with_the_text_they_were_written_with() {
        let text = r#" {"a" : 1.50, "b":"x\n", "c":[1,{"d":null}], "e":true,"f":null} trailing"#;
        assert_eq!(
            fields(text).unwrap(),
            vec![
                ("a".to_owned(), Value::Number("1.50")),
                ("b".to_owned(), Value::String("x\\n")),
                ("c".to_owned(), Value::Nested("[1,{\"d\":null}]")),
                ("e".to_owned(), Value::True),
                ("f".to_owned(), Value::Null),
            ]
        );
        assert!(fields("{}").unwrap().is_empty());
    }

    #[test]
    fn escapes_and_surrogate_pairs_are_resolved() {
        let text = r#"{"\u0061":"\ud83d\ude00 \"\\\/\t \ud83d"}"#;
        let seen = fields(text).unwrap();
        assert_eq!(seen[0].0, "a");
        assert_eq!(seen[0].1.text(), "\u{1F600} \"\\/\t \u{FFFD}");
    }

    #[test]
    fn what_is_no_json_is_named_with_its_place() {
        for bad in [
            "",
            "null",
            "[1]",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":01}",
            "{\"a\":1,}",
            "{\"a\":1 2}",
            "{\"a\":tru}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12\"}",
            "{\"a\":\"",
            "{\"a\":-}",
            "{\"a\":1.}",
            "{\"a\":1e}",
            "{\"a\":[1,}",
            "{\"a\":\"\u{1}\"}",
            "{a:1}",
            "{\"é\":é}",
        ] {
            let error = fields(bad).unwrap_err();
            assert!(error.contains("byte"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_tower_of_brackets_is_refused_instead_of_overflowing_the_stack() {
        let tower = format!("{{\"a\":{}", "[".repeat(100_000));
        assert!(fields(&tower).unwrap_err().contains("nested"));
    }
}
