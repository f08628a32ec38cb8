//! Who leads what. One machine owns all slots; it raises its epoch at each start.

use crate::types::{LeaderEpoch, LogId};

/// A broker as clients see it.
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
    /// All brokers.
    fn brokers(&self) -> Vec<Broker>;
}

/// The placement of a broker that is alone: it leads and coordinates everything.
#[derive(Clone, Debug)]
pub struct SingleNode {
    broker: Broker,
    epoch: LeaderEpoch,
}

impl SingleNode {
    /// `epoch` is this start's: the data directory raises it each time.
    pub fn new(broker: Broker, epoch: LeaderEpoch) -> SingleNode {
        SingleNode { broker, epoch }
    }
}

impl Placement for SingleNode {
    fn leader(&self, _partition: LogId) -> (i32, LeaderEpoch) {
        (self.broker.id, self.epoch)
    }

    fn coordinator(&self, _kind: CoordinatorKind, _key: &str) -> i32 {
        self.broker.id
    }

    fn brokers(&self) -> Vec<Broker> {
        vec![self.broker.clone()]
    }
}
