//! Each rule is shown something that breaks it, and something close that does not.

use super::*;

fn lines_of(check: fn(&str, &str) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
    check(path, text).into_iter().map(|finding| finding.line).collect()
}

#[test]
fn kafka_messages_are_refused_outside_api() {
    let check = kafka_messages_stay_in_api;
    let text = "use bytes::Bytes;\nuse kafka_protocol::messages::FetchRequest;\n";
    assert_eq!(lines_of(check, "src/wire/frame.rs", text), [2]);
    assert!(lines_of(check, "src/api/fetch.rs", text).is_empty());
    let group = "use kafka_protocol::{\n    messages::ApiKey,\n};\n";
    assert_eq!(lines_of(check, "src/wire/frame.rs", group), [2]);
    let records = "use kafka_protocol::records::Record;\n";
    assert!(lines_of(check, "src/log/records.rs", records).is_empty());
    assert_eq!(lines_of(check, "src/group/offsets.rs", records), [1]);
    assert!(lines_of(check, "src/txn/mod.rs", "// kafka_protocol::records\n").is_empty());
}

#[test]
fn sled_is_refused_outside_store() {
    let text = "fn open() {\n    let db = sled::open(path);\n}\n";
    assert_eq!(lines_of(sled_stays_in_store, "src/log/index.rs", text), [2]);
    assert_eq!(lines_of(sled_stays_in_store, "src/log/index.rs", "use sled;\n"), [1]);
    assert!(lines_of(sled_stays_in_store, "src/store/sled.rs", text).is_empty());
    assert!(lines_of(sled_stays_in_store, "src/log/mod.rs", "// sled::Db is lost\n").is_empty());
}

#[test]
fn sql_is_refused_in_stream() {
    let text = "use crate::{metadata, sql::Plan};\nuse datafusion_sql::parser;\n";
    let mut lines = lines_of(stream_knows_no_sql, "src/stream/graph.rs", text);
    lines.sort_unstable();
    assert_eq!(lines, [1, 2]);
    assert!(lines_of(stream_knows_no_sql, "src/sql/plan.rs", text).is_empty());
}

#[test]
fn a_room_that_looks_up_is_refused() {
    let check = rooms_depend_downwards;
    let text = "use crate::types::Offset;\nuse crate::{\n    store::keys,\n    api::Context,\n};\n";
    assert_eq!(lines_of(check, "src/log/partition.rs", text), [4]);
    assert_eq!(lines_of(check, "src/log/partition.rs", "fn f() { crate::wire::x() }\n"), [1]);
    assert_eq!(lines_of(check, "src/config/mod.rs", "use crate::metrics::Metrics;\n"), [1]);
    assert!(lines_of(check, "src/metrics/mod.rs", "use crate::types::Offset;\n").is_empty());
    assert_eq!(lines_of(check, "src/attic/mod.rs", ""), [1]);
    assert!(lines_of(check, "src/server.rs", "use crate::cli;\n").is_empty());
    let in_test = "#[cfg(test)]\nmod tests {\n    use crate::wire::Frame;\n}\n";
    assert!(lines_of(check, "src/log/batch.rs", in_test).is_empty());
    assert!(lines_of(check, "src/log/scan/tests.rs", "use crate::wire::Frame;\n").is_empty());
}

#[test]
fn a_handler_that_passes_the_authoriser_by_is_refused() {
    let check = handlers_are_authorised;
    let field =
        "use crate::metadata::{self, Metadata};\nstruct Context {\n    groups: Groups,\n}\n";
    assert_eq!(lines_of(check, "src/api/mod.rs", field), [1, 3]);
    let path = "async fn handle() {\n    let ids = crate::txn::ProducerIds::start(journal);\n}\n";
    assert_eq!(lines_of(check, "src/api/produce/request.rs", path), [2]);
    let forged = "impl security::Target for Any {}\nlet yes = Authorizer::AllowAll;\n";
    assert_eq!(lines_of(check, "src/api/fetch.rs", forged), [1, 2]);
    for allowed in ["src/api/access.rs", "src/api/access/topics.rs", "src/api/fetch/tests.rs"] {
        assert!(lines_of(check, allowed, field).is_empty());
    }
    assert!(lines_of(check, "src/stream/job.rs", field).is_empty());
    let good = "use crate::metadata::{MetadataError, Topic};\n#[cfg(test)]\nmod tests {\n    use \
                crate::metadata::Metadata;\n}\nlet topic = access.topics().named::<op::Read>(name);\n";
    assert!(lines_of(check, "src/api/metadata.rs", good).is_empty());
    let api = "pub(super) const API: Api = Api::ordered(ApiKey::Metadata, 0..=13);\n";
    assert!(lines_of(check, "src/api/metadata.rs", api).is_empty());
}

#[test]
fn a_long_file_and_a_long_test_module_are_refused() {
    let long = "let x = 1;\n".repeat(FILE_LINES_MAX + 1);
    assert_eq!(lines_of(files_stay_short, "src/log/a.rs", &long).len(), 1);
    assert!(lines_of(files_stay_short, "src/log/tests.rs", &long).is_empty());
    let body = "    let x = 1;\n".repeat(TEST_MODULE_LINES_MAX);
    let tests = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{body}}}\n");
    assert_eq!(lines_of(files_stay_short, "src/log/a.rs", &tests), [2]);
    let near = "let x = 1;\n".repeat(FILE_LINES_MAX - 1) + "#[cfg(test)]\nmod tests {\n}\n";
    assert!(lines_of(files_stay_short, "src/log/a.rs", &near).is_empty());
}

#[test]
fn an_api_file_without_its_header_is_refused() {
    let check = api_files_have_a_header;
    let api = "pub(super) const API: Api = Api::ordered(ApiKey::Heartbeat, 0..=4);\n";
    assert_eq!(lines_of(check, "src/api/heartbeat.rs", api), [1, 1, 1]);
    let good = format!("//! Heartbeat (key 12), v0-4: keeps alive.\n//!\n//! Gaps: none.\n{api}");
    assert!(lines_of(check, "src/api/heartbeat.rs", &good).is_empty());
    let no_gaps = format!("//! Heartbeat (key 12), v0-4: keeps alive.\n{api}");
    assert_eq!(lines_of(check, "src/api/heartbeat.rs", &no_gaps), [1]);
    let other_versions = good.replace("v0-4", "v0-3");
    assert_eq!(lines_of(check, "src/api/heartbeat.rs", &other_versions), [1]);
    assert!(lines_of(check, "src/api/header.rs", "//! Headers.\n").is_empty());
}

#[test]
fn unsafe_is_refused_in_code_only() {
    let text = "// unsafe would be wrong\nfn f() {\n    unsafe { g() }\n}\nlet s = \"unsafe\";\n";
    assert_eq!(lines_of(no_unsafe, "src/log/a.rs", text), [3]);
    assert!(lines_of(no_unsafe, "src/log/a.rs", "#![deny(unsafe_code)]\n").is_empty());
}

#[test]
fn stubs_are_refused_even_in_tests() {
    let text = "fn f() {\n    todo!(\"later\")\n}\n#[cfg(test)]\nmod tests {\n    dbg!(1);\n}\n";
    assert_eq!(lines_of(nothing_left_to_do, "src/log/a.rs", text), [2, 6]);
    assert_eq!(lines_of(nothing_left_to_do, "src/log/a.rs", "unimplemented!()"), [1]);
}

#[test]
fn printing_is_refused_outside_the_command_line() {
    let text = "fn f() {\n    println!(\"ready\");\n    eprintln!();\n}\n";
    assert_eq!(lines_of(only_the_command_line_prints, "src/wire/mod.rs", text), [2, 3]);
    assert!(lines_of(only_the_command_line_prints, "src/cli/serve.rs", text).is_empty());
    assert!(lines_of(only_the_command_line_prints, "src/main.rs", text).is_empty());
}

#[test]
fn a_panic_without_its_reason_is_refused() {
    let check = no_reachable_panic;
    let text = "fn f() {\n    a.unwrap();\n    b.expect(\"b\");\n    panic!(\"c\");\n}\n";
    assert_eq!(lines_of(check, "src/log/a.rs", text), [2, 3, 4]);
    let reasoned = "fn f() {\n    // Cannot fail: the array has four bytes.\n    let x = bytes\n        \
                    .try_into()\n        .unwrap();\n    y.unwrap();\n}\n";
    assert_eq!(lines_of(check, "src/log/a.rs", reasoned), [6]);
    let same_line = "x.unwrap(); // Cannot fail: checked above.\n";
    assert!(lines_of(check, "src/log/a.rs", same_line).is_empty());
    let other = "x.unwrap_or(1);\nlet s = \".unwrap()\";\n// .unwrap()\n";
    assert!(lines_of(check, "src/log/a.rs", other).is_empty());
    let in_test = "#[cfg(test)]\nmod tests {\n    x.unwrap();\n}\nfn f() { x.unwrap() }\n";
    assert_eq!(lines_of(check, "src/log/a.rs", in_test), [5]);
}

#[test]
fn dull_names_are_refused() {
    assert_eq!(lines_of(names_say_something, "src/log/segment_manager.rs", ""), [1]);
    assert_eq!(lines_of(names_say_something, "src/utils/mod.rs", ""), [1]);
    assert_eq!(lines_of(names_say_something, "src/api/helper.rs", ""), [1]);
    assert!(lines_of(names_say_something, "src/log/utility_rate.rs", "").is_empty());
}

#[test]
fn a_machines_paths_and_mirrors_are_refused() {
    let check = no_machine_is_mentioned;
    let path = concat!("cd /ho", "me/me/ottla\n");
    assert_eq!(lines_of(check, "README.md", path), [1]);
    assert_eq!(lines_of(check, "README.md", concat!("\nDIR=/ro", "ot/x\n")), [2]);
    let url = concat!("https://example.org/ho", "me/index.html\n");
    assert!(lines_of(check, "README.md", url).is_empty());
    assert_eq!(lines_of(check, "pip.conf", concat!("index", "-url = https://x\n")), [1]);
    let lock = "source = \"registry+https://mirror.example/index\"\n";
    assert_eq!(lines_of(check, "Cargo.lock", lock), [1]);
}

#[test]
fn a_room_missing_from_the_map_is_found() {
    let rooms = ["log".to_owned(), "attic".to_owned()];
    assert_eq!(rooms_missing_from_the_map(&rooms, "| `log/` | the truth |"), ["attic"]);
}

#[test]
fn code_is_told_from_comments_and_literals() {
    let text =
        "let a = 'x'; // one\nlet b: &'static str = r#\"unsafe \" //\"#; /* two\nthree */ c();\n";
    let lines = scan(text);
    assert_eq!(lines[0].code.trim(), "let a = ' ';");
    assert_eq!(lines[0].comment.trim(), "/ one");
    assert_eq!(lines[1].code.trim(), "let b: &'static str = \"\";");
    assert_eq!(lines[2].code.trim(), "c();");
    assert_eq!(lines[2].comment, "three ");
}
