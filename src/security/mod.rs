//! Who a client is, and what it may do. Knows no Kafka message and no socket: `api` asks, `wire`
//! makes the sessions.

mod principal;

pub use principal::Principal;
