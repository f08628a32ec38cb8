//! What is done to a log before it is served: recovery after a crash, and the checks and repairs
//! that `ottla doctor` makes on a stopped broker. Read `recovery.rs` first.

pub(in crate::log) mod log_time;
mod promise;
pub(in crate::log) mod recovery;
pub mod repair;
mod snapshot;
pub mod verify;
