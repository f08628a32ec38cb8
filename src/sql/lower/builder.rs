//! The graph while it grows, and what is known of a node's output.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::Operator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{CastExpr, Column, IsNotNullExpr, Literal, binary};

use crate::sql::compile::compile;
use crate::sql::fault::{Fault, Result};
use crate::sql::options::EMIT_PERIOD;
use crate::sql::table::Table;
use crate::stream::graph::{Edge, Emit, Exchange, Graph, Node, Op, Source, Watermarks};

/// A node's output as the plan's columns.
pub(super) struct Relation {
    /// Index in the graph.
    pub(super) node: usize,
    /// One per column of the plan.
    pub(super) slots: Vec<Slot>,
    /// The window its rows were assigned to, until they are aggregated.
    pub(super) window: Option<Window>,
}

/// A column of the plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Its index in the node's output; `None` for a window's column that is not computed yet.
    pub(super) place: Option<usize>,
    pub(super) role: Role,
}

/// What a column means to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Plain,
    RowTime,
    WindowStart,
    WindowEnd,
    WindowTime,
}

/// A tumbling window by event time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Index of the event-time column in the node's output.
    pub(super) time: usize,
    pub(super) size_ms: i64,
    pub(super) offset_ms: i64,
    /// Whether rows without an event time are filtered out already.
    pub(super) complete: bool,
}

impl Relation {
    /// Where a column of the plan lies in the node's output.
    pub(super) fn place(&self, column: usize) -> Result<usize> {
        self.slots
            .get(column)
            .and_then(|slot| slot.place)
            .ok_or_else(|| Fault::unsupported("a window's column here"))
    }
}

/// Builds nodes in topological order.
#[derive(Default)]
pub(super) struct Builder {
    pub(super) graph: Graph,
    counts: BTreeMap<u32, u32>,
}

impl Builder {
    /// Appends a node and returns its index.
    pub(super) fn push(
        &mut self,
        name: String,
        input: Option<(usize, Exchange)>,
        op: Op,
        schema: SchemaRef,
    ) -> usize {
        let id = self.next_id(&op);
        let inputs = input.into_iter().map(|(from, exchange)| Edge { from, exchange }).collect();
        self.graph.nodes.push(Node { id, name, inputs, op, schema });
        self.graph.nodes.len() - 1
    }

    /// Ids name state, so they count per kind: a planner that adds or merges stateless nodes one
    /// day leaves those of sources, aggregates and sinks as they are.
    fn next_id(&mut self, op: &Op) -> u32 {
        let base = match op {
            Op::Source(_) => 1_000,
            Op::TumbleAggregate(_) => 2_000,
            Op::Sink(_) => 3_000,
            Op::Filter(_) => 10_000,
            Op::Project(_) => PROJECT_IDS,
        };
        let count = self.counts.entry(base).or_default();
        *count += 1;
        base + *count
    }

    /// A node's output.
    pub(super) fn schema(&self, node: usize) -> SchemaRef {
        Arc::clone(&self.graph.nodes[node].schema)
    }

    /// A column of a node's output.
    pub(super) fn column(&self, node: usize, index: usize) -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(self.graph.nodes[node].schema.field(index).name(), index))
    }

    /// Appends a filter that drops the rows with a NULL in `column`, unless there can be none.
    pub(super) fn filter_null(&mut self, input: usize, column: usize) -> usize {
        let schema = self.schema(input);
        if !schema.field(column).is_nullable() {
            return input;
        }
        let predicate: Arc<dyn PhysicalExpr> =
            Arc::new(IsNotNullExpr::new(self.column(input, column)));
        let name = format!("Filter({predicate})");
        self.push(name, Some((input, Exchange::Forward)), Op::Filter(predicate), schema)
    }

    /// Appends a projection, unless it would change nothing but names that no one sees.
    pub(super) fn project(
        &mut self,
        input: usize,
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        schema: SchemaRef,
    ) -> Result<usize> {
        let in_order = exprs.iter().enumerate().all(|(index, expr)| {
            expr.downcast_ref::<Column>().is_some_and(|column| column.index() == index)
        });
        if in_order && schema == self.schema(input) {
            return Ok(input);
        }
        let (input, exprs) = self.merge(input, exprs)?;
        let list: Vec<String> = exprs
            .iter()
            .zip(schema.fields())
            .map(|(expr, field)| match expr.downcast_ref::<Column>() {
                Some(column) if column.name() == field.name() => field.name().clone(),
                _ => format!("{expr} AS {}", field.name()),
            })
            .collect();
        let name = format!("Project({})", list.join(", "));
        Ok(self.push(name, Some((input, Exchange::Forward)), Op::Project(exprs), schema))
    }

    /// Takes the projection below into this one, unless an expression would be computed twice then.
    fn merge(
        &mut self,
        input: usize,
        exprs: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<(usize, Vec<Arc<dyn PhysicalExpr>>)> {
        let Node { inputs, op: Op::Project(inner), .. } = &self.graph.nodes[input] else {
            return Ok((input, exprs));
        };
        let [Edge { from, .. }] = inputs.as_slice() else {
            return Ok((input, exprs));
        };
        let mut uses = vec![0; inner.len()];
        for expr in &exprs {
            expr.apply(|part| {
                if let Some(count) =
                    part.downcast_ref::<Column>().and_then(|column| uses.get_mut(column.index()))
                {
                    *count += 1;
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        let is_free = |expr: &Arc<dyn PhysicalExpr>| {
            expr.downcast_ref::<Column>().is_some() || expr.downcast_ref::<Literal>().is_some()
        };
        let repeats = inner.iter().zip(&uses).any(|(expr, uses)| *uses > 1 && !is_free(expr));
        if repeats || input + 1 != self.graph.nodes.len() {
            return Ok((input, exprs));
        }
        let merged =
            exprs.into_iter().map(|expr| substitute(expr, inner)).collect::<Result<Vec<_>>>()?;
        let from = *from;
        self.graph.nodes.pop();
        if let Some(count) = self.counts.get_mut(&PROJECT_IDS) {
            *count -= 1;
        }
        Ok((from, merged))
    }

    /// Appends the source of a table.
    pub(super) fn source(&mut self, table: &Table) -> Result<Relation> {
        let physical = Arc::new(DFSchema::try_from(table.physical.as_ref().clone())?);
        let output = Arc::new(DFSchema::try_from(table.schema.as_ref().clone())?);
        let computed = match &table.computed {
            Some(exprs) => {
                Some(exprs.iter().map(|expr| compile(expr, &physical)).collect::<Result<_>>()?)
            }
            None => None,
        };
        let watermark = match &table.watermark {
            Some(watermark) => Some(Watermarks {
                column: watermark.column,
                expr: compile(&watermark.expr, &output)?,
                emit: table.options.emit.unwrap_or(Emit::Periodic(EMIT_PERIOD)),
                idle_timeout: table.options.idle_timeout,
            }),
            None => None,
        };
        let rowtime = table.watermark.as_ref().map(|watermark| watermark.column);
        let op = Op::Source(Source {
            topic: table.options.topic.clone(),
            format: table.options.format.clone(),
            physical: Arc::clone(&table.physical),
            computed,
            watermark,
            startup: table.options.startup.clone(),
            group: table.options.group.clone(),
        });
        let name = format!("Source({})", table.name);
        let node = self.push(name, None, op, Arc::clone(&table.schema));
        let slots = (0..table.schema.fields().len())
            .map(|index| Slot {
                place: Some(index),
                role: if rowtime == Some(index) { Role::RowTime } else { Role::Plain },
            })
            .collect();
        Ok(Relation { node, slots, window: None })
    }
}

/// Where the ids of projections begin.
const PROJECT_IDS: u32 = 20_000;

/// `expr` with each column replaced by the expression that computes it.
fn substitute(
    expr: Arc<dyn PhysicalExpr>,
    inner: &[Arc<dyn PhysicalExpr>],
) -> Result<Arc<dyn PhysicalExpr>> {
    // Down: what was put in is over the lower input already and must not be looked at again.
    let replaced = expr.transform_down(|part| {
        let column = part.downcast_ref::<Column>().map(Column::index);
        Ok(match column.and_then(|index| inner.get(index)) {
            Some(computed) => Transformed::new(Arc::clone(computed), true, TreeNodeRecursion::Jump),
            None => Transformed::no(part),
        })
    })?;
    Ok(replaced.data)
}

impl Window {
    /// The window's column of this role, computed for each row from its event time.
    pub(super) fn bound(
        &self,
        role: Role,
        time: &Arc<dyn PhysicalExpr>,
        time_type: &DataType,
        schema: &Schema,
    ) -> Result<(&'static str, Arc<dyn PhysicalExpr>)> {
        let number = |value: i64| -> Arc<dyn PhysicalExpr> {
            Arc::new(Literal::new(ScalarValue::Int64(Some(value))))
        };
        let compute = |left, op, right| binary(left, op, right, schema);
        let millis: Arc<dyn PhysicalExpr> =
            Arc::new(CastExpr::new(Arc::clone(time), DataType::Int64, None));
        // A remainder that is not negative before 1970 either.
        let size = || number(self.size_ms);
        let shifted = compute(Arc::clone(&millis), Operator::Minus, number(self.offset_ms))?;
        let rest = compute(shifted, Operator::Modulo, size())?;
        let rest = compute(compute(rest, Operator::Plus, size())?, Operator::Modulo, size())?;
        let start = compute(millis, Operator::Minus, rest)?;
        let bound = DataType::Timestamp(TimeUnit::Millisecond, None);
        let (name, value, data_type) = match role {
            Role::WindowStart => ("window_start", start, bound),
            Role::WindowEnd => ("window_end", compute(start, Operator::Plus, size())?, bound),
            Role::WindowTime => {
                let last = number(self.size_ms - 1);
                ("window_time", compute(start, Operator::Plus, last)?, time_type.clone())
            }
            Role::Plain | Role::RowTime => {
                return Err(Fault::unsupported("a window's column here"));
            }
        };
        Ok((name, Arc::new(CastExpr::new(value, data_type, None))))
    }
}
