//! The owners of groups: each shard task owns the groups of some partitions of
//! `__consumer_offsets`, feeds their state machines and performs the effects. What must survive is
//! written before anybody is told of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info};
use uuid::Uuid;

use super::effect::{Effect, Event, GroupMetadata, Ticket, WriteId};
use super::expiry::expired;
use super::offsets::{group_record, offset_record, partition_of};
use super::state::Group;
use super::{
    CommittedOffset, GroupDescription, GroupError, GroupListing, GroupOffset, Join, Joined,
    MemberRef, Sync, Synced,
};
use crate::config::Config;
use crate::log::batch::{self, NewRecord};
use crate::log::{AgeClock, AppendError, AppendOptions, AppendOrigin, Appended, Durable};
use crate::metadata::{Metadata, Topic};
use crate::types::{Clock, PartitionId, Timestamp, TopicId, TopicName};

/// Requests are served in a row before deadlines are looked at: what clients sent before their
/// deadline counts, even if the broker was too busy to see it in time.
const COMMANDS_PER_TICK: usize = 256;

type Reply<T> = oneshot::Sender<T>;

/// What handles ask of a shard.
pub(super) enum Command {
    Join {
        request: Join,
        reply: Reply<Result<Joined, GroupError>>,
    },
    Sync {
        request: Sync,
        reply: Reply<Result<Synced, GroupError>>,
    },
    Heartbeat {
        group: String,
        member: MemberRef,
        reply: Reply<Result<(), GroupError>>,
    },
    Leave {
        group: String,
        members: Vec<MemberRef>,
        reply: Reply<Vec<Result<(), GroupError>>>,
    },
    Commit {
        group: String,
        member: MemberRef,
        offsets: Vec<GroupOffset>,
        reply: Reply<Result<(), GroupError>>,
    },
    Describe {
        group: String,
        reply: Reply<Option<GroupDescription>>,
    },
    Delete {
        group: String,
        reply: Reply<Result<(), GroupError>>,
    },
}

/// A place a group has committed to.
pub(super) type Place = (TopicId, PartitionId);

/// A group as readers see it without asking its owner.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) listing: GroupListing,
    pub(super) offsets: BTreeMap<Place, (TopicName, CommittedOffset)>,
}

/// All groups, by id. Written by the owners only.
pub(super) type Directory = DashMap<String, Published>;

/// Who waits for an answer, with what it needs.
enum Waiter {
    Join(Reply<Result<Joined, GroupError>>),
    Sync(Reply<Result<Synced, GroupError>>),
    Beat(Reply<Result<(), GroupError>>),
    Leave(Reply<Vec<Result<(), GroupError>>>),
    Commit {
        offsets: Vec<GroupOffset>,
        reply: Reply<Result<(), GroupError>>,
    },
    /// Nobody, where the group's last offset has expired.
    Delete(Option<Reply<Result<(), GroupError>>>),
}

/// What a write was for.
enum Then {
    Report(WriteId),
    Publish {
        offsets: Vec<(TopicName, GroupOffset)>,
        reply: Reply<Result<(), GroupError>>,
    },
    /// A group is deleted; nobody waits for it where its last offset has expired.
    Forget(Option<Reply<Result<(), GroupError>>>),
    /// Offsets have expired.
    Expire(Vec<Place>),
    Nothing,
}

struct Written {
    group: String,
    then: Then,
    result: Result<Appended, AppendError>,
}

struct Owned {
    state: Group,
    /// Its entry in the shard's deadlines.
    deadline: Option<Duration>,
    /// The state its listing shows.
    shown: &'static str,
    /// Places of commits that are being written, in order.
    in_flight: VecDeque<Vec<(TopicName, Place)>>,
}

/// See the module's header.
pub(super) struct Shard {
    metadata: Metadata,
    config: Arc<Config>,
    clock: Arc<dyn Clock>,
    ages: Arc<AgeClock>,
    offsets_topic: Arc<Topic>,
    directory: Arc<Directory>,
    groups: HashMap<String, Owned>,
    deadlines: BTreeSet<(Duration, String)>,
    /// Topics some group of the shard has committed to.
    topics: BTreeSet<TopicId>,
    waiting: HashMap<Ticket, Waiter>,
    tickets: u64,
    /// In the order they were queued, so that what is published follows the log.
    writes: FuturesOrdered<BoxFuture<'static, Written>>,
}

impl Shard {
    pub(super) fn new(
        metadata: Metadata,
        config: Arc<Config>,
        clock: Arc<dyn Clock>,
        ages: Arc<AgeClock>,
        offsets_topic: Arc<Topic>,
        directory: Arc<Directory>,
    ) -> Shard {
        Shard {
            metadata,
            config,
            clock,
            ages,
            offsets_topic,
            directory,
            groups: HashMap::new(),
            deadlines: BTreeSet::new(),
            topics: BTreeSet::new(),
            waiting: HashMap::new(),
            tickets: 0,
            writes: FuturesOrdered::new(),
        }
    }

    /// Takes over a group that was read back; call it before `run`.
    pub(super) fn adopt(
        &mut self,
        group: &str,
        metadata: Option<(GroupMetadata, Option<Timestamp>)>,
        offsets: BTreeMap<Place, (TopicName, CommittedOffset)>,
    ) {
        let (delay, now) = (self.config.group_initial_rebalance_delay, self.clock.monotonic());
        let state = match metadata {
            Some((metadata, since)) => Group::restore(group, delay, metadata, since, now),
            None => Group::new(group, delay),
        };
        self.topics.extend(offsets.keys().map(|(topic, _)| *topic));
        let listing = state.listing();
        let shown = listing.state;
        self.directory.insert(group.to_owned(), Published { listing, offsets });
        let owned = Owned { state, deadline: None, shown, in_flight: VecDeque::new() };
        self.groups.insert(group.to_owned(), owned);
        self.settle(group);
    }

    /// Serves until every handle is gone.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut metadata_changed = self.metadata.subscribe();
        let mut served = 0;
        let expiry_interval = self.config.offsets_retention_check_interval;
        let mut next_expiry = self.clock.monotonic().saturating_add(expiry_interval);
        loop {
            let deadline = self.deadlines.first().map(|(deadline, _)| *deadline);
            let next = deadline.map_or(next_expiry, |deadline| deadline.min(next_expiry));
            let wait = next.saturating_sub(self.clock.monotonic());
            tokio::select! {
                biased;
                Some(written) = self.writes.next(), if !self.writes.is_empty() => {
                    self.written(written).await;
                }
                command = commands.recv() => match command {
                    Some(command) => self.serve(command).await,
                    None => return,
                },
                Ok(()) = metadata_changed.changed() => self.drop_deleted_topics().await,
                () = tokio::time::sleep(wait) => {}
            }
            if self.clock.monotonic() >= next_expiry {
                self.expire_offsets().await;
                next_expiry = self.clock.monotonic().saturating_add(expiry_interval);
            }
            served += 1;
            if commands.is_empty() || served >= COMMANDS_PER_TICK {
                served = 0;
                self.tick().await;
            }
        }
    }

    async fn serve(&mut self, command: Command) {
        match command {
            Command::Join { request, reply } => {
                let ticket = self.ticket(Waiter::Join(reply));
                let unique = Uuid::new_v4().to_string();
                let group = request.group.clone();
                self.feed(&group, Event::Join { request, unique, ticket }).await;
            }
            Command::Sync { request, reply } => {
                let ticket = self.ticket(Waiter::Sync(reply));
                let group = request.group.clone();
                self.feed(&group, Event::Sync { request, ticket }).await;
            }
            Command::Heartbeat { group, member, reply } => {
                let ticket = self.ticket(Waiter::Beat(reply));
                self.feed(&group, Event::Heartbeat { member, ticket }).await;
            }
            Command::Leave { group, members, reply } => {
                let ticket = self.ticket(Waiter::Leave(reply));
                self.feed(&group, Event::Leave { members, ticket }).await;
            }
            Command::Commit { group, member, offsets, reply } => {
                if member.generation.is_some() && !self.groups.contains_key(&group) {
                    let _ = reply.send(Err(GroupError::NotFound(group)));
                    return;
                }
                let ticket = self.ticket(Waiter::Commit { offsets, reply });
                self.feed(&group, Event::Commit { member, ticket }).await;
            }
            Command::Describe { group, reply } => {
                let _ = reply.send(self.groups.get(&group).map(|owned| owned.state.describe()));
            }
            Command::Delete { group, reply } => {
                if !self.groups.contains_key(&group) {
                    let _ = reply.send(Err(GroupError::NotFound(group)));
                    return;
                }
                let ticket = self.ticket(Waiter::Delete(Some(reply)));
                self.feed(&group, Event::Delete { ticket }).await;
            }
        }
    }

    fn ticket(&mut self, waiter: Waiter) -> Ticket {
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        self.waiting.insert(ticket, waiter);
        ticket
    }

    /// Applies an event to a group and performs what follows.
    async fn feed(&mut self, group: &str, event: Event) {
        let now = self.clock.monotonic();
        let delay = self.config.group_initial_rebalance_delay;
        let owned = self.groups.entry(group.to_owned()).or_insert_with(|| Owned {
            state: Group::new(group, delay),
            deadline: None,
            shown: "",
            in_flight: VecDeque::new(),
        });
        let effects = owned.state.apply(event, now);
        owned.state.note_time(self.clock.now());
        for effect in effects {
            self.perform(group, effect).await;
        }
        self.settle(group);
    }

    /// Brings the deadlines and the directory up to date with a group's state.
    fn settle(&mut self, group: &str) {
        let Some(owned) = self.groups.get_mut(group) else { return };
        let deadline = owned.state.next_deadline();
        if deadline != owned.deadline {
            if let Some(old) = owned.deadline.take() {
                self.deadlines.remove(&(old, group.to_owned()));
            }
            self.deadlines.extend(deadline.map(|new| (new, group.to_owned())));
            owned.deadline = deadline;
        }
        let state = owned.state.state_name();
        let has_offsets = || self.directory.get(group).is_some_and(|it| !it.offsets.is_empty());
        if owned.state.is_vacant() && owned.in_flight.is_empty() && !has_offsets() {
            self.groups.remove(group);
            self.directory.remove(group);
        } else if owned.shown != state {
            debug!(group, from = owned.shown, to = state, "group changed its state");
            owned.shown = state;
            let listing = owned.state.listing();
            match self.directory.get_mut(group) {
                Some(mut shown) => shown.listing = listing,
                None => {
                    let published = Published { listing, offsets: BTreeMap::new() };
                    self.directory.insert(group.to_owned(), published);
                }
            }
        }
    }

    async fn perform(&mut self, group: &str, effect: Effect) {
        match effect {
            Effect::Joined(ticket, answer) => {
                if let Some(Waiter::Join(reply)) = self.waiting.remove(&ticket) {
                    let _ = reply.send(answer);
                }
            }
            Effect::Synced(ticket, answer) => {
                if let Some(Waiter::Sync(reply)) = self.waiting.remove(&ticket) {
                    let _ = reply.send(answer);
                }
            }
            Effect::Beaten(ticket, answer) => {
                if let Some(Waiter::Beat(reply)) = self.waiting.remove(&ticket) {
                    let _ = reply.send(answer);
                }
            }
            Effect::Left(ticket, answers) => {
                if let Some(Waiter::Leave(reply)) = self.waiting.remove(&ticket) {
                    let _ = reply.send(answers);
                }
            }
            Effect::Commit(ticket, admitted) => self.commit(group, ticket, admitted).await,
            Effect::Delete(ticket, admitted) => self.delete(group, ticket, admitted).await,
            Effect::Write(write, metadata) => {
                let record = group_record(group, Some(&metadata), self.clock.now());
                self.append(group, vec![record], Then::Report(write)).await;
            }
        }
    }

    async fn commit(&mut self, group: &str, ticket: Ticket, admitted: Result<(), GroupError>) {
        let Some(Waiter::Commit { offsets, reply }) = self.waiting.remove(&ticket) else { return };
        let image = self.metadata.image();
        // A topic that was deleted since the request was checked has nothing to commit to.
        let named: Vec<(TopicName, GroupOffset)> = offsets
            .into_iter()
            .filter_map(|offset| {
                let name = image.topic_by_id(offset.topic)?.name.clone();
                Some((name, offset))
            })
            .collect();
        if admitted.is_err() || named.is_empty() {
            let _ = reply.send(admitted);
            return;
        }
        let now = self.clock.now();
        let records = named.iter().map(|(name, offset)| {
            let GroupOffset { topic, partition, committed } = offset;
            offset_record(group, name.as_str(), *topic, *partition, Some(committed), now)
        });
        let records = records.collect();
        self.topics.extend(named.iter().map(|(_, offset)| offset.topic));
        if let Some(owned) = self.groups.get_mut(group) {
            let places = named.iter().map(|(name, o)| (name.clone(), (o.topic, o.partition)));
            owned.in_flight.push_back(places.collect());
        }
        self.append(group, records, Then::Publish { offsets: named, reply }).await;
    }

    async fn delete(&mut self, group: &str, ticket: Ticket, admitted: Result<(), GroupError>) {
        let Some(Waiter::Delete(reply)) = self.waiting.remove(&ticket) else { return };
        if admitted.is_err() {
            reply.map(|reply| reply.send(admitted));
            return;
        }
        let mut places: BTreeMap<Place, TopicName> = BTreeMap::new();
        if let Some(shown) = self.directory.get(group) {
            places.extend(shown.offsets.iter().map(|(place, (name, _))| (*place, name.clone())));
        }
        if let Some(owned) = self.groups.get(group) {
            let in_flight = owned.in_flight.iter().flatten();
            places.extend(in_flight.map(|(name, place)| (*place, name.clone())));
        }
        let mut records = self.tombstones(group, places);
        records.push(group_record(group, None, self.clock.now()));
        self.append(group, records, Then::Forget(reply)).await;
    }

    fn tombstones(
        &self,
        group: &str,
        places: impl IntoIterator<Item = (Place, TopicName)>,
    ) -> Vec<NewRecord> {
        let now = self.clock.now();
        let places = places.into_iter();
        places
            .map(|((topic, partition), name)| {
                offset_record(group, name.as_str(), topic, partition, None, now)
            })
            .collect()
    }

    /// Queues records of a group, durable before `then` happens.
    async fn append(&mut self, group: &str, records: Vec<NewRecord>, then: Then) {
        let partition = partition_of(group, self.offsets_topic.partitions);
        let options = AppendOptions {
            durable: Durable::Synced,
            batch_bytes_max: i32::MAX as u32,
            origin: AppendOrigin::Broker,
        };
        let group = group.to_owned();
        let Some(log) = self.metadata.log(self.offsets_topic.id, partition) else {
            let result = Err(AppendError::Deleted);
            self.writes.push_back(Box::pin(async move { Written { group, then, result } }));
            return;
        };
        let pending = log.enqueue(batch::encode(&records, None), options).await;
        self.writes.push_back(Box::pin(async move {
            let result = pending.await;
            Written { group, then, result }
        }));
    }

    async fn written(&mut self, written: Written) {
        let Written { group, then, result } = written;
        if let Err(reason) = &result {
            error!(group, %reason, "a group's records could not be written");
        }
        let outcome = result.map(drop).map_err(|error| match error {
            AppendError::Stopping => GroupError::NotAvailable,
            other => GroupError::Storage(other.to_string()),
        });
        match then {
            Then::Report(write) => {
                self.feed(&group, Event::Written { write, ok: outcome.is_ok() }).await;
            }
            Then::Publish { offsets, reply } => {
                if let Some(owned) = self.groups.get_mut(&group) {
                    owned.in_flight.pop_front();
                }
                if outcome.is_ok() {
                    self.publish(&group, offsets);
                }
                let _ = reply.send(outcome);
                self.settle(&group);
            }
            Then::Forget(reply) => {
                if outcome.is_ok() {
                    match reply {
                        Some(_) => info!(group, "deleted a group"),
                        None => debug!(group, "deleted a group whose offsets have expired"),
                    }
                    self.forget(&group);
                } else {
                    self.feed(&group, Event::DeleteFailed).await;
                }
                reply.map(|reply| reply.send(outcome));
            }
            Then::Expire(places) => {
                if outcome.is_ok() {
                    debug!(group, offsets = places.len(), "committed offsets expired");
                    if let Some(mut shown) = self.directory.get_mut(&group) {
                        places.iter().for_each(|place| drop(shown.offsets.remove(place)));
                    }
                }
                self.settle(&group);
            }
            Then::Nothing => {}
        }
    }

    fn publish(&mut self, group: &str, offsets: Vec<(TopicName, GroupOffset)>) {
        let Some(mut shown) = self.directory.get_mut(group) else { return };
        let image = self.metadata.image();
        for (name, offset) in offsets {
            if image.topic_by_id(offset.topic).is_some() {
                shown.offsets.insert((offset.topic, offset.partition), (name, offset.committed));
            }
        }
    }

    fn forget(&mut self, group: &str) {
        if let Some(owned) = self.groups.remove(group)
            && let Some(deadline) = owned.deadline
        {
            self.deadlines.remove(&(deadline, group.to_owned()));
        }
        self.directory.remove(group);
    }

    async fn tick(&mut self) {
        let now = self.clock.monotonic();
        while let Some((deadline, group)) = self.deadlines.first().cloned() {
            if deadline > now {
                break;
            }
            self.feed(&group, Event::Tick).await;
            // A tick always moves a group's deadline; were it not so, this would spin.
            if self.deadlines.first().is_some_and(|(_, next)| *next == group)
                && self.deadlines.first().is_some_and(|(next, _)| *next == deadline)
            {
                error!(group, "a group's deadline did not move");
                break;
            }
        }
    }

    /// Forgets offsets that have expired, and groups that have neither offsets nor members left.
    async fn expire_offsets(&mut self) {
        let (now, retention) = (self.ages.peek(), self.config.offsets_retention());
        let (mut all, mut left) = (Vec::new(), Vec::new());
        for (group, owned) in &self.groups {
            let expiry = owned.state.expiry();
            let Some(shown) = self.directory.get(group) else { continue };
            let in_flight: BTreeSet<Place> =
                owned.in_flight.iter().flatten().map(|(_, place)| *place).collect();
            let expired = expired(&shown.offsets, &in_flight, &expiry, retention, now);
            let is_last = expired.len() == shown.offsets.len() && in_flight.is_empty();
            if is_last && owned.state.is_left() {
                left.push(group.clone());
            } else if !expired.is_empty() {
                all.push((group.clone(), expired));
            }
        }
        for (group, expired) in all {
            let places = expired.iter().map(|(place, _)| *place).collect();
            let records = self.tombstones(&group, expired);
            self.append(&group, records, Then::Expire(places)).await;
        }
        for group in left {
            let ticket = self.ticket(Waiter::Delete(None));
            self.feed(&group, Event::Delete { ticket }).await;
        }
    }

    /// Offsets of deleted topics mean nothing any more. Replay would skip them too, by their id;
    /// the tombstones are for the tools that read the topic.
    async fn drop_deleted_topics(&mut self) {
        let image = self.metadata.image();
        let before = self.topics.len();
        self.topics.retain(|topic| image.topic_by_id(*topic).is_some());
        if self.topics.len() == before {
            return;
        }
        let groups: Vec<String> = self.groups.keys().cloned().collect();
        for group in groups {
            let mut dropped = Vec::new();
            if let Some(mut shown) = self.directory.get_mut(&group) {
                shown.offsets.retain(|place, (name, _)| {
                    let lives = image.topic_by_id(place.0).is_some();
                    if !lives {
                        dropped.push((*place, name.clone()));
                    }
                    lives
                });
            }
            if dropped.is_empty() {
                continue;
            }
            dropped.retain(|((_, partition), name)| !self.is_taken(&group, name, *partition));
            if !dropped.is_empty() {
                let records = self.tombstones(&group, dropped);
                self.append(&group, records, Then::Nothing).await;
            }
            self.settle(&group);
        }
    }

    /// Whether a group has committed, or is committing, to this partition of a topic that lives.
    /// Kafka's keys know names only: after such a commit, a tombstone for the topic that had the
    /// name before would let compaction remove the commit.
    fn is_taken(&self, group: &str, name: &TopicName, partition: PartitionId) -> bool {
        let image = self.metadata.image();
        let takes = |topic: TopicId, of: &TopicName, at: PartitionId| {
            of == name && at == partition && image.topic_by_id(topic).is_some()
        };
        let shown = self.directory.get(group);
        let mut offsets = shown.iter().flat_map(|shown| &shown.offsets);
        let mut in_flight =
            self.groups.get(group).into_iter().flat_map(|owned| owned.in_flight.iter().flatten());
        offsets.any(|((topic, at), (of, _))| takes(*topic, of, *at))
            || in_flight.any(|(of, (topic, at))| takes(*topic, of, *at))
    }
}
