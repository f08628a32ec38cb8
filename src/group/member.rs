//! One member of a classic group.

use std::time::Duration;

use bytes::Bytes;

use super::Join;
use super::effect::{MemberMetadata, Ticket};

/// How long a member that waits for its first rebalance is kept without a sign of life: its client
/// cannot send heartbeats yet (Kafka's `CLASSIC_GROUP_NEW_MEMBER_JOIN_TIMEOUT_MS`).
const NEW_MEMBER_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) instance: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    /// Most preferred first.
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) assignment: Bytes,
    /// Waits for the rebalance to complete.
    pub(super) joining: Option<Ticket>,
    /// Waits for the leader's assignment.
    pub(super) syncing: Option<Ticket>,
    /// Has asked for its assignment in this generation.
    pub(super) has_synced: bool,
    /// Has not yet been through a rebalance.
    is_new: bool,
    /// Last sign of life.
    alive_at: Duration,
}

impl Member {
    pub(super) fn new(request: &Join, now: Duration) -> Member {
        Member {
            instance: request.instance.clone(),
            client_id: request.client_id.clone(),
            client_host: request.client_host.clone(),
            session_timeout: request.session_timeout,
            rebalance_timeout: request.rebalance_timeout,
            protocols: copied(&request.protocols),
            assignment: Bytes::new(),
            joining: None,
            syncing: None,
            has_synced: false,
            is_new: true,
            alive_at: now,
        }
    }

    /// A member as the log remembers it, with a fresh session.
    pub(super) fn restore(metadata: MemberMetadata, protocol: &str, now: Duration) -> Member {
        Member {
            instance: metadata.instance,
            client_id: metadata.client_id,
            client_host: metadata.client_host,
            session_timeout: metadata.session_timeout,
            rebalance_timeout: metadata.rebalance_timeout,
            protocols: vec![(protocol.to_owned(), metadata.subscription)],
            assignment: metadata.assignment,
            joining: None,
            syncing: None,
            has_synced: true,
            is_new: false,
            alive_at: now,
        }
    }

    pub(super) fn metadata(
        &self,
        id: &str,
        protocol: Option<&str>,
        assignment: Bytes,
    ) -> MemberMetadata {
        MemberMetadata {
            member: id.to_owned(),
            instance: self.instance.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            rebalance_timeout: self.rebalance_timeout,
            session_timeout: self.session_timeout,
            subscription: protocol.map(|name| self.subscription(name)).unwrap_or_default(),
            assignment,
        }
    }

    /// Takes over what a rejoining client says of itself.
    pub(super) fn update(&mut self, request: &Join, now: Duration) {
        self.client_id.clone_from(&request.client_id);
        self.client_host.clone_from(&request.client_host);
        self.session_timeout = request.session_timeout;
        self.rebalance_timeout = request.rebalance_timeout;
        self.protocols = copied(&request.protocols);
        self.alive_at = now;
    }

    /// Its metadata for a protocol.
    pub(super) fn subscription(&self, protocol: &str) -> Bytes {
        let chosen = self.protocols.iter().find(|(name, _)| name == protocol);
        chosen.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    /// Starts the session anew.
    pub(super) fn beat(&mut self, now: Duration) {
        self.alive_at = now;
    }

    /// A generation begins with this member in it.
    pub(super) fn begin_generation(&mut self, now: Duration) {
        self.is_new = false;
        self.has_synced = false;
        self.alive_at = now;
    }

    /// When it is taken for dead. A member whose request the group holds back cannot be blamed for
    /// its silence, except that one that never got through a rebalance does not stay for ever.
    pub(super) fn deadline(&self) -> Option<Duration> {
        if self.is_new {
            return Some(self.alive_at.saturating_add(NEW_MEMBER_TIMEOUT));
        }
        let waits = self.joining.is_some() || self.syncing.is_some();
        (!waits).then(|| self.alive_at.saturating_add(self.session_timeout))
    }
}

/// What is kept is copied: a slice would keep its whole request frame in memory with it.
fn copied(protocols: &[(String, Bytes)]) -> Vec<(String, Bytes)> {
    let protocols = protocols.iter();
    protocols.map(|(name, metadata)| (name.clone(), Bytes::copy_from_slice(metadata))).collect()
}
