//! Counters of requests, and of bytes and records per topic. Handles are kept, so that the path of
//! a request formats no label.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};

use super::table::ROUTES;
use crate::metrics::Metrics;
use crate::types::{IdHash, TopicId, TopicName};

/// The requests' and topics' counters. Cheap to clone.
#[derive(Clone)]
pub struct Meter {
    inner: Arc<Inner>,
}

struct Inner {
    requests: IntCounterVec,
    routes: Vec<RouteCounters>,
    bytes_in: IntCounterVec,
    bytes_out: IntCounterVec,
    records_in: IntCounterVec,
    topics: DashMap<TopicId, Arc<TopicCounters>, IdHash>,
}

/// An API's handles. By far most requests end without an error.
struct RouteCounters {
    key: ApiKey,
    succeeded: IntCounter,
    seconds: prometheus::Histogram,
}

/// A topic's handles.
pub(super) struct TopicCounters {
    name: TopicName,
    /// Bytes of record batches appended.
    pub bytes_in: IntCounter,
    /// Bytes of record batches fetched.
    pub bytes_out: IntCounter,
    /// Records appended.
    pub records_in: IntCounter,
}

impl Meter {
    /// Declares the counters.
    pub fn register(metrics: &Metrics) -> Result<Meter, prometheus::Error> {
        let by_topic = |name, help| IntCounterVec::new(Opts::new(name, help), &["topic"]);
        let requests = IntCounterVec::new(
            Opts::new("ottla_requests_total", "Kafka requests answered, by API and error."),
            &["api", "error"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "ottla_request_seconds",
                "Time from a whole request to its answer, long polls and rebalances included.",
            )
            .buckets(vec![
                0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                1.0, 2.5, 5.0, 10.0,
            ]),
            &["api"],
        )?;
        let bytes_in = by_topic(
            "ottla_topic_bytes_in_total",
            "Bytes of record batches that producers appended, by topic.",
        )?;
        let bytes_out = by_topic(
            "ottla_topic_bytes_out_total",
            "Bytes of record batches sent to consumers, by topic.",
        )?;
        let records_in =
            by_topic("ottla_topic_records_in_total", "Records that producers appended, by topic.")?;
        let collectors: [Box<dyn Collector>; 5] = [
            Box::new(requests.clone()),
            Box::new(seconds.clone()),
            Box::new(bytes_in.clone()),
            Box::new(bytes_out.clone()),
            Box::new(records_in.clone()),
        ];
        for collector in collectors {
            metrics.registry().register(collector)?;
        }
        let routes = ROUTES.iter().map(|route| {
            let (key, label) = (route.api.key, format!("{:?}", route.api.key));
            RouteCounters {
                key,
                succeeded: requests.with_label_values(&[label.as_str(), "NONE"]),
                seconds: seconds.with_label_values(&[label.as_str()]),
            }
        });
        let routes = routes.collect();
        let topics = DashMap::default();
        let inner = Inner { requests, routes, bytes_in, bytes_out, records_in, topics };
        Ok(Meter { inner: Arc::new(inner) })
    }

    /// Counts a request that took `took`.
    pub(super) fn request(&self, api: ApiKey, error: i16, took: Duration) {
        let Some(route) = self.inner.routes.iter().find(|route| route.key == api) else { return };
        route.seconds.observe(took.as_secs_f64());
        if error == 0 {
            route.succeeded.inc();
        } else {
            let (api, error) = (format!("{api:?}"), error_name(error));
            self.inner.requests.with_label_values(&[api.as_str(), error.as_str()]).inc();
        }
    }

    /// A topic's counters.
    pub(super) fn topic(&self, id: TopicId, name: &TopicName) -> Arc<TopicCounters> {
        if let Some(found) = self.inner.topics.get(&id) {
            return found.clone();
        }
        let label = &[name.as_str()];
        let counters = || {
            Arc::new(TopicCounters {
                name: name.clone(),
                bytes_in: self.inner.bytes_in.with_label_values(label),
                bytes_out: self.inner.bytes_out.with_label_values(label),
                records_in: self.inner.records_in.with_label_values(label),
            })
        };
        self.inner.topics.entry(id).or_insert_with(counters).clone()
    }

    /// Ends a deleted topic's series.
    pub(super) fn forget_topic(&self, id: TopicId) {
        let Some((_, counters)) = self.inner.topics.remove(&id) else { return };
        let label = &[counters.name.as_str()];
        for family in [&self.inner.bytes_in, &self.inner.bytes_out, &self.inner.records_in] {
            // Absent already when a recreated topic of that name was deleted meanwhile.
            let _ = family.remove_label_values(label);
        }
    }
}

/// Kafka's own name of an error: `UNKNOWN_TOPIC_OR_PARTITION`.
fn error_name(code: i16) -> String {
    let Some(error) = ResponseError::try_from_code(code) else { return "NONE".to_owned() };
    let camel = format!("{error:?}");
    let mut name = String::with_capacity(camel.len() + 8);
    for (at, c) in camel.char_indices() {
        if at > 0 && c.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_kafkas_names() {
        assert_eq!(error_name(3), "UNKNOWN_TOPIC_OR_PARTITION");
        assert_eq!(error_name(-1), "UNKNOWN_SERVER_ERROR");
    }

    #[test]
    fn deleted_topic_takes_its_series_along() {
        let metrics = Metrics::default();
        let meter = Meter::register(&metrics).unwrap();
        let (id, name) = (TopicId::random(), TopicName::parse("clicks").unwrap());
        meter.topic(id, &name).bytes_in.inc_by(5);
        assert_eq!(meter.topic(id, &name).bytes_in.get(), 5);
        meter.forget_topic(id);
        let families = metrics.registry().gather();
        assert!(families.iter().all(|family| family.name() != "ottla_topic_bytes_in_total"));
    }

    #[test]
    fn requests_are_counted_by_api_and_error() {
        let metrics = Metrics::default();
        let meter = Meter::register(&metrics).unwrap();
        meter.request(ApiKey::ApiVersions, 0, Duration::from_millis(1));
        meter.request(ApiKey::ApiVersions, 35, Duration::from_millis(1));
        let count = |error| meter.inner.requests.with_label_values(&["ApiVersions", error]).get();
        assert_eq!((count("NONE"), count("UNSUPPORTED_VERSION")), (1, 1));
    }
}
