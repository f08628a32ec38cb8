//! Rows to JSON objects, printed as Flink's sink does (Jackson's rules for numbers and escapes).

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, SchemaRef, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;

use crate::stream::format::{datetime, decimal};
use crate::stream::graph::Json;
use crate::stream::operator::Failure;

/// Turns batches into record values.
pub struct Encoder {
    /// `"name":` of each column, escaped once.
    names: Vec<String>,
    options: Json,
}

impl Encoder {
    /// An encoder for rows of `schema`; see `super::check`.
    pub fn new(schema: &SchemaRef, options: Json) -> Result<Encoder, String> {
        super::check(schema)?;
        let names = schema.fields().iter().map(|field| {
            let mut name = String::new();
            write_string(&mut name, field.name());
            name.push(':');
            name
        });
        Ok(Encoder { names: names.collect(), options })
    }

    /// One record value per row.
    pub fn encode(&self, rows: &RecordBatch) -> Result<Vec<Bytes>, Failure> {
        let mut values = vec![String::with_capacity(64); rows.num_rows()];
        for (index, (name, column)) in self.names.iter().zip(rows.columns()).enumerate() {
            for value in &mut values {
                value.push(if index == 0 { '{' } else { ',' });
                value.push_str(name);
            }
            self.column(column, &mut values)?;
        }
        let open = if self.names.is_empty() { "{}" } else { "}" };
        Ok(values
            .into_iter()
            .map(|mut value| {
                value.push_str(open);
                Bytes::from(value)
            })
            .collect())
    }

    fn column(&self, column: &ArrayRef, values: &mut [String]) -> Result<(), Failure> {
        let mut each = |print: &dyn Fn(&mut String, usize)| {
            for (row, value) in values.iter_mut().enumerate() {
                if column.is_null(row) {
                    value.push_str("null");
                } else {
                    print(value, row);
                }
            }
        };
        macro_rules! integers {
            ($kind:ty) => {{
                let numbers = column.as_primitive::<$kind>();
                each(&|out, row| {
                    let _ = write!(out, "{}", numbers.value(row));
                })
            }};
        }
        macro_rules! times {
            ($kind:ty, $per_second:expr) => {{
                let times = column.as_primitive::<$kind>();
                each(&|out, row| {
                    out.push('"');
                    datetime::write_time(out, i64::from(times.value(row)) / $per_second);
                    out.push('"');
                })
            }};
        }
        macro_rules! timestamps {
            ($kind:ty, $per_second:expr, $zone:expr) => {{
                let times = column.as_primitive::<$kind>();
                let (iso, zoned) = (self.options.timestamp_iso, $zone.is_some());
                each(&|out, row| {
                    let time = times.value(row);
                    let nanos = time.rem_euclid($per_second) * (1_000_000_000 / $per_second);
                    let seconds = time.div_euclid($per_second);
                    out.push('"');
                    datetime::write_timestamp(out, seconds, nanos as u32, iso, zoned);
                    out.push('"');
                })
            }};
        }
        match column.data_type() {
            DataType::Boolean => {
                let booleans = column.as_boolean();
                each(&|out, row| out.push_str(if booleans.value(row) { "true" } else { "false" }));
            }
            DataType::Int8 => integers!(Int8Type),
            DataType::Int16 => integers!(Int16Type),
            DataType::Int32 => integers!(Int32Type),
            DataType::Int64 => integers!(Int64Type),
            DataType::Float32 => {
                let numbers = column.as_primitive::<Float32Type>();
                each(&|out, row| {
                    let number = numbers.value(row);
                    write_float(out, f64::from(number), format!("{number:e}"));
                });
            }
            DataType::Float64 => {
                let numbers = column.as_primitive::<Float64Type>();
                each(&|out, row| {
                    let number = numbers.value(row);
                    write_float(out, number, format!("{number:e}"));
                });
            }
            DataType::Utf8 => {
                let texts = column.as_string::<i32>();
                each(&|out, row| write_string(out, texts.value(row)));
            }
            DataType::Decimal128(_, scale) => {
                let numbers = column.as_primitive::<Decimal128Type>();
                let plain = self.options.decimal_as_plain_number;
                each(&|out, row| decimal::write(out, numbers.value(row), *scale, plain));
            }
            DataType::Date32 => {
                let dates = column.as_primitive::<Date32Type>();
                each(&|out, row| {
                    out.push('"');
                    datetime::write_date(out, i64::from(dates.value(row)));
                    out.push('"');
                });
            }
            DataType::Time32(TimeUnit::Second) => times!(Time32SecondType, 1),
            DataType::Time32(_) => times!(Time32MillisecondType, 1000),
            DataType::Time64(TimeUnit::Nanosecond) => times!(Time64NanosecondType, 1_000_000_000),
            DataType::Time64(_) => times!(Time64MicrosecondType, 1_000_000),
            DataType::Timestamp(TimeUnit::Second, zone) => {
                timestamps!(TimestampSecondType, 1, zone);
            }
            DataType::Timestamp(TimeUnit::Millisecond, zone) => {
                timestamps!(TimestampMillisecondType, 1000, zone);
            }
            DataType::Timestamp(TimeUnit::Microsecond, zone) => {
                timestamps!(TimestampMicrosecondType, 1_000_000, zone);
            }
            DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
                timestamps!(TimestampNanosecondType, 1_000_000_000, zone);
            }
            // Utf8View, and what an expression may have made of a text.
            _ => {
                let texts = cast(column, &DataType::Utf8)?;
                let texts = texts.as_string::<i32>();
                each(&|out, row| write_string(out, texts.value(row)));
            }
        }
        Ok(())
    }
}

/// Prints a floating-point number as Java's `Double.toString`: plain between 10^-3 and 10^7, else
/// with an exponent, always with a fraction; `scientific` holds its shortest digits.
fn write_float(out: &mut String, number: f64, scientific: String) {
    if !number.is_finite() {
        out.push_str(if number.is_nan() {
            "\"NaN\""
        } else if number > 0.0 {
            "\"Infinity\""
        } else {
            "\"-Infinity\""
        });
        return;
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => ("-", mantissa),
        None => ("", mantissa),
    };
    out.push_str(sign);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    if number == 0.0 {
        out.push_str("0.0");
    } else if (-3..0).contains(&exponent) {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', (-exponent - 1) as usize));
        out.push_str(&digits);
    } else if (0..7).contains(&exponent) {
        let whole = exponent as usize + 1;
        for place in 0..whole {
            out.push(digits.as_bytes().get(place).map_or('0', |digit| char::from(*digit)));
        }
        out.push('.');
        out.push_str(digits.get(whole..).filter(|rest| !rest.is_empty()).unwrap_or("0"));
    } else {
        out.push_str(&digits[..1]);
        out.push('.');
        out.push_str(if digits.len() > 1 { &digits[1..] } else { "0" });
        let _ = write!(out, "E{exponent}");
    }
}

/// Prints a string with Jackson's escapes: only what must be escaped is.
fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{C}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{
        Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array, StringArray,
        TimestampMillisecondArray,
    };

    fn encode(columns: Vec<(&str, ArrayRef)>, options: Json) -> Vec<String> {
        let rows = RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(n, c)| (n, c, true)),
        )
        .unwrap();
        let encoder = Encoder::new(&rows.schema(), options).unwrap();
        let values = encoder.encode(&rows).unwrap();
        values.iter().map(|value| String::from_utf8(value.to_vec()).unwrap()).collect()
    }

    #[test]
    fn rows_are_printed_in_column_order_with_nulls() {
        let values = encode(
            vec![
                ("page", Arc::new(StringArray::from(vec![Some("a\"\n\u{1}é"), None])) as _),
                ("window_start", Arc::new(TimestampMillisecondArray::from(vec![0, 10_500])) as _),
                ("n", Arc::new(Int64Array::from(vec![Some(-1), None])) as _),
                ("day", Arc::new(Date32Array::from(vec![0, -1])) as _),
            ],
            Json::default(),
        );
        assert_eq!(
            values,
            [
                r#"{"page":"a\"\n\u0001é","window_start":"1970-01-01 00:00:00","n":-1,"day":"1970-01-01"}"#,
                r#"{"page":null,"window_start":"1970-01-01 00:00:10.5","n":null,"day":"1969-12-31"}"#,
            ]
        );
    }

    #[test]
    fn iso_timestamps_have_a_t_and_zoned_ones_a_z() {
        let time = TimestampMillisecondArray::from(vec![1]).with_timezone("UTC");
        let options = Json { timestamp_iso: true, ..Json::default() };
        assert_eq!(
            encode(vec![("t", Arc::new(time.clone()) as _)], options),
            [r#"{"t":"1970-01-01T00:00:00.001Z"}"#]
        );
        assert_eq!(
            encode(vec![("t", Arc::new(time) as _)], Json::default()),
            [r#"{"t":"1970-01-01 00:00:00.001Z"}"#]
        );
    }

    #[test]
    fn floating_point_numbers_are_printed_as_java_does() {
        let numbers = vec![
            0.0,
            -0.0,
            1.0,
            100.0,
            123.456,
            0.001,
            0.000_12,
            9_999_999.0,
            1e7,
            -1.5e10,
            f64::NAN,
            f64::INFINITY,
        ];
        let values =
            encode(vec![("d", Arc::new(Float64Array::from(numbers)) as _)], Json::default());
        let values: Vec<_> = values.iter().map(|v| &v[5..v.len() - 1]).collect();
        assert_eq!(
            values,
            [
                "0.0",
                "-0.0",
                "1.0",
                "100.0",
                "123.456",
                "0.001",
                "1.2E-4",
                "9999999.0",
                "1.0E7",
                "-1.5E10",
                "\"NaN\"",
                "\"Infinity\"",
            ]
        );
        let small = Arc::new(Float32Array::from(vec![0.1_f32])) as _;
        assert_eq!(encode(vec![("f", small)], Json::default()), [r#"{"f":0.1}"#]);
    }

    #[test]
    fn decimals_are_plain_only_when_asked_for() {
        let number = Decimal128Array::from(vec![10_000, 1250]).with_precision_and_scale(9, 2);
        let number: ArrayRef = Arc::new(number.unwrap());
        assert_eq!(
            encode(vec![("d", number.clone())], Json::default()),
            [r#"{"d":1E+2}"#, r#"{"d":12.5}"#]
        );
        let plain = Json { decimal_as_plain_number: true, ..Json::default() };
        assert_eq!(encode(vec![("d", number)], plain), [r#"{"d":100}"#, r#"{"d":12.5}"#]);
    }
}
