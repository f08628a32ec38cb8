//! State values as bytes: Arrow's IPC stream format, which every Arrow version reads, behind one
//! byte that names our own version.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use bytes::Bytes;

const VERSION: u8 = 1;

/// Columns of `rows` values each, as bytes.
pub fn encode(columns: Vec<ArrayRef>, rows: usize) -> Result<Bytes, ArrowError> {
    let fields: Vec<_> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| Field::new(index.to_string(), column.data_type().clone(), true))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let batch =
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?;
    let mut writer = StreamWriter::try_new(vec![VERSION], &batch.schema())?;
    writer.write(&batch)?;
    Ok(Bytes::from(writer.into_inner()?))
}

/// The inverse of `encode`.
pub fn decode(bytes: &[u8]) -> Result<RecordBatch, ArrowError> {
    match bytes.split_first() {
        Some((&VERSION, stream)) => {
            let mut reader = StreamReader::try_new(stream, None)?;
            reader.next().unwrap_or_else(|| {
                Err(ArrowError::ParseError("a state value holds no batch".to_owned()))
            })
        }
        Some((version, _)) => Err(ArrowError::ParseError(format!(
            "a state value has version {version}, this binary reads {VERSION}; run a newer Ottla"
        ))),
        None => Err(ArrowError::ParseError("a state value is empty".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};

    #[test]
    fn columns_survive_the_round_trip() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let bytes = encode(vec![texts.clone(), numbers.clone()], 2).unwrap();
        let batch = decode(&bytes).unwrap();
        assert_eq!(batch.column(0), &texts);
        assert_eq!(batch.column(1), &numbers);
    }

    #[test]
    fn rows_without_columns_keep_their_number() {
        assert_eq!(decode(&encode(vec![], 3).unwrap()).unwrap().num_rows(), 3);
    }

    #[test]
    fn a_newer_version_or_damage_is_an_error() {
        assert!(decode(&[9, 1, 2]).unwrap_err().to_string().contains("version 9"));
        assert!(decode(&[]).is_err());
        let whole = encode(vec![Arc::new(Int64Array::from(vec![1]))], 1).unwrap();
        assert!(decode(&whole[..whole.len() / 2]).is_err());
    }
}
