//! The table of APIs: what is served, and by which file. ApiVersions shows exactly this.

use kafka_protocol::messages;
use kafka_protocol::messages::ApiKey;

use super::answers::Held;
use super::call::{Api, Call, LargeAnswer, Reply};
use super::{Later, Refusal, fetch, produce};

/// A row of the table and how its requests begin.
pub(super) struct Route {
    pub api: Api,
    pub begin: Begin,
}

/// How a request takes its place.
#[derive(Clone, Copy)]
pub(super) enum Begin {
    /// Produce: in the logs, before it is answered.
    Append,
    /// All others: by being decoded.
    Decode(fn(Call) -> Result<Later<Reply>, Refusal>),
}

/// A row for a file with `API` and `async fn handle(&Context, &Request, body) -> response`: decoded
/// in request order, handled when its turn comes. See [`LargeAnswer`] for when it waits.
macro_rules! row {
    ($file:ident, $request:ident) => {
        Route {
            api: super::$file::API,
            begin: Begin::Decode(|mut call| {
                const LARGE_ANSWER: LargeAnswer = super::$file::API.large_answer;
                let body_bytes = call.body_bytes();
                let mut body: messages::$request = match LARGE_ANSWER {
                    LargeAnswer::MadeAgain => call.decode_kept()?,
                    _ => call.decode()?,
                };
                Ok(Box::pin(async move {
                    call.wait_for_room(LARGE_ANSWER, body_bytes).await;
                    let mut held = Held::default();
                    loop {
                        let answering = super::$file::handle(&call.ctx, &call.request, body);
                        let mut response = answering.await;
                        response.throttle_time_ms = call.throttle_time_ms();
                        if LARGE_ANSWER != LargeAnswer::MadeAgain {
                            break call.answer(&response);
                        }
                        let bytes = match call.answer_if_room(&response, held) {
                            Ok(reply) => break reply,
                            Err(bytes) => bytes,
                        };
                        // It does not take memory while it waits for room in memory.
                        drop(response);
                        held = call.ctx.answers.take_plain(bytes).await;
                        body = match call.decode_kept() {
                            Ok(body) => body,
                            Err(refusal) => break Reply::Close(refusal.to_string()),
                        };
                    }
                }))
            }),
        }
    };
}

/// All that is served, by API key.
pub(super) static ROUTES: &[Route] = &[
    Route { api: produce::API, begin: Begin::Append },
    Route { api: fetch::API, begin: Begin::Decode(fetch::begin) },
    row!(list_offsets, ListOffsetsRequest),
    row!(metadata, MetadataRequest),
    row!(offset_commit, OffsetCommitRequest),
    row!(offset_fetch, OffsetFetchRequest),
    row!(find_coordinator, FindCoordinatorRequest),
    row!(join_group, JoinGroupRequest),
    row!(heartbeat, HeartbeatRequest),
    row!(leave_group, LeaveGroupRequest),
    row!(sync_group, SyncGroupRequest),
    row!(describe_groups, DescribeGroupsRequest),
    row!(list_groups, ListGroupsRequest),
    row!(api_versions, ApiVersionsRequest),
    row!(create_topics, CreateTopicsRequest),
    row!(delete_topics, DeleteTopicsRequest),
    row!(delete_records, DeleteRecordsRequest),
    row!(init_producer_id, InitProducerIdRequest),
    row!(offset_for_leader_epoch, OffsetForLeaderEpochRequest),
    row!(describe_configs, DescribeConfigsRequest),
    row!(alter_configs, AlterConfigsRequest),
    row!(create_partitions, CreatePartitionsRequest),
    row!(delete_groups, DeleteGroupsRequest),
    row!(incremental_alter_configs, IncrementalAlterConfigsRequest),
    row!(describe_cluster, DescribeClusterRequest),
    row!(describe_topic_partitions, DescribeTopicPartitionsRequest),
];

/// The row of an API, if it is served.
pub(super) fn route(key: ApiKey) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.api.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_key_order_and_unique() {
        assert!(ROUTES.is_sorted_by(|a, b| (a.api.key as i16) < (b.api.key as i16)));
    }

    #[test]
    fn rows_serve_only_versions_the_codec_knows() {
        for Route { api, .. } in ROUTES {
            let known = api.key.valid_versions();
            assert!(
                known.min <= *api.versions.start() && *api.versions.end() <= known.max,
                "{api:?}"
            );
        }
    }
}
