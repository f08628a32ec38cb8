//! DeleteTopics (key 20), v1-6: deletes topics with their records.
//!
//! v5 adds error messages, v6 deletes by id (KIP-516). `timeout_ms` is not needed. Gaps: none.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{ApiKey, DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use uuid::Uuid;

use super::access::{Cluster, Topic, Topics, Unreachable};
use super::call::{Api, Outcome, first_error};
use super::error::Refused;
use super::{Context, Request, wire_name, wire_text};
use crate::metadata::MetadataError;
use crate::security::{Authorized, Denied, op};
use crate::types::TopicId;

pub(super) const API: Api = Api::ordered(ApiKey::DeleteTopics, 1..=6);

impl Outcome for DeleteTopicsResponse {
    fn error(&self) -> i16 {
        first_error(self.responses.iter().map(|topic| topic.error_code))
    }
}

/// One answer of the response: a topic to delete, or why there is none.
struct Deletion<'a> {
    /// As the client named it.
    name: Option<TopicName>,
    /// Where the client named it, or its name led to it.
    id: Option<Uuid>,
    topic: Result<Authorized<Topic<'a>, op::Delete>, Refused>,
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
    let access = ctx.access(request);
    let cluster = access.cluster::<op::Delete>();
    let known = access.topics();
    let targets = targets(&known, &cluster, &asked);
    let mut results = Vec::with_capacity(targets.len());
    for Deletion { name, id, topic } in targets {
        let mut result = DeletableTopicResult::default().with_name(name);
        let outcome = match topic {
            Ok(topic) => {
                result.name = Some(wire_name(&topic.name));
                delete(ctx, &topic).await
            }
            Err(refused) => Err(refused),
        };
        if version >= 6 {
            result.topic_id = id.unwrap_or_default();
        }
        if let Err(refused) = outcome {
            result.error_code = refused.error.code();
            if version >= 5 {
                result.error_message = Some(wire_text(&refused.reason));
            }
        }
        results.push(result);
    }
    DeleteTopicsResponse::default().with_responses(results)
}

/// What a request asks to delete. A topic that it names twice, in whatever way, is not deleted: the
/// client can hardly have meant that, and would be told of an unknown topic for the second name.
///
/// A client that may not delete a topic is told no more of it than it brings: its name or its id, and the
/// name for an id if it may describe the topic.
fn targets<'a>(
    known: &'a Topics<'_>,
    cluster: &Result<Authorized<Cluster<'_>, op::Delete>, Denied>,
    asked: &[DeleteTopicState],
) -> Vec<Deletion<'a>> {
    let refuse = |name: Option<&TopicName>, id, reason: &str| Deletion {
        name: name.cloned(),
        id,
        topic: Err(Refused::new(ResponseError::InvalidRequest, reason)),
    };
    let mut targets = Vec::with_capacity(asked.len());
    let mut names: BTreeMap<&str, (&TopicName, u32)> = BTreeMap::new();
    let mut ids: BTreeMap<Uuid, u32> = BTreeMap::new();
    for topic in asked {
        let id = Some(topic.topic_id).filter(|id| !id.is_nil());
        match (&topic.name, id) {
            (Some(name), None) => names.entry(name.as_str()).or_insert((name, 0)).1 += 1,
            (Some(name), id) => {
                let reason = "You may not specify both topic name and topic id.";
                targets.push(refuse(Some(name), id, reason));
            }
            (None, None) => {
                let reason = "Neither topic name nor id were specified.";
                targets.push(refuse(None, None, reason));
            }
            (None, Some(id)) => *ids.entry(id).or_insert(0) += 1,
        }
    }
    // Topics that a name and an id stand for.
    let mut named_both_ways = BTreeSet::new();
    for (text, (name, times)) in names {
        if times > 1 {
            targets.push(refuse(Some(name), None, "Duplicate topic name."));
            continue;
        }
        let name = Some(name.clone());
        let described = known.named_within::<_, op::Describe>(cluster, text);
        let topic = described.and_then(|_| known.named_within(cluster, text));
        targets.push(match topic {
            Ok(topic) if ids.contains_key(&topic.id.0) => {
                named_both_ways.insert(topic.id.0);
                let reason = "The provided topic name maps to an ID that was already supplied.";
                refuse(name.as_ref(), Some(topic.id.0), reason)
            }
            Ok(topic) => Deletion { name, id: Some(topic.id.0), topic: Ok(topic) },
            Err(unreachable) => {
                let refused = match unreachable {
                    Unreachable::Denied(denied) => denied.into(),
                    _ => MetadataError::UnknownName(text.to_owned()).into(),
                };
                Deletion { name, id: None, topic: Err(refused) }
            }
        });
    }
    for (id, times) in ids {
        if times > 1 {
            targets.push(refuse(None, Some(id), "Duplicate topic id."));
        } else if !named_both_ways.contains(&id) {
            let described = known.with_id_within::<_, op::Describe>(cluster, TopicId(id));
            let topic = known.with_id_within(cluster, TopicId(id));
            let topic = topic.map_err(|unreachable| match unreachable {
                Unreachable::Denied(denied) => denied.into(),
                _ => MetadataError::UnknownId(TopicId(id)).into(),
            });
            let name = described.ok().filter(|_| topic.is_err());
            let name = name.map(|topic| wire_name(&topic.name));
            targets.push(Deletion { name, id: Some(id), topic });
        }
    }
    targets
}

async fn delete(ctx: &Context, topic: &Authorized<Topic<'_>, op::Delete>) -> Result<(), Refused> {
    topic.delete().await?;
    ctx.meter.forget_topic(topic.id);
    tracing::info!(topic = %topic.name, id = %topic.id, "topic deleted");
    Ok(())
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
            assert!(bench.metadata.image().topic("doomed").is_none());
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
        assert_eq!(codes.len(), 5);
        for code in [0, 3, 100] {
            assert_eq!(codes.iter().filter(|told| **told == code).count(), 1, "{codes:?}");
        }
        assert_eq!(codes.iter().filter(|told| **told == 42).count(), 2, "{codes:?}");
    }

    #[tokio::test]
    async fn a_topic_that_is_named_twice_stays() {
        let bench = Bench::start().await;
        let topic = bench.topic("clicks", 1).await;
        let (name, id) = (|| by_name("clicks"), || by_id(topic.id));
        let told = |answer: &DeleteTopicsResponse| {
            let topics = answer.responses.iter();
            let mut told: Vec<_> = topics
                .map(|topic| {
                    let name = topic.name.as_ref().map(|name| name.to_string());
                    (name, topic.topic_id, topic.error_code)
                })
                .collect();
            told.sort();
            told
        };
        let text = Some("clicks".to_owned());
        let by_two_names = (text.clone(), Uuid::nil(), 42);
        let by_two_ids = (None, topic.id.0, 42);
        let both_ways = (text.clone(), topic.id.0, 42);
        for (asked, expected) in [
            (vec![name(), name(), name()], vec![by_two_names]),
            (vec![id(), id()], vec![by_two_ids.clone()]),
            (vec![id(), name()], vec![both_ways.clone()]),
            (vec![name(), id(), id()], vec![by_two_ids, both_ways]),
        ] {
            let answer = bench.call(6, DeleteTopicsRequest::default().with_topics(asked)).await;
            assert_eq!(told(&answer), expected);
        }
        // v1-5 have names only, and a topic without fault is deleted all the same.
        bench.topic("other", 1).await;
        let names = ["clicks", "other", "clicks"].map(|name| wire_text(name).into());
        let request = DeleteTopicsRequest::default().with_topic_names(names.to_vec());
        let other = (Some("other".to_owned()), Uuid::nil(), 0);
        assert_eq!(told(&bench.call(5, request).await), [(text.clone(), Uuid::nil(), 42), other]);
        // Where the name is refused for its own sake, the id stands alone, as in Kafka.
        let asked = DeleteTopicsRequest::default().with_topics(vec![name(), name(), id()]);
        let deleted = (text.clone(), topic.id.0, 0);
        assert_eq!(told(&bench.call(6, asked).await), [(text, Uuid::nil(), 42), deleted]);
    }
}
