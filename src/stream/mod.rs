//! The Flink-style executor: graph, operators, watermarks, keyed state, checkpoints, jobs. Knows no
//! SQL and no socket: it reads partition logs and writes them in process, on its own threads.

mod attempt;
mod chain;
pub mod checkpoint;
pub mod exchange;
pub mod format;
pub mod graph;
pub mod job;
mod metrics;
pub mod operator;
pub mod operators;
mod restart;
pub mod state;
mod status;
mod subtask;
