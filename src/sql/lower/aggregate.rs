//! Aggregation by window: the grouped columns become keys, the window's columns its bounds.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion_expr::Expr;
use datafusion_expr::expr::AggregateFunction;
use datafusion_expr::logical_plan::Aggregate;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion_physical_expr::expressions::{Column, Literal};

use super::builder::{Builder, Relation, Role, Slot, Window};
use super::{bare_column, compile_over, materialize_if_used};
use crate::sql::fault::{Fault, Result};
use crate::sql::plan::WINDOW_COLUMNS;
use crate::stream::graph::{Exchange, Op, TumbleAggregate};

/// What a GROUP BY item is.
enum GroupKey {
    /// The n-th key.
    Value(usize),
    /// A column of the window.
    Window(Role),
}

/// The columns that the aggregation reads, in a projection of their own: only they travel through
/// the exchange.
#[derive(Default)]
struct Inputs {
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    fields: Vec<Field>,
}

impl Inputs {
    fn add(&mut self, name: &str, expr: Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<usize> {
        let same = |other: &Arc<dyn PhysicalExpr>| other.as_ref() == expr.as_ref();
        if let Some(index) = self.exprs.iter().position(same) {
            return Ok(index);
        }
        let (data_type, nullable) = (expr.data_type(schema)?, expr.nullable(schema)?);
        self.fields.push(Field::new(name, data_type, nullable));
        self.exprs.push(expr);
        Ok(self.exprs.len() - 1)
    }
}

pub(super) fn lower(
    builder: &mut Builder,
    aggregate: &Aggregate,
    input: Relation,
) -> Result<Relation> {
    let schema = aggregate.input.schema();
    let arguments = aggregate.aggr_expr.iter();
    let computed = aggregate.group_expr.iter().filter(|expr| bare_column(expr, schema).is_none());
    let input = materialize_if_used(builder, input, computed.chain(arguments), schema)?;
    let role = |expr: &Expr| bare_column(expr, schema).map(|column| input.slots[column].role);
    let groups_by =
        |wanted: Role| aggregate.group_expr.iter().any(|expr| role(expr) == Some(wanted));
    let window = match input.window {
        Some(window) if groups_by(Role::WindowStart) && groups_by(Role::WindowEnd) => window,
        Some(_) => {
            return Err(Fault::unsupported("GROUP BY without both window_start and window_end")
                .hint("add them to the GROUP BY"));
        }
        None => {
            return Err(Fault::unsupported("an aggregation without a window").hint(
                "read from TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)) and add \
                 window_start, window_end to the GROUP BY",
            ));
        }
    };
    let mut inputs = Inputs::default();
    let node_schema = builder.schema(input.node);
    let mut keys: Vec<usize> = Vec::new();
    let mut items = Vec::new();
    for expr in &aggregate.group_expr {
        items.push(match role(expr) {
            Some(role @ (Role::WindowStart | Role::WindowEnd | Role::WindowTime)) => {
                GroupKey::Window(role)
            }
            _ => {
                let compiled = compile_over(expr, schema, &input)?;
                let name = expr.schema_name().to_string();
                let name = name.rsplit('.').next().unwrap_or(&name);
                let index = inputs.add(name, compiled, &node_schema)?;
                let position = keys.iter().position(|key| *key == index).unwrap_or(keys.len());
                if position == keys.len() {
                    keys.push(index);
                }
                GroupKey::Value(position)
            }
        });
    }
    let time = builder.column(input.node, window.time);
    let time_name = node_schema.field(window.time).name().clone();
    let time = inputs.add(&time_name, time, &node_schema)?;
    let calls = aggregate
        .aggr_expr
        .iter()
        .map(|expr| call(expr, aggregate, &input, &mut inputs, &node_schema))
        .collect::<Result<Vec<_>>>()?;
    let projected_schema = Arc::new(Schema::new(inputs.fields));
    let projected = builder.project(input.node, inputs.exprs, Arc::clone(&projected_schema))?;
    let aggregates =
        calls.into_iter().map(|call| call.build(&projected_schema)).collect::<Result<Vec<_>>>()?;
    push(builder, projected, window, time, &keys, aggregates, &items)
}

/// An aggregate whose arguments are columns of the projection, or literals.
struct Call {
    function: Arc<datafusion_expr::AggregateUDF>,
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    name: String,
}

impl Call {
    fn build(self, schema: &Arc<Schema>) -> Result<Arc<AggregateFunctionExpr>> {
        let built = AggregateExprBuilder::new(self.function, self.arguments)
            .schema(Arc::clone(schema))
            .alias(self.name)
            .build()?;
        Ok(Arc::new(built))
    }
}

fn call(
    expr: &Expr,
    aggregate: &Aggregate,
    input: &Relation,
    inputs: &mut Inputs,
    node_schema: &Schema,
) -> Result<Call> {
    let name = expr.schema_name().to_string();
    let Expr::AggregateFunction(AggregateFunction { func, params }) = expr.clone().unalias() else {
        return Err(Fault::unsupported(format!("the aggregate {name}")));
    };
    if params.distinct || params.filter.is_some() || !params.order_by.is_empty() {
        return Err(Fault::unsupported(format!("this form of {name}")));
    }
    let mut arguments: Vec<Arc<dyn PhysicalExpr>> = Vec::with_capacity(params.args.len());
    for (index, argument) in params.args.iter().enumerate() {
        let compiled = compile_over(argument, aggregate.input.schema(), input)?;
        if compiled.downcast_ref::<Literal>().is_some() {
            arguments.push(compiled);
            continue;
        }
        let column_name = match compiled.downcast_ref::<Column>() {
            Some(column) => column.name().to_owned(),
            None => format!("${name}_{index}"),
        };
        let place = inputs.add(&column_name, compiled, node_schema)?;
        arguments.push(Arc::new(Column::new(inputs.fields[place].name(), place)));
    }
    Ok(Call { function: func, arguments, name })
}

fn push(
    builder: &mut Builder,
    input: usize,
    window: Window,
    time: usize,
    keys: &[usize],
    aggregates: Vec<Arc<AggregateFunctionExpr>>,
    items: &[GroupKey],
) -> Result<Relation> {
    let input_schema = builder.schema(input);
    let time_type = input_schema.field(time).data_type();
    let bound = DataType::Timestamp(TimeUnit::Millisecond, None);
    let uses_time = items.iter().any(|item| matches!(item, GroupKey::Window(Role::WindowTime)));
    if uses_time && *time_type != bound {
        return Err(Fault::unsupported("window_time of a TIMESTAMP_LTZ column in GROUP BY")
            .hint("group by window_start and window_end"));
    }
    let mut fields: Vec<Field> = keys.iter().map(|key| input_schema.field(*key).clone()).collect();
    fields.extend(WINDOW_COLUMNS.map(|name| Field::new(name, bound.clone(), false)));
    fields.extend(aggregates.iter().map(|aggregate| aggregate.field().as_ref().clone()));
    let slots = items
        .iter()
        .map(|item| match item {
            GroupKey::Value(position) => Slot { place: Some(*position), role: Role::Plain },
            GroupKey::Window(Role::WindowEnd) => {
                Slot { place: Some(keys.len() + 1), role: Role::Plain }
            }
            GroupKey::Window(Role::WindowTime) => {
                Slot { place: Some(keys.len() + 2), role: Role::RowTime }
            }
            GroupKey::Window(_) => Slot { place: Some(keys.len()), role: Role::Plain },
        })
        .chain((0..aggregates.len()).map(|index| Slot {
            place: Some(keys.len() + WINDOW_COLUMNS.len() + index),
            role: Role::Plain,
        }))
        .collect();
    let mut parts: Vec<String> =
        keys.iter().map(|key| input_schema.field(*key).name().clone()).collect();
    let size = Duration::from_millis(window.size_ms.unsigned_abs());
    parts.push(describe_duration(size));
    let name = format!("TumbleAggregate({})", parts.join(", "));
    let op = Op::TumbleAggregate(TumbleAggregate {
        time,
        size,
        offset_ms: window.offset_ms,
        keys: keys.to_vec(),
        aggregates,
    });
    let exchange = Exchange::Hash(keys.to_vec());
    let node = builder.push(name, Some((input, exchange)), op, Arc::new(Schema::new(fields)));
    Ok(Relation { node, slots, window: None })
}

fn describe_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")]
        .into_iter()
        .find(|(unit, _)| millis.is_multiple_of(*unit))
        .map_or_else(|| format!("{millis} ms"), |(unit, name)| format!("{} {name}", millis / unit))
}
