//! Ottla: an Apache Kafka broker and a Flink-style stream processor in one process.
//!
//! Rooms and the direction of their dependencies are described in `ARCHITECTURE.md`.

pub mod api;
pub mod cli;
pub mod config;
pub mod group;
pub mod http;
pub mod log;
pub mod metadata;
pub mod metrics;
pub mod security;
pub mod server;
pub mod sql;
pub mod store;
pub mod stream;
pub mod txn;
pub mod types;
pub mod wire;
