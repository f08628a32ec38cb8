//! DeleteGroups (key 42), v0-2: removes empty groups with their offsets. Gaps: none.

use std::collections::HashSet;

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{ApiKey, DeleteGroupsRequest, DeleteGroupsResponse};

use super::call::{Api, Outcome, first_error};
use super::error::{self, Coded};
use super::{Context, Request};
use crate::security::op;

pub(super) const API: Api = Api::ordered(ApiKey::DeleteGroups, 0..=2);

impl Outcome for DeleteGroupsResponse {
    fn error(&self) -> i16 {
        first_error(self.results.iter().map(|group| group.error_code))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let mut seen = HashSet::new();
    let mut results = Vec::new();
    for group in body.groups_names {
        // Kafka answers each group once, too.
        if !seen.insert(group.clone()) {
            continue;
        }
        let code = match ctx.access(request).group::<op::Delete>(&group) {
            Ok(group) => error::code(&group.delete().await),
            Err(denied) => denied.kafka().code(),
        };
        let result = DeletableGroupResult::default().with_error_code(code);
        results.push(result.with_group_id(group));
    }
    DeleteGroupsResponse::default().with_results(results)
}
