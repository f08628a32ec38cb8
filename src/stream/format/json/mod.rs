//! The `json` format with Flink's semantics: which texts a column takes, how missing and wrong
//! fields are treated, and how rows are printed. Nested columns are not supported yet.

mod decode;
mod encode;
mod scan;

pub use decode::{Decoder, Reject};
pub use encode::Encoder;

use arrow::datatypes::{DataType, Schema};

/// Whether every column can be read and written; the error names the first that cannot.
pub fn check(schema: &Schema) -> Result<(), String> {
    for field in schema.fields() {
        let supported = matches!(
            field.data_type(),
            DataType::Boolean
                | DataType::Int8
                | DataType::Int16
                | DataType::Int32
                | DataType::Int64
                | DataType::Float32
                | DataType::Float64
                | DataType::Utf8
                | DataType::Utf8View
                | DataType::Decimal128(_, _)
                | DataType::Date32
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Timestamp(_, _)
        );
        if !supported {
            return Err(format!(
                "column '{}' has a type the json format does not support yet ({}); declare it \
                 STRING to get its text",
                field.name(),
                field.data_type()
            ));
        }
    }
    Ok(())
}
