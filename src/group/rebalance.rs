//! From a join to a new generation: who may join, how long a rebalance waits, who leads, which
//! protocol wins.

use std::collections::BTreeMap;
use std::time::Duration;

use super::effect::{Effect, Ticket};
use super::member::Member;
use super::state::{Group, InitialDelay, State, Writing};
use super::{GROUP_MEMBERS_MAX, GroupError, Join, Joined, MemberRef};
use crate::types::Generation;

impl Group {
    pub(super) fn join(
        &mut self,
        request: Join,
        unique: &str,
        ticket: Ticket,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let joined = if self.state == State::Dead {
            Err(GroupError::NotAvailable)
        } else if !self.supports(&request) {
            Err(GroupError::InconsistentProtocol)
        } else if let Some(id) = request.member.clone() {
            self.join_known(&id, &request, ticket, now, effects)
        } else {
            self.join_new(&request, unique, ticket, now, effects)
        };
        match joined {
            Ok(None) => {}
            Ok(Some(joined)) => effects.push(Effect::Joined(ticket, Ok(joined))),
            Err(refused) => effects.push(Effect::Joined(ticket, Err(refused))),
        }
    }

    /// Whether the members and the newcomer have a protocol in common.
    fn supports(&self, request: &Join) -> bool {
        if request.protocol_type.is_empty() || request.protocols.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            return true;
        }
        self.protocol_type.as_ref() == Some(&request.protocol_type)
            && request
                .protocols
                .iter()
                .any(|(name, _)| self.members.values().all(|member| member.supports(name)))
    }

    /// Ids that were given out count: a client that never comes back with its id costs memory too.
    fn is_full(&self) -> bool {
        self.members.len() + self.pending.len() >= GROUP_MEMBERS_MAX
    }

    /// `Ok(None)`: the answer comes later.
    fn join_new(
        &mut self,
        request: &Join,
        unique: &str,
        ticket: Ticket,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> Result<Option<Joined>, GroupError> {
        let prefix = request.instance.as_ref().unwrap_or(&request.client_id);
        let id = format!("{prefix}-{unique}");
        match &request.instance {
            Some(instance) => {
                if let Some(earlier) = self.instances.get(instance).cloned() {
                    self.replace_static(instance, &earlier, &id, request, ticket, now, effects);
                    return Ok(None);
                }
                if self.is_full() {
                    return Err(GroupError::Full);
                }
            }
            None if self.is_full() => return Err(GroupError::Full),
            // Without this, a client that times out in its join and tries again would leave a
            // member behind each time (KIP-394).
            None if request.require_known_member => {
                self.pending.insert(id.clone(), now.saturating_add(request.session_timeout));
                return Err(GroupError::MemberIdRequired(id));
            }
            None => {}
        }
        self.add_member(id, request, ticket, now, effects);
        Ok(None)
    }

    fn join_known(
        &mut self,
        id: &str,
        request: &Join,
        ticket: Ticket,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> Result<Option<Joined>, GroupError> {
        if request.instance.is_none() && self.pending.contains_key(id) {
            self.add_member(id.to_owned(), request, ticket, now, effects);
            return Ok(None);
        }
        let who = MemberRef {
            member: Some(id.to_owned()),
            instance: request.instance.clone(),
            generation: None,
        };
        self.validate(&who)?;
        let is_leader = self.leader.as_deref() == Some(id);
        let is_unchanged =
            self.members.get(id).is_some_and(|member| member.protocols == request.protocols);
        let keeps_generation = match self.state {
            // The answer to an earlier join was lost.
            State::CompletingRebalance => is_unchanged,
            // A leader that joins again wants a rebalance: it saw partitions or topics change.
            State::Stable => is_unchanged && !is_leader,
            _ => false,
        };
        if keeps_generation {
            if let Some(member) = self.members.get_mut(id) {
                member.beat(now);
            }
            return Ok(Some(self.joined(id)));
        }
        if let Some(member) = self.members.get_mut(id) {
            member.update(request, now);
            hold(member, ticket, effects);
        }
        self.prepare_rebalance(now, effects);
        Ok(None)
    }

    fn add_member(
        &mut self,
        id: String,
        request: &Join,
        ticket: Ticket,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        self.pending.remove(&id);
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(id.clone());
        }
        if let Some(instance) = &request.instance {
            self.instances.insert(instance.clone(), id.clone());
        }
        if self.generation == Generation(0)
            && let State::PreparingRebalance { initial: Some(initial), .. } = &mut self.state
        {
            initial.joined_meanwhile = true;
        }
        let mut member = Member::new(request, now);
        hold(&mut member, ticket, effects);
        self.members.insert(id, member);
        self.prepare_rebalance(now, effects);
    }

    /// A static member came back under a new id: the old one is fenced (KIP-345), and if nothing
    /// changed the group does not rebalance.
    #[expect(clippy::too_many_arguments, reason = "one step of `join`, with all it knows")]
    fn replace_static(
        &mut self,
        instance: &str,
        earlier: &str,
        id: &str,
        request: &Join,
        ticket: Ticket,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let Some(mut member) = self.members.remove(earlier) else { return };
        let fenced = || GroupError::FencedInstance(instance.to_owned());
        if let Some(ticket) = member.joining.take() {
            effects.push(Effect::Joined(ticket, Err(fenced())));
        }
        if let Some(ticket) = member.syncing.take() {
            effects.push(Effect::Synced(ticket, Err(fenced())));
        }
        member.update(request, now);
        self.members.insert(id.to_owned(), member);
        self.instances.insert(instance.to_owned(), id.to_owned());
        let was_leader = self.leader.as_deref() == Some(earlier);
        if was_leader {
            self.leader = Some(id.to_owned());
        }
        if self.state == State::Stable && self.protocol == self.select_protocol() {
            let mut joined = self.joined(id);
            joined.skip_assignment = was_leader && request.can_skip_assignment;
            if was_leader && !request.can_skip_assignment {
                // A client that cannot be told to keep the assignment must not think that it
                // leads, or it would compute a new one for the same generation.
                joined.leader = earlier.to_owned();
                joined.members.clear();
            }
            let then = Writing::StaticRejoin { ticket, joined: Box::new(joined) };
            self.write(self.metadata(None), Some(then), effects);
            return;
        }
        if let Some(member) = self.members.get_mut(id) {
            hold(member, ticket, effects);
        }
        self.prepare_rebalance(now, effects);
    }

    /// Asks everybody to join again.
    pub(super) fn prepare_rebalance(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.begin_rebalance(now, effects);
        self.complete_if_all_joined(now, effects);
    }

    fn begin_rebalance(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let wait = self.rebalance_timeout();
        let initial = match self.state {
            State::Dead | State::PreparingRebalance { .. } => return,
            State::Empty if !self.initial_delay.is_zero() => Some(InitialDelay {
                remaining: wait.saturating_sub(self.initial_delay),
                joined_meanwhile: false,
            }),
            State::Empty | State::Stable => None,
            State::CompletingRebalance => {
                self.fail_syncs(&GroupError::RebalanceInProgress, effects);
                None
            }
        };
        let wait = if initial.is_some() { self.initial_delay } else { wait };
        self.sync_deadline = None;
        self.state = State::PreparingRebalance { deadline: now.saturating_add(wait), initial };
    }

    fn complete_if_all_joined(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let waits = matches!(self.state, State::PreparingRebalance { initial: None, .. });
        let all = self.members.values().all(|member| member.joining.is_some());
        if waits && all && self.pending.is_empty() {
            self.complete_join(now, effects);
        }
    }

    /// The longest any member asks for.
    fn rebalance_timeout(&self) -> Duration {
        self.members.values().map(|member| member.rebalance_timeout).max().unwrap_or_default()
    }

    pub(super) fn remove_member(&mut self, id: &str, effects: &mut Vec<Effect>) {
        let Some(member) = self.members.remove(id) else { return };
        let unknown = || GroupError::UnknownMember(id.to_owned());
        if let Some(ticket) = member.joining {
            effects.push(Effect::Joined(ticket, Err(unknown())));
        }
        if let Some(ticket) = member.syncing {
            effects.push(Effect::Synced(ticket, Err(unknown())));
        }
        if let Some(instance) = member.instance {
            self.instances.remove(&instance);
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// After members (or only pending ids) went away.
    pub(super) fn members_left(&mut self, lost: bool, now: Duration, effects: &mut Vec<Effect>) {
        match self.state {
            State::Stable | State::CompletingRebalance if lost => {
                self.prepare_rebalance(now, effects);
            }
            State::PreparingRebalance { .. } => self.complete_if_all_joined(now, effects),
            _ => {}
        }
    }

    pub(super) fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.pending.retain(|_, lapses| *lapses > now);
        let lapsed = |member: &Member| member.deadline().is_some_and(|deadline| deadline <= now);
        let mut gone: Vec<String> = self.ids(lapsed);
        if self.sync_deadline.is_some_and(|deadline| deadline <= now) {
            self.sync_deadline = None;
            gone.extend(self.ids(|member| !member.has_synced));
        }
        for id in &gone {
            self.remove_member(id, effects);
        }
        self.members_left(!gone.is_empty(), now, effects);
        let initial_delay = self.initial_delay;
        if let State::PreparingRebalance { deadline, initial } = &mut self.state
            && *deadline <= now
        {
            match initial {
                Some(wait) if wait.joined_meanwhile && !wait.remaining.is_zero() => {
                    let delay = initial_delay.min(wait.remaining);
                    wait.joined_meanwhile = false;
                    wait.remaining -= delay;
                    *deadline = now.saturating_add(delay);
                }
                _ => self.complete_join(now, effects),
            }
        }
    }

    fn ids(&self, which: impl Fn(&Member) -> bool) -> Vec<String> {
        let chosen = self.members.iter().filter(|(_, member)| which(member));
        chosen.map(|(id, _)| id.clone()).collect()
    }

    /// The new generation: of those who joined, and of static members that may still come back.
    fn complete_join(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        for id in self.ids(|member| member.joining.is_none() && member.instance.is_none()) {
            self.remove_member(&id, effects);
        }
        if !self.members.is_empty() && !self.elect_leader() {
            // Only absent static members are left. Their sessions decide.
            let deadline = now.saturating_add(self.rebalance_timeout());
            self.state = State::PreparingRebalance { deadline, initial: None };
            return;
        }
        // Generations are positive; one that was used up starts over rather than going negative.
        self.generation = Generation(self.generation.0.checked_add(1).unwrap_or(1));
        if self.members.is_empty() {
            self.protocol = None;
            self.state = State::Empty;
            self.write(self.metadata(None), None, effects);
            return;
        }
        self.protocol = self.select_protocol();
        self.state = State::CompletingRebalance;
        self.sync_deadline = Some(now.saturating_add(self.rebalance_timeout()));
        for id in self.ids(|_| true) {
            let joined = self.joined(&id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.begin_generation(now);
            if let Some(ticket) = member.joining.take() {
                effects.push(Effect::Joined(ticket, Ok(joined)));
            }
        }
    }

    /// Keeps the leader if it joined, else takes one who did.
    fn elect_leader(&mut self) -> bool {
        let has_joined = |id: &String| self.members.get(id).is_some_and(|m| m.joining.is_some());
        if self.leader.as_ref().is_some_and(has_joined) {
            return true;
        }
        match self.members.keys().find(|id| has_joined(id)).cloned() {
            Some(id) => {
                self.leader = Some(id);
                true
            }
            None => false,
        }
    }

    /// Each member votes for the first of its protocols that all support.
    fn select_protocol(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let common = |name: &str| self.members.values().all(|other| other.supports(name));
            let vote = member.protocols.iter().map(|(name, _)| name.as_str()).find(|n| common(n));
            *votes.entry(vote?).or_default() += 1;
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned())
    }

    /// What a member of the current generation is told.
    fn joined(&self, id: &str) -> Joined {
        let is_leader = self.leader.as_deref() == Some(id);
        Joined {
            generation: self.generation,
            protocol: self.protocol.clone().unwrap_or_default(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            leader: self.leader.clone().unwrap_or_default(),
            member: id.to_owned(),
            members: if is_leader { self.subscriptions() } else { Vec::new() },
            skip_assignment: false,
        }
    }

    fn subscriptions(&self) -> Vec<(String, Option<String>, bytes::Bytes)> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self.members.iter();
        members
            .map(|(id, member)| {
                (id.clone(), member.instance.clone(), member.subscription(protocol))
            })
            .collect()
    }
}

/// Holds a join back. A second join of the same member (its connection broke) answers the first.
fn hold(member: &mut Member, ticket: Ticket, effects: &mut Vec<Effect>) {
    if let Some(earlier) = member.joining.replace(ticket) {
        effects.push(Effect::Joined(earlier, Err(GroupError::RebalanceInProgress)));
    }
}
