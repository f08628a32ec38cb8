//! Result pages in the shape of Flink's SQL Gateway.

use serde_json::Value;

use crate::sql::types::SqlType;
use crate::sql::{Column, Page};
use crate::stream::job::JobId;
use crate::stream::operator::RowKind;

/// Rows on one page.
const PAGE_ROWS: usize = 1_000;

/// `OK`: the statement has no result of its own.
pub(super) fn ok() -> Vec<Page> {
    let mut pages = table(&[("result", SqlType::STRING)], vec![vec![Value::from("OK")]]);
    for page in &mut pages {
        page.has_content = false;
    }
    pages
}

/// The id of a started job.
pub(super) fn job(id: JobId) -> Vec<Page> {
    let row = vec![Value::from(id.0.as_ref())];
    let mut pages = table(&[("job id", SqlType::STRING)], vec![row]);
    for page in &mut pages {
        page.job = Some(id.clone());
    }
    pages
}

/// Rows with these columns. The last page is empty: clients stop at it, some without reading it.
pub(super) fn table(columns: &[(&str, SqlType)], rows: Vec<Vec<Value>>) -> Vec<Page> {
    let columns: Vec<Column> = columns
        .iter()
        .map(|(name, sql_type)| Column {
            name: (*name).to_owned(),
            logical_type: sql_type.logical(true),
        })
        .collect();
    let page = |rows: &[Vec<Value>], next: Option<u64>| Page {
        has_content: true,
        is_query: false,
        columns: columns.clone(),
        rows: rows.iter().map(|row| (RowKind::Insert, row.clone())).collect(),
        job: None,
        next,
    };
    let mut pages: Vec<Page> = Vec::new();
    for chunk in rows.chunks(PAGE_ROWS) {
        pages.push(page(chunk, Some(pages.len() as u64 + 1)));
    }
    pages.push(page(&[], None));
    pages
}
