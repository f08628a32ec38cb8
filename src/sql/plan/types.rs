//! Which operand types an expression may mix. DataFusion converts more than Flink does, and not
//! always to the same type, so whatever needs a CAST in doubt is refused.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, DataFusionError};
use datafusion_expr::expr::{AggregateFunction, Case, InList, ScalarFunction};
use datafusion_expr::planner::TypePlanner;
use datafusion_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion_sql::sqlparser::ast::DataType as SqlDataType;
use datafusion_sql::sqlparser::tokenizer::Location;

use crate::sql::fault::{Fault, Result};
use crate::sql::types::{SqlType, describe};

/// Types in casts and literals mean what they mean in Flink.
#[derive(Debug)]
pub(super) struct FlinkTypes;

impl TypePlanner for FlinkTypes {
    fn plan_type_field(
        &self,
        syntax: &SqlDataType,
    ) -> std::result::Result<Option<FieldRef>, DataFusionError> {
        let sql_type = SqlType::from_syntax(syntax).map_err(Fault::into_datafusion)?;
        Ok(Some(Arc::new(Field::new("", sql_type.to_arrow(), true))))
    }
}

/// What may be compared with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Null,
    Boolean,
    Number,
    Text,
    Bytes,
    Date,
    Time,
    Timestamp,
    TimestampLtz,
    Interval,
    Other,
}

fn class(data_type: &DataType) -> Class {
    match data_type {
        DataType::Null => Class::Null,
        DataType::Boolean => Class::Boolean,
        DataType::Utf8 => Class::Text,
        DataType::Binary => Class::Bytes,
        DataType::Date32 => Class::Date,
        DataType::Time32(_) => Class::Time,
        DataType::Timestamp(_, None) => Class::Timestamp,
        DataType::Timestamp(_, Some(_)) => Class::TimestampLtz,
        DataType::Interval(_) => Class::Interval,
        data_type if data_type.is_numeric() => Class::Number,
        _ => Class::Other,
    }
}

/// Checks every expression of a plan, before any conversion was added to it.
pub(super) fn check_plan(plan: &LogicalPlan) -> Result<()> {
    let mut outcome = Ok(());
    plan.apply(|node| {
        let schema = input_schema(node);
        outcome = node.expressions().iter().try_for_each(|expr| check_expr(expr, &schema));
        Ok(if outcome.is_ok() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    outcome
}

fn input_schema(node: &LogicalPlan) -> DFSchema {
    match node.inputs().as_slice() {
        [input] => input.schema().as_ref().clone(),
        _ => DFSchema::empty(),
    }
}

/// Checks an expression, before any conversion was added to it.
pub(super) fn check_expr(expr: &Expr, schema: &DFSchema) -> Result<()> {
    let mut outcome = Ok(());
    expr.apply(|part| {
        outcome = check_part(part, schema).map_err(|fault| match place(part) {
            Some(place) => fault.at(place),
            None => fault,
        });
        Ok(if outcome.is_ok() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    outcome
}

/// The first column in an expression that knows where it is written.
fn place(expr: &Expr) -> Option<Location> {
    expr.column_refs()
        .into_iter()
        .filter_map(|column| column.spans().first())
        .map(|span| Location { line: span.start.line, column: span.start.column })
        .min_by_key(|place| (place.line, place.column))
}

fn check_part(expr: &Expr, schema: &DFSchema) -> Result<()> {
    let type_of = |expr: &Expr| -> Result<DataType> { Ok(expr.get_type(schema)?) };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            check_binary(&type_of(left)?, *op, &type_of(right)?)
        }
        Expr::Not(inner)
        | Expr::IsTrue(inner)
        | Expr::IsNotTrue(inner)
        | Expr::IsFalse(inner)
        | Expr::IsNotFalse(inner)
        | Expr::IsUnknown(inner)
        | Expr::IsNotUnknown(inner) => expect("a condition", &type_of(inner)?, &[Class::Boolean]),
        Expr::Negative(inner) => expect("a minus", &type_of(inner)?, &[Class::Number]),
        Expr::Between(between) => {
            let parts = [&between.expr, &between.low, &between.high];
            same_class("BETWEEN", parts.map(|part| type_of(part)))
        }
        Expr::InList(InList { expr, list, .. }) => {
            same_class("IN", [expr.as_ref()].into_iter().chain(list).map(type_of))
        }
        Expr::Like(like) => {
            expect("LIKE", &type_of(&like.expr)?, &[Class::Text])?;
            expect("LIKE", &type_of(&like.pattern)?, &[Class::Text])
        }
        Expr::Case(Case { expr, when_then_expr, else_expr }) => {
            let results = when_then_expr.iter().map(|(_, then)| then.as_ref());
            same_class("CASE", results.chain(else_expr.as_deref()).map(type_of))?;
            match expr {
                Some(operand) => {
                    let conditions = when_then_expr.iter().map(|(when, _)| when.as_ref());
                    same_class(
                        "CASE",
                        [operand.as_ref()].into_iter().chain(conditions).map(type_of),
                    )
                }
                None => when_then_expr
                    .iter()
                    .try_for_each(|(when, _)| expect("WHEN", &type_of(when)?, &[Class::Boolean])),
            }
        }
        Expr::Cast(cast) => check_cast(&type_of(&cast.expr)?, cast.field.data_type()),
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            let types = args.iter().map(type_of).collect::<Result<Vec<_>>>()?;
            check_function(func.name(), &types)
        }
        Expr::AggregateFunction(AggregateFunction { func, params }) => {
            let types = params.args.iter().map(type_of).collect::<Result<Vec<_>>>()?;
            check_aggregate(func.name(), &types)
        }
        _ => Ok(()),
    }
}

fn check_binary(left: &DataType, op: Operator, right: &DataType) -> Result<()> {
    use Class::*;
    let pair = (class(left), class(right));
    let fits = match op {
        Operator::And | Operator::Or => {
            matches!(pair, (Boolean | Null, Boolean | Null))
        }
        Operator::StringConcat => matches!(pair, (Text | Null, Text | Null)),
        Operator::Plus | Operator::Minus => {
            matches!(pair, (Number | Null, Number | Null) | (Timestamp | TimestampLtz, Interval))
                || (op == Operator::Plus && matches!(pair, (Interval, Timestamp | TimestampLtz)))
        }
        Operator::Multiply => matches!(pair, (Number | Null, Number | Null)),
        // The scale of a decimal quotient differs between Flink and DataFusion.
        Operator::Divide => {
            matches!(pair, (Number | Null, Number | Null))
                && (left.is_floating()
                    || right.is_floating()
                    || !is_decimal(left) && !is_decimal(right))
        }
        Operator::Modulo => [left, right].iter().all(|t| t.is_integer() || **t == DataType::Null),
        _ => pair.0 == pair.1 && pair.0 != Other || pair.0 == Null || pair.1 == Null,
    };
    match fits {
        true => Ok(()),
        false => Err(Fault::new(format!(
            "operator {op} does not take {} and {}",
            describe(left),
            describe(right)
        ))
        .hint("convert one side with CAST")),
    }
}

fn is_decimal(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Decimal128(..))
}

fn check_function(name: &str, types: &[DataType]) -> Result<()> {
    match name {
        "abs" => types.iter().try_for_each(|t| expect(name, t, &[Class::Number])),
        "floor" | "ceil" | "round" => match types.first() {
            Some(DataType::Float32 | DataType::Float64) => Ok(()),
            _ => Err(Fault::unsupported(format!("{} of anything but DOUBLE", name.to_uppercase()))
                .hint("convert the argument with CAST(… AS DOUBLE)")),
        },
        "coalesce" | "nullif" => same_class(name, types.iter().cloned().map(Ok)),
        _ => types.first().map_or(Ok(()), |t| expect(name, t, &[Class::Text])),
    }
}

fn check_aggregate(name: &str, types: &[DataType]) -> Result<()> {
    let Some(argument) = types.first() else {
        return Ok(());
    };
    match name {
        "sum" => expect(name, argument, &[Class::Number]),
        "avg" if is_decimal(argument) => {
            Err(Fault::unsupported("AVG of a DECIMAL").hint("convert it with CAST(… AS DOUBLE)"))
        }
        "avg" => expect(name, argument, &[Class::Number]),
        "min" | "max" => {
            use Class::*;
            expect(name, argument, &[Number, Text, Date, Time, Timestamp, TimestampLtz])
        }
        _ => Ok(()),
    }
}

fn expect(what: &str, data_type: &DataType, classes: &[Class]) -> Result<()> {
    let found = class(data_type);
    match found == Class::Null || classes.contains(&found) {
        true => Ok(()),
        false => Err(Fault::new(format!(
            "{} does not take {}",
            what.to_uppercase(),
            describe(data_type)
        ))
        .hint("convert it with CAST")),
    }
}

fn same_class(what: &str, types: impl IntoIterator<Item = Result<DataType>>) -> Result<()> {
    let mut first: Option<DataType> = None;
    for data_type in types {
        let data_type = data_type?;
        match &first {
            _ if class(&data_type) == Class::Null => {}
            None => first = Some(data_type),
            Some(other) if class(other) == class(&data_type) => {}
            Some(other) => {
                return Err(Fault::new(format!(
                    "{} mixes {} and {}",
                    what.to_uppercase(),
                    describe(other),
                    describe(&data_type)
                ))
                .hint("convert one with CAST"));
            }
        }
    }
    Ok(())
}

/// Whether a conversion gives Flink's result, or fails the job where it cannot.
pub(in crate::sql) fn check_cast(from: &DataType, to: &DataType) -> Result<()> {
    use Class::*;
    let fits = from == to
        || match (class(from), class(to)) {
            (Null, _) => true,
            (Number, Number) => !(from.is_floating() && is_decimal(to)),
            (Number, Text) => !from.is_floating(),
            (Date, Text) => true,
            (Text, Number | Date | Timestamp) => true,
            (Timestamp | TimestampLtz, Timestamp | TimestampLtz) => true,
            (Timestamp, Date) | (Date, Timestamp) => true,
            _ => false,
        };
    match fits {
        true => Ok(()),
        false => {
            Err(Fault::unsupported(format!("CAST from {} to {}", describe(from), describe(to))))
        }
    }
}
