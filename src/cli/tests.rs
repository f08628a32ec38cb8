//! Arguments, and how results are printed.

use clap::{CommandFactory, Parser};
use serde_json::{Value, json};

use super::sql::Output;
use super::*;
use crate::config::Config;

fn printed(format: Format, pages: &[Value]) -> String {
    let mut out = Vec::new();
    let mut output = Output::to(&mut out, format);
    for page in pages {
        output.page(page).unwrap();
    }
    output.end().unwrap();
    String::from_utf8(out).unwrap()
}

fn rows(kinds: &[&str]) -> Value {
    let data: Vec<Value> = kinds
        .iter()
        .enumerate()
        .map(|(index, kind)| json!({ "kind": kind, "fields": [index, "a,\"b\"", null] }))
        .collect();
    json!({
        "resultKind": "SUCCESS_WITH_CONTENT",
        "results": {
            "columns": [{ "name": "n" }, { "name": "text" }, { "name": "nothing" }],
            "data": data,
        },
    })
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn flags_beat_the_environment() {
    let cli = Cli::parse_from([
        "ottla",
        "serve",
        "--data-dir",
        "flag",
        "--kafka-listen",
        "127.0.0.1:0",
        "--set",
        "node.id=3",
    ]);
    let Command::Serve(args) = cli.command else { panic!("not serve: {cli:?}") };
    let environment = vec![("OTTLA_DATA_DIR".to_owned(), "environment".to_owned())];
    let config = Config::load(&serve::sources(&args, environment).unwrap()).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("flag"));
    assert_eq!(config.listeners[0].port, 0);
    assert_eq!(config.node_id, 3);
}

#[test]
fn wrong_flags_exit_with_2() {
    for wrong in [&["ottla", "serve", "--port", "1"][..], &["ottla", "sql", "-e", "x", "-f", "y"]] {
        assert_eq!(Cli::try_parse_from(wrong).unwrap_err().exit_code(), 2);
    }
    assert_eq!(Cli::try_parse_from(["ottla", "--help"]).unwrap_err().exit_code(), 0);
}

#[test]
fn statements_without_rows_say_ok() {
    assert_eq!(printed(Format::Table, &[json!({ "resultKind": "SUCCESS" })]), "OK\n");
    assert_eq!(printed(Format::Json, &[json!({ "resultKind": "SUCCESS" })]), "");
}

#[test]
fn tables_align_and_name_changes_only_where_there_are_any() {
    assert_eq!(
        printed(Format::Table, &[rows(&["INSERT"])]),
        "n  text   nothing\n0  a,\"b\"  NULL\n1 row\n"
    );
    assert_eq!(
        printed(Format::Table, &[rows(&["INSERT", "DELETE"])]),
        "op  n  text   nothing\n+I  0  a,\"b\"  NULL\n-D  1  a,\"b\"  NULL\n2 rows\n"
    );
}

#[test]
fn json_and_csv_are_for_programs() {
    let pages = [rows(&["INSERT"]), rows(&["INSERT"])];
    let object = "{\"n\":0,\"text\":\"a,\\\"b\\\"\",\"nothing\":null}\n";
    assert_eq!(printed(Format::Json, &pages), object.repeat(2));
    let line = "0,\"a,\"\"b\"\"\",\n";
    assert_eq!(printed(Format::Csv, &pages), format!("n,text,nothing\n{line}{line}"));
}

#[test]
fn a_started_job_is_named_once() {
    let page = json!({
        "jobID": "0af1",
        "resultKind": "SUCCESS_WITH_CONTENT",
        "results": {
            "columns": [{ "name": "job id" }],
            "data": [{ "kind": "INSERT", "fields": ["0af1"] }],
        },
    });
    assert_eq!(printed(Format::Table, std::slice::from_ref(&page)), "job 0af1 is running\n");
    assert_eq!(printed(Format::Json, &[page]), "{\"job id\":\"0af1\"}\n");
}

#[test]
fn job_ids_may_be_shortened_while_they_are_unique() {
    let ids = ["ab1".to_owned(), "ab2".to_owned(), "c".to_owned()];
    assert_eq!(job::one_with_prefix(&ids, "c").unwrap(), "c");
    assert_eq!(job::one_with_prefix(&ids, "ab2").unwrap(), "ab2");
    let ambiguous = job::one_with_prefix(&ids, "ab").unwrap_err().to_string();
    assert_eq!(ambiguous, "2 jobs begin with 'ab'; type more of the id");
    assert!(job::one_with_prefix(&ids, "x").unwrap_err().to_string().contains("does not exist"));
    assert!(job::one_with_prefix(&ids, "").is_err());
}

#[test]
fn ages_are_told_in_the_unit_that_says_enough() {
    assert_eq!(job::age(1_500), "1s");
    assert_eq!(job::age(600_000), "10m");
    assert_eq!(job::age(3 * 3_600_000), "3h");
    assert_eq!(job::age(10 * 86_400_000), "10d");
}

#[test]
fn an_error_is_one_line_that_tells_each_cause_once() {
    use anyhow::Context;
    let cause = std::io::Error::other("disk on fire");
    let room = anyhow::Error::new(cause).context("read x: disk on fire; put it out");
    assert_eq!(one_line(&room), "read x: disk on fire; put it out");
    let outer = Err::<(), _>(room).context("the metadata\ncannot be read").unwrap_err();
    assert_eq!(one_line(&outer), "the metadata cannot be read: read x: disk on fire; put it out");
}
