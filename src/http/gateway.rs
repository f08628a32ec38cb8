//! SQL in the shape of Flink's SQL Gateway REST, v1 and v2 (FLIP-91, FLIP-275).
//!
//! v2 adds `configure-session` and `rowFormat=PLAIN_TEXT`. Gaps: `complete-statement` knows no
//! completions, `executionTimeout` and `executionConfig` are refused.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Front;
use super::error::HttpError;
use crate::sql::{Gateway, OperationStatus, Page, SqlError};
use crate::stream::operator::RowKind;

/// How long a fetch waits for rows before it answers `NOT_READY`.
const FETCH_WAIT: Duration = Duration::from_millis(500);

pub(super) fn routes() -> Router<Front> {
    Router::new()
        .route("/api_versions", get(api_versions))
        .nest("/v1", versioned("v1"))
        .nest("/v2", versioned("v2").merge(since_v2()))
}

fn versioned(version: &'static str) -> Router<Front> {
    let fetch = move |state: State<Front>, path: Path<(String, String, u64)>, query| {
        fetch(version, state, path, query)
    };
    Router::new()
        .route("/api_versions", get(api_versions))
        .route("/info", get(info))
        .route("/sessions", post(open_session))
        .route("/sessions/{session}", get(session_config).delete(close_session))
        .route("/sessions/{session}/heartbeat", post(heartbeat))
        .route("/sessions/{session}/statements", post(execute))
        // Flink's own documentation posts to this path with a slash at its end.
        .route("/sessions/{session}/statements/", post(execute))
        .route("/sessions/{session}/operations/{operation}/status", get(status))
        .route("/sessions/{session}/operations/{operation}/cancel", post(cancel))
        .route("/sessions/{session}/operations/{operation}/close", delete(close_operation))
        .route("/sessions/{session}/operations/{operation}/result/{token}", get(fetch))
}

fn since_v2() -> Router<Front> {
    Router::new()
        .route("/sessions/{session}/configure-session", post(configure_session))
        .route("/sessions/{session}/complete-statement", get(complete_statement))
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OpenSession {
    properties: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Statement {
    statement: String,
    execution_timeout: Option<i64>,
    execution_config: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FetchQuery {
    row_format: Option<String>,
}

/// How fields of a row are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowFormat {
    Json,
    PlainText,
}

async fn api_versions() -> Json<Value> {
    Json(json!({ "versions": ["V1", "V2"] }))
}

async fn info() -> Json<Value> {
    Json(json!({ "productName": "Ottla", "version": env!("CARGO_PKG_VERSION") }))
}

async fn open_session(State(front): State<Front>, body: Bytes) -> Result<Json<Value>, HttpError> {
    let request: OpenSession = parse(&body)?;
    let session = front.rooms()?.gateway.open_session(request.properties.unwrap_or_default())?;
    Ok(Json(json!({ "sessionHandle": session.to_string() })))
}

async fn session_config(
    State(front): State<Front>,
    Path(session): Path<String>,
) -> Result<Json<Value>, HttpError> {
    let properties = front.rooms()?.gateway.session(session_handle(&session)?)?;
    Ok(Json(json!({ "properties": properties })))
}

async fn close_session(
    State(front): State<Front>,
    Path(session): Path<String>,
) -> Result<Json<Value>, HttpError> {
    front.rooms()?.gateway.close_session(session_handle(&session)?)?;
    Ok(Json(json!({ "status": "CLOSED" })))
}

async fn heartbeat(
    State(front): State<Front>,
    Path(session): Path<String>,
) -> Result<Json<Value>, HttpError> {
    // Any use of a session keeps it alive.
    front.rooms()?.gateway.session(session_handle(&session)?)?;
    Ok(Json(json!({})))
}

async fn execute(
    State(front): State<Front>,
    Path(session): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, HttpError> {
    let statement = statement(&body)?;
    let session = session_handle(&session)?;
    let operation = front.rooms()?.gateway.execute(session, &statement).await?;
    Ok(Json(json!({ "operationHandle": operation.to_string() })))
}

/// Runs a statement to its end, for what a client does before its first query.
async fn configure_session(
    State(front): State<Front>,
    Path(session): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, HttpError> {
    let statement = statement(&body)?;
    let session = session_handle(&session)?;
    let gateway = &front.rooms()?.gateway;
    let operation = gateway.execute(session, &statement).await?;
    let outcome = gateway.fetch(session, operation, 0).await;
    gateway.close_operation(session, operation).await?;
    outcome?;
    Ok(Json(json!({})))
}

async fn complete_statement(
    State(front): State<Front>,
    Path(session): Path<String>,
) -> Result<Json<Value>, HttpError> {
    front.rooms()?.gateway.session(session_handle(&session)?)?;
    Ok(Json(json!({ "candidates": [] })))
}

async fn status(
    State(front): State<Front>,
    Path((session, operation)): Path<(String, String)>,
) -> Result<Json<Value>, HttpError> {
    let (session, operation) = handles(&session, &operation)?;
    let status = front.rooms()?.gateway.status(session, operation)?;
    Ok(Json(json!({ "status": status_name(status) })))
}

async fn cancel(
    State(front): State<Front>,
    Path((session, operation)): Path<(String, String)>,
) -> Result<Json<Value>, HttpError> {
    let (session, operation) = handles(&session, &operation)?;
    front.rooms()?.gateway.close_operation(session, operation).await?;
    Ok(Json(json!({ "status": "CANCELED" })))
}

async fn close_operation(
    State(front): State<Front>,
    Path((session, operation)): Path<(String, String)>,
) -> Result<Json<Value>, HttpError> {
    let (session, operation) = handles(&session, &operation)?;
    front.rooms()?.gateway.close_operation(session, operation).await?;
    Ok(Json(json!({ "status": "CLOSED" })))
}

async fn fetch(
    version: &'static str,
    State(front): State<Front>,
    Path((session, operation, token)): Path<(String, String, u64)>,
    Query(query): Query<FetchQuery>,
) -> Result<Json<Value>, HttpError> {
    let format = row_format(query.row_format.as_deref())?;
    let (session, operation) = handles(&session, &operation)?;
    let gateway = &front.rooms()?.gateway;
    let uri = |token: u64| {
        format!(
            "/{version}/sessions/{session}/operations/{operation}/result/{token}?rowFormat={}",
            if format == RowFormat::Json { "JSON" } else { "PLAIN_TEXT" }
        )
    };
    match next_page(gateway, session, operation, token).await? {
        None => Ok(Json(json!({ "resultType": "NOT_READY", "nextResultUri": uri(token) }))),
        Some(page) => Ok(Json(page_body(&page, format, page.next.map(uri)))),
    }
}

/// `None` while there is nothing to show yet: the client asks again.
async fn next_page(
    gateway: &Gateway,
    session: Uuid,
    operation: Uuid,
    token: u64,
) -> Result<Option<Page>, SqlError> {
    match tokio::time::timeout(FETCH_WAIT, gateway.fetch(session, operation, token)).await {
        Ok(page) => page.map(Some),
        Err(_) => Ok(None),
    }
}

fn page_body(page: &Page, format: RowFormat, next: Option<String>) -> Value {
    let columns: Vec<Value> = page
        .columns
        .iter()
        .map(|column| {
            json!({ "name": column.name, "logicalType": column.logical_type, "comment": null })
        })
        .collect();
    let data: Vec<Value> = page
        .rows
        .iter()
        .map(|(kind, fields)| {
            let fields: Vec<Value> = fields.iter().map(|field| cell(field, format)).collect();
            json!({ "kind": row_kind_name(*kind), "fields": fields })
        })
        .collect();
    let mut body = json!({
        "resultType": if next.is_some() { "PAYLOAD" } else { "EOS" },
        "isQueryResult": page.is_query,
    });
    if let Some(job) = &page.job {
        body["jobID"] = json!(job.0.as_ref());
    }
    body["resultKind"] = json!(if page.has_content { "SUCCESS_WITH_CONTENT" } else { "SUCCESS" });
    body["results"] = json!({
        "columns": columns,
        "rowFormat": if format == RowFormat::Json { "JSON" } else { "PLAIN_TEXT" },
        "data": data,
    });
    if let Some(next) = next {
        body["nextResultUri"] = json!(next);
    }
    body
}

fn cell(field: &Value, format: RowFormat) -> Value {
    match (format, field) {
        (RowFormat::Json, _) | (_, Value::Null | Value::String(_)) => field.clone(),
        (RowFormat::PlainText, Value::Bool(true)) => json!("TRUE"),
        (RowFormat::PlainText, Value::Bool(false)) => json!("FALSE"),
        (RowFormat::PlainText, other) => json!(other.to_string()),
    }
}

fn row_kind_name(kind: RowKind) -> &'static str {
    match kind {
        RowKind::Insert => "INSERT",
        RowKind::UpdateBefore => "UPDATE_BEFORE",
        RowKind::UpdateAfter => "UPDATE_AFTER",
        RowKind::Delete => "DELETE",
    }
}

fn status_name(status: OperationStatus) -> &'static str {
    match status {
        OperationStatus::Running => "RUNNING",
        OperationStatus::Finished => "FINISHED",
        OperationStatus::Canceled => "CANCELED",
        OperationStatus::Error => "ERROR",
    }
}

fn row_format(name: Option<&str>) -> Result<RowFormat, HttpError> {
    match name {
        None | Some("JSON") => Ok(RowFormat::Json),
        Some("PLAIN_TEXT") => Ok(RowFormat::PlainText),
        Some(other) => Err(HttpError::bad_request(format!(
            "rowFormat cannot be '{other}': it must be JSON or PLAIN_TEXT"
        ))),
    }
}

fn statement(body: &[u8]) -> Result<String, HttpError> {
    let request: Statement = parse(body)?;
    if request.execution_timeout.is_some_and(|timeout| timeout > 0) {
        return Err(HttpError::bad_request(
            "executionTimeout is not implemented yet; leave it out and close the operation instead",
        ));
    }
    if request.execution_config.is_some_and(|config| !config.is_empty()) {
        return Err(HttpError::bad_request(
            "executionConfig is not implemented yet; use SET statements or session properties",
        ));
    }
    if request.statement.trim().is_empty() {
        return Err(HttpError::bad_request("the body has no statement"));
    }
    Ok(request.statement)
}

/// A body's JSON, or the default for an empty body. Bodies are read whatever their content type:
/// Flink's own examples post JSON as a form.
pub(super) fn parse<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, HttpError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| {
        HttpError::bad_request(format!("the body is not the JSON asked for: {error}"))
    })
}

fn session_handle(text: &str) -> Result<Uuid, HttpError> {
    text.parse().map_err(|_| SqlError::UnknownSession(text.to_owned()).into())
}

fn handles(session: &str, operation: &str) -> Result<(Uuid, Uuid), HttpError> {
    let session = session_handle(session)?;
    match operation.parse() {
        Ok(operation) => Ok((session, operation)),
        Err(_) => Err(SqlError::UnknownOperation(operation.to_owned()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::Column;
    use crate::stream::job::JobId;

    fn page(next: Option<u64>) -> Page {
        Page {
            has_content: true,
            is_query: true,
            columns: vec![Column {
                name: "n".to_owned(),
                logical_type: json!({ "type": "BIGINT", "nullable": true }),
            }],
            rows: vec![(RowKind::UpdateAfter, vec![json!(7)])],
            job: Some(JobId("0af1".into())),
            next,
        }
    }

    #[test]
    fn a_page_has_flinks_shape() {
        assert_eq!(
            page_body(&page(Some(1)), RowFormat::Json, Some("/v1/next".to_owned())),
            json!({
                "resultType": "PAYLOAD",
                "isQueryResult": true,
                "jobID": "0af1",
                "resultKind": "SUCCESS_WITH_CONTENT",
                "results": {
                    "columns": [{
                        "name": "n",
                        "logicalType": { "type": "BIGINT", "nullable": true },
                        "comment": null,
                    }],
                    "rowFormat": "JSON",
                    "data": [{ "kind": "UPDATE_AFTER", "fields": [7] }],
                },
                "nextResultUri": "/v1/next",
            })
        );
    }

    #[test]
    fn the_last_page_has_no_next_one() {
        let body = page_body(&page(None), RowFormat::Json, None);
        assert_eq!(body["resultType"], "EOS");
        assert_eq!(body.get("nextResultUri"), None);
    }

    #[test]
    fn plain_text_writes_every_field_as_text() {
        let fields = [json!(7), json!(true), json!(null), json!("x"), json!([1, 2])];
        let cells: Vec<Value> =
            fields.iter().map(|field| cell(field, RowFormat::PlainText)).collect();
        assert_eq!(json!(cells), json!(["7", "TRUE", null, "x", "[1,2]"]));
        assert_eq!(row_format(Some("PLAIN_TEXT")), Ok(RowFormat::PlainText));
        assert!(row_format(Some("XML")).is_err());
    }

    #[test]
    fn bodies_may_be_empty_or_carry_more_than_is_asked_for() {
        assert!(parse::<OpenSession>(b"").unwrap().properties.is_none());
        let body = br#"{"sessionName": "x", "properties": {"a": "b"}, "more": 1}"#;
        assert_eq!(parse::<OpenSession>(body).unwrap().properties.unwrap()["a"], "b");
    }

    #[test]
    fn handles_that_are_none_are_unknown_rather_than_malformed() {
        assert_eq!(
            session_handle("x").unwrap_err(),
            HttpError::not_found("session 'x' does not exist or has expired; open a new one")
        );
    }
}
