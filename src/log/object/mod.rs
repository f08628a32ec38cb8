//! Where the bytes of segments are stored: the `RecordStore` trait, which names objects and no paths, and the
//! local store, which keeps each object as a file. Knows no batch. Read `record_store.rs` first.

pub(in crate::log) mod buffers;
pub(in crate::log) mod files;
pub(in crate::log) mod local_store;
pub mod manifest;
pub mod record_store;
