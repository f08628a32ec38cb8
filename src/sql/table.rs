//! A table of a session: a topic with columns, event time and options.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion_common::DFSchema;
use datafusion_expr::{Expr, ExprSchemable};

use super::fault::{Fault, Result};
use super::options::{self, TableOptions};
use super::parse::{self, ColumnDef, ColumnKind, CreateTable, WatermarkDef};
use super::plan;
use super::types::{Precision, SqlType, describe};
use crate::config::Config;

/// A table, its expressions typed.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<TableColumn>,
    /// What the record's value holds, and what a sink writes.
    pub(super) physical: SchemaRef,
    /// What a query sees.
    pub(super) schema: SchemaRef,
    /// One expression over `physical` for each column of `schema`; `None` when they are the same.
    pub(super) computed: Option<Vec<Expr>>,
    pub(super) watermark: Option<Watermark>,
    pub(super) options: TableOptions,
    /// The `WITH` clause as it was written.
    pub(super) with: Vec<(String, String)>,
    pub(super) comment: Option<String>,
    /// The statement that made it, from which a restarted job's tables are made again.
    pub(super) ddl: String,
}

/// A column as DESCRIBE shows it.
#[derive(Debug)]
pub(super) struct TableColumn {
    pub(super) name: String,
    pub(super) sql_type: SqlType,
    pub(super) nullable: bool,
    /// The text of a computed column's expression.
    pub(super) computed: Option<String>,
    pub(super) comment: Option<String>,
}

/// The table's event time.
#[derive(Debug)]
pub(super) struct Watermark {
    /// Index in the table's schema.
    pub(super) column: usize,
    /// Over the table's schema.
    pub(super) expr: Expr,
    /// As it was written.
    pub(super) text: String,
}

/// As many columns as a table may have.
const COLUMNS_MAX: usize = 2_000;

impl Table {
    /// Resolves a `CREATE TABLE`; `ddl` is its text.
    pub(super) fn resolve(create: CreateTable, ddl: &str, config: &Config) -> Result<Table> {
        let CreateTable { name, columns, watermark, comment, options, .. } = create;
        check_names(&columns)?;
        let physical = physical_schema(&columns)?;
        let physical_columns = DFSchema::try_from(physical.as_ref().clone())?;
        let (columns, exprs) = resolve_columns(columns, &physical_columns, ddl)?;
        let fields: Vec<Field> = columns
            .iter()
            .map(|c| Field::new(&c.name, c.sql_type.to_arrow(), c.nullable))
            .collect();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let watermark = match watermark {
            Some(watermark) => Some(resolve_watermark(watermark, &schema, ddl)?),
            None => None,
        };
        let is_computed = columns.iter().any(|column| column.computed.is_some());
        Ok(Table {
            name: name.value,
            physical,
            schema,
            computed: is_computed.then_some(exprs),
            watermark,
            options: options::parse(&options, config)?,
            with: options.into_iter().map(|(key, value, _)| (key, value)).collect(),
            comment,
            columns,
            ddl: ddl.to_owned(),
        })
    }

    /// The table as a statement, as SHOW CREATE TABLE gives it.
    pub(super) fn show_create(&self) -> String {
        let mut elements: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                let mut line = format!("  `{}` ", column.name);
                match &column.computed {
                    Some(text) => line.push_str(&format!("AS {text}")),
                    None => line.push_str(&column.type_text()),
                }
                if let Some(comment) = &column.comment {
                    line.push_str(&format!(" COMMENT '{}'", quoted(comment)));
                }
                line
            })
            .collect();
        if let Some(watermark) = &self.watermark {
            let column = self.schema.field(watermark.column).name();
            elements.push(format!("  WATERMARK FOR `{column}` AS {}", watermark.text));
        }
        let comment = match &self.comment {
            Some(comment) => format!("\nCOMMENT '{}'", quoted(comment)),
            None => String::new(),
        };
        let options: Vec<String> = self
            .with
            .iter()
            .map(|(key, value)| format!("  '{}' = '{}'", quoted(key), quoted(value)))
            .collect();
        format!(
            "CREATE TABLE `default_catalog`.`default_database`.`{}` (\n{}\n){comment}\nWITH (\n{}\n)",
            self.name,
            elements.join(",\n"),
            options.join(",\n"),
        )
    }
}

impl TableColumn {
    /// `BIGINT NOT NULL`.
    pub(super) fn type_text(&self) -> String {
        match self.nullable {
            true => self.sql_type.to_string(),
            false => format!("{} NOT NULL", self.sql_type),
        }
    }
}

fn quoted(text: &str) -> String {
    text.replace('\'', "''")
}

fn check_names(columns: &[ColumnDef]) -> Result<()> {
    if columns.len() > COLUMNS_MAX {
        return Err(Fault::new(format!("a table has at most {COLUMNS_MAX} columns")));
    }
    let mut names = BTreeSet::new();
    for column in columns {
        if !names.insert(column.name.value.as_str()) {
            return Err(Fault::new(format!("column '{}' is there twice", column.name.value))
                .at(column.name.span.start));
        }
    }
    Ok(())
}

fn physical_schema(columns: &[ColumnDef]) -> Result<SchemaRef> {
    let mut fields = Vec::new();
    for column in columns {
        if let ColumnKind::Physical { data_type, not_null, at } = &column.kind {
            let sql_type = SqlType::from_syntax(data_type).map_err(|fault| fault.at(*at))?;
            fields.push(Field::new(&column.name.value, sql_type.to_arrow(), !not_null));
        }
    }
    match fields.is_empty() {
        true => Err(Fault::new("a table needs a column that is not computed")),
        false => Ok(Arc::new(Schema::new(fields))),
    }
}

fn resolve_columns(
    columns: Vec<ColumnDef>,
    physical: &DFSchema,
    ddl: &str,
) -> Result<(Vec<TableColumn>, Vec<Expr>)> {
    let mut resolved = Vec::with_capacity(columns.len());
    let mut exprs = Vec::with_capacity(columns.len());
    for ColumnDef { name, kind, comment } in columns {
        let column = match kind {
            ColumnKind::Physical { data_type, not_null, .. } => {
                let column = datafusion_common::Column::new_unqualified(&name.value);
                exprs.push(Expr::Column(column));
                TableColumn {
                    name: name.value,
                    sql_type: SqlType::from_syntax(&data_type)?,
                    nullable: !not_null,
                    computed: None,
                    comment,
                }
            }
            ColumnKind::Computed { expr, text } => {
                let text = parse::excerpt(ddl, &text);
                let at = name.span.start;
                let expr = plan::expression(*expr, physical).map_err(|fault| fault.at(at))?;
                let data_type = expr.get_type(physical)?;
                let sql_type = SqlType::from_arrow(&data_type).ok_or_else(|| {
                    Fault::unsupported(format!("a column of type {}", describe(&data_type))).at(at)
                })?;
                let nullable = expr.nullable(physical)?;
                exprs.push(expr);
                TableColumn { name: name.value, sql_type, nullable, computed: Some(text), comment }
            }
        };
        resolved.push(column);
    }
    Ok((resolved, exprs))
}

fn resolve_watermark(
    WatermarkDef { column, expr, text }: WatermarkDef,
    schema: &SchemaRef,
    ddl: &str,
) -> Result<Watermark> {
    let at = column.span.start;
    let index = schema.index_of(&column.value).map_err(|_| {
        let names = schema.fields().iter().map(|field| field.name().as_str());
        Fault::unknown("column", &column.value, names).at(at)
    })?;
    let data_type = schema.field(index).data_type();
    if !matches!(data_type, DataType::Timestamp(TimeUnit::Millisecond, _)) {
        return Err(Fault::new(format!(
            "the event-time column '{}' is {}",
            column.value,
            describe(data_type)
        ))
        .at(at)
        .hint(format!(
            "declare it as {} or {}",
            SqlType::Timestamp(Precision::Milli),
            SqlType::TimestampLtz(Precision::Milli)
        )));
    }
    let text = parse::excerpt(ddl, &text);
    let columns = DFSchema::try_from(schema.as_ref().clone())?;
    let expr = plan::expression(expr, &columns).map_err(|fault| fault.at(at))?;
    let proposed = expr.get_type(&columns)?;
    if proposed != *data_type {
        return Err(Fault::new(format!(
            "the watermark of '{}' is {}, its column is {}",
            column.value,
            describe(&proposed),
            describe(data_type)
        ))
        .at(at));
    }
    Ok(Watermark { column: index, expr, text })
}
