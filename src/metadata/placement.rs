//! Who leads what. One machine owns all slots; it raises its epoch at each start.

use std::collections::BTreeMap;

use crate::types::{LeaderEpoch, ListenerName, LogId};

/// A broker as the clients of one listener see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// `node.id`.
    pub id: i32,
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: u16,
}

/// What a coordinator coordinates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoordinatorKind {
    /// A consumer group.
    Group,
    /// A transactional id.
    Transaction,
}

/// See the module's header.
pub trait Placement: Send + Sync + 'static {
    /// The node that leads a partition, and its epoch.
    fn leader(&self, partition: LogId) -> (i32, LeaderEpoch);
    /// The node that coordinates `key`.
    fn coordinator(&self, kind: CoordinatorKind, key: &str) -> i32;
    /// The brokers that the clients of a listener are told of: those that advertise it.
    fn brokers(&self, listener: &ListenerName) -> Vec<Broker>;
}

/// The placement of a broker that is alone: it leads and coordinates everything.
#[derive(Clone, Debug)]
pub struct SingleNode {
    id: i32,
    advertised: BTreeMap<ListenerName, Broker>,
    epoch: LeaderEpoch,
}

impl SingleNode {
    /// The node `id`, as the clients of each listener are told of it. `epoch` is this start's: the
    /// data directory raises it each time.
    pub fn new(
        id: i32,
        advertised: impl IntoIterator<Item = (ListenerName, Broker)>,
        epoch: LeaderEpoch,
    ) -> SingleNode {
        SingleNode { id, advertised: advertised.into_iter().collect(), epoch }
    }
}

impl Placement for SingleNode {
    fn leader(&self, _partition: LogId) -> (i32, LeaderEpoch) {
        (self.id, self.epoch)
    }

    fn coordinator(&self, _kind: CoordinatorKind, _key: &str) -> i32 {
        self.id
    }

    fn brokers(&self, listener: &ListenerName) -> Vec<Broker> {
        self.advertised.get(listener).cloned().into_iter().collect()
    }
}
