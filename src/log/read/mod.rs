//! How batches are read: by offset, by time, where an earlier read ended (`cursor.rs`), and past the page
//! cache (`cold.rs`). Read `reader.rs` first.

pub(in crate::log) mod cold;
pub(in crate::log) mod cursor;
pub(in crate::log) mod reader;
