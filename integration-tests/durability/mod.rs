//! What a fault may cost, seen from outside: the real program is killed, its disk fails, its view is
//! lost, its clock jumps. One file for each kind of fault.
//!
//! Choices are seeded. A failed test prints its seed; `OTTLA_SEED` makes the same choices again.

mod cancelled;
mod cleaner;
mod clock;
mod disk;
mod full;
pub mod ledger;
mod misfit;
mod names;
mod random;
mod shim;
mod stop;
mod view;

pub use random::{Random, from_environment, seed};
