//! The window table functions of FROM: `TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND))`
//! becomes a plan node that adds window_start, window_end and window_time to its input.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion_common::{DFSchema, DFSchemaRef, DataFusionError, TableReference};
use datafusion_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion_sql::sqlparser::ast::{
    DateTimeField, Expr as SqlExpr, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    Ident, Interval, ObjectName, Spanned, TableFactor, Value,
};
use datafusion_sql::sqlparser::tokenizer::Location;

use crate::sql::fault::{Fault, Result};

/// The columns a window function adds, in this order.
pub(in crate::sql) const WINDOW_COLUMNS: [&str; 3] = ["window_start", "window_end", "window_time"];

/// Assigns each row to its tumbling window.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::sql) struct Tumble {
    pub(in crate::sql) input: LogicalPlan,
    /// Index of the event-time column in the input.
    pub(in crate::sql) time: usize,
    pub(in crate::sql) size_ms: i64,
    pub(in crate::sql) offset_ms: i64,
    /// Where the event-time column is named.
    pub(in crate::sql) at: Location,
    schema: DFSchemaRef,
}

impl Tumble {
    fn new(
        input: LogicalPlan,
        time: usize,
        size_ms: i64,
        offset_ms: i64,
        at: Location,
    ) -> std::result::Result<Tumble, DataFusionError> {
        let bound = DataType::Timestamp(TimeUnit::Millisecond, None);
        let time_type = input.schema().field(time).data_type().clone();
        let added = WINDOW_COLUMNS.into_iter().zip([bound.clone(), bound, time_type]);
        let mut fields: Vec<(Option<TableReference>, Arc<Field>)> = input
            .schema()
            .iter()
            .map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field)))
            .collect();
        fields.extend(
            added.map(|(name, data_type)| (None, Arc::new(Field::new(name, data_type, false)))),
        );
        let schema = DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?;
        Ok(Tumble { input, time, size_ms, offset_ms, at, schema: Arc::new(schema) })
    }
}

impl PartialOrd for Tumble {
    fn partial_cmp(&self, other: &Tumble) -> Option<Ordering> {
        self.size_ms.partial_cmp(&other.size_ms)
    }
}

impl UserDefinedLogicalNodeCore for Tumble {
    fn name(&self) -> &str {
        "Tumble"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tumble: {} ms", self.size_ms)
    }

    fn with_exprs_and_inputs(
        &self,
        _exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> std::result::Result<Tumble, DataFusionError> {
        match inputs.pop() {
            Some(input) => Tumble::new(input, self.time, self.size_ms, self.offset_ms, self.at),
            None => Err(DataFusionError::Internal("a window has one input".to_owned())),
        }
    }
}

/// Plans `TABLE(TUMBLE(…))`; leaves every other item of FROM to DataFusion.
#[derive(Debug)]
pub(super) struct WindowPlanner;

impl RelationPlanner for WindowPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> std::result::Result<RelationPlanning, DataFusionError> {
        match relation {
            TableFactor::TableFunction { expr: SqlExpr::Function(function), alias } => {
                let arguments = Arguments::of(&function).map_err(Fault::into_datafusion)?;
                let input = context.plan(table_factor(arguments.table))?;
                let time = input
                    .schema()
                    .fields()
                    .iter()
                    .position(|field| *field.name() == arguments.time.value)
                    .ok_or_else(|| {
                        let names = input.schema().fields().iter().map(|f| f.name().as_str());
                        Fault::unknown("column", &arguments.time.value, names)
                            .at(arguments.time.span.start)
                            .into_datafusion()
                    })?;
                if let Some(taken) = WINDOW_COLUMNS.iter().find(|name| has_column(&input, name)) {
                    return Err(Fault::unsupported(format!(
                        "a window over a table that has a column '{taken}' already"
                    ))
                    .at(function.name.span().start)
                    .into_datafusion());
                }
                let tumble = Tumble::new(
                    input,
                    time,
                    arguments.size_ms,
                    arguments.offset_ms,
                    arguments.time.span.start,
                )?;
                let plan = LogicalPlan::Extension(Extension { node: Arc::new(tumble) });
                Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
            }
            other => Ok(RelationPlanning::Original(Box::new(other))),
        }
    }
}

fn has_column(plan: &LogicalPlan, name: &str) -> bool {
    plan.schema().fields().iter().any(|field| field.name() == name)
}

fn table_factor(parts: Vec<Ident>) -> TableFactor {
    TableFactor::Table {
        name: ObjectName::from(parts),
        alias: None,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    }
}

/// The arguments of TUMBLE, by position or by name.
struct Arguments {
    table: Vec<Ident>,
    time: Ident,
    size_ms: i64,
    offset_ms: i64,
}

const PARAMETERS: [&str; 4] = ["DATA", "TIMECOL", "SIZE", "OFFSET"];
const USAGE: &str = "write TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND [, offset])";

impl Arguments {
    fn of(function: &Function) -> Result<Arguments> {
        let at = function.name.span().start;
        let misuse = |what: &str| Fault::new(format!("TUMBLE: {what}")).hint(USAGE);
        let FunctionArguments::List(list) = &function.args else {
            return Err(misuse("the arguments are missing").at(at));
        };
        let mut given: [Option<&SqlExpr>; 4] = [None; 4];
        for (position, arg) in list.args.iter().enumerate() {
            let (slot, expr) = match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => (position, expr),
                FunctionArg::Named { name, arg: FunctionArgExpr::Expr(expr), .. } => {
                    let slot = PARAMETERS
                        .iter()
                        .position(|parameter| name.value.eq_ignore_ascii_case(parameter))
                        .ok_or_else(|| {
                            Fault::unknown("parameter of TUMBLE", &name.value, PARAMETERS)
                                .at(name.span.start)
                        })?;
                    (slot, expr)
                }
                _ => return Err(misuse("an argument is not understood").at(at)),
            };
            match given.get_mut(slot) {
                Some(place @ None) => *place = Some(expr),
                Some(Some(_)) => return Err(misuse("an argument is given twice").at(at)),
                None => return Err(misuse("there are too many arguments").at(at)),
            }
        }
        let [Some(table), Some(time), Some(size), offset] = given else {
            return Err(misuse("an argument is missing").at(at));
        };
        let SqlExpr::Prefixed { value, .. } = table else {
            return Err(misuse("the first argument is not TABLE t").at(table.span().start));
        };
        let SqlExpr::CompoundIdentifier(parts) = value.as_ref() else {
            return Err(misuse("the first argument is not TABLE t").at(table.span().start));
        };
        let time = descriptor(time)
            .ok_or_else(|| misuse("the event time is not DESCRIPTOR(column)").at(at))?;
        let size_ms = interval_ms(size)
            .filter(|size_ms| *size_ms > 0)
            .ok_or_else(|| misuse("the size is not a positive interval of at most days").at(at))?;
        let offset_ms = match offset {
            Some(offset) => interval_ms(offset)
                .ok_or_else(|| misuse("the offset is not an interval of at most days").at(at))?,
            None => 0,
        };
        Ok(Arguments { table: parts.clone(), time, size_ms, offset_ms })
    }
}

fn descriptor(expr: &SqlExpr) -> Option<Ident> {
    let SqlExpr::Function(function) = expr else { return None };
    if !function.name.to_string().eq_ignore_ascii_case("DESCRIPTOR") {
        return None;
    }
    let FunctionArguments::List(list) = &function.args else { return None };
    match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(SqlExpr::Identifier(column)))] => {
            Some(column.clone())
        }
        _ => None,
    }
}

fn interval_ms(expr: &SqlExpr) -> Option<i64> {
    let SqlExpr::Interval(Interval {
        value,
        leading_field,
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    }) = expr
    else {
        return None;
    };
    let SqlExpr::Value(value) = value.as_ref() else { return None };
    let Value::SingleQuotedString(number) = &value.value else { return None };
    let unit_ms = match leading_field.as_ref()? {
        DateTimeField::Second => 1_000,
        DateTimeField::Minute => 60_000,
        DateTimeField::Hour => 3_600_000,
        DateTimeField::Day => 86_400_000,
        _ => return None,
    };
    let number: i64 = number.parse::<u32>().ok()?.into();
    // Four billion days are 3.7e17 ms: the product fits.
    Some(number * unit_ms)
}
