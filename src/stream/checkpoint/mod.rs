//! Checkpoints: one atomic step per epoch. Sink output and operator state of epoch n are appended
//! under the job's producer ids; when all of it is durable, ONE journal record decides that the
//! epoch is committed; markers make it visible and are written again after a crash.

pub mod coordinator;
pub mod journal;
pub mod record;
pub mod state_space;
pub mod state_topic;
pub mod transaction;
