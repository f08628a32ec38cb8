//! Flink's lexical rules, and `TABLE t` as an argument of a table function.

use std::cell::Cell;

use datafusion_sql::sqlparser::ast::{Expr, Ident};
use datafusion_sql::sqlparser::dialect::Dialect;
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::Token;

/// Backticks quote identifiers, single quotes text; identifiers keep their case.
#[derive(Debug)]
pub(super) struct FlinkDialect {
    /// Expressions that may still be begun. The parser takes back what it tried, at every level of
    /// nesting, so that a short statement could keep it busy for ever.
    attempts: Cell<usize>,
}

impl FlinkDialect {
    /// Rules for a statement of this many tokens.
    pub(super) fn for_tokens(tokens: usize) -> FlinkDialect {
        FlinkDialect { attempts: Cell::new(1_000 + 8 * tokens) }
    }

    /// Whether the parser gave up because it tried too often.
    pub(super) fn is_exhausted(&self) -> bool {
        self.attempts.get() == 0
    }
}

impl Dialect for FlinkDialect {
    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '`'
    }

    fn identifier_quote_style(&self, _identifier: &str) -> Option<char> {
        Some('`')
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '_' || ch == '$'
    }

    // The constructs below parse so that they can be refused by name.
    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_group_by_expr(&self) -> bool {
        true
    }

    fn supports_match_recognize(&self) -> bool {
        true
    }

    /// `TABLE t` becomes a prefixed expression: no other construct of the dialect makes one.
    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        match self.attempts.get() {
            0 => return Some(Err(ParserError::RecursionLimitExceeded)),
            attempts => self.attempts.set(attempts - 1),
        }
        let [Token::Word(table), Token::Word(_)] = parser.peek_tokens::<2>() else {
            return None;
        };
        if table.keyword != Keyword::TABLE || table.quote_style.is_some() {
            return None;
        }
        let keyword = parser.next_token();
        let prefix = Ident::with_span(keyword.span, "TABLE");
        Some(parser.parse_object_name(true).map(|name| {
            let parts = name.0.iter().filter_map(|part| part.as_ident().cloned()).collect();
            Expr::Prefixed { prefix, value: Box::new(Expr::CompoundIdentifier(parts)) }
        }))
    }
}
