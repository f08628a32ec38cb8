//! The house rules, checked on the source tree instead of by memory.
//!
//! Each rule is a function over a path and a text, so `tidy/tests.rs` can prove that it is able to
//! fail. A finding names file, line and the rule's reason.

mod scan;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use scan::{Line, has_path, has_word, scan};

/// What each room may use, besides itself: dependencies point downwards, never up. Every room may
/// also use [`COMMON`].
const ROOMS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("config", &[]),
    ("metrics", &[]),
    ("store", &[]),
    ("log", &["store"]),
    ("metadata", &["log", "store"]),
    ("txn", &["group", "log", "metadata"]),
    ("group", &["store", "metadata", "log"]),
    ("security", &["store"]),
    ("quota", &[]),
    ("api", &["store", "log", "metadata", "group", "txn", "security", "quota"]),
    ("wire", &["api", "security"]),
    // A job's source positions show up as an ordinary consumer group: hence `group`.
    ("stream", &["metadata", "log", "txn", "group"]),
    ("sql", &["stream", "metadata", "log"]),
    // The gateway and the console read snapshots of the rooms below.
    ("http", &["sql", "stream", "metadata", "log", "group"]),
    ("console", &["sql", "stream", "metadata", "log", "group"]),
    ("cli", &["server", "log", "sql", "metadata"]),
];

/// Rooms that every room but themselves may use.
const COMMON: &[&str] = &["types", "config", "metrics"];

/// Files at the root of `src` that tie the rooms together.
const UNBOUND: &[&str] = &["lib", "main", "server"];

const FILE_LINES_MAX: usize = 600;
const TEST_MODULE_LINES_MAX: usize = 200;

/// One place that breaks a rule.
struct Finding {
    line: usize,
    what: String,
}

fn finding(line: usize, what: impl Into<String>) -> Finding {
    Finding { line, what: what.into() }
}

/// A house rule over one file of `src`.
struct Rule {
    name: &'static str,
    why: &'static str,
    check: fn(path: &str, text: &str) -> Vec<Finding>,
}

const SOURCE_RULES: &[Rule] = &[
    Rule {
        name: "kafka messages stay in api/",
        why: "below api/ there are no wire types, sentinels or versions",
        check: kafka_messages_stay_in_api,
    },
    Rule {
        name: "sled stays in store/",
        why: "the view can be lost or replaced only if one room knows its engine",
        check: sled_stays_in_store,
    },
    Rule {
        name: "stream/ knows no SQL",
        why: "the executor runs graphs, whoever planned them",
        check: stream_knows_no_sql,
    },
    Rule {
        name: "rooms depend downwards",
        why: "a room may use only those that HOUSE's table gives it",
        check: rooms_depend_downwards,
    },
    Rule {
        name: "handlers are authorised",
        why: "a handler reaches topics, groups and ids by api/access alone, so that no API can \
              forget to ask the authoriser",
        check: handlers_are_authorised,
    },
    Rule {
        name: "files stay short",
        why: "a reader holds one file in mind; long tests move to a sibling tests.rs",
        check: files_stay_short,
    },
    Rule {
        name: "API files say what they are",
        why: "key, versions and gaps are read before the code is",
        check: api_files_have_a_header,
    },
    Rule { name: "no unsafe", why: "rustix and the like carry the system calls", check: no_unsafe },
    Rule {
        name: "nothing is left to do",
        why: "a stub that is reached aborts a request, a job or the broker",
        check: nothing_left_to_do,
    },
    Rule {
        name: "only the command line prints",
        why: "logs are structured and go to stderr through tracing",
        check: only_the_command_line_prints,
    },
    Rule {
        name: "no reachable panic",
        why: "network, config, SQL and disk must not be able to end the process; where it cannot \
              fail, a comment `// Cannot fail: …` above the statement says why",
        check: no_reachable_panic,
    },
    Rule {
        name: "names are the field's terms",
        why: "manager, helper and util say nothing",
        check: names_say_something,
    },
];

/// Rules over every file of the repository.
const REPOSITORY_RULES: &[Rule] = &[Rule {
    name: "the repository speaks of the product alone",
    why: "a machine's paths and mirrors mean nothing to the next reader",
    check: no_machine_is_mentioned,
}];

fn kafka_messages_stay_in_api(path: &str, text: &str) -> Vec<Finding> {
    match room(path) {
        "api" => Vec::new(),
        "group" | "txn" => each_line(text, |line| {
            has_path(&line.code, "kafka_protocol").then(|| "names kafka_protocol".to_owned())
        }),
        _ => uses(text, "kafka_protocol")
            .into_iter()
            .filter(|(_, module)| module == "messages")
            .map(|(line, _)| finding(line, "uses kafka_protocol::messages"))
            .collect(),
    }
}

fn sled_stays_in_store(path: &str, text: &str) -> Vec<Finding> {
    if room(path) == "store" {
        return Vec::new();
    }
    each_line(text, |line| {
        let used = has_path(&line.code, "sled") || line.code.trim_start().starts_with("use sled");
        used.then(|| "uses sled".to_owned())
    })
}

fn stream_knows_no_sql(path: &str, text: &str) -> Vec<Finding> {
    if room(path) != "stream" {
        return Vec::new();
    }
    let mut findings = each_line(text, |line| {
        ["datafusion_sql", "sqlparser"]
            .into_iter()
            .find(|name| has_word(&line.code, name))
            .map(|name| format!("uses {name}"))
    });
    for (line, module) in uses(text, "crate") {
        if module == "sql" {
            findings.push(finding(line, "uses crate::sql"));
        }
    }
    findings
}

fn rooms_depend_downwards(path: &str, text: &str) -> Vec<Finding> {
    let room = room(path);
    // A test may look wherever it likes.
    if UNBOUND.contains(&room) || is_test_file(path) {
        return Vec::new();
    }
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![finding(1, format!("{room}/ has no place in the table of rooms"))];
    };
    let is_common = COMMON.contains(&room);
    uses(text, "crate")
        .into_iter()
        .filter(|(_, used)| {
            let of_all = used == "types" || (!is_common && COMMON.contains(&used.as_str()));
            used != room && !of_all && !allowed.contains(&used.as_str())
        })
        .map(|(line, used)| finding(line, format!("{room}/ uses {used}/")))
        .collect()
}

/// Where handlers are handed what their client was authorised for.
const ACCESS: &[&str] = &["src/api/access.rs", "src/api/access/"];

/// What leads to topics, groups and ids without an authoriser, or makes one say yes.
const UNAUTHORISED: &[&str] = &[
    "Metadata",
    "Image",
    "Groups",
    "ProducerIds",
    "Logs",
    "Journal",
    "Authorizer",
    "Target",
    "Policy",
    "AllowAll",
];

fn handlers_are_authorised(path: &str, text: &str) -> Vec<Finding> {
    let is_access = ACCESS.iter().any(|access| path.starts_with(access));
    if room(path) != "api" || is_access || is_test_file(path) {
        return Vec::new();
    }
    each_line(text, |line| {
        // The API of that name leads nowhere.
        let code = line.code.replace("ApiKey::Metadata", "ApiKey");
        let names_it = |name: &&&str| !line.in_test && has_word(&code, name);
        UNAUTHORISED.iter().find(names_it).map(|name| format!("names {name}"))
    })
}

fn files_stay_short(path: &str, text: &str) -> Vec<Finding> {
    if is_test_file(path) {
        return Vec::new();
    }
    let lines = scan(text);
    let tests = lines.iter().filter(|line| line.in_test).count();
    let mut findings = Vec::new();
    if lines.len() - tests > FILE_LINES_MAX {
        let what = format!("{} lines without tests, at most {FILE_LINES_MAX}", lines.len() - tests);
        findings.push(finding(lines.len(), what));
    }
    if tests > TEST_MODULE_LINES_MAX {
        let first = lines.iter().position(|line| line.in_test).unwrap_or(0) + 1;
        let what = format!("{tests} lines of tests, at most {TEST_MODULE_LINES_MAX} beside code");
        findings.push(finding(first, what));
    }
    findings
}

fn api_files_have_a_header(path: &str, text: &str) -> Vec<Finding> {
    if room(path) != "api" || is_test_file(path) {
        return Vec::new();
    }
    let Some(versions) = api_versions(text) else { return Vec::new() };
    let header: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
    let has_versions =
        header.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|word| word == versions);
    let mut missing = Vec::new();
    if !header.contains("(key ") {
        missing.push("`(key N)`".to_owned());
    }
    if !has_versions {
        missing.push(format!("its versions `{versions}`"));
    }
    if !header.contains("Gaps:") {
        missing.push("`Gaps:`".to_owned());
    }
    missing.into_iter().map(|what| finding(1, format!("the header lacks {what}"))).collect()
}

/// The versions of the API that a file declares (`const API … 0..=4`) as its header writes them:
/// `v0-4`, or `v0` for a single one. `None` for a file that serves every API.
fn api_versions(text: &str) -> Option<String> {
    let lines = scan(text);
    let is_api = |line: &&Line| has_word(&line.code, "API") && has_word(&line.code, "const");
    let (low, high) = lines.iter().find(is_api)?.code.split_once("..=")?;
    let low = low.rsplit(|c: char| !c.is_ascii_digit()).next()?;
    let high = high.split(|c: char| !c.is_ascii_digit()).next()?;
    Some(if low == high { format!("v{low}") } else { format!("v{low}-{high}") })
}

fn no_unsafe(_path: &str, text: &str) -> Vec<Finding> {
    each_line(text, |line| has_word(&line.code, "unsafe").then(|| "unsafe".to_owned()))
}

fn nothing_left_to_do(_path: &str, text: &str) -> Vec<Finding> {
    each_line(text, |line| {
        ["todo!", "unimplemented!", "dbg!"]
            .into_iter()
            .find(|name| has_word(&line.code, name))
            .map(str::to_owned)
    })
}

fn only_the_command_line_prints(path: &str, text: &str) -> Vec<Finding> {
    if matches!(room(path), "cli" | "main") || is_test_file(path) {
        return Vec::new();
    }
    each_line(text, |line| {
        ["println!", "eprintln!", "print!", "eprint!"]
            .into_iter()
            .find(|name| !line.in_test && has_word(&line.code, name))
            .map(str::to_owned)
    })
}

fn no_reachable_panic(path: &str, text: &str) -> Vec<Finding> {
    if is_test_file(path) {
        return Vec::new();
    }
    let lines = scan(text);
    let mut findings = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if line.in_test {
            continue;
        }
        let panics = [".unwrap()", ".unwrap_err()", ".expect(", ".expect_err("]
            .into_iter()
            .find(|call| line.code.contains(call))
            .or_else(|| {
                ["panic!", "unreachable!"].into_iter().find(|name| has_word(&line.code, name))
            });
        if let Some(call) = panics
            && !is_justified(&lines, index)
        {
            findings.push(finding(index + 1, call));
        }
    }
    findings
}

/// Whether a comment `Cannot fail: …` stands on the line or directly above its statement.
fn is_justified(lines: &[Line], index: usize) -> bool {
    if lines[index].comment.contains("Cannot fail:") {
        return true;
    }
    let mut above = index;
    while above > 0 {
        above -= 1;
        let line = &lines[above];
        if line.comment.contains("Cannot fail:") {
            return true;
        }
        let code = line.code.trim();
        let ends_statement = code.ends_with([';', '{', '}', ',']);
        let is_blank = code.is_empty() && line.comment.is_empty();
        if ends_statement || is_blank {
            return false;
        }
    }
    false
}

fn names_say_something(path: &str, _text: &str) -> Vec<Finding> {
    path.split(['/', '_', '.', '-'])
        .filter(|word| {
            ["manager", "helper", "util"].iter().any(|dull| word.trim_end_matches('s') == *dull)
        })
        .map(|word| finding(1, format!("the path says '{word}'")))
        .collect()
}

fn no_machine_is_mentioned(path: &str, text: &str) -> Vec<Finding> {
    // Spelled apart, so that this file passes its own rule.
    let paths = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/Use", "rs/"),
        concat!("/wo", "rk/"),
        concat!("/tmp/", "wt/"),
        concat!("/tmp/", "tgt/"),
        concat!("/tmp/", "plan/"),
    ];
    let hosts = [
        concat!("arti", "factory"),
        concat!("nexus", "."),
        concat!("index", "-url"),
        concat!("[source.", "crates-io]"),
    ];
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for word in paths.iter().filter(|word| starts_a_path(line, word)) {
            findings.push(finding(index + 1, format!("names the path {word}")));
        }
        for word in hosts.iter().filter(|word| line.contains(**word)) {
            findings.push(finding(index + 1, format!("names the mirror {word}")));
        }
        let foreign_lock = path == "Cargo.lock"
            && line.starts_with("source = ")
            && !line.contains("registry+https://github.com/rust-lang/crates.io-index");
        if foreign_lock {
            findings.push(finding(index + 1, "locks a crate to something else than crates.io"));
        }
    }
    findings
}

/// Whether `prefix` stands in `line` as the start of a path rather than in the middle of one.
fn starts_a_path(line: &str, prefix: &str) -> bool {
    line.match_indices(prefix).any(|(at, _)| {
        !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}'))
    })
}

/// `src/group/classic/join.rs` is of the room `group`, `src/server.rs` of `server`.
fn room(path: &str) -> &str {
    let below = path.strip_prefix("src/").unwrap_or(path);
    let first = below.split('/').next().unwrap_or(below);
    first.strip_suffix(".rs").unwrap_or(first)
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/")
}

fn each_line(text: &str, check: impl Fn(&Line) -> Option<String>) -> Vec<Finding> {
    scan(text)
        .iter()
        .enumerate()
        .filter_map(|(index, line)| check(line).map(|what| finding(index + 1, what)))
        .collect()
}

/// The modules named directly under `root` in paths and `use` groups, with their lines:
/// `use root::{a::b, c}` names `a` and `c`.
fn uses(text: &str, root: &str) -> Vec<(usize, String)> {
    scan::paths_under(&scan(text), root)
}

/// Every room is a heading of the map, or the map misleads.
fn rooms_missing_from_the_map(rooms: &[String], map: &str) -> Vec<String> {
    rooms.iter().filter(|room| !map.contains(&format!("`{room}/`"))).cloned().collect()
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `folder` as paths relative to the repository, with their texts; what is not UTF-8
/// is left out.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            // A dot folder other than `.ci` and what builds and brokers leave are not the product.
            let name = name.to_string_lossy();
            let left_out = (name.starts_with('.') && name != ".ci")
                || name == "target"
                || name == "node_modules"
                || name.starts_with("ottla-data");
            if !left_out {
                found.extend(files(&path));
            }
        } else if let Ok(text) = fs::read_to_string(&path)
            && let Ok(relative) = path.strip_prefix(repository())
            && relative != Path::new(".git")
        {
            found.push((relative.to_string_lossy().into_owned(), text));
        }
    }
    found.sort();
    found
}

fn report(rules: &[Rule], files: &[(String, String)]) -> Vec<String> {
    let mut lines = Vec::new();
    for rule in rules {
        for (path, text) in files {
            for Finding { line, what } in (rule.check)(path, text) {
                lines.push(format!("{path}:{line}: {what} ({}: {})", rule.name, rule.why));
            }
        }
    }
    lines
}

#[test]
fn the_source_follows_the_house_rules() {
    let sources: Vec<_> = files(&repository().join("src"))
        .into_iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .collect();
    assert!(sources.len() > 20, "the source tree was not found");
    let broken = report(SOURCE_RULES, &sources);
    assert!(broken.is_empty(), "{} broken house rules:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn the_repository_speaks_of_the_product_alone() {
    let broken = report(REPOSITORY_RULES, &files(&repository()));
    assert!(broken.is_empty(), "{} broken house rules:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn every_room_is_on_the_map() {
    let map = fs::read_to_string(repository().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let rooms: Vec<String> = fs::read_dir(repository().join("src"))
        .expect("src")
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let missing = rooms_missing_from_the_map(&rooms, &map);
    assert!(missing.is_empty(), "ARCHITECTURE.md does not list: {missing:?}");
}
