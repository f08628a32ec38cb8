//! `/healthz`: the process lives. `/readyz`: it serves. `/metrics`: what Prometheus scrapes.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::Front;
use super::error::HttpError;
use crate::log::{Refusals, Refusing};
use crate::metrics::Metrics;
use crate::types::ListenerName;

/// The most logs that `/readyz` names; it tells how many there are.
const REFUSING_TOLD_MAX: usize = 100;

/// Where the broker's life stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not serving yet.
    Starting,
    /// Serving.
    Ready {
        /// The Kafka protocol's listeners and their addresses.
        kafka: Vec<(ListenerName, SocketAddr)>,
        /// This side's address.
        http: SocketAddr,
    },
    /// Not serving any more.
    Stopping,
}

pub(super) fn routes() -> Router<Front> {
    Router::new()
        .route("/", get(front_page))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
}

async fn front_page() -> &'static str {
    concat!(
        "Ottla ",
        env!("CARGO_PKG_VERSION"),
        "\n\n",
        "/readyz          whether it serves\n",
        "/metrics         for Prometheus\n",
        "/v1/sessions     SQL, in the shape of Flink's SQL Gateway\n",
        "/jobs/overview   streaming jobs, in the shape of Flink's JobManager\n",
    )
}

async fn healthz() -> Json<serde_json::Value> {
    Json(json!({ "status": "alive" }))
}

async fn readyz(State(front): State<Front>) -> Response {
    match front.phase() {
        Phase::Ready { kafka, http } => {
            // A damaged log is no reason to send clients of all others away.
            let refusing = front.refusals.get().map(Refusals::list).unwrap_or_default();
            let told: Vec<Value> = refusing.iter().take(REFUSING_TOLD_MAX).map(refusal).collect();
            let listeners: serde_json::Map<_, _> = kafka
                .iter()
                .map(|(name, address)| (name.to_string(), Value::from(address.to_string())))
                .collect();
            let body = json!({
                "status": "ready",
                "kafka": kafka.first().map(|(_, address)| address.to_string()),
                "listeners": listeners,
                "http": http.to_string(),
                "refusing_total": refusing.len(),
                "refusing": told,
            });
            Json(body).into_response()
        }
        Phase::Starting => not_ready("starting", &front.progress.stage().to_string()),
        Phase::Stopping => not_ready("stopping", "finishing requests in flight"),
    }
}

fn refusal(refusing: &Refusing) -> Value {
    let Refusing { log, topic, refusal } = refusing;
    json!({
        "topic": topic,
        "partition": log.partition.0,
        "reason": refusal.reason,
        "next_step": refusal.next_step,
    })
}

fn not_ready(status: &str, reason: &str) -> Response {
    let body = json!({ "status": status, "reason": reason });
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

async fn metrics(State(front): State<Front>) -> Result<Response, HttpError> {
    // Collectors read /proc and take snapshots: not a network thread's work.
    let metrics = front.metrics.clone();
    match tokio::task::spawn_blocking(move || metrics.render()).await {
        Ok(Ok(text)) => Ok(([(CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response()),
        Ok(Err(error)) => Err(HttpError::internal(format!("metrics cannot be rendered: {error}"))),
        Err(error) => Err(HttpError::internal(format!("a metrics collector failed: {error}"))),
    }
}
