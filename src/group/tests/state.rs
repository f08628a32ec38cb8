//! The state machine as sequences of events.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::group::effect::{Effect, Event, GroupMetadata, Ticket, WriteId};
use crate::group::state::{Group, State};
use crate::group::{GROUP_MEMBERS_MAX, GroupError, Join, Joined, MemberRef, Sync, Synced};
use crate::types::Generation;

const SESSION: Duration = Duration::from_secs(10);
const REBALANCE: Duration = Duration::from_secs(60);
pub(super) const DELAY: Duration = Duration::from_secs(3);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A group with a clock, and the answers it gave.
pub(super) struct Stage {
    pub(super) group: Group,
    pub(super) now: Duration,
    tickets: u64,
    pub(super) joined: BTreeMap<Ticket, Result<Joined, GroupError>>,
    pub(super) synced: BTreeMap<Ticket, Result<Synced, GroupError>>,
    other: BTreeMap<Ticket, Result<(), GroupError>>,
    left: Vec<Result<(), GroupError>>,
    pub(super) writes: Vec<(WriteId, GroupMetadata)>,
}

impl Stage {
    pub(super) fn new(delay: Duration) -> Stage {
        Stage {
            group: Group::new("g", delay),
            now: seconds(1000),
            tickets: 0,
            joined: BTreeMap::new(),
            synced: BTreeMap::new(),
            other: BTreeMap::new(),
            left: Vec::new(),
            writes: Vec::new(),
        }
    }

    pub(super) fn apply(&mut self, event: Event) {
        for effect in self.group.apply(event, self.now) {
            let twice = match effect {
                Effect::Joined(ticket, answer) => self.joined.insert(ticket, answer).is_some(),
                Effect::Synced(ticket, answer) => self.synced.insert(ticket, answer).is_some(),
                Effect::Beaten(ticket, answer)
                | Effect::Commit(ticket, answer)
                | Effect::Delete(ticket, answer) => self.other.insert(ticket, answer).is_some(),
                Effect::Left(_, answers) => {
                    self.left = answers;
                    false
                }
                Effect::Write(write, metadata) => {
                    self.writes.push((write, metadata));
                    false
                }
            };
            assert!(!twice, "a ticket is answered once");
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    pub(super) fn join(&mut self, request: Join) -> Ticket {
        let ticket = self.ticket();
        self.apply(Event::Join { request, unique: ticket.0.to_string(), ticket });
        ticket
    }

    /// Joins and gives the ticket and the id the member will have.
    fn enter(&mut self, client: &str) -> (Ticket, String) {
        let request = Join { client_id: client.to_owned(), ..join() };
        let ticket = self.join(request);
        (ticket, format!("{client}-{}", ticket.0))
    }

    pub(super) fn sync(&mut self, joined: &Joined) -> Ticket {
        let ticket = self.ticket();
        let assignments = joined.members.iter();
        let request = Sync {
            group: "g".to_owned(),
            member: joined.member.clone(),
            instance: None,
            generation: joined.generation,
            protocol_type: None,
            protocol: None,
            assignments: assignments
                .map(|(id, ..)| (id.clone(), Bytes::from(format!("for {id}"))))
                .collect(),
        };
        self.apply(Event::Sync { request, ticket });
        ticket
    }

    pub(super) fn beat(&mut self, who: MemberRef) -> Result<(), GroupError> {
        let ticket = self.ticket();
        self.apply(Event::Heartbeat { member: who, ticket });
        self.other.remove(&ticket).unwrap()
    }

    fn commit(&mut self, who: MemberRef) -> Result<(), GroupError> {
        let ticket = self.ticket();
        self.apply(Event::Commit { member: who, ticket });
        self.other.remove(&ticket).unwrap()
    }

    pub(super) fn leave(&mut self, who: MemberRef) -> Result<(), GroupError> {
        let ticket = self.ticket();
        self.apply(Event::Leave { members: vec![who], ticket });
        self.left.remove(0)
    }

    fn delete(&mut self) -> Result<(), GroupError> {
        let ticket = self.ticket();
        self.apply(Event::Delete { ticket });
        self.other.remove(&ticket).unwrap()
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.apply(Event::Tick);
    }

    /// Reports the latest write as done, or failed.
    fn written(&mut self, ok: bool) {
        let write = self.writes.last().unwrap().0;
        self.apply(Event::Written { write, ok });
    }

    fn joined(&self, ticket: Ticket) -> Joined {
        self.joined[&ticket].clone().unwrap()
    }

    /// Two members in a stable group of generation 1; the first leads.
    fn pair() -> (Stage, Joined, Joined) {
        let mut stage = Stage::new(DELAY);
        let (a, _) = stage.enter("a");
        let (b, _) = stage.enter("b");
        stage.pass(DELAY);
        stage.pass(DELAY);
        let (a, b) = (stage.joined(a), stage.joined(b));
        let (leader, follower) = if a.leader == a.member { (a, b) } else { (b, a) };
        stage.sync(&follower);
        stage.sync(&leader);
        stage.written(true);
        assert_eq!(stage.group.state, State::Stable);
        (stage, leader, follower)
    }
}

pub(super) fn join() -> Join {
    Join {
        group: "g".to_owned(),
        member: None,
        instance: None,
        client_id: "c".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        session_timeout: SESSION,
        rebalance_timeout: REBALANCE,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), Bytes::from_static(b"r"))],
        require_known_member: false,
        can_skip_assignment: true,
    }
}

fn rejoin(joined: &Joined) -> Join {
    Join { member: Some(joined.member.clone()), client_id: "x".to_owned(), ..join() }
}

pub(super) fn who(joined: &Joined) -> MemberRef {
    MemberRef {
        member: Some(joined.member.clone()),
        instance: None,
        generation: Some(joined.generation),
    }
}

fn of_instance(instance: &str) -> Join {
    Join { instance: Some(instance.to_owned()), ..join() }
}

#[test]
fn a_new_member_is_first_given_its_id() {
    let mut stage = Stage::new(DELAY);
    let first = stage.join(Join { require_known_member: true, ..join() });
    let Err(GroupError::MemberIdRequired(id)) = stage.joined[&first].clone() else { panic!() };
    assert_eq!(stage.group.state, State::Empty);
    let second = stage.join(Join { member: Some(id.clone()), ..join() });
    stage.pass(DELAY);
    assert_eq!(stage.joined(second).member, id);
}

#[test]
fn an_id_that_is_not_used_lapses() {
    let mut stage = Stage::new(DELAY);
    let first = stage.join(Join { require_known_member: true, ..join() });
    let Err(GroupError::MemberIdRequired(id)) = stage.joined[&first].clone() else { panic!() };
    stage.pass(SESSION);
    assert!(stage.group.is_vacant());
    let late = stage.join(Join { member: Some(id.clone()), ..join() });
    assert_eq!(stage.joined[&late], Err(GroupError::UnknownMember(id)));
}

#[test]
fn the_first_rebalance_waits_for_more_members_and_is_extended_by_each() {
    let mut stage = Stage::new(DELAY);
    let (a, _) = stage.enter("a");
    stage.pass(seconds(2));
    let (b, _) = stage.enter("b");
    stage.pass(seconds(1));
    assert!(stage.joined.is_empty(), "b came meanwhile");
    stage.pass(DELAY);
    assert_eq!(stage.joined(a).generation, Generation(1));
    assert_eq!(stage.joined(b).generation, Generation(1));
    let leader = [a, b].map(|t| stage.joined(t)).into_iter().find(|j| j.leader == j.member);
    assert_eq!(leader.unwrap().members.len(), 2);
}

#[test]
fn the_first_rebalance_is_extended_at_most_to_the_rebalance_timeout() {
    let mut stage = Stage::new(DELAY);
    let (a, _) = stage.enter("a");
    let mut waited = Duration::ZERO;
    while stage.joined.is_empty() {
        stage.enter("more");
        stage.pass(seconds(1));
        waited += seconds(1);
    }
    assert_eq!(waited, REBALANCE);
    assert_eq!(stage.joined(a).generation, Generation(1));
}

#[test]
fn without_a_delay_the_first_member_gets_its_generation_at_once() {
    let mut stage = Stage::new(Duration::ZERO);
    let (a, id) = stage.enter("a");
    assert_eq!(stage.joined(a).member, id);
}

#[test]
fn sync_waits_for_the_leader_and_for_the_write() {
    let mut stage = Stage::new(Duration::ZERO);
    let (first, _) = stage.enter("a");
    let first = stage.joined(first);
    let (b, _) = stage.enter("b");
    let a = stage.join(rejoin(&first));
    let (a, b) = (stage.joined(a), stage.joined(b));
    assert_eq!((a.generation, b.generation), (Generation(2), Generation(2)));
    assert_eq!((b.leader.as_str(), b.members.len()), (a.member.as_str(), 0));
    let of_b = stage.sync(&b);
    let of_a = stage.sync(&a);
    assert!(stage.synced.is_empty(), "nobody acts on what is not durable");
    let (_, metadata) = stage.writes.last().unwrap();
    assert_eq!(metadata.members.len(), 2);
    assert_eq!(metadata.generation, Generation(2));
    stage.written(true);
    for (ticket, member) in [(of_a, &a), (of_b, &b)] {
        let synced = stage.synced[&ticket].clone().unwrap();
        assert_eq!(synced.assignment, format!("for {}", member.member));
    }
    let again = stage.sync(&b);
    assert!(stage.synced[&again].is_ok(), "a stable group answers at once");
}

#[test]
fn an_assignment_that_could_not_be_written_sends_all_back_to_join() {
    let mut stage = Stage::new(Duration::ZERO);
    let (a, _) = stage.enter("a");
    let a = stage.joined(a);
    let sync = stage.sync(&a);
    stage.written(false);
    assert_eq!(stage.synced[&sync], Err(GroupError::NotAvailable));
    assert_eq!(stage.beat(who(&a)), Err(GroupError::RebalanceInProgress));
}

#[test]
fn a_newcomer_makes_the_others_join_again() {
    let (mut stage, leader, follower) = Stage::pair();
    assert_eq!(stage.beat(who(&leader)), Ok(()));
    let (c, _) = stage.enter("c");
    assert_eq!(stage.beat(who(&leader)), Err(GroupError::RebalanceInProgress));
    assert_eq!(stage.commit(who(&leader)), Ok(()), "what was read may still be committed");
    let of_leader = stage.join(rejoin(&leader));
    assert!(!stage.joined.contains_key(&of_leader));
    stage.join(rejoin(&follower));
    assert_eq!(stage.joined(of_leader).generation, Generation(2));
    assert_eq!(stage.joined(of_leader).leader, leader.member, "the leader stays");
    assert_eq!(stage.joined(c).generation, Generation(2));
    assert_eq!(stage.commit(who(&stage.joined(c))), Err(GroupError::RebalanceInProgress));
}

#[test]
fn who_does_not_join_again_in_time_is_dropped_and_the_leadership_passes() {
    let (mut stage, leader, follower) = Stage::pair();
    let of_follower = stage.join(Join {
        protocols: vec![("range".to_owned(), Bytes::from_static(b"changed"))],
        ..rejoin(&follower)
    });
    let mut waited = Duration::ZERO;
    while waited < REBALANCE {
        assert!(!stage.joined.contains_key(&of_follower));
        let _ = stage.beat(who(&leader));
        stage.pass(seconds(5));
        waited += seconds(5);
    }
    let joined = stage.joined(of_follower);
    assert_eq!(joined.leader, follower.member);
    assert_eq!(joined.members.len(), 1);
    let gone = Err(GroupError::UnknownMember(leader.member.clone()));
    assert_eq!(stage.beat(who(&leader)), gone);
}

#[test]
fn silence_ends_a_session_and_a_heartbeat_keeps_it() {
    let (mut stage, leader, follower) = Stage::pair();
    stage.pass(SESSION - seconds(1));
    assert_eq!(stage.beat(who(&leader)), Ok(()));
    stage.pass(seconds(1));
    let gone = Err(GroupError::UnknownMember(follower.member.clone()));
    assert_eq!(stage.beat(who(&follower)), gone);
    assert_eq!(stage.beat(who(&leader)), Err(GroupError::RebalanceInProgress));
}

#[test]
fn who_does_not_sync_in_time_is_dropped() {
    let mut stage = Stage::new(Duration::ZERO);
    let (first, _) = stage.enter("a");
    let first = stage.joined(first);
    let (b, _) = stage.enter("b");
    let a = stage.join(rejoin(&first));
    let (a, b) = (stage.joined(a), stage.joined(b));
    stage.sync(&a);
    stage.written(true);
    for _ in 0..REBALANCE.as_secs() / 5 {
        let _ = (stage.beat(who(&a)), stage.beat(who(&b)));
        stage.pass(seconds(5));
    }
    let gone = Err(GroupError::UnknownMember(b.member.clone()));
    assert_eq!(stage.beat(who(&b)), gone);
}

#[test]
fn stale_generations_and_unknown_members_are_told_apart() {
    let (mut stage, leader, _) = Stage::pair();
    let stale = MemberRef { generation: Some(Generation(0)), ..who(&leader) };
    let illegal = Err(GroupError::IllegalGeneration(Generation(0)));
    assert_eq!(stage.beat(stale.clone()), illegal);
    assert_eq!(stage.commit(stale), illegal);
    let nobody = MemberRef { member: Some("n".to_owned()), ..who(&leader) };
    assert_eq!(stage.beat(nobody), Err(GroupError::UnknownMember("n".to_owned())));
    let simple = stage.commit(MemberRef::default());
    assert_eq!(simple, Err(GroupError::UnknownMember(String::new())));
}

#[test]
fn simple_consumers_commit_while_the_group_is_empty() {
    let mut stage = Stage::new(DELAY);
    assert_eq!(stage.commit(MemberRef::default()), Ok(()));
    assert!(stage.group.is_vacant());
}

#[test]
fn a_member_whose_answer_was_lost_asks_again() {
    let mut stage = Stage::new(Duration::ZERO);
    let (a, _) = stage.enter("a");
    let a = stage.joined(a);
    let again = stage.join(rejoin(&a));
    assert_eq!(stage.joined(again), a, "same generation while it completes");
    stage.sync(&a);
    stage.written(true);
    let again = stage.join(rejoin(&a));
    assert_eq!(stage.joined(again).generation, Generation(2), "a leader's join rebalances");
}

#[test]
fn a_followers_join_without_a_change_keeps_the_generation() {
    let (mut stage, _, follower) = Stage::pair();
    let again = stage.join(rejoin(&follower));
    assert_eq!(stage.joined(again).generation, follower.generation);
    assert_eq!(stage.group.state, State::Stable);
}

#[test]
fn the_last_to_leave_empties_the_group_durably() {
    let (mut stage, leader, follower) = Stage::pair();
    assert_eq!(stage.delete(), Err(GroupError::NotEmpty("g".to_owned())));
    let leave = |joined: &Joined| MemberRef { generation: None, ..who(joined) };
    assert_eq!(stage.leave(leave(&leader)), Ok(()));
    let again = stage.leave(leave(&leader));
    assert_eq!(again, Err(GroupError::UnknownMember(leader.member.clone())));
    assert_eq!(stage.leave(leave(&follower)), Ok(()));
    assert_eq!(stage.group.state, State::Empty);
    let (_, metadata) = stage.writes.last().unwrap();
    assert!(metadata.members.is_empty());
    assert_eq!(metadata.generation, Generation(2));
    assert_eq!(stage.delete(), Ok(()));
    let late = stage.join(join());
    assert_eq!(stage.joined[&late], Err(GroupError::NotAvailable));
}

#[test]
fn the_protocol_that_most_prefer_among_those_all_support_wins() {
    let protocols = |names: &[&str]| {
        names.iter().map(|name| (name.to_string(), Bytes::new())).collect::<Vec<_>>()
    };
    let mut stage = Stage::new(DELAY);
    stage.join(Join { protocols: protocols(&["sticky", "range"]), ..join() });
    stage.join(Join { protocols: protocols(&["range", "sticky"]), ..join() });
    let c = stage.join(Join { protocols: protocols(&["new", "sticky", "range"]), ..join() });
    let odd = stage.join(Join { protocols: protocols(&["other"]), ..join() });
    assert_eq!(stage.joined[&odd], Err(GroupError::InconsistentProtocol));
    let connect = stage.join(Join { protocol_type: "connect".to_owned(), ..join() });
    assert_eq!(stage.joined[&connect], Err(GroupError::InconsistentProtocol));
    stage.pass(DELAY);
    stage.pass(DELAY);
    assert_eq!(stage.joined(c).protocol, "sticky");
}

#[test]
fn a_static_member_comes_back_without_a_rebalance_and_fences_its_predecessor() {
    let mut stage = Stage::new(Duration::ZERO);
    let first = stage.join(of_instance("i"));
    let first = stage.joined(first);
    let instance = Some("i".to_owned());
    let sync = stage.sync(&first);
    stage.written(true);
    assert!(stage.synced[&sync].is_ok());
    let second = stage.join(of_instance("i"));
    assert!(!stage.joined.contains_key(&second), "its new id is written first");
    stage.written(true);
    let joined = stage.joined(second);
    assert_eq!(joined.generation, first.generation);
    assert_ne!(joined.member, first.member);
    assert!(joined.skip_assignment, "the leader keeps the assignment (KIP-814)");
    assert_eq!(joined.leader, joined.member);
    let old = MemberRef { instance: instance.clone(), ..who(&first) };
    assert_eq!(stage.beat(old), Err(GroupError::FencedInstance("i".to_owned())));
    assert_eq!(stage.beat(MemberRef { instance, ..who(&joined) }), Ok(()));
    let elder = stage.join(Join { can_skip_assignment: false, ..of_instance("i") });
    stage.written(true);
    let elder = stage.joined(elder);
    assert!(!elder.skip_assignment && elder.members.is_empty());
    assert_ne!(elder.leader, elder.member, "an old client must not think that it leads");
}

#[test]
fn an_admin_removes_a_static_member_by_its_instance() {
    let mut stage = Stage::new(Duration::ZERO);
    stage.join(of_instance("i"));
    let by_instance =
        |name: &str| MemberRef { instance: Some(name.to_owned()), ..MemberRef::default() };
    let unknown = Err(GroupError::UnknownMember(String::new()));
    assert_eq!(stage.leave(by_instance("j")), unknown);
    assert_eq!(stage.leave(by_instance("i")), Ok(()));
    assert_eq!(stage.group.state, State::Empty);
}

#[test]
fn a_restored_group_is_stable_with_fresh_sessions() {
    let (stage, leader, follower) = Stage::pair();
    let metadata = stage.writes.last().unwrap().1.clone();
    let mut after = Stage::new(DELAY);
    after.group = Group::restore("g", DELAY, metadata, None, after.now);
    after.pass(SESSION - seconds(1));
    assert_eq!(after.beat(who(&leader)), Ok(()));
    let again = after.sync(&follower);
    assert_eq!(
        after.synced[&again].clone().unwrap().assignment,
        format!("for {}", follower.member)
    );
    assert_eq!(after.group.leader.as_ref(), Some(&leader.member));
}

#[test]
fn a_full_group_takes_no_newcomers_until_an_id_lapses() {
    let mut stage = Stage::new(DELAY);
    let (_, given) = stage.enter("first");
    for n in 1..GROUP_MEMBERS_MAX {
        stage.group.pending.insert(format!("silent-{n}"), stage.now + SESSION);
    }
    let asking = Join { require_known_member: true, ..join() };
    let dynamic = stage.join(asking.clone());
    let fixed = stage.join(Join { instance: Some("i".to_owned()), ..join() });
    assert_eq!(stage.joined[&dynamic], Err(GroupError::Full));
    assert_eq!(stage.joined[&fixed], Err(GroupError::Full));
    assert!(stage.group.members.contains_key(&given));
    let admitted = stage.join(Join { member: Some("silent-1".to_owned()), ..join() });
    assert!(!stage.joined.contains_key(&admitted), "an id that was given out has its place");
    stage.pass(SESSION);
    let later = stage.join(asking);
    assert!(matches!(stage.joined[&later], Err(GroupError::MemberIdRequired(_))));
}

#[test]
fn what_is_kept_of_a_request_does_not_keep_its_frame() {
    let frame = Bytes::from(vec![7; 1 << 10]);
    let within = |kept: &Bytes| frame.as_ptr_range().contains(&kept.as_ptr());
    let mut stage = Stage::new(Duration::ZERO);
    let request = || Join { protocols: vec![("range".to_owned(), frame.slice(8..16))], ..join() };
    let ticket = stage.join(request());
    let joined = stage.joined(ticket);
    stage.join(Join { member: Some(joined.member.clone()), ..request() });
    let assignments = vec![(joined.member.clone(), frame.slice(16..24))];
    let generation = stage.group.generation;
    let request = Sync {
        group: "g".to_owned(),
        member: joined.member.clone(),
        instance: None,
        generation,
        protocol_type: None,
        protocol: None,
        assignments,
    };
    stage.apply(Event::Sync { request, ticket: Ticket(99) });
    stage.written(true);
    let member = &stage.group.members[&joined.member];
    assert_eq!((&member.protocols[0].1[..], &member.assignment[..]), (&[7; 8][..], &[7; 8][..]));
    assert!(!within(&member.protocols[0].1) && !within(&member.assignment));
}
