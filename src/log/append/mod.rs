//! How batches get into a log: the queue of a writer, the writer that owns a shard of the logs, producer
//! state, and the newest batches in memory. Read `writer.rs` first, then `owner.rs`.

pub(in crate::log) mod owner;
pub(in crate::log) mod producer;
pub(in crate::log) mod queue;
pub(in crate::log) mod run;
pub(in crate::log) mod shard;
pub(in crate::log) mod tail;
pub(in crate::log) mod writer;
