//! Flink SQL's types: from their syntax, to Arrow, and in the shape of the gateway's REST API.

use std::fmt;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion_sql::sqlparser::ast::{
    BinaryLength, CharacterLength, DataType as SqlDataType, ExactNumberInfo, TimezoneInfo,
};
use serde_json::{Value, json};

use super::fault::{Fault, Result};
use crate::types::Timestamp;

/// A type that a table's column or a cast may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SqlType {
    Boolean,
    TinyInt,
    SmallInt,
    Int,
    BigInt,
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: i8,
    },
    Char(u32),
    /// `STRING` is `VARCHAR(2147483647)`.
    Varchar(u32),
    Bytes,
    Date,
    Time,
    Timestamp(Precision),
    TimestampLtz(Precision),
}

/// Digits of a second's fraction; those with an Arrow unit of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    Second,
    Milli,
    Micro,
    Nano,
}

/// Flink's length of an unbounded string.
const LENGTH_MAX: u32 = i32::MAX as u32;
/// Arrow's Decimal128 holds what Flink's DECIMAL holds.
const DECIMAL_PRECISION_MAX: u64 = 38;

impl SqlType {
    /// The type that `syntax` names.
    pub(super) fn from_syntax(syntax: &SqlDataType) -> Result<SqlType> {
        use SqlDataType as S;
        let sql_type = match syntax {
            S::Boolean | S::Bool => SqlType::Boolean,
            S::TinyInt(None) => SqlType::TinyInt,
            S::SmallInt(None) => SqlType::SmallInt,
            S::Int(None) | S::Integer(None) => SqlType::Int,
            S::BigInt(None) => SqlType::BigInt,
            S::Float(ExactNumberInfo::None) => SqlType::Float,
            S::Double(ExactNumberInfo::None) | S::DoublePrecision => SqlType::Double,
            S::Decimal(info) | S::Dec(info) | S::Numeric(info) => decimal(info)?,
            S::Char(length) | S::Character(length) => SqlType::Char(char_length(length, 1)?),
            S::Varchar(length) | S::CharVarying(length) | S::CharacterVarying(length) => {
                SqlType::Varchar(char_length(length, 1)?)
            }
            S::String(None) => SqlType::Varchar(LENGTH_MAX),
            S::Bytes(None) => SqlType::Bytes,
            S::Varbinary(Some(BinaryLength::IntegerLength { length }))
                if *length == u64::from(LENGTH_MAX) =>
            {
                SqlType::Bytes
            }
            S::Date => SqlType::Date,
            S::Time(None | Some(0), TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
                SqlType::Time
            }
            S::Timestamp(digits, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
                SqlType::Timestamp(Precision::from_digits(*digits)?)
            }
            S::Custom(name, arguments)
                if name.to_string().eq_ignore_ascii_case("TIMESTAMP_LTZ") =>
            {
                let digits = match arguments.as_slice() {
                    [] => None,
                    [digits] => Some(digits.parse().map_err(|_| {
                        Fault::new(format!("'{digits}' is not a precision of TIMESTAMP_LTZ"))
                    })?),
                    _ => return Err(Fault::new("TIMESTAMP_LTZ takes one precision")),
                };
                SqlType::TimestampLtz(Precision::from_digits(digits)?)
            }
            other => {
                return Err(Fault::unsupported(format!("type {other}")).hint(
                    "BOOLEAN, TINYINT, SMALLINT, INT, BIGINT, FLOAT, DOUBLE, DECIMAL, CHAR, VARCHAR, \
                     STRING, BYTES, DATE, TIME, TIMESTAMP and TIMESTAMP_LTZ are",
                ));
            }
        };
        Ok(sql_type)
    }

    /// How its values are held.
    pub(super) fn to_arrow(&self) -> DataType {
        match self {
            SqlType::Boolean => DataType::Boolean,
            SqlType::TinyInt => DataType::Int8,
            SqlType::SmallInt => DataType::Int16,
            SqlType::Int => DataType::Int32,
            SqlType::BigInt => DataType::Int64,
            SqlType::Float => DataType::Float32,
            SqlType::Double => DataType::Float64,
            SqlType::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
            SqlType::Char(_) | SqlType::Varchar(_) => DataType::Utf8,
            SqlType::Bytes => DataType::Binary,
            SqlType::Date => DataType::Date32,
            SqlType::Time => DataType::Time32(TimeUnit::Millisecond),
            SqlType::Timestamp(precision) => DataType::Timestamp(precision.unit(), None),
            SqlType::TimestampLtz(precision) => {
                DataType::Timestamp(precision.unit(), Some(UTC.into()))
            }
        }
    }

    /// The type that a computed value has; `None` for what no Flink type stands for.
    pub(super) fn from_arrow(data_type: &DataType) -> Option<SqlType> {
        Some(match data_type {
            DataType::Boolean => SqlType::Boolean,
            DataType::Int8 => SqlType::TinyInt,
            DataType::Int16 => SqlType::SmallInt,
            DataType::Int32 => SqlType::Int,
            DataType::Int64 => SqlType::BigInt,
            DataType::Float32 => SqlType::Float,
            DataType::Float64 => SqlType::Double,
            DataType::Decimal128(precision, scale) => {
                SqlType::Decimal { precision: *precision, scale: *scale }
            }
            DataType::Utf8 => SqlType::Varchar(LENGTH_MAX),
            DataType::Binary => SqlType::Bytes,
            DataType::Date32 => SqlType::Date,
            DataType::Time32(TimeUnit::Millisecond) => SqlType::Time,
            DataType::Timestamp(unit, None) => SqlType::Timestamp(Precision::from_unit(*unit)),
            DataType::Timestamp(unit, Some(_)) => {
                SqlType::TimestampLtz(Precision::from_unit(*unit))
            }
            _ => return None,
        })
    }

    /// Whether a value of `from` is written into a column of this type without a CAST
    /// (Flink's `LogicalTypeCasts.supportsImplicitCast`).
    pub(super) fn accepts(&self, from: &SqlType) -> bool {
        use SqlType::*;
        let rank = |sql_type: &SqlType| match sql_type {
            TinyInt => Some(0),
            SmallInt => Some(1),
            Int => Some(2),
            BigInt => Some(3),
            _ => None,
        };
        match (self, from) {
            (Decimal { .. } | Double, Float | Double | Decimal { .. }) => true,
            (Float, Float | Decimal { .. }) => true,
            (Decimal { .. } | Double | Float, from) if rank(from).is_some() => true,
            // A CHAR is padded in Flink; its length is not enforced at the sink.
            (Varchar(_) | Char(_), Varchar(_) | Char(_)) => true,
            (Date | Time, Timestamp(_)) => true,
            (Timestamp(_) | TimestampLtz(_), Timestamp(_) | TimestampLtz(_)) => true,
            (to, from) => match (rank(to), rank(from)) {
                (Some(to), Some(from)) => to >= from,
                _ => to == from,
            },
        }
    }

    /// The REST API's `logicalType`.
    pub(super) fn logical(&self, nullable: bool) -> Value {
        match self {
            SqlType::Boolean => json!({"type": "BOOLEAN", "nullable": nullable}),
            SqlType::TinyInt => json!({"type": "TINYINT", "nullable": nullable}),
            SqlType::SmallInt => json!({"type": "SMALLINT", "nullable": nullable}),
            SqlType::Int => json!({"type": "INTEGER", "nullable": nullable}),
            SqlType::BigInt => json!({"type": "BIGINT", "nullable": nullable}),
            SqlType::Float => json!({"type": "FLOAT", "nullable": nullable}),
            SqlType::Double => json!({"type": "DOUBLE", "nullable": nullable}),
            SqlType::Decimal { precision, scale } => {
                json!({"type": "DECIMAL", "nullable": nullable, "precision": precision, "scale": scale})
            }
            SqlType::Char(length) => {
                json!({"type": "CHAR", "nullable": nullable, "length": length})
            }
            SqlType::Varchar(length) => {
                json!({"type": "VARCHAR", "nullable": nullable, "length": length})
            }
            SqlType::Bytes => {
                json!({"type": "VARBINARY", "nullable": nullable, "length": LENGTH_MAX})
            }
            SqlType::Date => json!({"type": "DATE", "nullable": nullable}),
            SqlType::Time => {
                json!({"type": "TIME_WITHOUT_TIME_ZONE", "nullable": nullable, "precision": 0})
            }
            SqlType::Timestamp(p) => json!({
                "type": "TIMESTAMP_WITHOUT_TIME_ZONE", "nullable": nullable,
                "precision": p.digits(), "kind": "REGULAR"
            }),
            SqlType::TimestampLtz(p) => json!({
                "type": "TIMESTAMP_WITH_LOCAL_TIME_ZONE", "nullable": nullable,
                "precision": p.digits(), "kind": "REGULAR"
            }),
        }
    }

    /// A string without a bound on its length.
    pub(super) const STRING: SqlType = SqlType::Varchar(LENGTH_MAX);

    /// An instant in milliseconds.
    pub(super) const TIMESTAMP_LTZ_3: SqlType = SqlType::TimestampLtz(Precision::Milli);
}

/// The only session time zone so far.
pub(super) const UTC: &str = "UTC";

impl Precision {
    fn from_digits(digits: Option<u64>) -> Result<Precision> {
        match digits {
            Some(0) => Ok(Precision::Second),
            Some(3) => Ok(Precision::Milli),
            None | Some(6) => Ok(Precision::Micro),
            Some(9) => Ok(Precision::Nano),
            Some(digits) => Err(Fault::unsupported(format!("a timestamp precision of {digits}"))
                .hint("0, 3, 6 and 9 are")),
        }
    }

    fn from_unit(unit: TimeUnit) -> Precision {
        match unit {
            TimeUnit::Second => Precision::Second,
            TimeUnit::Millisecond => Precision::Milli,
            TimeUnit::Microsecond => Precision::Micro,
            TimeUnit::Nanosecond => Precision::Nano,
        }
    }

    fn unit(self) -> TimeUnit {
        match self {
            Precision::Second => TimeUnit::Second,
            Precision::Milli => TimeUnit::Millisecond,
            Precision::Micro => TimeUnit::Microsecond,
            Precision::Nano => TimeUnit::Nanosecond,
        }
    }

    fn digits(self) -> u8 {
        match self {
            Precision::Second => 0,
            Precision::Milli => 3,
            Precision::Micro => 6,
            Precision::Nano => 9,
        }
    }
}

fn decimal(info: &ExactNumberInfo) -> Result<SqlType> {
    // Flink's DECIMAL without parameters is DECIMAL(10, 0).
    let (precision, scale) = match info {
        ExactNumberInfo::None => (10, 0),
        ExactNumberInfo::Precision(precision) => (*precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
    };
    let precision_ok = (1..=DECIMAL_PRECISION_MAX).contains(&precision);
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(p), Ok(s)) if precision_ok && s >= 0 && scale <= precision as i64 => {
            Ok(SqlType::Decimal { precision: p, scale: s })
        }
        _ => Err(Fault::new(format!("DECIMAL({precision}, {scale}) is not a type"))
            .hint("the precision is 1 to 38, the scale 0 to the precision")),
    }
}

fn char_length(length: &Option<CharacterLength>, default: u32) -> Result<u32> {
    match length {
        None => Ok(default),
        Some(CharacterLength::Max) => Ok(LENGTH_MAX),
        Some(CharacterLength::IntegerLength { length, .. }) => match u32::try_from(*length) {
            Ok(length) if (1..=LENGTH_MAX).contains(&length) => Ok(length),
            _ => Err(Fault::new(format!("a length of {length} is not allowed"))
                .hint(format!("it is 1 to {LENGTH_MAX}"))),
        },
    }
}

impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlType::Boolean => f.write_str("BOOLEAN"),
            SqlType::TinyInt => f.write_str("TINYINT"),
            SqlType::SmallInt => f.write_str("SMALLINT"),
            SqlType::Int => f.write_str("INT"),
            SqlType::BigInt => f.write_str("BIGINT"),
            SqlType::Float => f.write_str("FLOAT"),
            SqlType::Double => f.write_str("DOUBLE"),
            SqlType::Decimal { precision, scale } => write!(f, "DECIMAL({precision}, {scale})"),
            SqlType::Char(length) => write!(f, "CHAR({length})"),
            SqlType::Varchar(LENGTH_MAX) => f.write_str("STRING"),
            SqlType::Varchar(length) => write!(f, "VARCHAR({length})"),
            SqlType::Bytes => f.write_str("BYTES"),
            SqlType::Date => f.write_str("DATE"),
            SqlType::Time => f.write_str("TIME(0)"),
            SqlType::Timestamp(precision) => write!(f, "TIMESTAMP({})", precision.digits()),
            SqlType::TimestampLtz(precision) => write!(f, "TIMESTAMP_LTZ({})", precision.digits()),
        }
    }
}

/// A TIMESTAMP_LTZ(3) as the REST API writes it: `2024-01-01T00:00:00.000Z`.
pub(super) fn datetime(timestamp: Timestamp) -> String {
    let millis = timestamp.0.rem_euclid(1_000);
    let seconds = timestamp.0.div_euclid(1_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to the civil calendar: Hinnant, "chrono-compatible low-level date algorithms".
    let shifted = days.saturating_add(719_468);
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// How a computed type reads in an error: Flink's name, or Arrow's where there is none.
pub(super) fn describe(data_type: &DataType) -> String {
    SqlType::from_arrow(data_type).map_or_else(|| data_type.to_string(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_as_the_rest_api_does() {
        assert_eq!(datetime(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(datetime(Timestamp(1_709_210_096_007)), "2024-02-29T12:34:56.007Z");
        assert_eq!(datetime(Timestamp(-1)), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn integers_widen_into_a_sink_and_never_narrow() {
        assert!(SqlType::BigInt.accepts(&SqlType::Int));
        assert!(!SqlType::Int.accepts(&SqlType::BigInt));
        assert!(SqlType::Double.accepts(&SqlType::BigInt));
        assert!(!SqlType::BigInt.accepts(&SqlType::Double));
        assert!(!SqlType::STRING.accepts(&SqlType::Int));
        assert!(
            SqlType::Timestamp(Precision::Micro).accepts(&SqlType::Timestamp(Precision::Milli))
        );
    }
}
