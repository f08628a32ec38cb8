//! The commented default file.

use super::Config;
use super::table::{KEYS, Key};

const HEAD: &str = "\
# Every config of Ottla with its default.
#
#   ottla serve --config config/ottla.toml
#
# Flags (--set num.partitions=4) beat environment variables (OTTLA_NUM_PARTITIONS=4), which beat
# this file. Names are Kafka's where Kafka has the config. Sizes are bytes, durations milliseconds.
";

const WIDTH: usize = 100;

pub(super) fn default_file() -> String {
    let defaults = Config::default();
    let mut file = HEAD.to_owned();
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            file.push_str(&format!("\n# --- {section} ---\n"));
        }
        file.push('\n');
        for line in comment(key) {
            file.push_str(&format!("# {line}\n"));
        }
        let value = key.at_start(&defaults);
        if key.kind.quoted() {
            // Rust's escapes of quotes and backslashes are TOML's too.
            file.push_str(&format!("{} = {value:?}\n", key.name));
        } else {
            file.push_str(&format!("{} = {value}\n", key.name));
        }
    }
    file
}

/// The key's sentence and what it takes, wrapped.
fn comment(key: &Key) -> Vec<String> {
    let changes = if key.is_dynamic() { " Can be changed while the broker runs." } else { "" };
    let text = format!("{} Takes {}.{changes}", key.doc, key.kind.allowed());
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.len() + 1 + word.len() > WIDTH - 2 {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}
