//! The HTTP client of `ottla sql` and `ottla job`.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;
use ureq::Agent;
use ureq::http::Response;

/// Longer than any request may take in the broker.
const TIME_MAX: Duration = Duration::from_secs(60);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// Talks to one broker's HTTP side.
pub(super) struct Client {
    agent: Agent,
    url: String,
}

impl Client {
    /// `url` may leave out `http://`: the ready line names the address without it.
    pub(super) fn new(url: &str) -> Client {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIME_MAX))
            .timeout_global(Some(TIME_MAX))
            // The broker is named by its address: a proxy for the web has no business here.
            .proxy(None)
            .build()
            .new_agent();
        let scheme = if url.contains("://") { "" } else { "http://" };
        Client { agent, url: format!("{scheme}{}", url.trim_end_matches('/')) }
    }

    pub(super) fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.answer(self.agent.get(self.at(path)).call())
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.answer(self.agent.post(self.at(path)).send_json(body))
    }

    pub(super) fn patch(&self, path: &str) -> anyhow::Result<Value> {
        self.answer(self.agent.patch(self.at(path)).send_empty())
    }

    pub(super) fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.answer(self.agent.delete(self.at(path)).call())
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn answer(&self, response: Result<Response<ureq::Body>, ureq::Error>) -> anyhow::Result<Value> {
        let mut response = response.map_err(|error| {
            anyhow!(
                "no broker answers at {}: {error}; start one with 'ottla serve' or name it with --url",
                self.url
            )
        })?;
        let status = response.status();
        let text = response
            .body_mut()
            .read_to_string()
            .with_context(|| format!("the answer from {} broke off", self.url))?;
        let body: Value = serde_json::from_str(&text).map_err(|_| {
            anyhow!("{} answered {status} without JSON; is it Ottla's HTTP address?", self.url)
        })?;
        if !status.is_success() {
            let errors: Vec<&str> =
                body["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            if errors.is_empty() {
                bail!("{} answered {status}", self.url);
            }
            bail!("{}", errors.join("; "));
        }
        Ok(body)
    }
}

/// The items of a JSON array; none of what is no array.
pub(super) fn items(array: &Value) -> impl Iterator<Item = &Value> {
    array.as_array().into_iter().flatten()
}
