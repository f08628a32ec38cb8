//! Sockets, frames, response order and back-pressure. Knows no Kafka message: `api` decodes.

mod listener;

pub use listener::{Listener, Running};
