//! Jobs in the shape of Flink's JobManager REST.
//!
//! Gaps: savepoints (a stop takes a last checkpoint and keeps none for another job), checkpoint
//! counts and history (the newest is told), subtasks.

use std::collections::VecDeque;
use std::sync::Mutex;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::error::HttpError;
use super::{Front, Rooms, gateway};
use crate::stream::job::{CheckpointStatus, JobError, JobState, JobStatus};
use crate::types::Timestamp;

pub(super) fn routes() -> Router<Front> {
    Router::new()
        .route("/config", get(config))
        .route("/overview", get(cluster_overview))
        .route("/jobs", get(ids))
        .route("/jobs/overview", get(overview))
        .route("/jobs/{job}", get(details).patch(terminate))
        .route("/jobs/{job}/checkpoints", get(checkpoints))
        .route("/jobs/{job}/exceptions", get(exceptions))
        .route("/jobs/{job}/stop", post(stop))
        .route("/jobs/{job}/savepoints/{request}", get(stop_status))
}

/// Stops that were asked for, newest last, so that their outcome can be asked for.
#[derive(Default)]
pub(super) struct Stops {
    requests: Mutex<VecDeque<Stop>>,
}

struct Stop {
    request: String,
    job: String,
    outcome: Option<Result<(), JobError>>,
}

impl Stops {
    const REMEMBERED: usize = 256;

    fn begin(&self, job: &str) -> String {
        let request = Uuid::new_v4().simple().to_string();
        let mut requests = self.lock();
        if requests.len() == Stops::REMEMBERED {
            requests.pop_front();
        }
        requests.push_back(Stop { request: request.clone(), job: job.to_owned(), outcome: None });
        request
    }

    fn end(&self, request: &str, outcome: Result<(), JobError>) {
        if let Some(stop) = self.lock().iter_mut().find(|stop| stop.request == request) {
            stop.outcome = Some(outcome);
        }
    }

    /// `None`: never heard of; `Some(None)`: under way.
    fn outcome(&self, job: &str, request: &str) -> Option<Option<Result<(), JobError>>> {
        let requests = self.lock();
        let stop = requests.iter().find(|stop| stop.request == request && stop.job == job)?;
        Some(stop.outcome.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Stop>> {
        // Nothing panics while it is held.
        self.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

async fn config() -> Json<Value> {
    Json(json!({
        "refresh-interval": 3000,
        "timezone-name": "Coordinated Universal Time",
        "timezone-offset": 0,
        "flink-version": concat!("ottla-", env!("CARGO_PKG_VERSION")),
        "flink-revision": "",
        "features": { "web-submit": false, "web-cancel": false },
    }))
}

async fn cluster_overview(State(front): State<Front>) -> Result<Json<Value>, HttpError> {
    let jobs = front.rooms()?.jobs.list();
    let count = |state: JobState| jobs.iter().filter(|job| job.state == state).count();
    Ok(Json(json!({
        "taskmanagers": 1,
        "jobs-running": jobs.iter().filter(|job| runs(job.state)).count(),
        "jobs-finished": count(JobState::Finished),
        "jobs-cancelled": count(JobState::Canceled),
        "jobs-failed": count(JobState::Failed),
        "flink-version": concat!("ottla-", env!("CARGO_PKG_VERSION")),
        "flink-commit": "",
    })))
}

async fn ids(State(front): State<Front>) -> Result<Json<Value>, HttpError> {
    let jobs = front.rooms()?.jobs.list();
    let jobs: Vec<Value> = jobs
        .iter()
        .map(|job| json!({ "id": job.id.0.as_ref(), "status": job.state.name() }))
        .collect();
    Ok(Json(json!({ "jobs": jobs })))
}

async fn overview(State(front): State<Front>) -> Result<Json<Value>, HttpError> {
    let rooms = front.rooms()?;
    let now = rooms.clock.now();
    let jobs: Vec<Value> = rooms.jobs.list().iter().map(|job| summary(now, job)).collect();
    Ok(Json(json!({ "jobs": jobs })))
}

fn summary(now: Timestamp, job: &JobStatus) -> Value {
    let started = job.started_at.0;
    let end = job.ended_at.map(|ended| ended.0);
    json!({
        "jid": job.id.0.as_ref(),
        "name": job.name,
        "state": job.state.name(),
        "start-time": started,
        "end-time": end.unwrap_or(-1),
        "duration": end.unwrap_or(now.0).saturating_sub(started).max(0),
        "last-modification": end.unwrap_or(started),
        "tasks": tasks(job),
    })
}

/// Flink's `ExecutionState` of a job's tasks: it knows no restart, there tasks wait for their turn.
fn task_state(job: JobState) -> &'static str {
    match job {
        JobState::Created | JobState::Restarting => "SCHEDULED",
        JobState::Running => "RUNNING",
        JobState::Failed => "FAILED",
        JobState::Canceled => "CANCELED",
        JobState::Finished => "FINISHED",
    }
}

/// How many of a job's tasks are in each of Flink's states. All follow the job's own.
fn tasks(job: &JobStatus) -> Value {
    const STATES: [&str; 10] = [
        "created",
        "scheduled",
        "deploying",
        "running",
        "finished",
        "canceling",
        "canceled",
        "failed",
        "reconciling",
        "initializing",
    ];
    let own = task_state(job.state).to_ascii_lowercase();
    let total = job.operators.len();
    let mut tasks = json!({ "total": total });
    for state in STATES {
        tasks[state] = json!(if state == own { total } else { 0 });
    }
    tasks
}

async fn details(
    State(front): State<Front>,
    Path(job): Path<String>,
) -> Result<Json<Value>, HttpError> {
    let rooms = front.rooms()?;
    let job = find(rooms, &job)?;
    let vertices: Vec<Value> = job
        .operators
        .iter()
        .map(|operator| {
            json!({
                "id": format!("{:032x}", operator.id),
                "name": operator.name,
                "status": task_state(job.state),
                "metrics": {
                    "read-records": operator.records_in,
                    "read-records-complete": true,
                    "write-records": operator.records_out,
                    "write-records-complete": true,
                },
            })
        })
        .collect();
    let positions: Vec<Value> = job
        .positions
        .iter()
        .map(|((topic, partition), offset)| {
            json!({ "topic": topic, "partition": partition, "offset": offset })
        })
        .collect();
    let now = rooms.clock.now();
    let mut body = summary(now, &job);
    body["isStoppable"] = json!(runs(job.state));
    body["now"] = json!(now.0);
    body["vertices"] = json!(vertices);
    // Flink has these in its metrics and exceptions resources; one look should do.
    body["attempt"] = json!(job.attempt);
    body["records-in"] = json!(job.records_in);
    body["records-out"] = json!(job.records_out);
    body["watermark"] = json!(job.watermark.map(|watermark| watermark.0));
    body["positions"] = json!(positions);
    body["failure"] = json!(job.failure);
    Ok(Json(body))
}

#[derive(Deserialize)]
struct Terminate {
    mode: Option<String>,
}

async fn terminate(
    State(front): State<Front>,
    Path(job): Path<String>,
    Query(query): Query<Terminate>,
) -> Result<(StatusCode, Json<Value>), HttpError> {
    match query.mode.as_deref() {
        None | Some("cancel") => {
            front.rooms()?.jobs.cancel(&job).await?;
            Ok((StatusCode::ACCEPTED, Json(json!({}))))
        }
        Some(mode) => Err(HttpError::bad_request(format!(
            "mode cannot be '{mode}': it must be cancel; to stop after a last checkpoint, \
             POST /jobs/{job}/stop"
        ))),
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StopRequest {
    target_directory: Option<String>,
    drain: bool,
}

async fn stop(
    State(front): State<Front>,
    Path(job): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), HttpError> {
    let request: StopRequest = gateway::parse(&body)?;
    if request.target_directory.is_some() || request.drain {
        return Err(HttpError::bad_request(
            "targetDirectory and drain are not implemented yet: a stop takes a last checkpoint",
        ));
    }
    let rooms = front.rooms()?.clone();
    find(&rooms, &job)?;
    let request = front.stops.begin(&job);
    let stops = front.stops.clone();
    let begun = request.clone();
    tokio::spawn(async move {
        let outcome = rooms.jobs.stop(&job).await;
        stops.end(&begun, outcome);
    });
    Ok((StatusCode::ACCEPTED, Json(json!({ "request-id": request }))))
}

async fn stop_status(
    State(front): State<Front>,
    Path((job, request)): Path<(String, String)>,
) -> Result<Json<Value>, HttpError> {
    match front.stops.outcome(&job, &request) {
        None => Err(HttpError::not_found(format!("job '{job}' has no request '{request}'"))),
        Some(None) => Ok(Json(json!({ "status": { "id": "IN_PROGRESS" } }))),
        Some(Some(Ok(()))) => {
            Ok(Json(json!({ "status": { "id": "COMPLETED" }, "operation": { "location": null } })))
        }
        Some(Some(Err(error))) => Ok(Json(json!({
            "status": { "id": "COMPLETED" },
            "operation": { "failure-cause": { "class": "JobError", "stack-trace": error.to_string() } },
        }))),
    }
}

async fn checkpoints(
    State(front): State<Front>,
    Path(job): Path<String>,
) -> Result<Json<Value>, HttpError> {
    let job = find(front.rooms()?, &job)?;
    let completed = job.checkpoint.as_ref().map(checkpoint);
    let history: Vec<&Value> = completed.iter().collect();
    Ok(Json(json!({
        "latest": { "completed": completed, "savepoint": null, "failed": null, "restored": null },
        "history": history,
    })))
}

fn checkpoint(checkpoint: &CheckpointStatus) -> Value {
    let took = i64::try_from(checkpoint.took.as_millis()).unwrap_or(i64::MAX);
    json!({
        "className": "completed",
        "id": checkpoint.epoch,
        "status": "COMPLETED",
        "is_savepoint": false,
        "checkpoint_type": "CHECKPOINT",
        "trigger_timestamp": checkpoint.triggered_at.0,
        "latest_ack_timestamp": checkpoint.triggered_at.0.saturating_add(took),
        "end_to_end_duration": took,
        "state_size": checkpoint.state_bytes,
        "discarded": false,
    })
}

async fn exceptions(
    State(front): State<Front>,
    Path(job): Path<String>,
) -> Result<Json<Value>, HttpError> {
    let job = find(front.rooms()?, &job)?;
    Ok(Json(json!({ "root-exception": job.failure, "truncated": false })))
}

fn find(rooms: &Rooms, job: &str) -> Result<JobStatus, HttpError> {
    rooms.jobs.status(job).ok_or_else(|| JobError::Unknown(job.to_owned()).into())
}

fn runs(state: JobState) -> bool {
    match state {
        JobState::Created | JobState::Running | JobState::Restarting => true,
        JobState::Failed | JobState::Canceled | JobState::Finished => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_stop_can_be_asked_for_its_outcome() {
        let stops = Stops::default();
        let request = stops.begin("job");
        assert_eq!(request.len(), 32);
        assert_eq!(stops.outcome("job", &request), Some(None));
        assert_eq!(stops.outcome("another job", &request), None);
        stops.end(&request, Err(JobError::Ended("job".to_owned())));
        assert!(matches!(stops.outcome("job", &request), Some(Some(Err(JobError::Ended(_))))));
    }

    #[test]
    fn old_stops_are_forgotten_first() {
        let stops = Stops::default();
        let requests: Vec<String> = (0..=Stops::REMEMBERED).map(|_| stops.begin("job")).collect();
        assert_eq!(stops.outcome("job", &requests[0]), None);
        assert_eq!(stops.outcome("job", &requests[1]), Some(None));
    }

    #[test]
    fn a_job_that_ended_grows_no_older() {
        let job = JobStatus {
            id: crate::stream::job::JobId("0af1".into()),
            name: "counts".to_owned(),
            state: JobState::Finished,
            started_at: Timestamp(1_000),
            ended_at: Some(Timestamp(4_000)),
            failure: None,
            attempt: 0,
            records_in: 0,
            records_out: 0,
            watermark: None,
            checkpoint: None,
            operators: Vec::new(),
            positions: std::collections::BTreeMap::new(),
        };
        let body = summary(Timestamp(9_000), &job);
        assert_eq!((&body["end-time"], &body["duration"]), (&json!(4_000), &json!(3_000)));
        assert_eq!(body["last-modification"], 4_000);
        assert_eq!(body["tasks"]["finished"], 0);

        let running = JobStatus { state: JobState::Running, ended_at: None, ..job };
        let body = summary(Timestamp(9_000), &running);
        assert_eq!((&body["end-time"], &body["duration"]), (&json!(-1), &json!(8_000)));
    }

    #[test]
    fn a_checkpoint_has_flinks_fields() {
        let body = checkpoint(&CheckpointStatus {
            epoch: 7,
            triggered_at: Timestamp(1_000),
            took: Duration::from_millis(20),
            state_bytes: 300,
        });
        assert_eq!(body["id"], 7);
        assert_eq!(body["status"], "COMPLETED");
        assert_eq!(body["latest_ack_timestamp"], 1_020);
        assert_eq!(body["end_to_end_duration"], 20);
        assert_eq!(body["state_size"], 300);
    }
}
