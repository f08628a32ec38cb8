//! confluent-kafka from PyPI, which brings the newest librdkafka. The assertions are in
//! `integration-tests/python`.

use crate::harness::{PATIENCE, Program, Target, python, unique};

#[track_caller]
fn passes(script: &str, prefix: &str) {
    let target = Target::start();
    let mut command = python(script);
    command.arg(target.kafka().to_string()).arg(unique(prefix));
    let finished = Program::start(script, command).finish(3 * PATIENCE).success();
    assert_eq!(finished.stdout.trim(), "ok");
}

#[test]
fn python_produces_with_delivery_reports_and_a_group_goes_on_where_it_stopped() {
    passes("produce_consume.py", "python");
}

#[test]
fn python_admin_creates_describes_grows_and_deletes_topics() {
    passes("admin.py", "python-admin");
}

#[test]
fn python_admin_changes_configs_while_a_topic_is_written_and_deletes_records() {
    passes("alter_configs.py", "python-alter");
}

#[test]
fn python_admin_lists_describes_and_deletes_groups() {
    passes("groups.py", "python-groups");
}
