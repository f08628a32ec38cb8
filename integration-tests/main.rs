//! Drives the real program: `ottla serve` as users start it, with the clients they have.
//!
//! One binary with modules, since each further one would link DataFusion again. `harness` starts
//! brokers and runs programs; every other module is a group of tests.

mod bad_input;
mod clients_codecs;
mod clients_java;
mod clients_kcat;
mod clients_python;
mod compaction;
mod crash;
mod damage;
mod durability;
mod flink;
mod harness;
mod hostile;
mod listeners;
mod partitions;
mod prometheus;
mod protocol;
mod retention;
mod sql_job;
mod start;
mod tidy;
