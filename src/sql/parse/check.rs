//! Which constructs of a query Ottla plans with Flink's meaning: a list of what is allowed, so that
//! nothing is planned wrongly in silence. Spells some constructs as DataFusion knows them.

use std::collections::BTreeSet;

use datafusion_sql::sqlparser::ast::{
    BinaryOperator, CastKind, CeilFloorKind, DataType, DateTimeField, ExactNumberInfo, Expr,
    Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, Interval,
    ObjectName, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, Spanned,
    TableFactor, UnaryOperator, Value,
};

use crate::sql::fault::{Fault, Result};
use crate::sql::functions::{self, Known};
use crate::sql::types::SqlType;

/// Chains of operators nest deeper than the parser's own bound knows.
const DEPTH_MAX: usize = 400;

/// Checks and rewrites a query.
pub(super) fn query(query: &mut Query) -> Result<()> {
    check_query(query, 0)
}

/// Checks and rewrites an expression of a table's definition.
pub(super) fn expr(expr: &mut Expr) -> Result<()> {
    check_expr(expr, 0)
}

fn deeper(depth: usize) -> Result<usize> {
    match depth < DEPTH_MAX {
        true => Ok(depth + 1),
        false => Err(Fault::new("the statement is nested too deeply")
            .hint(format!("at most {DEPTH_MAX} operators or queries may contain each other"))),
    }
}

fn refuse(construct: &str, at: &impl Spanned) -> Fault {
    Fault::unsupported(construct).at(at.span().start)
}

fn check_query(query: &mut Query, depth: usize) -> Result<()> {
    let depth = deeper(depth)?;
    if let Some(with) = &mut query.with {
        if with.recursive {
            return Err(refuse("WITH RECURSIVE", &with.with_token.0));
        }
        for cte in &mut with.cte_tables {
            check_query(&mut cte.query, depth)?;
        }
    }
    if let Some(order_by) = &query.order_by {
        return Err(refuse("ORDER BY", order_by));
    }
    if let Some(limit) = &query.limit_clause {
        return Err(refuse("LIMIT", limit));
    }
    if query.fetch.is_some() {
        return Err(refuse("FETCH FIRST", &*query.body));
    }
    if !query.locks.is_empty()
        || query.for_clause.is_some()
        || query.settings.is_some()
        || query.format_clause.is_some()
        || !query.pipe_operators.is_empty()
    {
        return Err(refuse("this clause of a query", &*query.body));
    }
    match query.body.as_mut() {
        SetExpr::Select(select) => check_select(select, depth),
        SetExpr::Query(inner) => check_query(inner, depth),
        // Chains of set operations nest to the left without bound: do not walk them for a place.
        SetExpr::SetOperation { op, .. } => Err(Fault::unsupported(op)),
        SetExpr::Values(_) => {
            Err(Fault::unsupported("VALUES")
                .hint("produce the records with a Kafka client instead"))
        }
        SetExpr::Table(_)
        | SetExpr::Insert(_)
        | SetExpr::Update(_)
        | SetExpr::Delete(_)
        | SetExpr::Merge(_) => Err(Fault::unsupported("a query that is not a SELECT")),
    }
}

fn check_select(select: &mut Select, depth: usize) -> Result<()> {
    let at = select.select_token.0.span.start;
    let refused = [
        (select.distinct.is_some(), "SELECT DISTINCT"),
        (select.top.is_some(), "TOP"),
        (select.into.is_some(), "SELECT INTO"),
        (select.exclude.is_some(), "EXCLUDE"),
        (!select.optimizer_hints.is_empty(), "a hint"),
        (select.select_modifiers.is_some(), "a modifier of SELECT"),
        (!select.lateral_views.is_empty(), "LATERAL VIEW"),
        (select.prewhere.is_some(), "PREWHERE"),
        (!select.connect_by.is_empty(), "CONNECT BY"),
        (!select.cluster_by.is_empty(), "CLUSTER BY"),
        (!select.distribute_by.is_empty(), "DISTRIBUTE BY"),
        (!select.sort_by.is_empty(), "SORT BY"),
        (!select.named_window.is_empty(), "WINDOW"),
        (select.qualify.is_some(), "QUALIFY"),
        (select.value_table_mode.is_some(), "SELECT AS"),
    ];
    if let Some((_, construct)) = refused.iter().find(|(is_there, _)| *is_there) {
        return Err(Fault::unsupported(construct).at(at));
    }
    let [from] = select.from.as_mut_slice() else {
        return Err(match select.from.get(1) {
            Some(second) => refuse("a join", &second.relation),
            None => Fault::unsupported("SELECT without FROM").at(at),
        });
    };
    if let Some(join) = from.joins.first() {
        return Err(refuse("a join", &join.relation));
    }
    check_relation(&mut from.relation, depth)?;
    for item in &mut select.projection {
        match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                check_expr(expr, depth)?;
            }
            SelectItem::Wildcard(_)
            | SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(_), _) => {}
            SelectItem::QualifiedWildcard(..) | SelectItem::ExprWithAliases { .. } => {
                return Err(refuse("this item of SELECT", item));
            }
        }
    }
    name_repeated_items(&mut select.projection);
    match &mut select.group_by {
        GroupByExpr::Expressions(keys, modifiers) if modifiers.is_empty() => {
            for key in keys {
                // Flink has no `GROUP BY 1`; DataFusion would take it for the first column.
                if matches!(key, Expr::Value(_)) {
                    return Err(refuse("a constant in GROUP BY", key));
                }
                check_expr(key, depth)?;
            }
        }
        group_by => return Err(refuse("this form of GROUP BY", group_by)),
    }
    for condition in [&mut select.selection, &mut select.having].into_iter().flatten() {
        check_expr(condition, depth)?;
    }
    Ok(())
}

/// `SELECT ts, ts` is allowed in Flink, where the second is `ts0`; DataFusion wants two names.
fn name_repeated_items(items: &mut [SelectItem]) {
    let mut seen = BTreeSet::new();
    for (position, item) in items.iter_mut().enumerate() {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        if seen.insert(expr.to_string()) {
            continue;
        }
        let name = match expr {
            Expr::Identifier(column) => format!("{}{position}", column.value),
            _ => format!("EXPR${position}"),
        };
        let expr = std::mem::replace(expr, Expr::Identifier(Ident::new("")));
        *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('`', name) };
    }
}

fn check_relation(relation: &mut TableFactor, depth: usize) -> Result<()> {
    match relation {
        TableFactor::Table {
            args: None,
            version: None,
            json_path: None,
            sample: None,
            with_ordinality: false,
            with_hints,
            partitions,
            index_hints,
            ..
        } if with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty() => Ok(()),
        TableFactor::Table { name, args: Some(_), .. } => {
            Err(refuse(&format!("{name}(…) in FROM"), name)
                .hint("write TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND))"))
        }
        TableFactor::Table { version: Some(_), name, .. } => {
            Err(refuse("FOR SYSTEM_TIME AS OF", name))
        }
        TableFactor::Derived { lateral: false, subquery, sample: None, .. } => {
            check_query(subquery, depth)
        }
        TableFactor::TableFunction { expr: Expr::Function(function), .. } => {
            check_table_function(function)
        }
        TableFactor::NestedJoin { .. } => Err(refuse("a join", &*relation)),
        TableFactor::MatchRecognize { .. } => Err(refuse("MATCH_RECOGNIZE", &*relation)),
        _ => Err(refuse("this item of FROM", &*relation)),
    }
}

fn check_table_function(function: &Function) -> Result<()> {
    let name = function.name.to_string().to_uppercase();
    match name.as_str() {
        "TUMBLE" => Ok(()),
        "HOP" | "CUMULATE" | "SESSION" => {
            Err(refuse(&format!("the window function {name}"), &function.name).hint("TUMBLE is"))
        }
        _ => {
            Err(Fault::unknown("table function", &name, ["TUMBLE"]).at(function.name.span().start))
        }
    }
}

fn check_expr(expr: &mut Expr, depth: usize) -> Result<()> {
    let depth = deeper(depth)?;
    match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => Ok(()),
        Expr::Value(_) => check_value(expr, false),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr: inner }
            if matches!(**inner, Expr::Value(_)) =>
        {
            check_value(expr, true)
        }
        Expr::UnaryOp { op, expr: inner } => match op {
            UnaryOperator::Minus | UnaryOperator::Plus | UnaryOperator::Not => {
                check_expr(inner, depth)
            }
            _ => Err(refuse(&format!("operator {op}"), &**inner)),
        },
        Expr::BinaryOp { left, op, right } => {
            if !is_known_operator(op) {
                return Err(refuse(&format!("operator {op}"), &**right));
            }
            check_expr(left, depth)?;
            check_expr(right, depth)
        }
        Expr::IsNull(inner)
        | Expr::IsNotNull(inner)
        | Expr::IsTrue(inner)
        | Expr::IsNotTrue(inner)
        | Expr::IsFalse(inner)
        | Expr::IsNotFalse(inner)
        | Expr::IsUnknown(inner)
        | Expr::IsNotUnknown(inner)
        | Expr::Nested(inner) => check_expr(inner, depth),
        Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
            check_expr(left, depth)?;
            check_expr(right, depth)
        }
        Expr::Between { expr, low, high, .. } => {
            [expr, low, high].into_iter().try_for_each(|part| check_expr(part, depth))
        }
        Expr::InList { expr, list, .. } => {
            check_expr(expr, depth)?;
            list.iter_mut().try_for_each(|item| check_expr(item, depth))
        }
        Expr::Like { expr, pattern, escape_char, any: false, .. } => {
            if escape_char.is_some() {
                return Err(refuse("LIKE … ESCAPE", &**pattern));
            }
            check_pattern(pattern)?;
            check_expr(expr, depth)
        }
        Expr::Case { operand, conditions, else_result, .. } => {
            for when in conditions {
                check_expr(&mut when.condition, depth)?;
                check_expr(&mut when.result, depth)?;
            }
            [operand, else_result]
                .into_iter()
                .flatten()
                .try_for_each(|part| check_expr(part, depth))
        }
        Expr::Cast { kind, expr: inner, data_type, array: false, format: None } => {
            if *kind != CastKind::Cast {
                return Err(refuse("TRY_CAST", &**inner)
                    .hint("its NULLs would not be Flink's for every input; CAST is supported"));
            }
            check_cast_type(data_type).map_err(|fault| fault.at(inner.span().start))?;
            check_expr(inner, depth)
        }
        Expr::TypedString(typed) => match typed.data_type {
            DataType::Timestamp(..) | DataType::Date => Ok(()),
            _ => Err(Fault::unsupported(format!("a literal of type {}", typed.data_type))
                .at(typed.value.span.start)),
        },
        Expr::Interval(interval) => check_interval(interval),
        Expr::Floor { expr: inner, field } | Expr::Ceil { expr: inner, field } => match field {
            CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) => check_expr(inner, depth),
            _ => Err(refuse("FLOOR or CEIL with a second argument", &**inner)),
        },
        Expr::Trim { expr: inner, trim_what: None, trim_characters: None, .. } => {
            check_expr(inner, depth)
        }
        Expr::Substring { expr: inner, substring_from, substring_for, .. } => {
            check_expr(inner, depth)?;
            check_substring(substring_from.as_deref(), substring_for.as_deref(), inner)
        }
        Expr::Function(_) => check_function(expr, depth),
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
            Err(refuse("a subquery in an expression", &*expr))
        }
        Expr::Prefixed { prefix, .. } => {
            Err(Fault::unsupported(format!("{prefix} in an expression")).at(prefix.span.start))
        }
        Expr::Extract { .. } => Err(refuse("EXTRACT", &*expr)),
        Expr::Position { .. } => Err(refuse("POSITION", &*expr)),
        Expr::Overlay { .. } => Err(refuse("OVERLAY", &*expr)),
        Expr::Trim { .. } => Err(refuse("TRIM of other characters than spaces", &*expr)),
        Expr::SimilarTo { .. } => Err(refuse("SIMILAR TO", &*expr)),
        Expr::AtTimeZone { .. } => Err(refuse("AT TIME ZONE", &*expr)),
        _ => Err(refuse("this expression", &*expr)),
    }
}

fn is_known_operator(op: &BinaryOperator) -> bool {
    use BinaryOperator::*;
    matches!(
        op,
        Plus | Minus
            | Multiply
            | Divide
            | Modulo
            | StringConcat
            | Eq
            | NotEq
            | Lt
            | LtEq
            | Gt
            | GtEq
            | And
            | Or
    )
}

/// Literals. An integer is INT if it fits, then BIGINT; `1.5` is a DECIMAL, `1e0` a DOUBLE.
fn check_value(expr: &mut Expr, is_negative: bool) -> Result<()> {
    let value = match &*expr {
        Expr::Value(value) => value,
        Expr::UnaryOp { expr: inner, .. } => match &**inner {
            Expr::Value(value) => value,
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    let at = value.span.start;
    match &value.value {
        Value::Number(number, false) => {
            let signed = format!("{}{number}", if is_negative { "-" } else { "" });
            let data_type = if signed.parse::<i32>().is_ok() {
                DataType::Int(None)
            } else if signed.parse::<i64>().is_ok() {
                return Ok(());
            } else if number.contains(['e', 'E']) {
                DataType::Double(ExactNumberInfo::None)
            } else if number.contains('.') {
                return Ok(());
            } else {
                return Err(Fault::new(format!("{signed} is out of BIGINT's range")).at(at));
            };
            let number = std::mem::replace(expr, Expr::Identifier(Ident::new("")));
            *expr = Expr::Cast {
                kind: CastKind::Cast,
                expr: Box::new(number),
                data_type,
                array: false,
                format: None,
            };
            Ok(())
        }
        _ if is_negative => Err(Fault::new("a minus needs a number").at(at)),
        Value::SingleQuotedString(_) | Value::Boolean(_) | Value::Null => Ok(()),
        Value::DoubleQuotedString(text) => {
            Err(Fault::new(format!("\"{text}\" is in double quotes"))
                .at(at)
                .hint("text is in single quotes, a name in backticks"))
        }
        _ => Err(Fault::unsupported(format!("the literal {}", value.value)).at(at)),
    }
}

/// DataFusion reads a backslash as an escape, Flink does not; so patterns are literals without one.
fn check_pattern(pattern: &Expr) -> Result<()> {
    match pattern {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) if !text.contains('\\') => Ok(()),
            Value::SingleQuotedString(_) => Err(refuse("a backslash in a pattern", pattern)),
            _ => Err(refuse("a pattern that is not a text", pattern)),
        },
        _ => Err(refuse("a pattern that is not a literal", pattern)),
    }
}

fn check_cast_type(data_type: &DataType) -> Result<()> {
    match SqlType::from_syntax(data_type)? {
        // These cut or pad in Flink.
        SqlType::Char(_) => Err(Fault::unsupported("CAST to CHAR").hint("CAST to STRING is")),
        sql_type @ SqlType::Varchar(_) if sql_type != SqlType::STRING => {
            Err(Fault::unsupported(format!("CAST to {sql_type}")).hint("CAST to STRING is"))
        }
        _ => Ok(()),
    }
}

fn check_interval(interval: &mut Interval) -> Result<()> {
    let at = interval.value.span().start;
    let is_number = matches!(&*interval.value, Expr::Value(value)
        if matches!(&value.value, Value::SingleQuotedString(text)
            if !text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit())));
    let is_simple = interval.leading_precision.is_none()
        && interval.last_field.is_none()
        && interval.fractional_seconds_precision.is_none();
    let is_unit = matches!(
        interval.leading_field,
        Some(
            DateTimeField::Second
                | DateTimeField::Minute
                | DateTimeField::Hour
                | DateTimeField::Day
                | DateTimeField::Month
                | DateTimeField::Year
        )
    );
    match is_number && is_simple && is_unit {
        true => Ok(()),
        false => Err(Fault::unsupported("this form of INTERVAL")
            .at(at)
            .hint("write INTERVAL '10' SECOND (or MINUTE, HOUR, DAY, MONTH, YEAR)")),
    }
}

/// Flink's SUBSTRING starts at 1 for 0 and counts negative starts from the end; DataFusion's does not.
fn check_substring(from: Option<&Expr>, length: Option<&Expr>, at: &Expr) -> Result<()> {
    let number = |expr: &Expr| match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => number.parse::<u32>().ok(),
            _ => None,
        },
        _ => None,
    };
    let from_ok = from.and_then(number).is_some_and(|from| from > 0);
    let length_ok = length.is_none_or(|length| number(length).is_some());
    match from_ok && length_ok {
        true => Ok(()),
        false => {
            Err(refuse("SUBSTRING with a start or a length that is not a positive number", at))
        }
    }
}

fn check_function(expr: &mut Expr, depth: usize) -> Result<()> {
    let Expr::Function(function) = expr else {
        return Ok(());
    };
    let at = function.name.span().start;
    let name = function.name.to_string();
    if function.over.is_some() {
        return Err(Fault::unsupported("OVER").at(at));
    }
    if function.filter.is_some() {
        return Err(Fault::unsupported("FILTER (WHERE …)").at(at).hint("aggregate a CASE instead"));
    }
    if function.null_treatment.is_some()
        || !function.within_group.is_empty()
        || function.uses_odbc_syntax
        || !matches!(function.parameters, FunctionArguments::None)
    {
        return Err(Fault::unsupported(format!("this form of {name}")).at(at));
    }
    let known = functions::lookup(&name).map_err(|fault| fault.at(at))?;
    let FunctionArguments::List(list) = &mut function.args else {
        return Err(Fault::new(format!("{name} needs its arguments in parentheses")).at(at));
    };
    if list.duplicate_treatment.is_some() {
        return Err(Fault::unsupported(format!("{name}(DISTINCT …)")).at(at));
    }
    if !list.clauses.is_empty() {
        return Err(Fault::unsupported(format!("this form of {name}")).at(at));
    }
    let count = list.args.len();
    if !known.arity().contains(&count) {
        return Err(Fault::new(format!("{name} does not take {count} arguments")).at(at));
    }
    let mut args = Vec::with_capacity(count);
    for arg in &mut list.args {
        match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)) => {
                check_expr(arg, depth)?;
                args.push(arg.clone());
            }
            FunctionArg::Unnamed(FunctionArgExpr::Wildcard) if known.takes_wildcard() => {}
            _ => return Err(Fault::new(format!("{name} does not take this argument")).at(at)),
        }
    }
    match known {
        Known::Named { datafusion, .. } => {
            function.name =
                ObjectName::from(vec![Ident::with_span(function.name.span(), datafusion)]);
        }
        Known::Operator { op, .. } => {
            let chain = args.into_iter().reduce(|left, right| Expr::BinaryOp {
                left: Box::new(nested(left)),
                op: op.clone(),
                right: Box::new(nested(right)),
            });
            if let Some(chain) = chain {
                *expr = nested(chain);
            }
        }
    }
    Ok(())
}

fn nested(expr: Expr) -> Expr {
    Expr::Nested(Box::new(expr))
}
