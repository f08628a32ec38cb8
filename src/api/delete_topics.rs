//! DeleteTopics (key 20), v1-6: deletes topics with their records.
//!
//! v5 adds error messages, v6 deletes by id (KIP-516). `timeout_ms` is not needed. Gaps: none.

use std::collections::BTreeSet;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{ApiKey, DeleteTopicsRequest, DeleteTopicsResponse};

use super::call::{Api, Outcome, first_error};
use super::error::Refused;
use super::{Context, Request, wire_name, wire_text};
use crate::catalog::CatalogError;
use crate::types::TopicId;

pub(super) const API: Api = Api::ordered(ApiKey::DeleteTopics, 1..=6);

impl Outcome for DeleteTopicsResponse {
    fn error(&self) -> i16 {
        first_error(self.responses.iter().map(|topic| topic.error_code))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let version = request.version;
    let asked = if version >= 6 {
        body.topics
    } else {
        let names = body.topic_names.into_iter();
        names.map(|name| DeleteTopicState::default().with_name(Some(name))).collect()
    };
    let mut seen = BTreeSet::new();
    let mut results = Vec::with_capacity(asked.len());
    for topic in &asked {
        if !seen.insert((topic.name.as_ref().map(|name| name.as_str()), topic.topic_id)) {
            continue;
        }
        let mut result = DeletableTopicResult::default().with_name(topic.name.clone());
        if version >= 6 {
            result.topic_id = topic.topic_id;
        }
        match delete(ctx, topic).await {
            Ok((name, id)) => {
                result.name = Some(name);
                if version >= 6 {
                    result.topic_id = id.0;
                }
            }
            Err(refused) => {
                result.error_code = refused.error.code();
                if version >= 5 {
                    result.error_message = Some(wire_text(&refused.reason));
                }
            }
        }
        results.push(result);
    }
    DeleteTopicsResponse::default().with_responses(results)
}

async fn delete(
    ctx: &Context,
    asked: &DeleteTopicState,
) -> Result<(kafka_protocol::messages::TopicName, TopicId), Refused> {
    let snapshot = ctx.catalog.snapshot();
    let topic = match &asked.name {
        Some(_) if !asked.topic_id.is_nil() => {
            let reason = "You may not specify both topic name and topic id.";
            return Err(Refused::new(ResponseError::InvalidRequest, reason));
        }
        Some(name) => {
            snapshot.topic(name.as_str()).ok_or_else(|| CatalogError::UnknownName(name.to_string()))
        }
        None if asked.topic_id.is_nil() => {
            let reason = "Neither topic name nor id were specified.";
            return Err(Refused::new(ResponseError::InvalidRequest, reason));
        }
        None => {
            let id = TopicId(asked.topic_id);
            snapshot.topic_by_id(id).ok_or(CatalogError::UnknownId(id))
        }
    };
    let topic = topic?;
    ctx.catalog.delete(topic.id).await?;
    ctx.meter.forget_topic(topic.id);
    tracing::info!(topic = %topic.name, id = %topic.id, "topic deleted");
    Ok((wire_name(&topic.name), topic.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::fixture::Bench;

    fn by_id(id: TopicId) -> DeleteTopicState {
        DeleteTopicState::default().with_name(None).with_topic_id(id.0)
    }

    fn by_name(name: &str) -> DeleteTopicState {
        DeleteTopicState::default().with_name(Some(wire_text(name).into()))
    }

    #[tokio::test]
    async fn every_version_deletes_by_name() {
        let bench = Bench::start().await;
        for version in 1..=6 {
            let topic = bench.topic("doomed", 2).await;
            let mut request = DeleteTopicsRequest::default();
            if version >= 6 {
                request.topics = vec![by_name("doomed")];
            } else {
                request.topic_names = vec![wire_name(&topic.name)];
            }
            let answer = bench.call(version, request).await;
            let [gone] = answer.responses.as_slice() else { panic!("{:?}", answer.responses) };
            assert_eq!((gone.error_code, gone.name.as_ref().unwrap().as_str()), (0, "doomed"));
            assert!(bench.ctx.catalog.snapshot().topic("doomed").is_none());
        }
    }

    #[tokio::test]
    async fn ids_names_and_neither_are_told_apart() {
        let bench = Bench::start().await;
        let topic = bench.topic("doomed", 1).await;
        let both = by_id(topic.id).with_name(Some(wire_name(&topic.name)));
        let asked = vec![
            both,
            DeleteTopicState::default().with_name(None),
            by_id(topic.id),
            by_id(TopicId::random()),
            by_name("nowhere"),
        ];
        let answer = bench.call(6, DeleteTopicsRequest::default().with_topics(asked)).await;
        let codes: Vec<i16> = answer.responses.iter().map(|topic| topic.error_code).collect();
        assert_eq!(codes, [42, 42, 0, 100, 3]);
    }
}
