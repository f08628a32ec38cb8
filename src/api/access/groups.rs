//! Groups, as far as a client is authorised for them.

use super::{Access, Resources};
use crate::group::{
    GroupDescription, GroupError, GroupListing, GroupOffset, Groups, Join, Joined, MemberRef, Sync,
    Synced,
};
use crate::security::{Authorized, Resource, Target, op};

/// A group by its id, whether there is one or not.
pub(in crate::api) struct Group<'a> {
    groups: &'a Groups,
    id: &'a str,
}

impl<'a> Group<'a> {
    pub(super) fn new(resources: &'a Resources, id: &'a str) -> Group<'a> {
        Group { groups: &resources.groups, id }
    }

    /// As the client named it.
    pub(in crate::api) fn id(&self) -> &str {
        self.id
    }
}

impl Target for Group<'_> {
    fn resource(&self) -> Resource<'_> {
        Resource::Group(self.id)
    }
}

impl Access<'_> {
    /// The groups that the client may see, by id: all of them, if it may describe the cluster.
    pub(in crate::api) fn listed_groups(self) -> impl Iterator<Item = GroupListing> {
        let cluster = self.cluster::<op::Describe>();
        let groups = self.resources.groups.list().into_iter();
        groups.filter(move |listed| {
            let group = Group::new(self.resources, &listed.group);
            let (client, authorizer) = (self.client, &self.resources.authorizer);
            authorizer.authorize_within::<_, _, _, op::Describe>(client, &cluster, group).is_ok()
        })
    }
}

/// What members do. A request's own `group` is not looked at.
impl Authorized<Group<'_>, op::Read> {
    /// Waits for the rebalance to complete.
    pub(in crate::api) async fn join(&self, request: Join) -> Result<Joined, GroupError> {
        self.groups.join(Join { group: self.id.to_owned(), ..request }).await
    }

    /// Waits for the leader's assignment.
    pub(in crate::api) async fn sync(&self, request: Sync) -> Result<Synced, GroupError> {
        self.groups.sync(Sync { group: self.id.to_owned(), ..request }).await
    }

    /// Keeps a member's session alive.
    pub(in crate::api) async fn heartbeat(&self, member: MemberRef) -> Result<(), GroupError> {
        self.groups.heartbeat(self.id, member).await
    }

    /// Removes members; one result each.
    pub(in crate::api) async fn leave(
        &self,
        members: Vec<MemberRef>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        self.groups.leave(self.id, members).await
    }

    /// Commits durably, all or none.
    pub(in crate::api) async fn commit(
        &self,
        member: MemberRef,
        offsets: Vec<GroupOffset>,
    ) -> Result<(), GroupError> {
        self.groups.commit(self.id, member, offsets).await
    }
}

impl Authorized<Group<'_>, op::Describe> {
    /// Its members; `None` where there is no such group.
    pub(in crate::api) async fn describe(&self) -> Option<GroupDescription> {
        self.groups.describe(self.id).await
    }

    /// All its committed offsets; none for an unknown group.
    pub(in crate::api) fn committed(&self) -> Vec<GroupOffset> {
        self.groups.committed(self.id)
    }
}

impl Authorized<Group<'_>, op::Delete> {
    /// Deletes the group with its offsets, if it is empty.
    pub(in crate::api) async fn delete(&self) -> Result<(), GroupError> {
        self.groups.delete(self.id).await
    }
}
