//! From text to statements: Flink's dialect over sqlparser. Knows syntax, no table and no type.

mod check;
mod create_table;
mod dialect;
mod split;

pub(super) use create_table::{ColumnDef, ColumnKind, CreateTable, WatermarkDef};
pub(super) use split::split;

use std::collections::BTreeSet;
use std::ops::Range;

use datafusion_sql::sqlparser::ast::{Ident, ObjectName, ObjectNamePart, Query};
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Whitespace};

use self::dialect::FlinkDialect;
use super::fault::{Fault, Result};

/// A statement of Flink SQL.
#[derive(Clone, Debug)]
pub(super) enum Statement {
    /// `CREATE TABLE`.
    CreateTable(Box<CreateTable>),
    /// `DROP TABLE [IF EXISTS] name`.
    DropTable { name: Ident, if_exists: bool },
    /// `SHOW TABLES`.
    ShowTables,
    /// `SHOW CREATE TABLE name`.
    ShowCreateTable(Ident),
    /// `DESCRIBE name` or `DESC name`.
    Describe(Ident),
    /// `SET` (shows all) or `SET 'key' = 'value'`.
    Set(Option<(String, String)>),
    /// `RESET` (all) or `RESET 'key'`.
    Reset(Option<String>),
    /// `SHOW JOBS`.
    ShowJobs,
    /// `STOP JOB 'id' [WITH SAVEPOINT]`.
    StopJob { id: String, savepoint: bool },
    /// `EXPLAIN [PLAN FOR] INSERT …` or of a query.
    Explain(Box<Statement>),
    /// `INSERT INTO …`, or several in one `EXECUTE STATEMENT SET BEGIN … END`.
    Insert(Vec<Insert>),
    /// `SELECT …` on its own.
    Query(Box<Query>),
}

/// `INSERT INTO table [(columns)] query`.
#[derive(Clone, Debug)]
pub(super) struct Insert {
    /// The sink.
    pub(super) table: Ident,
    /// Its columns in the query's order; empty for all.
    pub(super) columns: Vec<Ident>,
    /// What is written.
    pub(super) query: Box<Query>,
}

/// Longest statement, in bytes; a screenful is 4 KiB.
const STATEMENT_BYTES_MAX: usize = 256 * 1024;
/// Deepest nesting of expressions and queries.
const DEPTH_MAX: usize = 64;

/// Parses one statement; a `;` may end it.
pub(super) fn parse(text: &str) -> Result<Statement> {
    if text.len() > STATEMENT_BYTES_MAX {
        return Err(Fault::new(format!(
            "the statement is {} bytes long, at most {STATEMENT_BYTES_MAX} are allowed",
            text.len()
        )));
    }
    let tokens = Tokenizer::new(&FlinkDialect::for_tokens(0), text)
        .tokenize_with_location()
        .map_err(ParserError::from)?;
    refuse_hints(&tokens)?;
    let dialect = FlinkDialect::for_tokens(tokens.len());
    let end = tokens.last().map(|token| token.span.end);
    let mut parser =
        Parser::new(&dialect).with_recursion_limit(DEPTH_MAX).with_tokens_with_locations(tokens);
    let mut statement =
        parse_statement(&mut parser).map_err(|fault| match dialect.is_exhausted() {
            true => Fault::from(ParserError::RecursionLimitExceeded),
            // The parser gives its end-of-input token no place.
            false if fault.to_string().ends_with("found: EOF") => {
                fault.at(end.unwrap_or(Location { line: 0, column: 0 }))
            }
            false => fault,
        })?;
    let _ = parser.consume_token(&Token::SemiColon);
    expect_end(&parser)?;
    check_statement(&mut statement)?;
    Ok(statement)
}

/// Flink's hints look like comments to the parser, and would be ignored in silence.
fn refuse_hints(tokens: &[TokenWithSpan]) -> Result<()> {
    let hint = tokens.iter().find(|token| {
        matches!(&token.token, Token::Whitespace(Whitespace::MultiLineComment(text))
            if text.starts_with('+'))
    });
    match hint {
        Some(hint) => Err(Fault::unsupported("a hint")
            .at(hint.span.start)
            .hint("put the options into the table's WITH clause")),
        None => Ok(()),
    }
}

fn check_statement(statement: &mut Statement) -> Result<()> {
    match statement {
        Statement::Insert(inserts) => {
            inserts.iter_mut().try_for_each(|insert| check::query(&mut insert.query))
        }
        Statement::Query(query) => check::query(query),
        Statement::Explain(inner) => check_statement(inner),
        Statement::CreateTable(table) => {
            for column in &mut table.columns {
                if let ColumnKind::Computed { expr, .. } = &mut column.kind {
                    check::expr(expr)?;
                }
            }
            table.watermark.iter_mut().try_for_each(|watermark| check::expr(&mut watermark.expr))
        }
        _ => Ok(()),
    }
}

fn parse_statement(parser: &mut Parser) -> Result<Statement> {
    let first = parser.peek_token();
    let Token::Word(word) = &first.token else {
        return Err(not_a_statement(&first));
    };
    match word.value.to_uppercase().as_str() {
        "CREATE" => create_table::parse(parser).map(Box::new).map(Statement::CreateTable),
        "DROP" => parse_drop(parser),
        "SHOW" => parse_show(parser),
        "DESCRIBE" | "DESC" => {
            parser.next_token();
            Ok(Statement::Describe(table_name(parser.parse_object_name(true)?)?))
        }
        "SET" => parse_set(parser),
        "RESET" => parse_reset(parser),
        "STOP" => parse_stop_job(parser),
        "EXPLAIN" => parse_explain(parser),
        "INSERT" => Ok(Statement::Insert(vec![parse_insert(parser)?])),
        "EXECUTE" | "BEGIN" => parse_statement_set(parser),
        "SELECT" | "WITH" | "VALUES" => Ok(Statement::Query(parser.parse_query()?)),
        "ALTER" | "UPDATE" | "DELETE" | "USE" | "LOAD" | "UNLOAD" | "ANALYZE" | "CALL" | "ADD"
        | "REMOVE" | "COMPILE" | "TRUNCATE" | "QUIT" | "EXIT" | "HELP" | "CLEAR" => {
            Err(Fault::unsupported(format!("{} as a statement", word.value.to_uppercase()))
                .at(first.span.start))
        }
        _ => Err(not_a_statement(&first)),
    }
}

const STATEMENTS: [&str; 12] = [
    "CREATE", "DROP", "SHOW", "DESCRIBE", "SET", "RESET", "STOP", "EXPLAIN", "INSERT", "EXECUTE",
    "SELECT", "WITH",
];

fn not_a_statement(token: &TokenWithSpan) -> Fault {
    match &token.token {
        Token::EOF => Fault::new("the statement is empty"),
        token_kind => {
            Fault::unknown("statement", &token_kind.to_string(), STATEMENTS).at(token.span.start)
        }
    }
}

fn expect_end(parser: &Parser) -> Result<()> {
    let rest = parser.peek_token();
    match rest.token {
        Token::EOF => Ok(()),
        _ => Err(Fault::new(format!("expected the end of the statement, found '{}'", rest.token))
            .at(rest.span.start)),
    }
}

fn parse_drop(parser: &mut Parser) -> Result<Statement> {
    parser.next_token();
    let _ = parser.parse_keyword(Keyword::TEMPORARY);
    let what = parser.peek_token();
    if !parser.parse_keyword(Keyword::TABLE) {
        return Err(Fault::unsupported(format!("DROP {}", what.token)).at(what.span.start));
    }
    let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    let name = table_name(parser.parse_object_name(true)?)?;
    Ok(Statement::DropTable { name, if_exists })
}

fn parse_show(parser: &mut Parser) -> Result<Statement> {
    parser.next_token();
    if parser.parse_keyword(Keyword::TABLES) {
        return Ok(Statement::ShowTables);
    }
    if is_word(&parser.peek_token(), "JOBS") {
        parser.next_token();
        return Ok(Statement::ShowJobs);
    }
    if parser.parse_keywords(&[Keyword::CREATE, Keyword::TABLE]) {
        return Ok(Statement::ShowCreateTable(table_name(parser.parse_object_name(true)?)?));
    }
    let what = parser.peek_token();
    Err(Fault::unsupported(format!("SHOW {}", what.token))
        .at(what.span.start)
        .hint("SHOW TABLES, SHOW CREATE TABLE and SHOW JOBS are"))
}

fn parse_set(parser: &mut Parser) -> Result<Statement> {
    parser.next_token();
    if matches!(parser.peek_token().token, Token::EOF | Token::SemiColon) {
        return Ok(Statement::Set(None));
    }
    let key = parse_quoted(parser, "SET 'key' = 'value'")?;
    parser.expect_token(&Token::Eq)?;
    let value = parse_quoted(parser, "SET 'key' = 'value'")?;
    Ok(Statement::Set(Some((key, value))))
}

fn parse_reset(parser: &mut Parser) -> Result<Statement> {
    parser.next_token();
    if matches!(parser.peek_token().token, Token::EOF | Token::SemiColon) {
        return Ok(Statement::Reset(None));
    }
    Ok(Statement::Reset(Some(parse_quoted(parser, "RESET 'key'")?)))
}

fn parse_stop_job(parser: &mut Parser) -> Result<Statement> {
    parser.next_token();
    let word = parser.next_token();
    if !is_word(&word, "JOB") {
        return Err(Fault::new(format!("expected JOB, found '{}'", word.token))
            .at(word.span.start)
            .hint("write STOP JOB '<id>' [WITH SAVEPOINT]"));
    }
    let id = parse_quoted(parser, "STOP JOB '<id>'")?;
    let mut savepoint = false;
    if parser.parse_keyword(Keyword::WITH) {
        let word = parser.next_token();
        if !is_word(&word, "SAVEPOINT") {
            return Err(
                Fault::unsupported(format!("STOP JOB … WITH {}", word.token)).at(word.span.start)
            );
        }
        savepoint = true;
    }
    Ok(Statement::StopJob { id, savepoint })
}

fn parse_explain(parser: &mut Parser) -> Result<Statement> {
    parser.next_token();
    if parser.parse_keyword(Keyword::PLAN) {
        parser.expect_keyword_is(Keyword::FOR)?;
    }
    let place = parser.peek_token().span.start;
    // Refused before it is parsed: each EXPLAIN of a long row of them would take a stack frame.
    if parser.peek_keyword(Keyword::EXPLAIN) {
        return Err(Fault::new("EXPLAIN cannot be explained").at(place).hint("write it once"));
    }
    match parse_statement(parser)? {
        statement @ (Statement::Insert(_) | Statement::Query(_)) => {
            Ok(Statement::Explain(Box::new(statement)))
        }
        _ => Err(Fault::new("only INSERT and SELECT can be explained").at(place)),
    }
}

fn parse_insert(parser: &mut Parser) -> Result<Insert> {
    parser.expect_keyword_is(Keyword::INSERT)?;
    let place = parser.peek_token().span.start;
    if parser.parse_keyword(Keyword::OVERWRITE) {
        return Err(Fault::unsupported("INSERT OVERWRITE on a stream").at(place));
    }
    parser.expect_keyword_is(Keyword::INTO)?;
    let table = table_name(parser.parse_object_name(true)?)?;
    let place = parser.peek_token().span.start;
    if parser.parse_keyword(Keyword::PARTITION) {
        return Err(Fault::unsupported("INSERT INTO … PARTITION").at(place));
    }
    let columns = match parser.peek_tokens::<2>() {
        // `INSERT INTO t (SELECT …)` is a query in parentheses, not a column list.
        [Token::LParen, Token::Word(word)]
            if !matches!(word.keyword, Keyword::SELECT | Keyword::WITH | Keyword::VALUES) =>
        {
            parser.expect_token(&Token::LParen)?;
            let columns = parser.parse_comma_separated(Parser::parse_identifier)?;
            parser.expect_token(&Token::RParen)?;
            columns
        }
        _ => Vec::new(),
    };
    Ok(Insert { table, columns, query: parser.parse_query()? })
}

/// `EXECUTE STATEMENT SET BEGIN insert; … END`, or the older `BEGIN STATEMENT SET; … END`.
fn parse_statement_set(parser: &mut Parser) -> Result<Statement> {
    if parser.parse_keyword(Keyword::EXECUTE) {
        let next = parser.peek_token();
        if parser.peek_keyword(Keyword::INSERT) {
            return Ok(Statement::Insert(vec![parse_insert(parser)?]));
        }
        if !parser.parse_keywords(&[Keyword::STATEMENT, Keyword::SET, Keyword::BEGIN]) {
            return Err(Fault::unsupported(format!("EXECUTE {}", next.token))
                .at(next.span.start)
                .hint("write EXECUTE STATEMENT SET BEGIN INSERT …; END"));
        }
    } else {
        parser.expect_keyword_is(Keyword::BEGIN)?;
        parser.expect_keyword_is(Keyword::STATEMENT)?;
        parser.expect_keyword_is(Keyword::SET)?;
        parser.expect_token(&Token::SemiColon)?;
    }
    let mut inserts = Vec::new();
    while !parser.parse_keyword(Keyword::END) {
        inserts.push(parse_insert(parser)?);
        parser.expect_token(&Token::SemiColon)?;
    }
    match inserts.is_empty() {
        true => Err(Fault::new("the statement set has no INSERT")),
        false => Ok(Statement::Insert(inserts)),
    }
}

/// Whether a token is this word, in any case and not in backticks.
fn is_word(token: &TokenWithSpan, word: &str) -> bool {
    matches!(&token.token, Token::Word(w)
        if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

fn parse_quoted(parser: &mut Parser, usage: &str) -> Result<String> {
    let token = parser.next_token();
    match token.token {
        Token::SingleQuotedString(text) => Ok(text),
        other => Err(Fault::new(format!("expected a text in single quotes, found '{other}'"))
            .at(token.span.start)
            .hint(format!("write {usage}"))),
    }
}

/// The catalog and the database that every table is in, as in a fresh Flink session.
const CATALOG: [&str; 2] = ["default_catalog", "default_database"];

/// A table's own name; Flink's default catalog and database may precede it.
pub(super) fn table_name(name: ObjectName) -> Result<Ident> {
    let mut parts = Vec::new();
    for part in &name.0 {
        match part {
            ObjectNamePart::Identifier(ident) => parts.push(ident.clone()),
            ObjectNamePart::Function(_) => {
                return Err(Fault::new(format!("'{name}' is not a table's name")));
            }
        }
    }
    let Some(table) = parts.pop() else {
        return Err(Fault::new("a table's name is missing"));
    };
    let outer = CATALOG[CATALOG.len().saturating_sub(parts.len())..].iter();
    if parts.len() > CATALOG.len() || !parts.iter().map(|p| p.value.as_str()).eq(outer.copied()) {
        return Err(Fault::new(format!("there is no database for the table '{name}'"))
            .at(parts[0].span.start)
            .hint("all tables are in default_catalog.default_database; leave it out"));
    }
    Ok(table)
}

/// Every word of a statement, out of its backticks.
pub(super) fn words(text: &str) -> BTreeSet<String> {
    tokens(text).into_iter().filter_map(|token| word(token).map(|(word, _)| word)).collect()
}

/// Where a statement names a table last: after the sink that may have the same name.
pub(super) fn last_mention(text: &str, name: &str) -> Option<Location> {
    let mut words = tokens(text).into_iter().filter_map(word);
    words.rfind(|(word, _)| word == name).map(|(_, place)| place)
}

fn tokens(text: &str) -> Vec<TokenWithSpan> {
    Tokenizer::new(&FlinkDialect::for_tokens(0), text).tokenize_with_location().unwrap_or_default()
}

fn word(token: TokenWithSpan) -> Option<(String, Location)> {
    match token.token {
        Token::Word(word) => Some((word.value, token.span.start)),
        _ => None,
    }
}

/// The part of a statement between two places, as it was written.
pub(super) fn excerpt(text: &str, part: &Range<Location>) -> String {
    let start = offset(text, part.start);
    let end = offset(text, part.end).max(start);
    text.get(start..end).unwrap_or_default().trim().to_owned()
}

fn offset(text: &str, place: Location) -> usize {
    let lines = usize::try_from(place.line.saturating_sub(1)).unwrap_or(usize::MAX);
    let columns = usize::try_from(place.column.saturating_sub(1)).unwrap_or(usize::MAX);
    let start = match lines {
        0 => 0,
        lines => text.match_indices('\n').nth(lines - 1).map_or(text.len(), |(at, _)| at + 1),
    };
    text[start..].char_indices().nth(columns).map_or(text.len(), |(at, _)| start + at)
}
