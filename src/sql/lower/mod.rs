//! From a typed plan to the streaming graph. What has no streaming operator yet is refused by name:
//! this is the last place where a wrong plan could slip through.

mod aggregate;
mod builder;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion_common::DFSchemaRef;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_expr::logical_plan::{Filter, Projection};
use datafusion_expr::{Expr, LogicalPlan};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion_sql::sqlparser::ast::{Ident, Query, SelectItem, SetExpr, Spanned};
use datafusion_sql::sqlparser::tokenizer::Location;

use self::builder::{Builder, Relation, Role, Slot, Window};
use super::compile::{compile, relocate};
use super::fault::{Fault, Result};
use super::parse::Insert;
use super::plan::{self, Tables, Tumble, check_cast};
use super::table::Table;
use super::types::{SqlType, describe};
use crate::stream::graph::{Exchange, Graph, Op, Sink};

/// Plans the inserts of one job into one graph.
pub(super) fn inserts(inserts: Vec<Insert>, tables: &Tables) -> Result<Graph> {
    let mut builder = Builder::default();
    for insert in inserts {
        lower_insert(&mut builder, insert, tables)?;
    }
    Ok(builder.graph)
}

/// Plans a query without a sink.
pub(super) fn query(query: Query, tables: &Tables) -> Result<Graph> {
    let plan = plan::query(query, tables)?;
    let mut builder = Builder::default();
    lower(&mut builder, &plan, tables)?;
    Ok(builder.graph)
}

/// The table `name`.
pub(super) fn table<'a>(name: &Ident, tables: &'a Tables) -> Result<&'a Arc<Table>> {
    tables.get(&name.value).ok_or_else(|| {
        Fault::unknown("table", &name.value, tables.keys().map(String::as_str)).at(name.span.start)
    })
}

fn lower_insert(builder: &mut Builder, insert: Insert, tables: &Tables) -> Result<()> {
    let sink = Arc::clone(table(&insert.table, tables)?);
    let query_at = insert.query.span().start;
    let items_at = item_places(&insert.query);
    let plan = plan::query(*insert.query, tables)?;
    let sources = target_columns(&sink, &insert.columns)?;
    let given = plan.schema().fields().len();
    let expected = sources.iter().flatten().count();
    if given != expected {
        let columns: Vec<&str> = match insert.columns.is_empty() {
            true => sink.physical.fields().iter().map(|f| f.name().as_str()).collect(),
            false => insert.columns.iter().map(|column| column.value.as_str()).collect(),
        };
        return Err(Fault::new(format!(
            "the query has {given} columns, '{}' takes {expected}",
            sink.name
        ))
        .at(query_at)
        .hint(format!("it takes: {}", columns.join(", "))));
    }
    let relation = lower(builder, &plan, tables)?;
    let relation = materialize(builder, relation)?;
    let mut exprs = Vec::with_capacity(sources.len());
    for (field, source) in sink.physical.fields().iter().zip(&sources) {
        let at = source.and_then(|source| items_at.get(source).copied()).unwrap_or(query_at);
        exprs.push(sink_column(builder, &relation, &plan, field, *source, at)?);
    }
    let projected = builder.project(relation.node, exprs, Arc::clone(&sink.physical))?;
    let op =
        Op::Sink(Sink { topic: sink.options.topic.clone(), format: sink.options.format.clone() });
    let name = format!("Sink({})", sink.name);
    builder.push(name, Some((projected, Exchange::Forward)), op, Arc::clone(&sink.physical));
    Ok(())
}

/// For each physical column of the sink, which column of the query fills it; `None` for NULL.
fn target_columns(sink: &Table, named: &[Ident]) -> Result<Vec<Option<usize>>> {
    let fields = sink.physical.fields();
    if named.is_empty() {
        return Ok((0..fields.len()).map(Some).collect());
    }
    let mut sources = vec![None; fields.len()];
    for (position, column) in named.iter().enumerate() {
        let Ok(index) = sink.physical.index_of(&column.value) else {
            let computed = sink.schema.index_of(&column.value).is_ok();
            let fault = match computed {
                true => Fault::new(format!("column '{}' is computed", column.value))
                    .hint("leave it out of the INSERT"),
                false => {
                    let names = fields.iter().map(|field| field.name().as_str());
                    Fault::unknown("column", &column.value, names)
                }
            };
            return Err(fault.at(column.span.start));
        };
        if sources[index].replace(position).is_some() {
            return Err(Fault::new(format!("column '{}' is there twice", column.value))
                .at(column.span.start));
        }
    }
    Ok(sources)
}

/// Where each column of the query is written; empty when a `*` stands for some of them.
fn item_places(query: &Query) -> Vec<Location> {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return Vec::new();
    };
    let is_column = |item: &SelectItem| {
        matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. })
    };
    match select.projection.iter().all(is_column) {
        true => select.projection.iter().map(|item| item.span().start).collect(),
        false => Vec::new(),
    }
}

fn sink_column(
    builder: &Builder,
    relation: &Relation,
    plan: &LogicalPlan,
    field: &Field,
    source: Option<usize>,
    at: Location,
) -> Result<Arc<dyn PhysicalExpr>> {
    let Some(source) = source else {
        if !field.is_nullable() {
            return Err(Fault::new(format!("column '{}' is NOT NULL", field.name()))
                .at(at)
                .hint("name it in the INSERT's columns"));
        }
        return Ok(Arc::new(Literal::new(field.data_type().try_into()?)));
    };
    let from = plan.schema().field(source).data_type();
    let accepted = match (SqlType::from_arrow(field.data_type()), SqlType::from_arrow(from)) {
        (Some(to), Some(from)) => to.accepts(&from),
        _ => *from == DataType::Null,
    };
    if !accepted || check_cast(from, field.data_type()).is_err() {
        return Err(Fault::new(format!(
            "column {} of the query, '{}', is {}; the sink's column '{}' is {}",
            source + 1,
            plan.schema().field(source).name(),
            describe(from),
            field.name(),
            describe(field.data_type())
        ))
        .at(at)
        .hint(format!("convert it with CAST(… AS {})", describe(field.data_type()))));
    }
    let column = builder.column(relation.node, relation.place(source)?);
    Ok(match from == field.data_type() {
        true => column,
        false => Arc::new(CastExpr::new(column, field.data_type().clone(), None)),
    })
}

/// Lowers a plan; the relation's slots are the plan's columns in order.
fn lower(builder: &mut Builder, plan: &LogicalPlan, tables: &Tables) -> Result<Relation> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let name = scan.table_name.table();
            let table = tables
                .get(name)
                .ok_or_else(|| Fault::unknown("table", name, tables.keys().map(String::as_str)))?;
            builder.source(table)
        }
        LogicalPlan::SubqueryAlias(alias) => lower(builder, &alias.input, tables),
        LogicalPlan::Filter(filter) => lower_filter(builder, filter, tables),
        LogicalPlan::Projection(projection) => lower_projection(builder, projection, tables),
        LogicalPlan::Aggregate(node) => {
            let input = lower(builder, &node.input, tables)?;
            aggregate::lower(builder, node, input)
        }
        LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<Tumble>()
        {
            Some(tumble) => lower_tumble(builder, tumble, tables),
            None => Err(Fault::unsupported(extension.node.name())),
        },
        other => {
            let text = other.display().to_string();
            let kind = text.split([':', ' ']).next().unwrap_or_default().to_owned();
            Err(Fault::unsupported(format!("{kind} in a streaming query")))
        }
    }
}

fn lower_tumble(builder: &mut Builder, tumble: &Tumble, tables: &Tables) -> Result<Relation> {
    let mut input = lower(builder, &tumble.input, tables)?;
    let time = input.slots[tumble.time];
    if time.role != Role::RowTime || input.window.is_some() {
        let name = tumble.input.schema().field(tumble.time).name();
        return Err(Fault::new(format!("'{name}' is not an event-time column"))
            .at(tumble.at)
            .hint("declare WATERMARK FOR it in its table"));
    }
    let time = input.place(tumble.time)?;
    // The window's own time column takes over.
    input.slots[tumble.time].role = Role::Plain;
    input.window = Some(Window {
        time,
        size_ms: tumble.size_ms,
        offset_ms: tumble.offset_ms,
        complete: false,
    });
    for role in [Role::WindowStart, Role::WindowEnd, Role::WindowTime] {
        input.slots.push(Slot { place: None, role });
    }
    Ok(input)
}

fn lower_filter(builder: &mut Builder, filter: &Filter, tables: &Tables) -> Result<Relation> {
    let input = lower(builder, &filter.input, tables)?;
    let schema = filter.input.schema();
    let input = materialize_if_used(builder, input, [&filter.predicate], schema)?;
    let predicate = compile_over(&filter.predicate, schema, &input)?;
    let name = format!("Filter({predicate})");
    let node_schema = builder.schema(input.node);
    let op = Op::Filter(predicate);
    let node = builder.push(name, Some((input.node, Exchange::Forward)), op, node_schema);
    Ok(Relation { node, ..input })
}

fn lower_projection(
    builder: &mut Builder,
    projection: &Projection,
    tables: &Tables,
) -> Result<Relation> {
    let input = lower(builder, &projection.input, tables)?;
    let schema = projection.input.schema();
    // Columns of the window that are only passed on need not exist yet.
    let computed = projection.expr.iter().filter(|expr| bare_column(expr, schema).is_none());
    let input = materialize_if_used(builder, input, computed, schema)?;
    let mut exprs = Vec::new();
    let mut fields = Vec::new();
    let mut slots = Vec::new();
    for (index, expr) in projection.expr.iter().enumerate() {
        let from = bare_column(expr, schema).map(|column| input.slots[column]);
        let role = from.map_or(Role::Plain, |slot| slot.role);
        if from.is_some_and(|slot| slot.place.is_none()) {
            slots.push(Slot { place: None, role });
            continue;
        }
        slots.push(Slot { place: Some(exprs.len()), role });
        let compiled = compile_over(expr, schema, &input)?;
        let field = projection.schema.field(index);
        fields.push(Field::new(field.name(), field.data_type().clone(), field.is_nullable()));
        exprs.push(compiled);
    }
    let window = input.window.map(|window| {
        let time = builder.column(input.node, window.time);
        let kept = exprs.iter().position(|expr| {
            expr.downcast_ref::<Column>().is_some_and(|column| column.index() == window.time)
        });
        let time = kept.unwrap_or_else(|| {
            fields.push(builder.schema(input.node).field(window.time).clone());
            exprs.push(time);
            exprs.len() - 1
        });
        Window { time, ..window }
    });
    let node = builder.project(input.node, exprs, Arc::new(Schema::new(fields)))?;
    Ok(Relation { node, slots, window })
}

/// The column that an expression is, under whatever name.
fn bare_column(expr: &Expr, schema: &DFSchemaRef) -> Option<usize> {
    match expr {
        Expr::Column(column) => schema.maybe_index_of_column(column),
        Expr::Alias(alias) => bare_column(&alias.expr, schema),
        _ => None,
    }
}

/// Compiles an expression over a relation whose columns all exist, as far as it uses them.
fn compile_over(
    expr: &Expr,
    schema: &DFSchemaRef,
    relation: &Relation,
) -> Result<Arc<dyn PhysicalExpr>> {
    let compiled = compile(expr, schema)?;
    let mut missing = None;
    compiled.apply(|part| {
        if let Some(column) = part.downcast_ref::<Column>()
            && relation.slots.get(column.index()).is_none_or(|slot| slot.place.is_none())
        {
            missing = Some(column.name().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if let Some(column) = missing {
        return Err(Fault::unsupported(format!("the column '{column}' here")));
    }
    relocate(compiled, |index| {
        relation.slots.get(index).and_then(|slot| slot.place).unwrap_or(index)
    })
}

fn materialize_if_used<'a>(
    builder: &mut Builder,
    relation: Relation,
    exprs: impl IntoIterator<Item = &'a Expr>,
    schema: &DFSchemaRef,
) -> Result<Relation> {
    let uses_window = exprs.into_iter().any(|expr| {
        expr.column_refs().into_iter().any(|column| {
            schema
                .maybe_index_of_column(column)
                .is_some_and(|index| relation.slots[index].place.is_none())
        })
    });
    match uses_window {
        true => materialize(builder, relation),
        false => Ok(relation),
    }
}

/// Assigns rows to their window without aggregating them, as Flink's window table function does: a
/// row without an event time is dropped, and the window's columns that are only known by their role
/// so far are computed.
fn materialize(builder: &mut Builder, mut relation: Relation) -> Result<Relation> {
    let Some(window) = &mut relation.window else {
        return Ok(relation);
    };
    if !std::mem::replace(&mut window.complete, true) {
        relation.node = builder.filter_null(relation.node, window.time);
    }
    let window = *window;
    if relation.slots.iter().all(|slot| slot.place.is_some()) {
        return Ok(relation);
    }
    let schema = builder.schema(relation.node);
    let mut exprs: Vec<_> =
        (0..schema.fields().len()).map(|index| builder.column(relation.node, index)).collect();
    let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    let time = builder.column(relation.node, window.time);
    let time_type = schema.field(window.time).data_type().clone();
    for slot in &mut relation.slots {
        if slot.place.is_some() {
            continue;
        }
        let (name, expr) = window.bound(slot.role, &time, &time_type, &schema)?;
        slot.place = Some(exprs.len());
        fields.push(Field::new(name, expr.data_type(&schema)?, true));
        exprs.push(expr);
    }
    relation.node = builder.project(relation.node, exprs, Arc::new(Schema::new(fields)))?;
    Ok(relation)
}
