//! The classic group's state machine: `apply(event, now) -> effects`. No clock, socket, log or
//! lock; live traffic, replay and tests feed it alike. Follows Kafka's classic group coordinator;
//! `rebalance` holds the path from a join to a new generation.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::effect::{Effect, Event, GroupMetadata, Ticket, WriteId};
use super::member::Member;
use super::{
    GroupDescription, GroupError, GroupListing, Joined, MemberDescription, MemberRef, Sync, Synced,
};
use crate::types::{Generation, Timestamp};

/// Where a group stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No members; perhaps offsets.
    Empty,
    /// Waits for members to join, at most until the deadline.
    PreparingRebalance {
        deadline: Duration,
        /// The first rebalance of an empty group waits a while for more members.
        initial: Option<InitialDelay>,
    },
    /// Waits for the leader's assignment.
    CompletingRebalance,
    /// Every member can have its assignment.
    Stable,
    /// Deleted; callers come back and find a new group.
    Dead,
}

/// The wait of an empty group's first rebalance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InitialDelay {
    /// How much longer it may be extended.
    pub(super) remaining: Duration,
    /// Somebody joined since it was last extended.
    pub(super) joined_meanwhile: bool,
}

/// What waits for a metadata write.
#[derive(Clone, Debug)]
pub(super) enum Writing {
    /// The leader's assignments of a generation.
    Assignment { generation: Generation, assignments: BTreeMap<String, Bytes> },
    /// A static member that came back without a rebalance.
    StaticRejoin { ticket: Ticket, joined: Box<Joined> },
}

/// A classic group. See the module's header.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) id: String,
    pub(super) initial_delay: Duration,
    pub(super) state: State,
    pub(super) generation: Generation,
    pub(super) protocol_type: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<String>,
    pub(super) members: BTreeMap<String, Member>,
    /// Static members' ids by instance.
    pub(super) instances: BTreeMap<String, String>,
    /// Ids that were given out (KIP-394) and when they lapse.
    pub(super) pending: BTreeMap<String, Duration>,
    /// Until when members of the generation must have synced.
    pub(super) sync_deadline: Option<Duration>,
    pub(super) writing: BTreeMap<WriteId, Writing>,
    pub(super) writes: u64,
    /// Since when it has no members, by the wall clock.
    pub(super) empty_since: Option<Timestamp>,
}

impl Group {
    /// A group that does not exist yet. `initial_delay` is `group.initial.rebalance.delay.ms`.
    pub(super) fn new(id: &str, initial_delay: Duration) -> Group {
        Group {
            id: id.to_owned(),
            initial_delay,
            state: State::Empty,
            generation: Generation(0),
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            pending: BTreeMap::new(),
            sync_deadline: None,
            writing: BTreeMap::new(),
            writes: 0,
            empty_since: None,
        }
    }

    /// A group as the log remembers it: members keep their ids, generation and assignments, so
    /// that clients go on without noticing the restart. `since` is when it came to be so.
    pub(super) fn restore(
        id: &str,
        initial_delay: Duration,
        metadata: GroupMetadata,
        since: Option<Timestamp>,
        now: Duration,
    ) -> Group {
        let mut group = Group::new(id, initial_delay);
        group.generation = metadata.generation;
        group.protocol_type = Some(metadata.protocol_type).filter(|name| !name.is_empty());
        let protocol = metadata.protocol.unwrap_or_default();
        for member in metadata.members {
            let id = member.member.clone();
            if let Some(instance) = &member.instance {
                group.instances.insert(instance.clone(), id.clone());
            }
            group.members.insert(id, Member::restore(member, &protocol, now));
        }
        if group.members.is_empty() {
            group.empty_since = since;
        } else {
            let leader = metadata.leader.filter(|leader| group.members.contains_key(leader));
            group.leader = leader.or_else(|| group.members.keys().next().cloned());
            group.protocol = Some(protocol);
            group.state = State::Stable;
        }
        group
    }

    /// Applies one event. `now` is monotonic and never goes back.
    pub(super) fn apply(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Join { request, unique, ticket } => {
                self.join(request, &unique, ticket, now, &mut effects);
            }
            Event::Sync { request, ticket } => self.sync(request, ticket, now, &mut effects),
            Event::Heartbeat { member, ticket } => {
                let beaten = self.heartbeat(&member, now);
                effects.push(Effect::Beaten(ticket, beaten));
            }
            Event::Leave { members, ticket } => self.leave(&members, ticket, now, &mut effects),
            Event::Commit { member, ticket } => {
                let admitted = self.admit_commit(&member, now);
                effects.push(Effect::Commit(ticket, admitted));
            }
            Event::Delete { ticket } => {
                let admitted = self.delete();
                effects.push(Effect::Delete(ticket, admitted));
            }
            Event::Written { write, ok } => self.written(write, ok, now, &mut effects),
            Event::DeleteFailed => self.state = State::Empty,
            Event::Tick => self.tick(now, &mut effects),
        }
        if cfg!(debug_assertions) {
            self.invariants();
        }
        effects
    }

    /// When the group next needs a tick.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let members = self.members.values().filter_map(Member::deadline);
        let rebalance = match self.state {
            State::PreparingRebalance { deadline, .. } => Some(deadline),
            _ => None,
        };
        members
            .chain(self.pending.values().copied())
            .chain(rebalance)
            .chain(self.sync_deadline)
            .min()
    }

    /// Whether nothing would be lost by forgetting the group (its offsets aside).
    pub(super) fn is_vacant(&self) -> bool {
        self.state == State::Empty && self.generation.0 == 0 && self.pending.is_empty()
    }

    pub(super) fn listing(&self) -> GroupListing {
        GroupListing {
            group: self.id.clone(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            state: self.state_name(),
        }
    }

    /// Its state by Kafka's name.
    pub(super) fn state_name(&self) -> &'static str {
        match self.state {
            State::Empty => "Empty",
            State::PreparingRebalance { .. } => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
            State::Dead => "Dead",
        }
    }

    /// Metadata and assignments are shown of a stable group only, as Kafka does: while
    /// rebalancing they belong to different generations.
    pub(super) fn describe(&self) -> GroupDescription {
        let protocol = match self.state {
            State::Stable => self.protocol.as_deref(),
            _ => None,
        };
        let members = self.members.iter().map(|(id, member)| MemberDescription {
            member: id.clone(),
            instance: member.instance.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: protocol.map(|name| member.subscription(name)).unwrap_or_default(),
            assignment: protocol.map(|_| member.assignment.clone()).unwrap_or_default(),
        });
        GroupDescription {
            listing: self.listing(),
            protocol: protocol.unwrap_or_default().to_owned(),
            members: members.collect(),
        }
    }

    /// The member behind a reference, if it is one and not fenced.
    pub(super) fn validate(&self, who: &MemberRef) -> Result<String, GroupError> {
        let id = who.member.clone().unwrap_or_default();
        if let Some(instance) = &who.instance {
            match self.instances.get(instance) {
                None => return Err(GroupError::UnknownMember(id)),
                Some(current) if *current != id => {
                    return Err(GroupError::FencedInstance(instance.clone()));
                }
                Some(_) => {}
            }
        }
        if self.members.contains_key(&id) { Ok(id) } else { Err(GroupError::UnknownMember(id)) }
    }

    fn validate_generation(&self, generation: Option<Generation>) -> Result<(), GroupError> {
        match generation {
            Some(generation) if generation == self.generation => Ok(()),
            other => Err(GroupError::IllegalGeneration(other.unwrap_or(Generation(-1)))),
        }
    }

    fn beat(&mut self, id: &str, now: Duration) {
        if let Some(member) = self.members.get_mut(id) {
            member.beat(now);
        }
    }

    fn heartbeat(&mut self, who: &MemberRef, now: Duration) -> Result<(), GroupError> {
        if self.state == State::Dead {
            return Err(GroupError::NotAvailable);
        }
        let id = self.validate(who)?;
        self.validate_generation(who.generation)?;
        self.beat(&id, now);
        match self.state {
            State::PreparingRebalance { .. } => Err(GroupError::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    /// Kafka's `validateOffsetCommit`.
    fn admit_commit(&mut self, who: &MemberRef, now: Duration) -> Result<(), GroupError> {
        if self.state == State::Dead {
            return Err(GroupError::NotAvailable);
        }
        // A client outside group management, or an admin's reset: only while nobody could be
        // overruled by it.
        if who.generation.is_none() && self.state == State::Empty {
            return Ok(());
        }
        if *who == MemberRef::default() {
            return match self.state {
                State::Empty => Ok(()),
                _ => Err(GroupError::UnknownMember(String::new())),
            };
        }
        let id = self.validate(who)?;
        self.validate_generation(who.generation)?;
        match self.state {
            // The member knows the generation but has no assignment in it yet.
            State::CompletingRebalance => Err(GroupError::RebalanceInProgress),
            _ => {
                self.beat(&id, now);
                Ok(())
            }
        }
    }

    fn delete(&mut self) -> Result<(), GroupError> {
        match self.state {
            State::Empty => {
                self.state = State::Dead;
                self.pending.clear();
                Ok(())
            }
            State::Dead => Err(GroupError::NotFound(self.id.clone())),
            _ => Err(GroupError::NotEmpty(self.id.clone())),
        }
    }

    fn sync(&mut self, request: Sync, ticket: Ticket, now: Duration, effects: &mut Vec<Effect>) {
        let id = match self.validate_sync(&request) {
            Ok(id) => id,
            Err(refused) => return effects.push(Effect::Synced(ticket, Err(refused))),
        };
        let synced = self.synced(&id);
        let is_leader = self.leader.as_deref() == Some(id.as_str());
        let Some(member) = self.members.get_mut(&id) else { return };
        member.has_synced = true;
        member.beat(now);
        if self.state == State::Stable {
            effects.push(Effect::Synced(ticket, Ok(synced)));
        } else {
            if let Some(earlier) = member.syncing.replace(ticket) {
                effects.push(Effect::Synced(earlier, Err(GroupError::RebalanceInProgress)));
            }
            if is_leader {
                self.assign(request.assignments, effects);
            }
        }
        if self.members.values().all(|member| member.has_synced) {
            self.sync_deadline = None;
        }
    }

    fn validate_sync(&self, request: &Sync) -> Result<String, GroupError> {
        if self.state == State::Dead {
            return Err(GroupError::NotAvailable);
        }
        let id = self.validate(&MemberRef {
            member: Some(request.member.clone()),
            instance: request.instance.clone(),
            generation: None,
        })?;
        self.validate_generation(Some(request.generation))?;
        let differs = |asked: &Option<String>, ours: &Option<String>| {
            asked.is_some() && ours.is_some() && asked != ours
        };
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol, &self.protocol)
        {
            return Err(GroupError::InconsistentProtocol);
        }
        match self.state {
            State::PreparingRebalance { .. } => Err(GroupError::RebalanceInProgress),
            _ => Ok(id),
        }
    }

    /// The leader spoke: its assignments are written before anybody acts on them.
    fn assign(&mut self, given: Vec<(String, Bytes)>, effects: &mut Vec<Effect>) {
        let generation = self.generation;
        let is_written = self.writing.values().any(
            |writing| matches!(writing, Writing::Assignment { generation: g, .. } if *g == generation),
        );
        if is_written {
            return;
        }
        let given: BTreeMap<String, Bytes> = given.into_iter().collect();
        // Copied: a slice would keep the leader's whole request frame in memory with it.
        let copied = |id| given.get(id).map(|bytes| Bytes::copy_from_slice(bytes));
        let assignments: BTreeMap<String, Bytes> =
            self.members.keys().map(|id| (id.clone(), copied(id).unwrap_or_default())).collect();
        let metadata = self.metadata(Some(&assignments));
        self.write(metadata, Some(Writing::Assignment { generation, assignments }), effects);
    }

    /// What a restart must know; with the members' current assignments or those given.
    pub(super) fn metadata(&self, assignments: Option<&BTreeMap<String, Bytes>>) -> GroupMetadata {
        let protocol = self.protocol.as_deref();
        let assignment = |id: &String, member: &Member| match assignments {
            Some(given) => given.get(id).cloned().unwrap_or_default(),
            None => member.assignment.clone(),
        };
        GroupMetadata {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            members: self
                .members
                .iter()
                .map(|(id, member)| member.metadata(id, protocol, assignment(id, member)))
                .collect(),
        }
    }

    pub(super) fn write(
        &mut self,
        metadata: GroupMetadata,
        then: Option<Writing>,
        effects: &mut Vec<Effect>,
    ) {
        let write = WriteId(self.writes);
        self.writes += 1;
        if let Some(then) = then {
            self.writing.insert(write, then);
        }
        effects.push(Effect::Write(write, metadata));
    }

    fn written(&mut self, write: WriteId, ok: bool, now: Duration, effects: &mut Vec<Effect>) {
        match self.writing.remove(&write) {
            None => {}
            Some(Writing::StaticRejoin { ticket, joined }) => {
                let answer = if ok { Ok(*joined) } else { Err(GroupError::NotAvailable) };
                effects.push(Effect::Joined(ticket, answer));
            }
            Some(Writing::Assignment { generation, assignments }) => {
                // A rebalance that began meanwhile has already sent everybody back to join.
                if self.state != State::CompletingRebalance || generation != self.generation {
                    return;
                }
                if ok {
                    self.stabilise(assignments, now, effects);
                } else {
                    self.fail_syncs(&GroupError::NotAvailable, effects);
                    self.prepare_rebalance(now, effects);
                }
            }
        }
    }

    fn stabilise(
        &mut self,
        mut assignments: BTreeMap<String, Bytes>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        self.state = State::Stable;
        for (id, member) in &mut self.members {
            member.assignment = assignments.remove(id).unwrap_or_default();
        }
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let synced = self.synced(&id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            if let Some(ticket) = member.syncing.take() {
                member.beat(now);
                effects.push(Effect::Synced(ticket, Ok(synced)));
            }
        }
    }

    fn synced(&self, id: &str) -> Synced {
        let member = self.members.get(id);
        Synced {
            assignment: member.map(|member| member.assignment.clone()).unwrap_or_default(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol: self.protocol.clone().unwrap_or_default(),
        }
    }

    pub(super) fn fail_syncs(&mut self, error: &GroupError, effects: &mut Vec<Effect>) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
            if let Some(ticket) = member.syncing.take() {
                effects.push(Effect::Synced(ticket, Err(error.clone())));
            }
        }
    }

    fn leave(
        &mut self,
        members: &[MemberRef],
        ticket: Ticket,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let before = self.members.len();
        let results = members.iter().map(|who| self.leave_one(who, effects)).collect();
        effects.push(Effect::Left(ticket, results));
        self.members_left(self.members.len() < before, now, effects);
    }

    fn leave_one(&mut self, who: &MemberRef, effects: &mut Vec<Effect>) -> Result<(), GroupError> {
        if self.state == State::Dead {
            return Err(GroupError::NotAvailable);
        }
        let id = match (&who.member, &who.instance) {
            // An admin removes a static member by its instance alone.
            (None, Some(instance)) => {
                let id = self.instances.get(instance).cloned();
                id.ok_or_else(|| GroupError::UnknownMember(String::new()))?
            }
            (Some(id), None) if self.pending.remove(id).is_some() => return Ok(()),
            _ => self.validate(who)?,
        };
        self.remove_member(&id, effects);
        Ok(())
    }

    /// What must always hold; a broken invariant here is a bug, never bad input.
    fn invariants(&self) {
        let is = |holds: bool, what: &str| assert!(holds, "group '{}': {what}: {self:?}", self.id);
        is(self.leader.is_none() == self.members.is_empty(), "a leader exactly if it has members");
        is(
            self.leader.iter().all(|leader| self.members.contains_key(leader)),
            "the leader is a member",
        );
        let statics = self.members.values().filter(|member| member.instance.is_some()).count();
        is(statics == self.instances.len(), "each static member is known by its instance");
        for (instance, id) in &self.instances {
            let of_member = self.members.get(id).and_then(|member| member.instance.as_ref());
            is(of_member == Some(instance), "an instance names its member");
        }
        is(
            self.pending.keys().all(|id| !self.members.contains_key(id)),
            "a pending id is no member yet",
        );
        let joining = self.members.values().filter(|member| member.joining.is_some()).count();
        let syncing = self.members.values().filter(|member| member.syncing.is_some()).count();
        match &self.state {
            State::Empty | State::Dead => is(self.members.is_empty(), "no members"),
            State::PreparingRebalance { initial, .. } => {
                is(syncing == 0, "nobody syncs while joining");
                let all = joining == self.members.len() && self.pending.is_empty();
                is(initial.is_some() || !all, "a rebalance completes when all have joined");
            }
            State::CompletingRebalance | State::Stable => {
                is(!self.members.is_empty(), "has members");
                is(joining == 0, "nobody is held in a join");
                is(self.protocol.is_some(), "has a protocol");
                is(self.state != State::Stable || syncing == 0, "nobody waits in a stable group");
            }
        }
    }
}
