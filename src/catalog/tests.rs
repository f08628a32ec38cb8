//! The catalog over real logs.
