//! What is wrong with a statement, where, and what to do about it.

use std::fmt;

use datafusion_common::{DataFusionError, SchemaError};
use datafusion_sql::sqlparser::parser::ParserError;
use datafusion_sql::sqlparser::tokenizer::Location;

use super::SqlError;

/// A statement's fault; its text reads `what at line 3, column 8; hint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    what: String,
    at: Option<Location>,
    hint: Option<String>,
}

pub(super) type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    pub(super) fn new(what: impl Into<String>) -> Fault {
        Fault { what: what.into(), at: None, hint: None }
    }

    /// A construct that Flink knows and Ottla does not plan yet.
    pub(super) fn unsupported(construct: impl fmt::Display) -> Fault {
        Fault::new(format!("{construct} is not supported yet"))
    }

    /// A name that is not among the valid ones: names the nearest, or lists a few.
    pub(super) fn unknown<'a>(
        kind: &str,
        name: &str,
        valid: impl IntoIterator<Item = &'a str>,
    ) -> Fault {
        let valid: Vec<&str> = valid.into_iter().collect();
        let fault = Fault::new(format!("unknown {kind} '{name}'"));
        match nearest(name, &valid) {
            Some(near) => fault.hint(format!("did you mean '{near}'?")),
            None if valid.is_empty() => fault,
            None if valid.len() <= LISTED_MAX => {
                fault.hint(format!("known are: {}", valid.join(", ")))
            }
            None => fault,
        }
    }

    /// Sets the place, unless a more precise one is known already or this one is empty.
    pub(super) fn at(mut self, place: Location) -> Fault {
        if self.at.is_none() && place.line > 0 {
            self.at = Some(place);
        }
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Fault {
        self.hint = Some(hint.into());
        self
    }

    /// The same fault as one in `part` of the statement.
    pub(super) fn within(mut self, part: &str) -> Fault {
        self.what = format!("{part}: {}", self.what);
        self
    }

    /// Carries the fault through DataFusion's planner; `From<DataFusionError>` takes it out again.
    pub(super) fn into_datafusion(self) -> DataFusionError {
        DataFusionError::External(Box::new(self))
    }
}

/// As many valid names as an error still lists.
const LISTED_MAX: usize = 12;

/// The valid name a person probably meant.
fn nearest<'a>(name: &str, valid: &[&'a str]) -> Option<&'a str> {
    let folded = name.to_lowercase();
    let distance_max = 1 + name.chars().count() / 4;
    valid
        .iter()
        .map(|candidate| {
            (strsim::damerau_levenshtein(&folded, &candidate.to_lowercase()), candidate)
        })
        .filter(|(distance, _)| *distance <= distance_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| *candidate)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(at) = self.at {
            write!(f, " at line {}, column {}", at.line, at.column)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for SqlError {
    fn from(fault: Fault) -> SqlError {
        SqlError::Statement {
            message: fault.to_string(),
            line: fault.at.map(|at| at.line),
            column: fault.at.map(|at| at.column),
        }
    }
}

impl From<ParserError> for Fault {
    fn from(error: ParserError) -> Fault {
        let text = match error {
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => text,
            ParserError::RecursionLimitExceeded => {
                return Fault::new("the statement is nested too deeply")
                    .hint("split it into simpler statements");
            }
        };
        // The parser appends the place as ` at Line: 1, Column: 5`.
        match text.rsplit_once(" at Line: ") {
            Some((what, place)) => match place.split_once(", Column: ") {
                Some((line, column)) => {
                    let (line, column) = (line.trim().parse(), column.trim().parse());
                    match (line, column) {
                        (Ok(line), Ok(column)) => {
                            Fault::new(lowercase_first(what)).at(Location { line, column })
                        }
                        _ => Fault::new(lowercase_first(&text)),
                    }
                }
                None => Fault::new(lowercase_first(&text)),
            },
            None => Fault::new(lowercase_first(&text)),
        }
    }
}

impl From<DataFusionError> for Fault {
    fn from(error: DataFusionError) -> Fault {
        let place = error
            .diagnostic()
            .and_then(|diagnostic| diagnostic.span)
            .map(|span| Location { line: span.start.line, column: span.start.column });
        let fault = root_fault(&error).unwrap_or_else(|| {
            let text = error.strip_backtrace();
            let text = ERROR_PREFIXES
                .iter()
                .fold(text.as_str(), |text, prefix| text.strip_prefix(prefix).unwrap_or(text));
            ungrouped_column(text).unwrap_or_else(|| Fault::new(lowercase_first(text)))
        });
        match place {
            Some(place) => fault.at(place),
            None => fault,
        }
    }
}

const ERROR_PREFIXES: [&str; 4] = [
    "type_coercion\ncaused by\n",
    "Error during planning: ",
    "This feature is not implemented: ",
    "Schema error: ",
];

/// Our own fault inside DataFusion's error, or one of its errors that we can say better.
fn root_fault(error: &DataFusionError) -> Option<Fault> {
    match error {
        DataFusionError::External(inner) => inner.downcast_ref::<Fault>().cloned(),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            root_fault(inner)
        }
        DataFusionError::Shared(inner) => root_fault(inner),
        DataFusionError::Collection(all) => all.iter().find_map(root_fault),
        DataFusionError::SchemaError(inner, _) => match inner.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let valid: Vec<&str> = valid_fields.iter().map(|f| f.name.as_str()).collect();
                let fault = Fault::unknown("column", &field.name, valid);
                Some(match field.spans().first() {
                    Some(span) => {
                        fault.at(Location { line: span.start.line, column: span.start.column })
                    }
                    None => fault,
                })
            }
            SchemaError::AmbiguousReference { field } => Some(
                Fault::new(format!("column '{}' is ambiguous", field.name))
                    .hint("qualify it with its table"),
            ),
            SchemaError::DuplicateUnqualifiedField { name }
            | SchemaError::DuplicateQualifiedField { name, .. } => Some(
                Fault::new(format!("two columns of the query are named '{name}'"))
                    .hint("give one an alias with AS"),
            ),
        },
        DataFusionError::ResourcesExhausted(_) => None,
        _ => None,
    }
}

/// DataFusion says this at length, and of wildcards that nobody wrote.
fn ungrouped_column(text: &str) -> Option<Fault> {
    let rest = text.strip_prefix("Column in ")?;
    let (clause, rest) = rest.split_once(" must be in GROUP BY")?;
    let column = rest.split('"').nth(1)?;
    let column = column.rsplit('.').next().unwrap_or(column);
    Some(
        Fault::new(format!("column '{column}' in {clause} is neither grouped nor aggregated"))
            .hint("add it to the GROUP BY"),
    )
}

fn lowercase_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        // `SELECT`, `GROUP BY` stay as they are.
        Some(first) if !chars.clone().next().is_some_and(char::is_uppercase) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_error_keeps_its_place() {
        let fault = Fault::from(ParserError::ParserError(
            "Expected: an expression, found: EOF at Line: 3, Column: 14".to_owned(),
        ));
        assert_eq!(fault.to_string(), "expected: an expression, found: EOF at line 3, column 14");
    }

    #[test]
    fn the_nearest_name_is_offered_and_a_far_one_is_not() {
        let valid = ["clicks", "page_counts"];
        assert_eq!(
            Fault::unknown("table", "Clicsk", valid).to_string(),
            "unknown table 'Clicsk'; did you mean 'clicks'?"
        );
        assert_eq!(
            Fault::unknown("table", "orders", valid).to_string(),
            "unknown table 'orders'; known are: clicks, page_counts"
        );
    }
}
