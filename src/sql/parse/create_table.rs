//! `CREATE TABLE` in Flink's form: computed columns, watermark, options.

use std::ops::Range;

use datafusion_sql::sqlparser::ast::{DataType, Expr, Ident};
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::{Location, Token};

use super::{is_word, parse_quoted, table_name};
use crate::sql::fault::{Fault, Result};

/// A table as it was written.
#[derive(Clone, Debug)]
pub(in crate::sql) struct CreateTable {
    pub(in crate::sql) name: Ident,
    pub(in crate::sql) if_not_exists: bool,
    pub(in crate::sql) columns: Vec<ColumnDef>,
    pub(in crate::sql) watermark: Option<WatermarkDef>,
    pub(in crate::sql) comment: Option<String>,
    /// The `WITH` clause in order, each with the place of its key.
    pub(in crate::sql) options: Vec<(String, String, Location)>,
}

/// A column as it was written.
#[derive(Clone, Debug)]
pub(in crate::sql) struct ColumnDef {
    pub(in crate::sql) name: Ident,
    pub(in crate::sql) kind: ColumnKind,
    pub(in crate::sql) comment: Option<String>,
}

/// Where a column's values come from.
#[derive(Clone, Debug)]
pub(in crate::sql) enum ColumnKind {
    /// The record's value.
    Physical { data_type: DataType, not_null: bool, at: Location },
    /// An expression over physical columns.
    Computed { expr: Box<Expr>, text: Range<Location> },
}

/// `WATERMARK FOR column AS expr`.
#[derive(Clone, Debug)]
pub(in crate::sql) struct WatermarkDef {
    pub(in crate::sql) column: Ident,
    pub(in crate::sql) expr: Expr,
    /// Where the expression is written.
    pub(in crate::sql) text: Range<Location>,
}

pub(super) fn parse(parser: &mut Parser) -> Result<CreateTable> {
    parser.next_token();
    let _ = parser.parse_keyword(Keyword::TEMPORARY);
    let what = parser.peek_token();
    if !parser.parse_keyword(Keyword::TABLE) {
        return Err(Fault::unsupported(format!("CREATE {}", what.token))
            .at(what.span.start)
            .hint("CREATE TABLE is"));
    }
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = table_name(parser.parse_object_name(true)?)?;
    let mut table = CreateTable {
        name,
        if_not_exists,
        columns: Vec::new(),
        watermark: None,
        comment: None,
        options: Vec::new(),
    };
    parser.expect_token(&Token::LParen)?;
    loop {
        parse_element(parser, &mut table)?;
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    parser.expect_token(&Token::RParen)?;
    if parser.parse_keyword(Keyword::COMMENT) {
        table.comment = Some(parse_quoted(parser, "COMMENT 'text'")?);
    }
    refuse(parser, &["PARTITIONED", "DISTRIBUTED", "LIKE", "AS"])?;
    if parser.parse_keyword(Keyword::WITH) {
        parser.expect_token(&Token::LParen)?;
        loop {
            let at = parser.peek_token().span.start;
            let key = parse_quoted(parser, "'key' = 'value'")?;
            parser.expect_token(&Token::Eq)?;
            let value = parse_quoted(parser, "'key' = 'value'")?;
            table.options.push((key, value, at));
            if !parser.consume_token(&Token::Comma) {
                break;
            }
        }
        parser.expect_token(&Token::RParen)?;
    }
    refuse(parser, &["LIKE", "AS"])?;
    Ok(table)
}

fn parse_element(parser: &mut Parser, table: &mut CreateTable) -> Result<()> {
    let first = parser.peek_token();
    let next = parser.peek_nth_token(1);
    // `watermark`, `primary` and `constraint` may be columns too: what follows decides.
    if is_word(&first, "WATERMARK") && is_word(&next, "FOR") {
        parser.next_token();
        parser.next_token();
        let column = parser.parse_identifier()?;
        parser.expect_keyword_is(Keyword::AS)?;
        let (expr, text) = parse_written_expr(parser)?;
        if table.watermark.replace(WatermarkDef { column, expr, text }).is_some() {
            return Err(Fault::new("a table has at most one WATERMARK").at(first.span.start));
        }
        return Ok(());
    }
    if (is_word(&first, "PRIMARY") && is_word(&next, "KEY")) || is_word(&first, "CONSTRAINT") {
        return Err(primary_key(first.span.start));
    }
    let name = parser.parse_identifier()?;
    let kind = if parser.parse_keyword(Keyword::AS) {
        let (expr, text) = parse_written_expr(parser)?;
        ColumnKind::Computed { expr: Box::new(expr), text }
    } else {
        parse_physical(parser)?
    };
    let comment = match parser.parse_keyword(Keyword::COMMENT) {
        true => Some(parse_quoted(parser, "COMMENT 'text'")?),
        false => None,
    };
    table.columns.push(ColumnDef { name, kind, comment });
    Ok(())
}

/// An expression and where it is written, to show it as it was.
fn parse_written_expr(parser: &mut Parser) -> Result<(Expr, Range<Location>)> {
    let start = parser.peek_token().span.start;
    let expr = parser.parse_expr()?;
    Ok((expr, start..parser.get_current_token().span.end))
}

fn parse_physical(parser: &mut Parser) -> Result<ColumnKind> {
    let at = parser.peek_token().span.start;
    let data_type = parser.parse_data_type()?;
    let mut not_null = false;
    loop {
        let token = parser.peek_token();
        if parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]) {
            not_null = true;
        } else if parser.parse_keyword(Keyword::NULL) {
            not_null = false;
        } else if is_word(&token, "METADATA") {
            return Err(Fault::unsupported("a METADATA column").at(token.span.start));
        } else if is_word(&token, "PRIMARY") || is_word(&token, "CONSTRAINT") {
            return Err(primary_key(token.span.start));
        } else if is_word(&token, "WITH") || is_word(&token, "WITHOUT") {
            return Err(Fault::unsupported(format!("a type with {}", token.token))
                .at(token.span.start)
                .hint("write TIMESTAMP(3) or TIMESTAMP_LTZ(3)"));
        } else {
            return Ok(ColumnKind::Physical { data_type, not_null, at });
        }
    }
}

fn primary_key(at: Location) -> Fault {
    Fault::new("PRIMARY KEY is not supported on a 'kafka' table: its topic is append-only")
        .at(at)
        .hint("leave it out; upsert tables are not supported yet")
}

fn refuse(parser: &Parser, clauses: &[&str]) -> Result<()> {
    let token = parser.peek_token();
    match clauses.iter().find(|clause| is_word(&token, clause)) {
        Some(clause) => {
            Err(Fault::unsupported(format!("CREATE TABLE … {clause}")).at(token.span.start))
        }
        None => Ok(()),
    }
}
