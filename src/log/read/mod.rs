//! The way out: reads by offset and by time, the position of a consumer that reads on, and which
//! reads may wait for the disk. Read `reader.rs` first.

pub(in crate::log) mod cold;
pub(in crate::log) mod cursor;
pub(in crate::log) mod reader;
