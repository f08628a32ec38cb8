//! What a job computes: a graph of operator descriptions, in topological order. The planner (`sql/`)
//! builds it, the runtime (`job`) turns it into operators and threads.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

use crate::types::Timestamp;

/// A job's operators; node `i` only reads nodes before `i`.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// In topological order.
    pub nodes: Vec<Node>,
}

/// One operator.
#[derive(Clone, Debug)]
pub struct Node {
    /// Stable across restarts of the same statement: names the operator's state.
    pub id: u32,
    /// For people: `TumbleAggregate(page, 10 s)`.
    pub name: String,
    /// Where its rows come from; empty for a source.
    pub inputs: Vec<Edge>,
    /// What it does.
    pub op: Op,
    /// Its output rows.
    pub schema: SchemaRef,
}

/// An input of a node.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Index of the upstream node in `Graph::nodes`.
    pub from: usize,
    /// How rows travel.
    pub exchange: Exchange,
}

/// How rows travel between two operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// Same subtask, same call stack.
    Forward,
    /// By hash of these input columns into 128 key groups, over bounded rings.
    Hash(Vec<usize>),
}

/// What an operator does.
#[derive(Clone, Debug)]
pub enum Op {
    /// Reads a topic's partitions.
    Source(Source),
    /// Keeps rows for which the expression is true.
    Filter(Arc<dyn PhysicalExpr>),
    /// Computes the output columns, named by the node's schema.
    Project(Vec<Arc<dyn PhysicalExpr>>),
    /// Event-time tumbling window aggregate.
    TumbleAggregate(TumbleAggregate),
    /// Writes a topic.
    Sink(Sink),
}

/// Where a source begins when it has no checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Startup {
    /// `earliest-offset`.
    Earliest,
    /// `latest-offset`.
    Latest,
    /// `timestamp`.
    Timestamp(Timestamp),
    /// `group-offsets`, the connector's default; without a committed offset the job fails, as
    /// Flink's does, unless `auto.offset.reset` says otherwise.
    GroupOffsets {
        /// `properties.auto.offset.reset`: where to begin without a committed offset.
        reset: Option<Box<Startup>>,
    },
}

/// A source over one topic.
#[derive(Clone, Debug)]
pub struct Source {
    /// Topic name.
    pub topic: String,
    /// How record values become rows.
    pub format: Format,
    /// Physical columns read from the value.
    pub physical: SchemaRef,
    /// Columns computed after decoding, over `physical` (the node's schema is their outputs).
    pub computed: Option<Vec<Arc<dyn PhysicalExpr>>>,
    /// Event time, if the table declares a watermark.
    pub watermark: Option<Watermarks>,
    /// Where to begin.
    pub startup: Startup,
    /// `properties.group.id`: positions are shown to lag tools under this group, or under
    /// `ottla-job-<id>`.
    pub group: Option<String>,
}

/// How a source derives watermarks, per partition; the source's is the smallest.
#[derive(Clone, Debug)]
pub struct Watermarks {
    /// Index of the event-time column in the source's output.
    pub column: usize,
    /// Over the source's output: the watermark each row proposes (`ts - INTERVAL '5' SECOND`).
    pub expr: Arc<dyn PhysicalExpr>,
    /// When the watermark is sent on.
    pub emit: Emit,
    /// `scan.watermark.idle-timeout`: a partition silent for this long holds nothing back.
    /// `None`: it does, as in Flink.
    pub idle_timeout: Option<Duration>,
}

/// `scan.watermark.emit.strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// `on-periodic`: every 200 ms of wall clock.
    Periodic(Duration),
    /// `on-event`: after each row.
    OnEvent,
}

/// How record values and rows turn into each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// `json`.
    Json(Json),
}

/// Options of the `json` format, by Flink's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Json {
    /// `json.ignore-parse-errors`: skip a record that does not parse instead of failing the job.
    pub ignore_parse_errors: bool,
    /// `json.fail-on-missing-field`.
    pub fail_on_missing_field: bool,
    /// `json.timestamp-format.standard` = `ISO-8601` instead of `SQL`.
    pub timestamp_iso: bool,
    /// `json.encode.decimal-as-plain-number`.
    pub decimal_as_plain_number: bool,
}

/// Rows of one key and window, aggregated. Output columns: the keys, `window_start`, `window_end`,
/// `window_time` (each `Timestamp(Millisecond, None)`), then the aggregates.
#[derive(Clone, Debug)]
pub struct TumbleAggregate {
    /// Index of the event-time column in the input.
    pub time: usize,
    /// Window length.
    pub size: Duration,
    /// Shift of the window start.
    pub offset_ms: i64,
    /// Indices of the key columns in the input.
    pub keys: Vec<usize>,
    /// The aggregates; their arguments are over the input.
    pub aggregates: Vec<Arc<AggregateFunctionExpr>>,
}

/// A sink into one topic, exactly once.
#[derive(Clone, Debug)]
pub struct Sink {
    /// Topic name; auto-created with the broker's defaults when it does not exist.
    pub topic: String,
    /// How rows become record values; fields are named by the input's schema.
    pub format: Format,
}
