//! Flink's aggregates in terms of DataFusion's: SUM keeps its argument's type and wraps, AVG of
//! integers truncates.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column, DataFusionError};
use datafusion_expr::Operator;
use datafusion_expr::expr::AggregateFunction;
use datafusion_expr::logical_plan::{Aggregate, Projection};
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, binary_expr, cast, col, lit};
use datafusion_functions_aggregate::expr_fn::{count, sum};

use crate::sql::fault::Result;

/// Rewrites each aggregation whose results would not have Flink's types; the names of its columns
/// stay, so that what is planned above it still finds them.
pub(super) fn flink_aggregates(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up(|node| {
        let node = node.recompute_schema()?;
        match node {
            LogicalPlan::Aggregate(aggregate) => rewrite(aggregate),
            other => Ok(Transformed::no(other)),
        }
    })?;
    Ok(plan.data)
}

/// One result of Flink's: what DataFusion aggregates for it, and how they become the result.
struct Finished {
    aggregates: Vec<Expr>,
    finish: Finish,
}

/// Makes Flink's result of the columns that DataFusion aggregated.
type Finish = Box<dyn FnOnce(&[Expr]) -> Expr>;

fn rewrite(aggregate: Aggregate) -> std::result::Result<Transformed<LogicalPlan>, DataFusionError> {
    let input_schema = Arc::clone(aggregate.input.schema());
    let mut results = Vec::with_capacity(aggregate.aggr_expr.len());
    let mut changed = false;
    for expr in &aggregate.aggr_expr {
        let result = match expr.clone().unalias() {
            Expr::AggregateFunction(AggregateFunction { func, params })
                if params.args.len() == 1 =>
            {
                let argument = params.args[0].clone();
                let argument_type = argument.get_type(&input_schema)?;
                replacement(func.name(), argument, argument_type)
            }
            _ => None,
        };
        changed |= result.is_some();
        results.push(result.unwrap_or_else(|| Finished {
            aggregates: vec![expr.clone()],
            finish: Box::new(|columns| columns[0].clone()),
        }));
    }
    if !changed {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let keys = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
    let mut exprs: Vec<Expr> = (0..keys)
        .map(|key| Expr::Column(Column::from(aggregate.schema.qualified_field(key))))
        .collect();
    let mut aggregates = Vec::new();
    for (index, result) in results.into_iter().enumerate() {
        let mut columns = Vec::with_capacity(result.aggregates.len());
        for expr in result.aggregates {
            let name = format!("$aggregate{}", aggregates.len());
            columns.push(col(Column::new_unqualified(name.clone())));
            aggregates.push(expr.unalias().alias(name));
        }
        let name = aggregate.schema.field(keys + index).name();
        exprs.push((result.finish)(&columns).alias(name));
    }
    let inner = Aggregate::try_new(aggregate.input, aggregate.group_expr, aggregates)?;
    let projection = Projection::try_new(exprs, Arc::new(LogicalPlan::Aggregate(inner)))?;
    Ok(Transformed::yes(LogicalPlan::Projection(projection)))
}

fn replacement(name: &str, argument: Expr, argument_type: DataType) -> Option<Finished> {
    let wide = |argument: Expr| cast(argument, DataType::Int64);
    match (name, &argument_type) {
        ("sum", DataType::Int8 | DataType::Int16 | DataType::Int32) => Some(Finished {
            aggregates: vec![sum(wide(argument))],
            finish: Box::new(move |columns| wrap(columns[0].clone(), argument_type)),
        }),
        ("sum", DataType::Decimal128(_, scale)) => {
            let widest = DataType::Decimal128(38, *scale);
            Some(Finished {
                aggregates: vec![sum(argument)],
                finish: Box::new(move |columns| cast(columns[0].clone(), widest)),
            })
        }
        ("avg", integer) if integer.is_integer() => Some(Finished {
            aggregates: vec![sum(wide(argument.clone())), count(argument)],
            finish: Box::new(move |columns| {
                cast(columns[0].clone() / columns[1].clone(), argument_type)
            }),
        }),
        ("sum" | "avg", DataType::Float32) => Some(Finished {
            aggregates: vec![match name {
                "sum" => sum(argument),
                _ => datafusion_functions_aggregate::expr_fn::avg(argument),
            }],
            finish: Box::new(move |columns| cast(columns[0].clone(), argument_type)),
        }),
        _ => None,
    }
}

/// The low bits of a BIGINT as a narrower integer: where Java's sum would have ended.
fn wrap(sum: Expr, narrow: DataType) -> Expr {
    let bits = 8 * narrow.primitive_width().unwrap_or(4) as u32;
    let half = 1i64 << (bits - 1);
    let shifted = binary_expr(sum + lit(half), Operator::BitwiseAnd, lit(2 * half - 1));
    cast(shifted - lit(half), narrow)
}
