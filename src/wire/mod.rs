//! Sockets, frames, response order and back-pressure. Knows no Kafka message: `api` decodes.

mod alarm;
mod arrival;
mod budget;
mod connection;
mod departure;
mod frame;
mod limit;
mod listener;
mod outgoing;
mod pace;
mod socket;
mod threads;
mod turn;

pub use budget::Budgets;
pub use listener::{Listener, Running, serve};

#[cfg(test)]
mod tests;
