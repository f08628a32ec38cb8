//! Where bytes lie: the `RecordStore` trait, whose objects have no path, and the local store that
//! keeps each object as a file. Knows no batch. Read `record_store.rs` first.

pub(in crate::log) mod buffers;
pub(in crate::log) mod files;
pub(in crate::log) mod local_store;
pub mod record_store;
