//! Errors as Flink's REST endpoints shape them: a status and `{"errors": [...]}`.

use axum::Json;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::listener::BODY_BYTES_MAX;
use crate::sql::SqlError;
use crate::stream::job::JobError;

/// More than the framework ever says.
const REFUSAL_BYTES_MAX: usize = 4096;

/// An answer that is not the one asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HttpError {
    status: StatusCode,
    message: String,
}

impl HttpError {
    pub(super) fn bad_request(message: impl Into<String>) -> HttpError {
        HttpError { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    pub(super) fn forbidden(message: impl Into<String>) -> HttpError {
        HttpError { status: StatusCode::FORBIDDEN, message: message.into() }
    }

    pub(super) fn not_found(message: impl Into<String>) -> HttpError {
        HttpError { status: StatusCode::NOT_FOUND, message: message.into() }
    }

    pub(super) fn unavailable(message: impl Into<String>) -> HttpError {
        HttpError { status: StatusCode::SERVICE_UNAVAILABLE, message: message.into() }
    }

    pub(super) fn internal(message: impl Into<String>) -> HttpError {
        HttpError { status: StatusCode::INTERNAL_SERVER_ERROR, message: message.into() }
    }

    pub(super) fn timeout(message: impl Into<String>) -> HttpError {
        HttpError { status: StatusCode::GATEWAY_TIMEOUT, message: message.into() }
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "errors": [self.message] }))).into_response()
    }
}

impl From<SqlError> for HttpError {
    fn from(error: SqlError) -> HttpError {
        let message = error.to_string();
        match error {
            SqlError::Statement { .. } => HttpError::bad_request(message),
            SqlError::UnknownSession(_)
            | SqlError::UnknownOperation(_)
            | SqlError::UnknownToken(_) => HttpError::not_found(message),
            SqlError::Job(_) => HttpError::internal(message),
        }
    }
}

impl From<JobError> for HttpError {
    fn from(error: JobError) -> HttpError {
        let message = error.to_string();
        match error {
            JobError::Unknown(_) => HttpError::not_found(message),
            JobError::Ended(_) => HttpError { status: StatusCode::CONFLICT, message },
            JobError::Failed(_) => HttpError::internal(message),
        }
    }
}

/// Gives the framework's own refusals (a body too large, a path that does not parse) the shape of
/// all others.
pub(super) async fn in_flinks_shape(response: Response) -> Response {
    let status = response.status();
    let is_json = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !status.is_client_error() || is_json {
        return response;
    }
    let told = axum::body::to_bytes(response.into_body(), REFUSAL_BYTES_MAX).await;
    let message = match status {
        StatusCode::PAYLOAD_TOO_LARGE => {
            format!("the body is too large: at most {BODY_BYTES_MAX} bytes are taken")
        }
        _ => told.map(|told| String::from_utf8_lossy(&told).into_owned()).unwrap_or_default(),
    };
    HttpError { status, message }.into_response()
}

pub(super) async fn no_such_path(uri: Uri) -> HttpError {
    HttpError::not_found(format!(
        "there is nothing at {}; see /readyz, /metrics, /v1/info and /jobs/overview",
        uri.path()
    ))
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> HttpError {
    HttpError {
        status: StatusCode::METHOD_NOT_ALLOWED,
        message: format!("{} does not take {method}", uri.path()),
    }
}
