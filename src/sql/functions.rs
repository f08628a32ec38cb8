//! The functions a query may call: those whose results were checked to be Flink's. Any other is
//! refused by name, since many of DataFusion's functions differ from Flink's in corner cases.

use std::ops::RangeInclusive;
use std::sync::Arc;

use datafusion_expr::{AggregateUDF, ScalarUDF};
use datafusion_sql::sqlparser::ast::BinaryOperator;

use super::fault::{Fault, Result};

/// How a function of Flink's is computed.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// By DataFusion's function of this name.
    Named { datafusion: &'static str, arity: RangeInclusive<usize> },
    /// By an operator between its arguments.
    Operator { op: BinaryOperator, arity: RangeInclusive<usize> },
}

impl Known {
    /// How many arguments it takes.
    pub(super) fn arity(&self) -> &RangeInclusive<usize> {
        match self {
            Known::Named { arity, .. } | Known::Operator { arity, .. } => arity,
        }
    }

    /// Whether `*` may be its argument.
    pub(super) fn takes_wildcard(&self) -> bool {
        matches!(self, Known::Named { datafusion: "count", .. })
    }
}

/// Argument lists are bounded, as everything that comes from outside.
const ARGUMENTS_MAX: usize = 100;

/// Flink's name, DataFusion's name, number of arguments.
const NAMED: [(&str, &str, RangeInclusive<usize>); 17] = [
    ("COUNT", "count", 1..=1),
    ("SUM", "sum", 1..=1),
    ("MIN", "min", 1..=1),
    ("MAX", "max", 1..=1),
    ("AVG", "avg", 1..=1),
    ("UPPER", "upper", 1..=1),
    ("LOWER", "lower", 1..=1),
    ("LTRIM", "ltrim", 1..=1),
    ("RTRIM", "rtrim", 1..=1),
    ("BTRIM", "btrim", 1..=1),
    ("CHAR_LENGTH", "character_length", 1..=1),
    ("CHARACTER_LENGTH", "character_length", 1..=1),
    ("ABS", "abs", 1..=1),
    // With digits, Flink rounds the decimal text of a DOUBLE, DataFusion its binary value.
    ("ROUND", "round", 1..=1),
    ("COALESCE", "coalesce", 1..=ARGUMENTS_MAX),
    ("IFNULL", "coalesce", 2..=2),
    ("NULLIF", "nullif", 2..=2),
];

/// DataFusion's CONCAT skips NULLs where Flink's gives NULL, as `||` does in both.
const OPERATORS: [(&str, BinaryOperator, RangeInclusive<usize>); 2] = [
    ("CONCAT", BinaryOperator::StringConcat, 2..=ARGUMENTS_MAX),
    ("MOD", BinaryOperator::Modulo, 2..=2),
];

/// Finds a function by its name in any case.
pub(super) fn lookup(name: &str) -> Result<Known> {
    let upper = name.to_uppercase();
    let named = NAMED.iter().find(|(flink, ..)| *flink == upper);
    if let Some((_, datafusion, arity)) = named {
        return Ok(Known::Named { datafusion, arity: arity.clone() });
    }
    let operator = OPERATORS.iter().find(|(flink, ..)| *flink == upper);
    if let Some((_, op, arity)) = operator {
        return Ok(Known::Operator { op: op.clone(), arity: arity.clone() });
    }
    let names = NAMED.iter().map(|(flink, ..)| *flink).chain(OPERATORS.iter().map(|(n, ..)| *n));
    Err(Fault::unknown("or not yet supported function", &upper, names))
}

/// DataFusion's scalar function of this name, among those that are allowed or that its planner
/// writes for `TRIM`, `SUBSTRING`, `FLOOR` and `CEIL`.
pub(super) fn scalar(name: &str) -> Option<Arc<ScalarUDF>> {
    use datafusion_functions::{core, math, string, unicode};
    Some(match name {
        "upper" => string::upper(),
        "lower" => string::lower(),
        "ltrim" => string::ltrim(),
        "rtrim" => string::rtrim(),
        "btrim" | "trim" => string::btrim(),
        "character_length" => unicode::character_length(),
        "substr" | "substring" => unicode::substr(),
        "abs" => math::abs(),
        "round" => math::round(),
        "floor" => math::floor(),
        "ceil" => math::ceil(),
        "coalesce" => core::coalesce(),
        "nullif" => core::nullif(),
        _ => return None,
    })
}

/// DataFusion's aggregate function of this name, among those that are allowed.
pub(super) fn aggregate(name: &str) -> Option<Arc<AggregateUDF>> {
    use datafusion_functions_aggregate::{average, count, min_max, sum};
    Some(match name {
        "count" => count::count_udaf(),
        "sum" => sum::sum_udaf(),
        "min" => min_max::min_udaf(),
        "max" => min_max::max_udaf(),
        "avg" => average::avg_udaf(),
        _ => return None,
    })
}
