//! Keeps web pages out. There is no authentication yet, and a browser on the same machine would
//! happily post SQL to a loopback port for any page it shows, or for a name that a page's owner
//! resolves to 127.0.0.1.

use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::HttpError;

/// For every listener: a page may only talk to the address it came from.
pub(super) async fn same_origin(request: Request, next: Next) -> Response {
    match check_origin(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// For loopback listeners: a name other than localhost was resolved by somebody else.
pub(super) async fn no_foreign_names(request: Request, next: Next) -> Response {
    match check_host(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check_origin(headers: &HeaderMap) -> Result<(), HttpError> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let origin = origin.as_ref().and_then(Uri::authority);
    if origin.is_some() && origin == authority(headers, HOST).as_ref() {
        return Ok(());
    }
    Err(HttpError::forbidden("web pages of other origins may not use this address"))
}

fn check_host(headers: &HeaderMap) -> Result<(), HttpError> {
    // HTTP/1.0 may leave it out; browsers never do.
    if headers.get(HOST).is_none() {
        return Ok(());
    }
    let host = authority(headers, HOST);
    let name = host.as_ref().map_or("", Authority::host);
    let address = name.trim_start_matches('[').trim_end_matches(']');
    if name.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    Err(HttpError::forbidden(format!(
        "host '{name}' is not served here: http.listen is a loopback address, use it or localhost"
    )))
}

fn authority(headers: &HeaderMap, name: HeaderName) -> Option<Authority> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(host: &'static str, origin: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn programs_and_the_brokers_own_pages_are_let_through() {
        assert!(check_origin(&headers("localhost:9644", None)).is_ok());
        assert!(check_origin(&headers("localhost:9644", Some("http://localhost:9644"))).is_ok());
        for host in ["localhost:9644", "127.0.0.1:1", "[::1]:9644", "10.0.0.7:9644", "LOCALHOST"] {
            assert!(check_host(&headers(host, None)).is_ok(), "{host}");
        }
        assert!(check_host(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn other_pages_are_kept_out() {
        for origin in ["https://evil.example", "null", "http://localhost:8080", "x y"] {
            assert!(check_origin(&headers("localhost:9644", Some(origin))).is_err(), "{origin}");
        }
    }

    #[test]
    fn names_that_somebody_else_resolves_are_kept_out() {
        for host in ["evil.example:9644", "localhost.evil.example", ":", ""] {
            assert!(check_host(&headers(host, None)).is_err(), "{host}");
        }
    }
}
