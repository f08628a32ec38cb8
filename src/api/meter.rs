//! Counters of requests, and of bytes and records per topic. Handles are kept, so that the path of
//! a request formats no label.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};

use super::table::ROUTES;
use crate::metadata::Topic;
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
    /// The topics with counters by their name, which is what their series go by: of topics that had
    /// one name, one lives, and others may not be forgotten yet.
    names: Mutex<BTreeMap<TopicName, BTreeSet<TopicId>>>,
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
        let (topics, names) = (DashMap::default(), Mutex::default());
        let inner = Inner { requests, routes, bytes_in, bytes_out, records_in, topics, names };
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

    /// A topic's counters; none for a topic that has been deleted since a request looked it up, which
    /// `is_there` tells.
    pub(super) fn topic(
        &self,
        topic: &Topic,
        is_there: impl FnOnce() -> bool,
    ) -> Option<Arc<TopicCounters>> {
        if let Some(found) = self.inner.topics.get(&topic.id) {
            return Some(found.clone());
        }
        // Locked before the metadata is asked: what is deleted afterwards is forgotten afterwards.
        let mut names = self.names();
        if !is_there() {
            return None;
        }
        names.entry(topic.name.clone()).or_default().insert(topic.id);
        let label = &[topic.name.as_str()];
        let counters = || {
            Arc::new(TopicCounters {
                name: topic.name.clone(),
                bytes_in: self.inner.bytes_in.with_label_values(label),
                bytes_out: self.inner.bytes_out.with_label_values(label),
                records_in: self.inner.records_in.with_label_values(label),
            })
        };
        Some(self.inner.topics.entry(topic.id).or_insert_with(counters).clone())
    }

    /// Ends a deleted topic's series, unless a topic of the same name goes on with them.
    pub(super) fn forget_topic(&self, id: TopicId) {
        let mut names = self.names();
        let Some((_, counters)) = self.inner.topics.remove(&id) else { return };
        if let Some(ids) = names.get_mut(&counters.name) {
            ids.remove(&id);
            if !ids.is_empty() {
                return;
            }
        }
        names.remove(&counters.name);
        let label = &[counters.name.as_str()];
        for family in [&self.inner.bytes_in, &self.inner.bytes_out, &self.inner.records_in] {
            if let Err(error) = family.remove_label_values(label) {
                tracing::warn!(topic = %counters.name, %error, "a deleted topic had no series");
            }
        }
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<TopicName, BTreeSet<TopicId>>> {
        self.inner.names.lock().unwrap_or_else(PoisonError::into_inner)
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
    use crate::api::tests::fixture::Bench;
    use crate::metadata::Metadata;

    #[test]
    fn errors_have_kafkas_names() {
        assert_eq!(error_name(3), "UNKNOWN_TOPIC_OR_PARTITION");
        assert_eq!(error_name(-1), "UNKNOWN_SERVER_ERROR");
    }

    /// What a scrape shows for a topic name.
    fn shown(meter: &Meter, name: &str) -> Option<f64> {
        let families = meter.inner.bytes_in.collect();
        let series = families.iter().flat_map(|family| family.get_metric());
        let mut of_name = series.filter(|it| it.get_label()[0].value() == name);
        of_name.next().map(|it| it.get_counter().get_value())
    }

    fn is_there(metadata: &Metadata, topic: &Topic) -> bool {
        metadata.image().topic_by_id(topic.id).is_some()
    }

    #[tokio::test]
    async fn a_deleted_topic_takes_its_series_along_and_gets_none_afterwards() {
        let bench = Bench::start().await;
        let topic = bench.topic("clicks", 1).await;
        let (meter, metadata) = (&bench.ctx.meter, &bench.metadata);
        meter.topic(&topic, || is_there(metadata, &topic)).unwrap().bytes_in.inc_by(5);
        assert_eq!(shown(meter, "clicks"), Some(5.0));
        metadata.delete(topic.id).await.unwrap();
        meter.forget_topic(topic.id);
        assert_eq!(shown(meter, "clicks"), None);
        // A request that found the topic before is at work still.
        assert!(meter.topic(&topic, || is_there(metadata, &topic)).is_none());
        assert_eq!(shown(meter, "clicks"), None);
    }

    #[tokio::test]
    async fn a_topic_made_again_keeps_its_series_when_the_old_one_is_forgotten_late() {
        let bench = Bench::start().await;
        let old = bench.topic("clicks", 1).await;
        let (meter, metadata) = (&bench.ctx.meter, &bench.metadata);
        meter.topic(&old, || is_there(metadata, &old)).unwrap().bytes_in.inc_by(5);
        metadata.delete(old.id).await.unwrap();
        let new = bench.topic("clicks", 1).await;
        meter.topic(&new, || is_there(metadata, &new)).unwrap().bytes_in.inc_by(7);
        meter.forget_topic(old.id);
        meter.topic(&new, || is_there(metadata, &new)).unwrap().bytes_in.inc_by(1);
        assert_eq!(shown(meter, "clicks"), Some(13.0));
        metadata.delete(new.id).await.unwrap();
        meter.forget_topic(new.id);
        assert_eq!(shown(meter, "clicks"), None);
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
