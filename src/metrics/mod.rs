//! The registry and its text rendering. Each room declares its own counters in a struct with a
//! `register(&Metrics)` constructor and keeps its handles; nothing looks a metric up by name.

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntGauge, Opts, Registry, TextEncoder};

/// The broker's registry: one per broker, not per process, so that tests can run several.
#[derive(Clone, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// The media type of `render`: Prometheus's text format.
    pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

    /// The registry to register counters and collectors with.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Adds what is known of the process itself: CPU, memory, descriptors, start time, version.
    pub fn register_process(&self) -> Result<(), prometheus::Error> {
        self.register(ProcessCollector::for_self())?;
        let build = IntGauge::with_opts(
            Opts::new("ottla_build_info", "Always 1; the version is in the label.")
                .const_label("version", env!("CARGO_PKG_VERSION")),
        )?;
        build.set(1);
        self.register(build)
    }

    /// All metrics as Prometheus's text format 0.0.4.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    fn register(&self, collector: impl Collector + 'static) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(collector))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_and_its_version_are_rendered_with_help() {
        let metrics = Metrics::default();
        metrics.register_process().unwrap();
        let text = metrics.render().unwrap();
        for name in ["process_resident_memory_bytes", "process_open_fds", "ottla_build_info"] {
            assert!(text.contains(&format!("# HELP {name} ")), "{name} in {text}");
        }
        assert!(text.contains(concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")));
    }

    #[test]
    fn two_brokers_in_one_process_have_registries_of_their_own() {
        for _ in 0..2 {
            Metrics::default().register_process().unwrap();
        }
    }
}
