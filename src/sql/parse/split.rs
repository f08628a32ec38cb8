//! A script's statements. Knows quotes, comments and statement sets, nothing else of the language.

/// Splits a script at `;`, minding quotes and comments; empty statements are dropped.
pub(in crate::sql) fn split(script: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut current = Piece::default();
    let mut rest = script;
    while let Some(lexeme) = next_lexeme(rest) {
        let text = &rest[..lexeme.len];
        rest = &rest[lexeme.len..];
        if lexeme.kind == LexemeKind::Semicolon && !current.is_open_set() {
            current.finish(&mut statements);
            continue;
        }
        current.push(text, lexeme.kind);
    }
    current.finish(&mut statements);
    statements
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LexemeKind {
    Blank,
    Word,
    Semicolon,
    Other,
}

struct Lexeme {
    len: usize,
    kind: LexemeKind,
}

/// A statement being collected.
#[derive(Default)]
struct Piece {
    text: String,
    /// Its first words, upper case: as many as tell a statement set.
    head: Vec<String>,
    last_word: String,
    has_content: bool,
}

impl Piece {
    fn push(&mut self, text: &str, kind: LexemeKind) {
        self.text.push_str(text);
        if kind == LexemeKind::Blank {
            return;
        }
        self.has_content = true;
        // The word is empty for anything but a word, so that `END` counts only as the last lexeme.
        self.last_word = match kind {
            LexemeKind::Word => text.to_uppercase(),
            _ => String::new(),
        };
        // An explained statement set is one too.
        let is_explain = self.head.is_empty() && self.last_word == "EXPLAIN";
        if self.head.len() < 4 && !is_explain {
            self.head.push(self.last_word.clone());
        }
    }

    /// Whether a `;` here belongs to an unfinished statement set.
    fn is_open_set(&self) -> bool {
        let head: Vec<&str> = self.head.iter().map(String::as_str).collect();
        let is_set = head.starts_with(&["EXECUTE", "STATEMENT", "SET", "BEGIN"])
            || head.starts_with(&["BEGIN", "STATEMENT", "SET"]);
        is_set && self.last_word != "END"
    }

    fn finish(&mut self, statements: &mut Vec<String>) {
        let piece = std::mem::take(self);
        if piece.has_content {
            statements.push(piece.text.trim().to_owned());
        }
    }
}

fn next_lexeme(text: &str) -> Option<Lexeme> {
    let first = text.chars().next()?;
    let (len, kind) = match first {
        ';' => (1, LexemeKind::Semicolon),
        '\'' | '`' | '"' => (quoted(text, first), LexemeKind::Other),
        '-' if text.starts_with("--") => (text.find('\n').unwrap_or(text.len()), LexemeKind::Blank),
        '/' if text.starts_with("/*") => {
            (text[2..].find("*/").map_or(text.len(), |end| end + 4), LexemeKind::Blank)
        }
        c if c.is_whitespace() => (run(text, char::is_whitespace), LexemeKind::Blank),
        c if is_word(c) => (run(text, is_word), LexemeKind::Word),
        c => (c.len_utf8(), LexemeKind::Other),
    };
    Some(Lexeme { len, kind })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

fn run(text: &str, within: impl Fn(char) -> bool) -> usize {
    text.find(|c| !within(c)).unwrap_or(text.len())
}

/// Length up to the closing quote; a doubled quote closes and opens again, which comes to the same.
fn quoted(text: &str, quote: char) -> usize {
    text[1..].find(quote).map_or(text.len(), |end| end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_quotes_and_comments_do_not_split() {
        let script = "SET 'a' = 'x;y';\n-- a; b\nSELECT `c;d` /* ; */ FROM t;;\n SELECT 'it''s;'";
        assert_eq!(
            split(script),
            ["SET 'a' = 'x;y'", "-- a; b\nSELECT `c;d` /* ; */ FROM t", "SELECT 'it''s;'"]
        );
    }

    #[test]
    fn comments_alone_are_no_statement() {
        assert!(split(" ; -- nothing\n; /* at all */ ").is_empty());
    }

    #[test]
    fn a_statement_set_is_one_statement() {
        let script = "EXECUTE STATEMENT SET BEGIN INSERT INTO a SELECT 1; INSERT INTO b SELECT 2; END; SHOW JOBS;";
        let statements = split(script);
        assert_eq!(statements.len(), 2);
        assert!(statements[0].ends_with("SELECT 2; END"));
    }

    #[test]
    fn an_unclosed_quote_or_comment_ends_with_the_script() {
        assert_eq!(split("SELECT 'a; b"), ["SELECT 'a; b"]);
        assert_eq!(split("SELECT 1 /* a; b"), ["SELECT 1 /* a; b"]);
    }
}
