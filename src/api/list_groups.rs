//! ListGroups (key 16), v0-5: all groups.
//!
//! v4 filters by state (KIP-518), v5 by type (KIP-848). Whoever may describe the cluster is told all groups,
//! others those that they may describe. Gaps: all groups are classic ones.

use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{ApiKey, ListGroupsRequest, ListGroupsResponse};
use kafka_protocol::protocol::StrBytes;

use super::call::{Api, Outcome};
use super::{Context, Request, wire_text};
use crate::group::GroupListing;

pub(super) const API: Api = Api::ordered(ApiKey::ListGroups, 0..=5).repeatable();

/// The type of all groups so far.
const CLASSIC: &str = "classic";

impl Outcome for ListGroupsResponse {
    fn error(&self) -> i16 {
        self.error_code
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: ListGroupsRequest,
) -> ListGroupsResponse {
    let wanted = |group: &GroupListing| {
        passes(&body.states_filter, group.state) && passes(&body.types_filter, CLASSIC)
    };
    let groups = ctx.access(request).listed_groups().filter(wanted).map(|group| {
        let listed = ListedGroup::default()
            .with_group_id(wire_text(&group.group).into())
            .with_protocol_type(wire_text(&group.protocol_type));
        let version = request.version;
        let listed =
            if version >= 4 { listed.with_group_state(wire_text(group.state)) } else { listed };
        if version >= 5 { listed.with_group_type(wire_text(CLASSIC)) } else { listed }
    });
    ListGroupsResponse::default().with_groups(groups.collect())
}

/// An empty filter lets everything pass; case does not matter, as in Kafka.
fn passes(filter: &[StrBytes], value: &str) -> bool {
    filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_ignore_case_and_let_all_pass_when_empty() {
        assert!(passes(&[], "Stable"));
        assert!(passes(&[StrBytes::from_static_str("stable")], "Stable"));
        assert!(!passes(&[StrBytes::from_static_str("Empty")], "Stable"));
    }
}
