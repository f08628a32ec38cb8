//! The partition store: append-only segments of verbatim record batches, group commit, recovery,
//! producer state and transactions. Knows topics only by id and no Kafka message.
//!
//! Open `partition.rs` first: the handle through which a log is appended to and read. An append then
//! goes through `append/`, a read through `read/`; both keep batches (`format/`) in objects
//! (`object/`) behind the write-ahead log (`wal/`). `logs.rs` opens logs after `recover/` has made
//! them whole, and `upkeep/` looks after them at rest.

mod append;
pub mod boot;
mod config;
pub mod data_dir;
mod format;
mod logs;
mod meter;
mod object;
mod outcome;
pub mod partition;
mod read;
mod recover;
mod refusals;
mod segment;
mod settings;
mod topics;
mod upkeep;
mod wal;

pub use config::{Codec, Compaction, LogConfig, Retention, TimestampType};
pub use format::{batch, records};
pub use logs::{LogError, Logs};
pub use object::record_store;
pub use outcome::{
    AbortedTxn, AppendError, AppendOptions, AppendOrigin, Appended, Durable, Isolation, Marker,
    OffsetSpan, OpenTxn, ReadError, ReadRequest, ReadResult, RecordFault, TimestampOffset,
    TrimError,
};
pub use partition::{Partition, PendingAppend};
pub use recover::{repair, verify};
pub use refusals::{Refusal, Refusals, Refusing};

pub(crate) use append::run::OWN_BYTES_MIN;
pub(crate) use upkeep::age::AgeClock;

#[cfg(test)]
mod tests;
