//! What a classic group is told and what it wants done about it. Tickets stand for callers that
//! wait; the task that performs effects knows who they are.

use std::time::Duration;

use bytes::Bytes;

use super::{GroupError, Join, Joined, MemberRef, Sync, Synced};
use crate::types::Generation;

/// A caller that waits for an answer. Each ticket is answered once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(pub(super) u64);

/// A write of group metadata that `Event::Written` will report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WriteId(pub(super) u64);

/// What happens to a group.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// `unique` is a random suffix for a member id, should one be needed.
    Join {
        request: Join,
        unique: String,
        ticket: Ticket,
    },
    Sync {
        request: Sync,
        ticket: Ticket,
    },
    Heartbeat {
        member: MemberRef,
        ticket: Ticket,
    },
    Leave {
        members: Vec<MemberRef>,
        ticket: Ticket,
    },
    /// May these offsets be committed? Admitted ones are written under the ticket.
    Commit {
        member: MemberRef,
        ticket: Ticket,
    },
    /// Delete the group, if it is empty.
    Delete {
        ticket: Ticket,
    },
    /// A metadata write ended; a failed one left nothing behind.
    Written {
        write: WriteId,
        ok: bool,
    },
    /// The tombstones of a deleted group could not be written.
    DeleteFailed,
    /// Time passed.
    Tick,
}

/// What the task has to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Joined(Ticket, Result<Joined, GroupError>),
    Synced(Ticket, Result<Synced, GroupError>),
    Beaten(Ticket, Result<(), GroupError>),
    Left(Ticket, Vec<Result<(), GroupError>>),
    /// The commit is refused, or admitted and must now be written.
    Commit(Ticket, Result<(), GroupError>),
    /// The deletion is refused, or admitted and must now be written.
    Delete(Ticket, Result<(), GroupError>),
    /// Write this durably, then report it.
    Write(WriteId, GroupMetadata),
}

/// What a restart must know of a group: the value of a `GroupMetadata` record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupMetadata {
    pub(super) protocol_type: String,
    pub(super) generation: Generation,
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<String>,
    pub(super) members: Vec<MemberMetadata>,
}

/// A member in `GroupMetadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MemberMetadata {
    pub(super) member: String,
    pub(super) instance: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) rebalance_timeout: Duration,
    pub(super) session_timeout: Duration,
    pub(super) subscription: Bytes,
    pub(super) assignment: Bytes,
}
