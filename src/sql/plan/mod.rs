//! From a checked query to a typed plan over the session's tables: DataFusion's planner and type
//! coercion, with Flink's types. Knows no graph.

mod semantics;
mod types;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{DFSchema, DataFusionError, TableReference};
use datafusion_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner};
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{
    AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF,
};
use datafusion_optimizer::AnalyzerRule;
use datafusion_optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::{Expr as SqlExpr, Query, Statement};

use self::types::FlinkTypes;
use self::window::WindowPlanner;
use super::fault::{Fault, Result};
use super::functions;
use super::table::Table;

pub(super) use self::types::check_cast;
pub(super) use self::window::{Tumble, WINDOW_COLUMNS};

/// The tables a statement may name.
pub(super) type Tables = BTreeMap<String, Arc<Table>>;

/// Plans a query with all types resolved.
pub(super) fn query(query: Query, tables: &Tables) -> Result<LogicalPlan> {
    let names = Names::new(tables);
    let planner = SqlToRel::new_with_options(&names, parser_options());
    let plan = planner.sql_statement_to_plan(Statement::Query(Box::new(query)))?;
    types::check_plan(&plan)?;
    let plan = semantics::flink_aggregates(plan)?;
    Ok(TypeCoercion::new().analyze(plan, names.options())?)
}

/// Plans an expression of a table's definition over that table's columns.
pub(super) fn expression(expr: SqlExpr, schema: &DFSchema) -> Result<Expr> {
    let tables = Tables::new();
    let names = Names::new(&tables);
    let planner = SqlToRel::new_with_options(&names, parser_options());
    let expr = planner.sql_to_expr(expr, schema, &mut PlannerContext::new())?;
    types::check_expr(&expr, schema)?;
    let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build();
    Ok(ExprSimplifier::new(context).coerce(expr, schema)?)
}

fn parser_options() -> ParserOptions {
    ParserOptions::new()
        .with_enable_ident_normalization(false)
        .with_parse_float_as_decimal(true)
        .with_map_string_types_to_utf8view(false)
        .with_collect_spans(true)
}

/// What the planner may look up by name.
struct Names<'a> {
    tables: &'a Tables,
    options: ConfigOptions,
    expr_planners: Vec<Arc<dyn ExprPlanner>>,
    relation_planners: Vec<Arc<dyn RelationPlanner>>,
}

impl Names<'_> {
    fn new(tables: &Tables) -> Names<'_> {
        Names {
            tables,
            options: ConfigOptions::default(),
            expr_planners: vec![
                Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
                Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
                Arc::new(datafusion_functions_aggregate::planner::AggregateFunctionPlanner),
            ],
            relation_planners: vec![Arc::new(WindowPlanner)],
        }
    }
}

/// A table's columns, as the planner sees them.
struct Columns(SchemaRef);

impl TableSource for Columns {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0)
    }
}

impl ContextProvider for Names<'_> {
    fn get_table_source(
        &self,
        name: TableReference,
    ) -> std::result::Result<Arc<dyn TableSource>, DataFusionError> {
        let in_catalog = name.schema().is_none_or(|schema| schema == "default_database")
            && name.catalog().is_none_or(|catalog| catalog == "default_catalog");
        match self.tables.get(name.table()).filter(|_| in_catalog) {
            Some(table) => Ok(Arc::new(Columns(Arc::clone(&table.schema)))),
            None => {
                let fault = Fault::unknown(
                    "table",
                    &name.to_string(),
                    self.tables.keys().map(String::as_str),
                );
                let fault = match self.tables.is_empty() {
                    true => fault.hint("create it with CREATE TABLE first"),
                    false => fault,
                };
                Err(fault.into_datafusion())
            }
        }
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.expr_planners
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.relation_planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(FlinkTypes))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        functions::scalar(name)
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        functions::aggregate(name)
    }

    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}
