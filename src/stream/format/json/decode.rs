//! JSON objects to columns.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, PrimitiveBuilder, StringBuilder,
    StringViewBuilder, Time32MillisecondBuilder, Time32SecondBuilder, Time64MicrosecondBuilder,
    Time64NanosecondBuilder, TimestampMicrosecondBuilder, TimestampMillisecondBuilder,
    TimestampNanosecondBuilder, TimestampSecondBuilder,
};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, SchemaRef, TimeUnit,
};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::scan::{self, Value};
use crate::stream::format::{datetime, decimal};
use crate::stream::graph::Json;
use crate::stream::operator::Failure;

/// Why a record value is no row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// The value is no JSON object.
    #[error("the value is not a JSON object: {0}")]
    Syntax(String),
    /// A field does not fit its column.
    #[error("field '{field}': {reason}")]
    Field {
        /// The column's name.
        field: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A field is absent and the format was told to fail then.
    #[error(
        "field '{0}' is missing; set 'json.fail-on-missing-field' = 'false' to read it as NULL"
    )]
    Missing(String),
}

/// Collects record values into a batch.
pub struct Decoder {
    schema: SchemaRef,
    columns: Vec<Column>,
    options: Json,
    rows: usize,
    /// The next record usually has its fields in the same order: where the last one was found.
    guess: Vec<usize>,
}

impl Decoder {
    /// A decoder for the physical columns `schema`; see `super::check`.
    pub fn new(schema: SchemaRef, options: Json) -> Result<Decoder, String> {
        super::check(&schema)?;
        let columns = schema.fields().iter().map(|field| Column::new(field)).collect();
        Ok(Decoder { schema, columns, options, rows: 0, guess: Vec::new() })
    }

    /// Rows collected so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Adds one record value. With `ignore_parse_errors` a wrong field is NULL and a value that is
    /// no object is skipped, as in Flink; then `Ok(false)`.
    pub fn push(&mut self, value: &[u8]) -> Result<bool, Reject> {
        let mut row: Vec<Option<Value<'_>>> = vec![None; self.columns.len()];
        let scanned = match std::str::from_utf8(value) {
            Err(error) => Err(format!("invalid UTF-8 at byte {}", error.valid_up_to())),
            Ok(text) => {
                let (schema, guess) = (&self.schema, &mut self.guess);
                let mut position = 0;
                scan::object(text, |name, value| {
                    if let Some(column) = locate(schema, guess, position, &name) {
                        row[column] = Some(value);
                    }
                    position += 1;
                })
            }
        };
        match scanned {
            Ok(()) => {}
            Err(_) if self.options.ignore_parse_errors => return Ok(false),
            Err(reason) => return Err(Reject::Syntax(reason)),
        }
        if self.options.fail_on_missing_field
            && let Some(missing) = row.iter().position(Option::is_none)
        {
            if self.options.ignore_parse_errors {
                return Ok(false);
            }
            return Err(Reject::Missing(self.schema.field(missing).name().clone()));
        }
        for (index, (column, value)) in self.columns.iter_mut().zip(row).enumerate() {
            let value = value.filter(|value| *value != Value::Null);
            let Err(reason) = column.push(value, self.options.timestamp_iso) else { continue };
            if !self.options.ignore_parse_errors {
                let field = self.schema.field(index).name().clone();
                return Err(Reject::Field { field, reason });
            }
            // NULL fits every column.
            let _ = column.push(None, false);
        }
        self.rows += 1;
        Ok(true)
    }

    /// The rows collected so far; the decoder is empty afterwards.
    pub fn finish(&mut self) -> Result<RecordBatch, Failure> {
        let columns = self.columns.iter_mut().map(Column::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.rows = 0;
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}

/// The column of a field name, found by its position in the record before if possible.
fn locate(
    schema: &SchemaRef,
    guess: &mut Vec<usize>,
    position: usize,
    name: &str,
) -> Option<usize> {
    const NONE: usize = usize::MAX;
    if let Some(&column) = guess.get(position)
        && column != NONE
        && schema.field(column).name() == name
    {
        return Some(column);
    }
    let column = schema.fields().iter().position(|field| field.name() == name);
    // Bounded: a record with a million unknown fields must not leave a million guesses.
    if position < 256 {
        if guess.len() <= position {
            guess.resize(position + 1, NONE);
        }
        guess[position] = column.unwrap_or(NONE);
    }
    column
}

/// A column under construction.
enum Column {
    Boolean(BooleanBuilder),
    Int8(PrimitiveBuilder<Int8Type>),
    Int16(PrimitiveBuilder<Int16Type>),
    Int32(PrimitiveBuilder<Int32Type>),
    Int64(PrimitiveBuilder<Int64Type>),
    Float32(PrimitiveBuilder<Float32Type>),
    Float64(PrimitiveBuilder<Float64Type>),
    Text(StringBuilder),
    TextView(StringViewBuilder),
    Decimal(Decimal128Builder, u8, i8),
    Date(Date32Builder),
    TimeSeconds(Time32SecondBuilder),
    TimeMillis(Time32MillisecondBuilder),
    TimeMicros(Time64MicrosecondBuilder),
    TimeNanos(Time64NanosecondBuilder),
    Seconds(TimestampSecondBuilder, bool),
    Millis(TimestampMillisecondBuilder, bool),
    Micros(TimestampMicrosecondBuilder, bool),
    Nanos(TimestampNanosecondBuilder, bool),
}

impl Column {
    fn new(field: &Field) -> Column {
        match field.data_type() {
            DataType::Boolean => Column::Boolean(BooleanBuilder::new()),
            DataType::Int8 => Column::Int8(PrimitiveBuilder::new()),
            DataType::Int16 => Column::Int16(PrimitiveBuilder::new()),
            DataType::Int32 => Column::Int32(PrimitiveBuilder::new()),
            DataType::Int64 => Column::Int64(PrimitiveBuilder::new()),
            DataType::Float32 => Column::Float32(PrimitiveBuilder::new()),
            DataType::Float64 => Column::Float64(PrimitiveBuilder::new()),
            DataType::Utf8View => Column::TextView(StringViewBuilder::new()),
            kind @ &DataType::Decimal128(precision, scale) => Column::Decimal(
                Decimal128Builder::new().with_data_type(kind.clone()),
                precision,
                scale,
            ),
            DataType::Date32 => Column::Date(Date32Builder::new()),
            DataType::Time32(TimeUnit::Second) => Column::TimeSeconds(Time32SecondBuilder::new()),
            DataType::Time32(_) => Column::TimeMillis(Time32MillisecondBuilder::new()),
            DataType::Time64(TimeUnit::Nanosecond) => {
                Column::TimeNanos(Time64NanosecondBuilder::new())
            }
            DataType::Time64(_) => Column::TimeMicros(Time64MicrosecondBuilder::new()),
            kind @ DataType::Timestamp(unit, zone) => {
                let zoned = zone.is_some();
                let kind = kind.clone();
                match unit {
                    TimeUnit::Second => {
                        Column::Seconds(TimestampSecondBuilder::new().with_data_type(kind), zoned)
                    }
                    TimeUnit::Millisecond => Column::Millis(
                        TimestampMillisecondBuilder::new().with_data_type(kind),
                        zoned,
                    ),
                    TimeUnit::Microsecond => Column::Micros(
                        TimestampMicrosecondBuilder::new().with_data_type(kind),
                        zoned,
                    ),
                    TimeUnit::Nanosecond => {
                        Column::Nanos(TimestampNanosecondBuilder::new().with_data_type(kind), zoned)
                    }
                }
            }
            // `super::check` lets nothing else through.
            _ => Column::Text(StringBuilder::new()),
        }
    }

    /// Adds `value`, or NULL; adds nothing on an error.
    fn push(&mut self, value: Option<Value<'_>>, iso: bool) -> Result<(), String> {
        match self {
            Column::Boolean(builder) => builder.append_option(value.map(boolean)),
            Column::Int8(builder) => number(builder, value, strict_integer::<i8>)?,
            Column::Int16(builder) => number(builder, value, strict_integer::<i16>)?,
            Column::Int32(builder) => number(builder, value, integer::<i32>)?,
            Column::Int64(builder) => number(builder, value, integer::<i64>)?,
            Column::Float32(builder) => number(builder, value, float::<f32>)?,
            Column::Float64(builder) => number(builder, value, float::<f64>)?,
            Column::Text(builder) => builder.append_option(value.map(text)),
            Column::TextView(builder) => builder.append_option(value.map(text)),
            Column::Decimal(builder, precision, scale) => {
                let unscaled = match value {
                    None => None,
                    Some(value @ (Value::Number(_) | Value::String(_))) => {
                        decimal::parse(value.text().trim(), *precision, *scale)
                            .ok_or_else(|| unfit(value, "a decimal"))?
                    }
                    Some(value) => return Err(unfit(value, "a decimal")),
                };
                builder.append_option(unscaled);
            }
            Column::Date(builder) => number(builder, value, |value| {
                let days = datetime::parse_date(&value.text());
                days.and_then(|days| i32::try_from(days).ok())
                    .ok_or_else(|| unfit(value, "a date like 2024-03-01"))
            })?,
            Column::TimeSeconds(builder) => number(builder, value, |value| {
                time(value).map(|nanos| (nanos / 1_000_000_000) as i32)
            })?,
            Column::TimeMillis(builder) => {
                number(builder, value, |value| {
                    time(value).map(|nanos| (nanos / 1_000_000) as i32)
                })?;
            }
            Column::TimeMicros(builder) => {
                number(builder, value, |value| time(value).map(|nanos| nanos / 1000))?;
            }
            Column::TimeNanos(builder) => number(builder, value, time)?,
            Column::Seconds(builder, zoned) => number(builder, value, |value| {
                timestamp(value, iso, *zoned).map(|(seconds, _)| seconds)
            })?,
            Column::Millis(builder, zoned) => {
                number(builder, value, |value| scaled(value, iso, *zoned, 1000))?;
            }
            Column::Micros(builder, zoned) => {
                number(builder, value, |value| scaled(value, iso, *zoned, 1_000_000))?;
            }
            Column::Nanos(builder, zoned) => {
                number(builder, value, |value| scaled(value, iso, *zoned, 1_000_000_000))?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Column::Boolean(builder) => Arc::new(builder.finish()),
            Column::Int8(builder) => Arc::new(builder.finish()),
            Column::Int16(builder) => Arc::new(builder.finish()),
            Column::Int32(builder) => Arc::new(builder.finish()),
            Column::Int64(builder) => Arc::new(builder.finish()),
            Column::Float32(builder) => Arc::new(builder.finish()),
            Column::Float64(builder) => Arc::new(builder.finish()),
            Column::Text(builder) => Arc::new(builder.finish()),
            Column::TextView(builder) => Arc::new(builder.finish()),
            Column::Decimal(builder, _, _) => Arc::new(builder.finish()),
            Column::Date(builder) => Arc::new(builder.finish()),
            Column::TimeSeconds(builder) => Arc::new(builder.finish()),
            Column::TimeMillis(builder) => Arc::new(builder.finish()),
            Column::TimeMicros(builder) => Arc::new(builder.finish()),
            Column::TimeNanos(builder) => Arc::new(builder.finish()),
            Column::Seconds(builder, _) => Arc::new(builder.finish()),
            Column::Millis(builder, _) => Arc::new(builder.finish()),
            Column::Micros(builder, _) => Arc::new(builder.finish()),
            Column::Nanos(builder, _) => Arc::new(builder.finish()),
        }
    }
}

fn number<T: ArrowPrimitiveType>(
    builder: &mut PrimitiveBuilder<T>,
    value: Option<Value<'_>>,
    parse: impl FnOnce(Value<'_>) -> Result<T::Native, String>,
) -> Result<(), String> {
    builder.append_option(value.map(parse).transpose()?);
    Ok(())
}

/// Longest piece of a wrong value that an error shows.
const SHOWN_CHARS_MAX: usize = 64;

fn unfit(value: Value<'_>, expected: &str) -> String {
    let text = value.text();
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    match value {
        Value::String(_) => format!("expected {expected}, found the string {shown:?}"),
        _ => format!("expected {expected}, found {shown}"),
    }
}

/// As `Boolean.parseBoolean`: what does not spell `true` is false.
fn boolean(value: Value<'_>) -> bool {
    match value {
        Value::True => true,
        Value::String(_) => value.text().trim().eq_ignore_ascii_case("true"),
        _ => false,
    }
}

/// Integers of one and two bytes take no fraction.
fn strict_integer<T: std::str::FromStr>(value: Value<'_>) -> Result<T, String> {
    match value {
        Value::Number(text) => text.parse().ok(),
        Value::String(_) => value.text().trim().parse().ok(),
        _ => None,
    }
    .ok_or_else(|| unfit(value, "an integer of the column's size"))
}

/// Integers of four and eight bytes cut the fraction of a JSON number off.
fn integer<T: std::str::FromStr + TryFrom<i64>>(value: Value<'_>) -> Result<T, String> {
    match value {
        Value::Number(text) => text.parse().ok().or_else(|| {
            // i64::MAX as f64 is 2^63, which is one too many.
            let number: f64 = text.parse().ok()?;
            let whole = number.trunc();
            let fits = (i64::MIN as f64..i64::MAX as f64).contains(&whole);
            fits.then_some(whole as i64).and_then(|whole| T::try_from(whole).ok())
        }),
        Value::String(_) => value.text().trim().parse().ok(),
        _ => None,
    }
    .ok_or_else(|| unfit(value, "an integer of the column's size"))
}

fn float<T: std::str::FromStr>(value: Value<'_>) -> Result<T, String> {
    match value {
        Value::Number(text) => text.parse().ok(),
        Value::String(_) => value.text().trim().parse().ok(),
        _ => None,
    }
    .ok_or_else(|| unfit(value, "a number"))
}

/// Numbers keep their digits; objects and arrays are printed compactly.
fn text(value: Value<'_>) -> Cow<'_, str> {
    match value {
        Value::Nested(text) => match serde_json::from_str::<serde_json::Value>(text) {
            Ok(tree) => Cow::Owned(tree.to_string()),
            Err(_) => Cow::Borrowed(text),
        },
        _ => value.text(),
    }
}

fn time(value: Value<'_>) -> Result<i64, String> {
    datetime::parse_time(&value.text()).ok_or_else(|| unfit(value, "a time like 12:00:00"))
}

fn timestamp(value: Value<'_>, iso: bool, zoned: bool) -> Result<(i64, u32), String> {
    datetime::parse_timestamp(&value.text(), iso, zoned).ok_or_else(|| {
        unfit(
            value,
            match (iso, zoned) {
                (false, false) => "a timestamp like 2024-03-01 12:00:00.123",
                (false, true) => "a timestamp like 2024-03-01 12:00:00.123Z",
                (true, false) => "a timestamp like 2024-03-01T12:00:00.123",
                (true, true) => "a timestamp like 2024-03-01T12:00:00.123Z",
            },
        )
    })
}

/// A timestamp in `per_second`ths of a second.
fn scaled(value: Value<'_>, iso: bool, zoned: bool, per_second: i64) -> Result<i64, String> {
    let (seconds, nanos) = timestamp(value, iso, zoned)?;
    seconds
        .checked_mul(per_second)
        .and_then(|units| units.checked_add(i64::from(nanos) / (1_000_000_000 / per_second)))
        .ok_or_else(|| unfit(value, "a timestamp that the column's precision can hold"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::operator::testing::lines;
    use arrow::datatypes::Schema;

    fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
        let fields: Vec<_> =
            fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect();
        Arc::new(Schema::new(fields))
    }

    fn decode(fields: &[(&str, DataType)], options: Json, values: &[&str]) -> Vec<String> {
        let mut decoder = Decoder::new(schema(fields), options).unwrap();
        for value in values {
            decoder.push(value.as_bytes()).unwrap();
        }
        lines(&decoder.finish().unwrap())
    }

    fn reject(kind: DataType, value: &str) -> String {
        let mut decoder = Decoder::new(schema(&[("f", kind)]), Json::default()).unwrap();
        decoder.push(value.as_bytes()).unwrap_err().to_string()
    }

    const MILLIS: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

    #[test]
    fn fields_are_matched_by_name_and_missing_ones_are_null() {
        let fields = [("page", DataType::Utf8), ("n", DataType::Int64), ("ts", MILLIS)];
        let rows = decode(
            &fields,
            Json::default(),
            &[
                r#"{"page":"a","n":1,"ts":"2024-03-01 12:00:00.5"}"#,
                r#"{"ts":"2024-03-01 12:00:01","x":{"n":9},"n":2}"#,
                r#"{"n":null,"page":"c"}"#,
            ],
        );
        assert_eq!(rows, ["a,1,2024-03-01T12:00:00.500", ",2,2024-03-01T12:00:01", "c,,"]);
    }

    #[test]
    fn numbers_become_strings_with_their_digits_and_strings_become_numbers() {
        let fields = [("s", DataType::Utf8), ("n", DataType::Int64), ("d", DataType::Float64)];
        let rows = decode(
            &fields,
            Json::default(),
            &[
                r#"{"s":1.50,"n":" 7 ","d":"2.5"}"#,
                r#"{"s":true,"n":1.9,"d":3}"#,
                r#"{"s":{ "a" : [1, 2] },"n":-1.9e1,"d":1e3}"#,
            ],
        );
        assert_eq!(rows, ["1.50,7,2.5", "true,1,3.0", "{\"a\":[1,2]},-19,1000.0"]);
    }

    #[test]
    fn booleans_follow_javas_parse_boolean() {
        let rows = decode(
            &[("b", DataType::Boolean)],
            Json::default(),
            &[r#"{"b":true}"#, r#"{"b":"TRUE"}"#, r#"{"b":1}"#, r#"{"b":"yes"}"#],
        );
        assert_eq!(rows, ["true", "true", "false", "false"]);
    }

    #[test]
    fn a_wrong_field_is_named_with_what_was_found() {
        assert_eq!(
            reject(MILLIS, r#"{"f":"yesterday"}"#),
            "field 'f': expected a timestamp like 2024-03-01 12:00:00.123, found the string \
             \"yesterday\""
        );
        assert!(reject(DataType::Int32, r#"{"f":2147483648}"#).contains("found 2147483648"));
        assert!(reject(DataType::Int8, r#"{"f":1.5}"#).contains("integer"));
        assert!(reject(DataType::Int64, r#"{"f":9223372036854775808}"#).contains("integer"));
        assert!(reject(DataType::Int64, r#"{"f":true}"#).contains("found true"));
        assert!(reject(DataType::Date32, r#"{"f":"2024-13-01"}"#).contains("date"));
        assert!(reject(DataType::Utf8, "[1]").contains("not a JSON object"));
    }

    #[test]
    fn ignored_errors_make_fields_null_and_drop_what_is_no_object() {
        let options = Json { ignore_parse_errors: true, ..Json::default() };
        let fields = [("s", DataType::Utf8), ("n", DataType::Int64)];
        let values = [r#"{"s":"a","n":"x"}"#, "nonsense", r#"{"s":"b","n":2}"#];
        assert_eq!(decode(&fields, options, &values), ["a,", "b,2"]);
    }

    #[test]
    fn a_missing_field_fails_when_asked_to() {
        let options = Json { fail_on_missing_field: true, ..Json::default() };
        let mut decoder = Decoder::new(schema(&[("n", DataType::Int64)]), options).unwrap();
        assert_eq!(decoder.push(b"{}"), Err(Reject::Missing("n".to_owned())));
        assert_eq!(decoder.push(b"{\"n\":null}"), Ok(true));
    }

    #[test]
    fn local_time_zone_timestamps_end_with_z() {
        let kind = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        let rows =
            decode(&[("t", kind.clone())], Json::default(), &[r#"{"t":"1970-01-01 00:00:01Z"}"#]);
        assert_eq!(rows, ["1970-01-01T00:00:01Z"]);
        assert!(reject(kind, r#"{"f":"1970-01-01 00:00:01"}"#).contains("Z"));
    }

    #[test]
    fn decimals_are_exact_and_null_when_they_do_not_fit() {
        let rows = decode(
            &[("d", DataType::Decimal128(5, 2))],
            Json::default(),
            &[r#"{"d":12.345}"#, r#"{"d":"7"}"#, r#"{"d":123456}"#],
        );
        assert_eq!(rows, ["12.35", "7.00", ""]);
    }
}
