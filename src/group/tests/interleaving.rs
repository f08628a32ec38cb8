//! The state machine under random interleavings of clients, crashes, time and failing writes.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::state::{DELAY, Stage, join, who};
use crate::group::effect::{Event, Ticket};
use crate::group::state::State;
use crate::group::{GroupError, Join, Joined, MemberRef};
use crate::types::Generation;

/// A small generator of numbers (xorshift), so that a failing seed can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A client that follows the protocol as well as the interleaving lets it.
#[derive(Default)]
struct Client {
    instance: Option<String>,
    member: Option<String>,
    joining: Option<Ticket>,
    syncing: Option<Ticket>,
    joined: Option<Joined>,
    assignment: Option<(Generation, Bytes)>,
}

impl Client {
    fn step(&mut self, stage: &mut Stage) {
        if let Some(ticket) = self.joining {
            match stage.joined.get(&ticket).cloned() {
                None => return,
                Some(Ok(joined)) => {
                    self.member = Some(joined.member.clone());
                    self.joined = Some(joined);
                }
                Some(Err(GroupError::MemberIdRequired(id))) => self.member = Some(id),
                Some(Err(GroupError::UnknownMember(_) | GroupError::FencedInstance(_))) => {
                    self.member = None;
                }
                Some(Err(_)) => {}
            }
            self.joining = None;
        } else if let Some(ticket) = self.syncing {
            match stage.synced.get(&ticket).cloned() {
                None => return,
                Some(Ok(synced)) => {
                    let generation = self.joined.as_ref().unwrap().generation;
                    self.assignment = Some((generation, synced.assignment));
                }
                Some(Err(error)) => self.lost(&error),
            }
            self.syncing = None;
        } else if let Some(joined) = self.joined.clone() {
            if self.assignment.is_none() {
                self.syncing = Some(stage.sync(&joined));
            } else if let Err(error) = stage.beat(who(&joined)) {
                self.lost(&error);
            }
        } else {
            let request = Join {
                member: self.member.clone(),
                instance: self.instance.clone(),
                require_known_member: true,
                ..join()
            };
            self.joining = Some(stage.join(request));
        }
    }

    fn lost(&mut self, error: &GroupError) {
        (self.joined, self.assignment) = (None, None);
        if !matches!(error, GroupError::RebalanceInProgress | GroupError::NotAvailable) {
            self.member = None;
        }
    }

    /// The process dies and another takes its place.
    fn crash(&mut self) {
        *self = Client { instance: self.instance.clone(), ..Client::default() };
    }

    fn leave(&mut self, stage: &mut Stage) {
        if let Some(joined) = &self.joined {
            let _ = stage.leave(MemberRef { generation: None, ..who(joined) });
            self.crash();
        }
    }
}

/// Reports some of the outstanding writes, in order.
fn report(stage: &mut Stage, reported: &mut usize, random: &mut Random, faults: bool) {
    while *reported < stage.writes.len() && (!faults || random.below(2) == 0) {
        let write = stage.writes[*reported].0;
        *reported += 1;
        let ok = !faults || random.below(8) != 0;
        stage.apply(Event::Written { write, ok });
    }
}

#[test]
fn any_interleaving_keeps_the_invariants_and_ends_stable_when_faults_end() {
    for seed in 1..=150u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut stage = Stage::new(if seed % 3 == 0 { Duration::ZERO } else { DELAY });
        let mut reported = 0;
        let mut clients: Vec<Client> = (0..4)
            .map(|n| Client {
                instance: (n == 0 && seed % 2 == 0).then(|| "static".to_owned()),
                ..Client::default()
            })
            .collect();
        for _ in 0..400 {
            let client = random.below(4) as usize;
            match random.below(20) {
                0 => clients[client].crash(),
                1 => clients[client].leave(&mut stage),
                2..=4 => {
                    let time = Duration::from_millis(random.below(6000));
                    stage.pass(time);
                }
                5..=7 => report(&mut stage, &mut reported, &mut random, true),
                _ => clients[client].step(&mut stage),
            }
        }
        // Faults end: within a bounded time every client has an assignment of one generation.
        for _ in 0..600 {
            clients.iter_mut().for_each(|client| client.step(&mut stage));
            report(&mut stage, &mut reported, &mut random, false);
            stage.pass(Duration::from_millis(500));
        }
        assert_eq!(stage.group.state, State::Stable, "seed {seed}");
        assert_eq!(stage.group.members.len(), clients.len(), "seed {seed}");
        let generations: BTreeSet<Option<Generation>> = clients
            .iter()
            .map(|client| client.assignment.as_ref().map(|(generation, _)| *generation))
            .collect();
        assert_eq!(generations, [Some(stage.group.generation)].into(), "seed {seed}");
        let leaders = clients.iter().filter(|client| {
            let joined = client.joined.as_ref().unwrap();
            joined.leader == joined.member
        });
        assert_eq!(leaders.count(), 1, "seed {seed}");
        for client in &clients {
            let id = client.member.as_ref().unwrap();
            let (_, assignment) = client.assignment.as_ref().unwrap();
            assert_eq!(assignment, &stage.group.members[id].assignment, "seed {seed}");
        }
    }
}
