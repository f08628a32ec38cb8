//! The operators, one per file.

pub mod filter;
pub mod project;
pub mod sink;
pub mod source;
pub mod tumble_aggregate;
