//! The bytes of record batches: their headers, their records, the checks of what a producer sends,
//! and the walk over a segment's batches. Knows no file and no thread. Read `batch.rs` first.

pub(in crate::log) mod admit;
pub mod batch;
pub(in crate::log) mod compression;
pub(in crate::log) mod inflating;
pub(in crate::log) mod raw_records;
pub mod records;
pub(in crate::log) mod scan;
pub(in crate::log) mod times;
pub(in crate::log) mod validate;
pub(in crate::log) mod varint;
pub(in crate::log) mod walk;
