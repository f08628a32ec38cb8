//! Reads Rust just well enough for the house rules: code apart from comments and literals, and
//! which lines belong to tests.

/// One line of a source file.
#[derive(Default)]
pub struct Line {
    /// Its code; the insides of string and character literals are blanked.
    pub code: String,
    /// Its comment.
    pub comment: String,
    /// Whether it stands inside an item under `#[cfg(test)]`.
    pub in_test: bool,
}

/// Splits `text` into lines of code and comment.
pub fn scan(text: &str) -> Vec<Line> {
    let mut lines = split(text);
    mark_tests(&mut lines);
    lines
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Code,
    LineComment,
    BlockComment { depth: usize },
    Text { hashes: Option<usize> },
}

fn split(text: &str) -> Vec<Line> {
    let chars: Vec<char> = text.chars().collect();
    let mut lines = vec![Line::default()];
    let mut state = State::Code;
    let mut at = 0;
    while at < chars.len() {
        let (c, next) = (chars[at], chars.get(at + 1).copied());
        if c == '\n' {
            if state == State::LineComment {
                state = State::Code;
            }
            lines.push(Line::default());
            at += 1;
            continue;
        }
        let line = lines.last_mut().expect("there is always a line");
        match state {
            State::Code => {
                if c == '/' && next == Some('/') {
                    state = State::LineComment;
                } else if c == '/' && next == Some('*') {
                    state = State::BlockComment { depth: 1 };
                    at += 1;
                } else if c == '"' {
                    line.code.push('"');
                    state = State::Text { hashes: None };
                } else if let Some(hashes) = raw_string(&chars, at, &line.code) {
                    line.code.push('"');
                    at += hashes + 1;
                    state = State::Text { hashes: Some(hashes) };
                } else if let Some(length) = char_literal(&chars, at) {
                    line.code.push_str("' '");
                    at += length - 1;
                } else {
                    line.code.push(c);
                }
            }
            State::LineComment => line.comment.push(c),
            State::BlockComment { depth } => {
                if c == '*' && next == Some('/') {
                    at += 1;
                    state = if depth == 1 {
                        State::Code
                    } else {
                        State::BlockComment { depth: depth - 1 }
                    };
                } else if c == '/' && next == Some('*') {
                    at += 1;
                    state = State::BlockComment { depth: depth + 1 };
                } else {
                    line.comment.push(c);
                }
            }
            State::Text { hashes: None } => {
                if c == '\\' && next != Some('\n') {
                    at += 1;
                } else if c == '"' {
                    line.code.push('"');
                    state = State::Code;
                }
            }
            State::Text { hashes: Some(hashes) } => {
                let closes =
                    c == '"' && (1..=hashes).all(|ahead| chars.get(at + ahead) == Some(&'#'));
                if closes {
                    line.code.push('"');
                    at += hashes;
                    state = State::Code;
                }
            }
        }
        at += 1;
    }
    lines
}

/// The number of hashes if a raw string starts at `at`.
fn raw_string(chars: &[char], at: usize, before: &str) -> Option<usize> {
    if chars[at] != 'r' || before.ends_with(|c: char| c.is_alphanumeric() && c != 'b' || c == '_') {
        return None;
    }
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    (chars.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// The length of the character literal at `at`, or `None` if the quote starts a lifetime.
fn char_literal(chars: &[char], at: usize) -> Option<usize> {
    if chars[at] != '\'' {
        return None;
    }
    if chars.get(at + 1) == Some(&'\\') {
        let end = chars[at + 3..].iter().position(|c| *c == '\'')?;
        return Some(end + 4);
    }
    (chars.get(at + 2) == Some(&'\'')).then_some(3)
}

/// Marks the lines of each item under `#[cfg(test)]`, from the attribute to its closing brace.
fn mark_tests(lines: &mut [Line]) {
    let mut index = 0;
    while index < lines.len() {
        if !lines[index].code.contains("#[cfg(test)]") {
            index += 1;
            continue;
        }
        let mut depth = 0;
        let mut opened = false;
        while index < lines.len() {
            let line = &mut lines[index];
            line.in_test = true;
            for c in line.code.chars() {
                match c {
                    '{' => {
                        depth += 1;
                        opened = true;
                    }
                    '}' => depth -= 1,
                    _ => {}
                }
            }
            let ends_without_body = !opened && line.code.trim_end().ends_with(';');
            index += 1;
            if ends_without_body || (opened && depth == 0) {
                break;
            }
        }
    }
}

/// Whether `word` stands in `code` with no letter, digit or underscore around it.
pub fn has_word(code: &str, word: &str) -> bool {
    word_at(code, word).is_some()
}

/// Whether `code` names a path that starts with `root`, as in `root::x`.
pub fn has_path(code: &str, root: &str) -> bool {
    code.match_indices(&format!("{root}::")).any(|(at, _)| !continues(&code[..at]))
}

fn word_at(code: &str, word: &str) -> Option<usize> {
    code.match_indices(word).map(|(at, _)| at).find(|at| {
        let after = code[at + word.len()..].chars().next();
        let name_goes_on = after.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !continues(&code[..*at]) && (word.ends_with('!') || !name_goes_on)
    })
}

/// Whether what follows `before` would be the rest of a longer name or path.
fn continues(before: &str) -> bool {
    before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$')
}

/// The names directly under `root`, with their lines, outside of tests and of comments:
/// `root::{a::b, c}` names `a` and `c`.
pub fn paths_under(lines: &[Line], root: &str) -> Vec<(usize, String)> {
    let mut chars: Vec<(usize, char)> = Vec::new();
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| !line.in_test) {
        chars.extend(line.code.chars().map(|c| (index + 1, c)));
        chars.push((index + 1, '\n'));
    }
    let code: String = chars.iter().map(|(_, c)| *c).collect();
    let opening = format!("{root}::");
    let mut names = Vec::new();
    for (at, _) in code.match_indices(&opening) {
        if continues(&code[..at]) {
            continue;
        }
        let start = code[..at].chars().count() + opening.chars().count();
        match chars.get(start) {
            Some((_, '{')) => names.extend(group_names(&chars[start + 1..])),
            Some((line, _)) => names.push((*line, name(&chars[start..]))),
            None => {}
        }
    }
    names.retain(|(_, name)| !name.is_empty());
    names
}

/// The first name of each entry of a `use` group that was just opened.
fn group_names(chars: &[(usize, char)]) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    let (mut depth, mut expects_name) = (1, true);
    for (at, (line, c)) in chars.iter().enumerate() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => expects_name = true,
            c if c.is_whitespace() => {}
            _ if expects_name && depth == 1 => {
                names.push((*line, name(&chars[at..])));
                expects_name = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn name(chars: &[(usize, char)]) -> String {
    chars.iter().map(|(_, c)| *c).take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}
