//! What the tests of all APIs share.

pub(crate) mod fixture;
