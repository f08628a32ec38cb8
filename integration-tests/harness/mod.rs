//! Starts brokers, runs real clients against them, and waits for conditions with a bound.
//!
//! A test starts its own [`Broker`], or a [`Target`] when what it expects must hold for Apache
//! Kafka too: with `OTTLA_REFERENCE=HOST:PORT` set, a target is the Kafka that listens there.
//! Nothing here sleeps for a fixed time: [`until`] polls a condition and says what was missing.

#![allow(dead_code, reason = "a group of tests uses the part of the harness it needs")]
#![allow(unused_imports, reason = "a group of tests uses the part of the harness it needs")]

mod broker;
mod clients;
mod ports;
mod program;
mod wait;

pub use broker::{Broker, Options, Target};
pub use clients::{heavy, java, kcat, prometheus, python, source, sql};
pub use ports::free_ports;
pub use program::{Finished, Program};
pub use wait::{unique, until};

use std::time::Duration;

/// How long anything that should take moments may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a program that starts a JVM may take on a busy machine.
pub const JVM_PATIENCE: Duration = Duration::from_secs(180);
