//! From a typed expression to one that the executor evaluates.

use std::sync::Arc;

use datafusion_common::DFSchemaRef;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_expr::Expr;
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::simplify::SimplifyContext;
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::expressions::Column;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};

use super::fault::Result;

/// Simplifies `expr` and compiles it over `schema`.
pub(super) fn compile(expr: &Expr, schema: &DFSchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    let context = SimplifyContext::builder().with_schema(Arc::clone(schema)).build();
    let simplified = ExprSimplifier::new(context).simplify(expr.clone())?;
    Ok(create_physical_expr(
        &simplified,
        schema,
        &ExecutionProps::new(),
        &PhysicalPlanningContext::default(),
    )?)
}

/// Points each column reference to where `place` says the column lies.
pub(super) fn relocate(
    expr: Arc<dyn PhysicalExpr>,
    place: impl Fn(usize) -> usize,
) -> Result<Arc<dyn PhysicalExpr>> {
    let moved = expr.transform_up(|part| match part.downcast_ref::<Column>() {
        Some(column) => {
            let moved = Column::new(column.name(), place(column.index()));
            Ok(Transformed::yes(Arc::new(moved) as Arc<dyn PhysicalExpr>))
        }
        None => Ok(Transformed::no(part)),
    })?;
    Ok(moved.data)
}
