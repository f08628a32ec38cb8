//! Errors as Flink's REST endpoints shape them: a status and `{"errors": [...]}`.

use axum::Json;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::sql::SqlError;
use crate::stream::job::JobError;

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
