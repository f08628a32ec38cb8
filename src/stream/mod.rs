//! The Flink-style executor: graph, operators, watermarks, keyed state, checkpoints, jobs. Knows no
//! SQL and no socket: it reads partition logs and writes them in process, on its own threads.

pub mod graph;
pub mod job;
pub mod operator;
