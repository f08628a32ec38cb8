//! The registry and its text rendering. Each room declares its own counters in a struct with a
//! `register(&Metrics)` constructor and keeps its handles; nothing looks a metric up by name.

use prometheus::Registry;

/// The broker's registry: one per broker, not per process, so that tests can run several.
#[derive(Clone, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// The registry to register counters and collectors with.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}
