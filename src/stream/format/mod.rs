//! How record values and rows turn into each other.

pub mod datetime;
mod decimal;
pub mod json;
