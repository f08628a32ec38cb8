//! What a broker answers, request by request, at the lowest, a middle and the highest version.
//!
//! Every expectation here holds for Apache Kafka too: with `OTTLA_REFERENCE` set, the same tests
//! ask a real one. Tests share one broker and keep out of each other's way by topic and group name.

pub mod batch;
pub mod client;
pub mod groups;
pub mod requests;

mod admission;
mod api_versions;
mod commits;
mod configs;
mod coordinators;
mod delete_records;
mod describe;
mod fetch;
mod list_offsets;
mod produce;
mod record_check;
mod repeated;
mod topics;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::harness::{Options, Target};
use client::Client;

/// The broker of all tests that run at this moment: it ends with the last of them, since a `static`
/// would outlive the test program.
pub struct Shared(Arc<Target>);

impl Shared {
    /// Where it speaks Kafka.
    pub fn address(&self) -> SocketAddr {
        self.0.kafka()
    }

    /// Whether it is Apache Kafka: for the few expectations in which the two differ on purpose.
    pub fn is_reference(&self) -> bool {
        self.0.is_reference()
    }

    /// A new connection to it.
    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(self.address())
    }
}

/// The shared broker, started if it does not run.
#[track_caller]
pub fn broker() -> Shared {
    static RUNNING: Mutex<Weak<Target>> = Mutex::new(Weak::new());
    // A test that could not start it leaves nothing behind: the next one tries again.
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(target) = running.upgrade() {
        return Shared(target);
    }
    // A group's first rebalance would wait for more members, and offsets expire ten minutes after their
    // time at most: no test needs that.
    let options = Options::new()
        .set("group.initial.rebalance.delay.ms", 0)
        .set("offsets.retention.check.interval.ms", 500);
    let target = Arc::new(Target::start_with(options));
    *running = Arc::downgrade(&target);
    Shared(target)
}

/// Kafka's error codes, by the names its documentation gives them.
pub mod code {
    pub const UNKNOWN_SERVER_ERROR: i16 = -1;
    pub const NONE: i16 = 0;
    pub const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub const CORRUPT_MESSAGE: i16 = 2;
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub const MESSAGE_TOO_LARGE: i16 = 10;
    pub const OFFSET_METADATA_TOO_LARGE: i16 = 12;
    pub const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
    pub const INVALID_TOPIC: i16 = 17;
    pub const RECORD_LIST_TOO_LARGE: i16 = 18;
    pub const NOT_ENOUGH_REPLICAS: i16 = 19;
    pub const INVALID_REQUIRED_ACKS: i16 = 21;
    pub const ILLEGAL_GENERATION: i16 = 22;
    pub const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
    pub const INVALID_GROUP_ID: i16 = 24;
    pub const UNKNOWN_MEMBER_ID: i16 = 25;
    pub const INVALID_SESSION_TIMEOUT: i16 = 26;
    pub const REBALANCE_IN_PROGRESS: i16 = 27;
    pub const INVALID_TIMESTAMP: i16 = 32;
    pub const UNSUPPORTED_VERSION: i16 = 35;
    pub const TOPIC_ALREADY_EXISTS: i16 = 36;
    pub const INVALID_PARTITIONS: i16 = 37;
    pub const INVALID_REPLICATION_FACTOR: i16 = 38;
    pub const INVALID_REPLICA_ASSIGNMENT: i16 = 39;
    pub const INVALID_CONFIG: i16 = 40;
    pub const INVALID_REQUEST: i16 = 42;
    pub const POLICY_VIOLATION: i16 = 44;
    pub const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    pub const INVALID_PRODUCER_EPOCH: i16 = 47;
    pub const INVALID_PRODUCER_ID_MAPPING: i16 = 49;
    pub const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
    pub const KAFKA_STORAGE_ERROR: i16 = 56;
    pub const NON_EMPTY_GROUP: i16 = 68;
    pub const GROUP_ID_NOT_FOUND: i16 = 69;
    pub const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
    pub const UNKNOWN_LEADER_EPOCH: i16 = 75;
    pub const MEMBER_ID_REQUIRED: i16 = 79;
    pub const FENCED_INSTANCE_ID: i16 = 82;
    pub const INVALID_RECORD: i16 = 87;
    pub const UNKNOWN_TOPIC_ID: i16 = 100;
}
