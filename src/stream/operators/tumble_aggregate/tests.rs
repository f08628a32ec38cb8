//! Windows driven by hand: rows and watermarks in, results and state out.

use std::time::Duration;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::{Field, Schema};
use datafusion_expr::AggregateUDF;
use datafusion_functions_aggregate::{average, count, min_max, sum};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::{col, lit};

use super::*;
use crate::stream::operator::testing::Kept;

const MILLIS: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

fn input() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("page", DataType::Utf8, true),
        Field::new("ts", MILLIS, true),
        Field::new("n", DataType::Int64, true),
    ]))
}

fn aggregate(
    function: Arc<AggregateUDF>,
    argument: Arc<dyn PhysicalExpr>,
) -> Arc<AggregateFunctionExpr> {
    let name = function.name().to_owned();
    let built = AggregateExprBuilder::new(function, vec![argument])
        .schema(input())
        .alias(name)
        .build()
        .unwrap();
    Arc::new(built)
}

fn window_of(
    keys: Vec<usize>,
    aggregates: Vec<Arc<AggregateFunctionExpr>>,
    offset_ms: i64,
    key_groups: KeyGroups,
) -> TumbleAggregate {
    let mut fields: Vec<Field> = keys.iter().map(|&key| input().field(key).clone()).collect();
    for name in ["window_start", "window_end", "window_time"] {
        fields.push(Field::new(name, MILLIS, false));
    }
    for aggregate in &aggregates {
        fields.push(aggregate.field().as_ref().clone());
    }
    let plan = Plan { time: 1, size: Duration::from_secs(10), offset_ms, keys, aggregates };
    TumbleAggregate::new(plan, &input(), Arc::new(Schema::new(fields)), key_groups).unwrap()
}

fn counts() -> TumbleAggregate {
    let count = aggregate(count::count_udaf(), lit(1_i64));
    window_of(vec![0], vec![count], 0, KeyGroups::ALL)
}

fn rows(rows: &[(&str, i64, i64)]) -> Batch {
    let pages: StringArray = rows.iter().map(|row| Some(row.0)).collect();
    let times: TimestampMillisecondArray = rows.iter().map(|row| Some(row.1)).collect();
    let numbers: Int64Array = rows.iter().map(|row| Some(row.2)).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(pages), Arc::new(times), Arc::new(numbers)];
    Batch::inserts(RecordBatch::try_new(input(), columns).unwrap())
}

fn mark(ms: i64) -> Watermark {
    Watermark(Timestamp(ms))
}

fn snapshot(window: &mut TumbleAggregate, epoch: u64, full: bool) -> Vec<StateEntry> {
    let mut snapshot = Snapshot::default();
    window.barrier(Barrier { epoch, full }, &mut snapshot).unwrap();
    snapshot.state
}

/// Applies entries as the state topic does: the last of each key counts.
fn merged(batches: Vec<Vec<StateEntry>>) -> Vec<StateEntry> {
    let mut newest = BTreeMap::new();
    for entry in batches.into_iter().flatten() {
        match entry.value {
            Some(value) => newest.insert(entry.key, value),
            None => newest.remove(&entry.key),
        };
    }
    newest.into_iter().map(|(key, value)| StateEntry { key, value: Some(value) }).collect()
}

fn sorted(out: &Kept) -> Vec<String> {
    let mut lines = out.lines();
    lines.sort();
    lines
}

#[test]
fn a_window_fires_when_the_watermark_reaches_its_last_millisecond() {
    let mut window = counts();
    let mut out = Kept::default();
    window.batch(rows(&[("a", 1000, 1), ("b", 9999, 1), ("a", 2000, 1)]), &mut out).unwrap();
    window.batch(rows(&[("a", 10_000, 1)]), &mut out).unwrap();
    window.watermark(mark(9998), &mut out).unwrap();
    assert!(out.batches.is_empty());
    window.watermark(mark(9999), &mut out).unwrap();
    assert_eq!(
        sorted(&out),
        [
            "a,1970-01-01T00:00:00,1970-01-01T00:00:10,1970-01-01T00:00:09.999,2",
            "b,1970-01-01T00:00:00,1970-01-01T00:00:10,1970-01-01T00:00:09.999,1",
        ]
    );
    assert_eq!(out.watermarks, [9998, 9999]);
}

#[test]
fn rows_before_1970_fall_into_the_window_below_them() {
    let mut window = counts();
    let mut out = Kept::default();
    window.batch(rows(&[("a", -1, 1), ("a", -10_000, 1), ("a", -10_001, 1)]), &mut out).unwrap();
    window.watermark(mark(0), &mut out).unwrap();
    assert_eq!(
        out.lines(),
        [
            "a,1969-12-31T23:59:40,1969-12-31T23:59:50,1969-12-31T23:59:49.999,1",
            "a,1969-12-31T23:59:50,1970-01-01T00:00:00,1969-12-31T23:59:59.999,2",
        ]
    );
}

#[test]
fn an_offset_moves_the_windows() {
    let count = aggregate(count::count_udaf(), lit(1_i64));
    let mut window = window_of(vec![], vec![count], 3000, KeyGroups::ALL);
    let mut out = Kept::default();
    window.batch(rows(&[("a", 2999, 1), ("b", 3000, 1), ("c", 12_999, 1)]), &mut out).unwrap();
    window.watermark(mark(20_000), &mut out).unwrap();
    assert_eq!(
        out.lines(),
        [
            "1969-12-31T23:59:53,1970-01-01T00:00:03,1970-01-01T00:00:02.999,1",
            "1970-01-01T00:00:03,1970-01-01T00:00:13,1970-01-01T00:00:12.999,2",
        ]
    );
}

#[test]
fn late_rows_are_dropped_and_counted_also_exactly_within_a_batch() {
    let mut window = counts();
    let mut out = Kept::default();
    window.watermark(mark(9999), &mut out).unwrap();
    window.batch(rows(&[("late", 9000, 1), ("a", 10_000, 1)]), &mut out).unwrap();
    assert_eq!(window.late_rows, 1);

    // The third row came when the watermark stood at 25 s already: its window had fired.
    let mut batch = rows(&[("a", 11_000, 1), ("a", 30_000, 1), ("late", 12_000, 1)]);
    batch.watermarks = Some(Int64Array::from(vec![9999, 9999, 25_000]));
    window.batch(batch, &mut out).unwrap();
    assert_eq!(window.late_rows, 2);
    window.watermark(mark(25_000), &mut out).unwrap();
    assert_eq!(
        out.lines(),
        ["a,1970-01-01T00:00:10,1970-01-01T00:00:20,1970-01-01T00:00:19.999,2"]
    );
}

#[test]
fn a_null_time_fails_with_what_to_do() {
    let mut window = counts();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["a"])),
        Arc::new(TimestampMillisecondArray::from(vec![None])),
        Arc::new(Int64Array::from(vec![1])),
    ];
    let batch = Batch::inserts(RecordBatch::try_new(input(), columns).unwrap());
    let failure = window.batch(batch, &mut Kept::default()).unwrap_err().to_string();
    assert!(failure.contains("rowtime must not be null"), "{failure}");
    assert!(failure.contains("'ts'"), "{failure}");
}

#[test]
fn sums_wrap_and_minima_and_averages_are_kept_per_key() {
    let n = col("n", &input()).unwrap();
    let aggregates = vec![
        aggregate(sum::sum_udaf(), n.clone()),
        aggregate(min_max::min_udaf(), n.clone()),
        aggregate(average::avg_udaf(), lit(2.5_f64)),
    ];
    let mut window = window_of(vec![0], aggregates, 0, KeyGroups::ALL);
    let mut out = Kept::default();
    window.batch(rows(&[("a", 1, i64::MAX), ("b", 1, 7), ("a", 2, 1)]), &mut out).unwrap();
    window.watermark(mark(9999), &mut out).unwrap();
    let results: Vec<_> = sorted(&out)
        .iter()
        .map(|line| line.split(',').skip(4).collect::<Vec<_>>().join(","))
        .collect();
    assert_eq!(results, ["-9223372036854775808,1,2.5", "7,7,2.5"]);
}

#[test]
fn state_is_handed_over_once_and_what_changed_after_that_only() {
    let mut window = counts();
    let mut out = Kept::default();
    window.batch(rows(&[("a", 1, 1), ("a", 10_001, 1)]), &mut out).unwrap();
    assert_eq!(snapshot(&mut window, 1, true).len(), 2);
    assert!(snapshot(&mut window, 2, false).is_empty());
    window.batch(rows(&[("b", 2, 1)]), &mut out).unwrap();
    assert_eq!(snapshot(&mut window, 3, false).len(), 1);
    window.watermark(mark(9999), &mut out).unwrap();
    let fired = snapshot(&mut window, 4, false);
    assert_eq!(fired.iter().filter(|entry| entry.value.is_none()).count(), 1);
    assert_eq!(fired.len(), 2, "the fired window goes, the watermark comes");
}

#[test]
fn a_restored_window_gives_the_results_of_one_that_never_stopped() {
    let first = [("a", 1, 1), ("b", 2, 1), ("a", 10_001, 1)];
    let second = [("a", 3, 1), ("c", 10_002, 1), ("b", 20_000, 1)];
    let third = [("late", 9000, 1), ("a", 20_001, 1)];

    let mut steady = counts();
    let mut expected = Kept::default();
    let mut crashing = counts();
    let mut out = Kept::default();
    let mut state = Vec::new();
    for (epoch, batch) in [(1, &first[..]), (2, &second[..])] {
        for (window, out) in [(&mut steady, &mut expected), (&mut crashing, &mut out)] {
            window.batch(rows(batch), out).unwrap();
        }
        state.push(snapshot(&mut crashing, epoch, epoch == 1));
    }
    for (window, out) in [(&mut steady, &mut expected), (&mut crashing, &mut out)] {
        window.watermark(mark(9999), out).unwrap();
    }
    state.push(snapshot(&mut crashing, 3, false));
    // What comes after the last checkpoint is lost with the crash and read again.
    crashing.batch(rows(&third), &mut out).unwrap();

    let mut restored = counts();
    restored.restore(&merged(state)).unwrap();
    for (window, out) in [(&mut steady, &mut expected), (&mut restored, &mut out)] {
        window.batch(rows(&third), out).unwrap();
        assert_eq!(window.late_rows, 1);
        window.watermark(mark(40_000), out).unwrap();
    }
    assert_eq!(sorted(&out), sorted(&expected));
    assert_eq!(out.lines().len(), 6);
}

#[test]
fn restored_at_another_parallelism_each_key_has_one_owner() {
    let many: Vec<String> = (0..3000).map(|key| format!("page{key}")).collect();
    let batch: Vec<_> = many.iter().map(|page| (page.as_str(), 5, 1)).collect();
    let mut window = counts();
    window.batch(rows(&batch), &mut Kept::default()).unwrap();
    let state = snapshot(&mut window, 1, true);
    assert!(state.len() > 2, "several chunks");

    let mut out = Kept::default();
    for subtask in 0..3 {
        let count = aggregate(count::count_udaf(), lit(1_i64));
        let mut shard = window_of(vec![0], vec![count], 0, KeyGroups { subtask, parallelism: 3 });
        shard.restore(&state).unwrap();
        let before = out.lines().len();
        shard.watermark(mark(9999), &mut out).unwrap();
        assert!(out.lines().len() > before);
    }
    let lines = sorted(&out);
    assert_eq!(lines.len(), 3000);
    assert!(lines.iter().all(|line| line.ends_with(",1")));
}

#[test]
fn damaged_state_is_an_error() {
    let mut window = counts();
    let entry = |key: Vec<u8>| StateEntry { key, value: Some(Bytes::from_static(b"x")) };
    assert!(window.restore(&[entry(vec![9])]).is_err());
    assert!(window.restore(&[entry(vec![KEY_WATERMARK])]).is_err());
    assert!(window.restore(&[entry(chunk_key(0, 0))]).is_err());
}

#[test]
fn late_rows_are_counted_where_people_see_them() {
    let late = prometheus::IntCounter::new("late", "late").unwrap();
    let mut window = counts().accounted(late.clone(), StateBudget::new(1 << 20));
    window.watermark(mark(10_000), &mut Kept::default()).unwrap();
    window
        .batch(rows(&[("a", 1, 0), ("a", 9_999, 0), ("a", 10_000, 0)]), &mut Kept::default())
        .unwrap();
    assert_eq!(late.get(), 2);
}

#[test]
fn state_beyond_the_budget_is_refused_by_name_and_fired_windows_give_theirs_back() {
    let late = prometheus::IntCounter::new("late", "late").unwrap();
    let mut window = counts().accounted(late, StateBudget::new(64 << 10));
    let pages: Vec<String> = (0..400).map(|page| format!("page-{page:032}")).collect();
    for start in 0..20 {
        let batch: Vec<_> = pages.iter().map(|page| (page.as_str(), start * 10_000, 0)).collect();
        window.batch(rows(&batch), &mut Kept::default()).unwrap();
        window.watermark(mark((start + 1) * 10_000), &mut Kept::default()).unwrap();
    }
    let refused = (100..120).find_map(|start| {
        let batch: Vec<_> = pages.iter().map(|page| (page.as_str(), start * 10_000, 0)).collect();
        window.batch(rows(&batch), &mut Kept::default()).err()
    });
    let reason = refused.unwrap().to_string();
    assert!(reason.contains("more than stream.state.bytes.max = 65536"), "{reason}");
}
