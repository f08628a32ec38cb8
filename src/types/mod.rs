//! Newtypes that every room shares, and the injected clock. Knows no room above it.

mod clock;
mod id;
mod listener;
mod name;
mod offset;
mod progress;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use id::{
    Generation, IdHash, LeaderEpoch, LogId, PartitionId, ProducerEpoch, ProducerId, TopicId,
};
pub use listener::{ListenerName, ListenerNameError};
pub use name::{TopicName, TopicNameError};
pub use offset::Offset;
pub use progress::{Progress, Stage};
