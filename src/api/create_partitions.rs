//! CreatePartitions (key 37), v0-3: raises the number of a topic's partitions.
//!
//! A manual assignment must name this broker alone, once per new partition. `timeout_ms` is not
//! needed. Gaps: none.

use std::collections::BTreeSet;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{ApiKey, CreatePartitionsRequest, CreatePartitionsResponse};

use super::access::{Topics, Unreachable};
use super::call::{Api, Outcome, first_error};
use super::create_topics::{NEW_PARTITIONS_MAX, too_many};
use super::error::Refused;
use super::{Context, Request, wire_text};
use crate::metadata::MetadataError;
use crate::security::op;

pub(super) const API: Api = Api::ordered(ApiKey::CreatePartitions, 0..=3);

impl Outcome for CreatePartitionsResponse {
    fn error(&self) -> i16 {
        first_error(self.results.iter().map(|topic| topic.error_code))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let known = ctx.access(request).topics();
    let repeated = super::repeated(body.topics.iter().map(|topic| topic.name.as_str()));
    let mut answered = BTreeSet::new();
    let mut sum = 0;
    let mut results = Vec::with_capacity(body.topics.len());
    for topic in &body.topics {
        if !answered.insert(topic.name.as_str()) {
            continue;
        }
        let outcome = if repeated.contains(topic.name.as_str()) {
            let reason = "Duplicate topic name in request.";
            Err(Refused::new(ResponseError::InvalidRequest, reason))
        } else {
            add(ctx, &known, topic, &mut sum, body.validate_only).await
        };
        let result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
        results.push(match outcome {
            Ok(()) => result,
            Err(refused) => result
                .with_error_code(refused.error.code())
                .with_error_message(Some(wire_text(&refused.reason))),
        });
    }
    CreatePartitionsResponse::default().with_results(results)
}

/// `sum` is how many partitions the request has added so far: past the most that one may, the rest of
/// its topics is refused, as by Kafka.
async fn add(
    ctx: &Context,
    known: &Topics<'_>,
    asked: &CreatePartitionsTopic,
    sum: &mut u64,
    validate_only: bool,
) -> Result<(), Refused> {
    let topic = match known.named::<op::Alter>(&asked.name) {
        Ok(topic) => topic,
        Err(Unreachable::Denied(denied)) => return Err(denied.into()),
        Err(_) => return Err(MetadataError::UnknownName(asked.name.to_string()).into()),
    };
    let Ok(count) = u32::try_from(asked.count) else {
        let reason = format!("The topic cannot have {} partitions.", asked.count);
        return Err(Refused::new(ResponseError::InvalidPartitions, reason));
    };
    topic.check_add_partitions(count).await?;
    let added = count.saturating_sub(topic.partitions);
    let so_many = *sum + u64::from(added);
    if so_many > NEW_PARTITIONS_MAX {
        return Err(too_many(so_many));
    }
    if let Some(assignments) = &asked.assignments {
        let node = ctx.config.node_id;
        let alone =
            assignments.iter().all(|a| matches!(a.broker_ids[..], [only] if only.0 == node));
        if !alone || assignments.len() != added as usize {
            let reason = format!(
                "The assignment must name broker {node} alone for each of the {added} new partitions."
            );
            return Err(Refused::new(ResponseError::InvalidReplicaAssignment, reason));
        }
    }
    *sum = so_many;
    if !validate_only {
        topic.add_partitions(count).await?;
        tracing::info!(topic = %topic.name, partitions = count, "partitions added");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::BrokerId;
    use kafka_protocol::messages::create_partitions_request::CreatePartitionsAssignment;

    use super::*;
    use crate::api::tests::fixture::Bench;

    fn grow(name: &str, count: i32) -> CreatePartitionsTopic {
        CreatePartitionsTopic::default()
            .with_name(wire_text(name).into())
            .with_count(count)
            .with_assignments(None)
    }

    fn ask(topics: Vec<CreatePartitionsTopic>) -> CreatePartitionsRequest {
        CreatePartitionsRequest::default().with_topics(topics)
    }

    #[tokio::test]
    async fn every_version_adds_partitions_that_take_records() {
        let bench = Bench::start().await;
        let topic = bench.topic("clicks", 1).await;
        for version in 0..=3 {
            let count = i32::from(version) + 2;
            let answer = bench.call(version, ask(vec![grow("clicks", count)])).await;
            assert_eq!(answer.results[0].error_code, 0);
            let last = crate::types::PartitionId(count as u32 - 1);
            assert!(bench.metadata.log(topic.id, last).is_some());
        }
    }

    #[tokio::test]
    async fn counts_and_assignments_that_do_not_fit_are_refused() {
        let bench = Bench::start().await;
        bench.topic("clicks", 2).await;
        let assigned = |broker| {
            let assignment =
                CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(broker)]);
            grow("clicks", 3).with_assignments(Some(vec![assignment]))
        };
        let cases = [
            (vec![grow("clicks", 2)], 37),
            (vec![grow("clicks", 1)], 37),
            (vec![grow("clicks", -1)], 37),
            (vec![grow("nowhere", 3)], 3),
            (vec![grow("clicks", 3), grow("clicks", 4)], 42),
            (vec![assigned(7)], 39),
            (vec![assigned(1).with_count(5)], 39),
        ];
        for (asked, code) in cases {
            let answer = bench.call(3, ask(asked.clone())).await;
            assert_eq!(answer.results.len(), 1);
            assert_eq!(answer.results[0].error_code, code, "{asked:?}");
        }
        let checked = bench.call(3, ask(vec![assigned(1)]).with_validate_only(true)).await;
        assert_eq!(checked.results[0].error_code, 0);
        assert_eq!(bench.metadata.image().topic("clicks").unwrap().partitions, 2);
    }

    #[tokio::test]
    async fn one_request_adds_only_so_many_partitions_in_all() {
        let bench = Bench::start().await;
        for name in ["a", "b", "c"] {
            bench.topic(name, 1).await;
        }
        let codes = async |topics: Vec<CreatePartitionsTopic>| {
            let answer = bench.call(3, ask(topics).with_validate_only(true)).await;
            answer.results.iter().map(|topic| topic.error_code).collect::<Vec<_>>()
        };
        let (a, b, c) = (grow("a", 5_001), grow("b", 5_001), grow("c", 2));
        assert_eq!(codes(vec![a.clone(), b.clone()]).await, [0, 0]);
        assert_eq!(codes(vec![a.clone(), b.clone(), c.clone()]).await, [0, 0, 44]);
        // What is refused for its own sake adds nothing.
        assert_eq!(
            codes(vec![a, grow("nowhere", 9_000), grow("b", 5_002), c]).await,
            [0, 3, 44, 0]
        );
    }
}
