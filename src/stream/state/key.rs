//! Keys as bytes, and the positions of distinct keys.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};

use super::hash;

/// Turns key columns into comparable bytes and back.
pub struct KeyEncoder {
    /// `None`: there is no key column, all rows have the empty key.
    converter: Option<RowConverter>,
}

/// The keys of a batch.
pub struct EncodedKeys {
    rows: Option<Rows>,
}

impl EncodedKeys {
    /// The key of row `row`.
    pub fn key(&self, row: usize) -> &[u8] {
        self.rows.as_ref().map_or(&[], |rows| rows.row(row).data())
    }
}

impl KeyEncoder {
    /// For key columns of these types.
    pub fn new(types: Vec<DataType>) -> Result<KeyEncoder, ArrowError> {
        if types.is_empty() {
            return Ok(KeyEncoder { converter: None });
        }
        let fields = types.into_iter().map(SortField::new).collect();
        Ok(KeyEncoder { converter: Some(RowConverter::new(fields)?) })
    }

    /// The keys of all rows of `columns`.
    pub fn encode(&self, columns: &[ArrayRef]) -> Result<EncodedKeys, ArrowError> {
        let rows = match &self.converter {
            Some(converter) => Some(converter.convert_columns(columns)?),
            None => None,
        };
        Ok(EncodedKeys { rows })
    }

    /// The key columns of `keys`.
    pub fn decode<'a>(
        &self,
        keys: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let Some(converter) = &self.converter else { return Ok(Vec::new()) };
        let parser = converter.parser();
        let rows: Vec<_> = keys.map(|key| parser.parse(key)).collect();
        converter.convert_rows(rows)
    }
}

/// The distinct keys seen, in order of appearance, in one buffer with an open-addressing table of
/// their positions.
#[derive(Default)]
pub struct KeyIndex {
    bytes: Vec<u8>,
    /// Where each key ends in `bytes`.
    ends: Vec<usize>,
    hashes: Vec<u64>,
    /// Position + 1 of a key, 0 where vacant; the length is a power of two.
    table: Vec<u32>,
}

impl KeyIndex {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The key at `position`.
    pub fn key(&self, position: usize) -> &[u8] {
        let start = if position == 0 { 0 } else { self.ends[position - 1] };
        &self.bytes[start..self.ends[position]]
    }

    /// All keys by position.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|position| self.key(position))
    }

    /// The position of `key`, added if it is new.
    pub fn position(&mut self, key: &[u8]) -> usize {
        // At most three quarters full, so that a probe ends soon.
        if self.table.len() * 3 <= self.len() * 4 {
            self.grow();
        }
        let hash = hash(key);
        let mask = self.table.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            match self.table[slot] {
                0 => {
                    self.bytes.extend_from_slice(key);
                    self.ends.push(self.bytes.len());
                    self.hashes.push(hash);
                    self.table[slot] = self.len() as u32;
                    return self.len() - 1;
                }
                taken => {
                    let position = taken as usize - 1;
                    if self.hashes[position] == hash && self.key(position) == key {
                        return position;
                    }
                }
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Bytes held.
    pub fn size_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.ends.capacity() * size_of::<usize>()
            + self.hashes.capacity() * size_of::<u64>()
            + self.table.capacity() * size_of::<u32>()
    }

    fn grow(&mut self) {
        let slots = (self.table.len() * 2).max(16);
        let mut table = vec![0_u32; slots];
        for (position, hash) in self.hashes.iter().enumerate() {
            let mut slot = *hash as usize & (slots - 1);
            while table[slot] != 0 {
                slot = (slot + 1) & (slots - 1);
            }
            table[slot] = position as u32 + 1;
        }
        self.table = table;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    #[test]
    fn equal_keys_share_a_position_and_decode_to_their_columns() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("a")]));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 1]));
        let encoder = KeyEncoder::new(vec![DataType::Utf8, DataType::Int64]).unwrap();
        let keys = encoder.encode(&[texts.clone(), numbers.clone()]).unwrap();
        let mut index = KeyIndex::default();
        let positions: Vec<_> = (0..3).map(|row| index.position(keys.key(row))).collect();
        assert_eq!(positions, [0, 1, 0]);
        let columns = encoder.decode(index.keys()).unwrap();
        assert_eq!(
            columns[0].as_ref(),
            &StringArray::from(vec![Some("a"), None]) as &dyn arrow::array::Array
        );
        assert_eq!(columns[1].as_ref(), &Int64Array::from(vec![1, 2]) as &dyn arrow::array::Array);
    }

    #[test]
    fn many_keys_are_all_found_again() {
        let mut index = KeyIndex::default();
        for round in 0..2 {
            for key in 0..10_000_u32 {
                assert_eq!(index.position(&key.to_be_bytes()), key as usize, "round {round}");
            }
        }
        assert_eq!(index.len(), 10_000);
    }

    #[test]
    fn without_key_columns_there_is_one_key() {
        let encoder = KeyEncoder::new(vec![]).unwrap();
        let keys = encoder.encode(&[]).unwrap();
        let mut index = KeyIndex::default();
        assert_eq!(index.position(keys.key(0)), 0);
        assert_eq!(index.position(keys.key(7)), 0);
        assert!(encoder.decode(index.keys()).unwrap().is_empty());
    }
}
