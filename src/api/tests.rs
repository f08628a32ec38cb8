//! What the tests of all APIs share.

mod authorization;
pub(crate) mod fixture;
