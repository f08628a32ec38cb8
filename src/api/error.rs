//! The rooms' errors as Kafka's codes: exhaustive matches, so that a new error cannot go unmapped.

use kafka_protocol::error::ResponseError as Kafka;

use super::access::Unreachable;
use crate::group::GroupError;
use crate::log::{AppendError, ReadError, TrimError};
use crate::metadata::MetadataError;
use crate::security::{Denied, ResourceKind};
use crate::txn::ProducerIdError;
use crate::types::{TopicName, TopicNameError};

/// No error.
pub(super) const NONE: i16 = 0;

/// An error that Kafka has a code for.
pub(super) trait Coded {
    /// Kafka's error.
    fn kafka(&self) -> Kafka;
}

/// The code of an outcome: 0 for `Ok`.
pub(super) fn code<T, E: Coded>(outcome: &Result<T, E>) -> i16 {
    match outcome {
        Ok(_) => NONE,
        Err(error) => error.kafka().code(),
    }
}

/// A refusal with its reason: of a room, or of a request that contradicts itself or the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Kafka's error.
    pub error: Kafka,
    /// What the client is told.
    pub reason: String,
}

impl Refused {
    /// `error` because of `reason`.
    pub(super) fn new(error: Kafka, reason: impl Into<String>) -> Refused {
        Refused { error, reason: reason.into() }
    }
}

impl From<MetadataError> for Refused {
    fn from(error: MetadataError) -> Refused {
        Refused::new(error.kafka(), error.to_string())
    }
}

impl Coded for Kafka {
    fn kafka(&self) -> Kafka {
        *self
    }
}

impl Coded for AppendError {
    fn kafka(&self) -> Kafka {
        match self {
            AppendError::Corrupt(_) => Kafka::CorruptMessage,
            AppendError::Invalid(_) => Kafka::InvalidRecord,
            AppendError::Undecodable(_) => Kafka::UnknownServerError,
            AppendError::TimestampType { .. } | AppendError::TimestampRange { .. } => {
                Kafka::InvalidTimestamp
            }
            AppendError::NoKey { .. } => Kafka::InvalidRecord,
            AppendError::TooLarge { .. } | AppendError::Inflates { .. } => Kafka::MessageTooLarge,
            AppendError::LargerThanSegment { .. } => Kafka::RecordListTooLarge,
            AppendError::OutOfOrderSequence { .. } => Kafka::OutOfOrderSequenceNumber,
            AppendError::Fenced { .. } => Kafka::InvalidProducerEpoch,
            AppendError::InvalidTxnState(_) => Kafka::InvalidTxnState,
            AppendError::Deleted => Kafka::UnknownTopicOrPartition,
            AppendError::Storage { .. } => Kafka::KafkaStorageError,
            // A producer retries this one, and finds the broker again when it is back.
            AppendError::Stopping => Kafka::NotLeaderOrFollower,
        }
    }
}

impl Coded for ReadError {
    fn kafka(&self) -> Kafka {
        match self {
            ReadError::OutOfRange { .. } => Kafka::OffsetOutOfRange,
            ReadError::Corrupt { .. } => Kafka::CorruptMessage,
            ReadError::Deleted => Kafka::UnknownTopicOrPartition,
            ReadError::Storage { .. } => Kafka::KafkaStorageError,
        }
    }
}

impl Coded for TrimError {
    fn kafka(&self) -> Kafka {
        match self {
            TrimError::OutOfRange { .. } => Kafka::OffsetOutOfRange,
            TrimError::Deleted => Kafka::UnknownTopicOrPartition,
            TrimError::Storage { .. } => Kafka::KafkaStorageError,
            TrimError::Stopping => Kafka::NotLeaderOrFollower,
        }
    }
}

impl Coded for TopicNameError {
    fn kafka(&self) -> Kafka {
        match self {
            TopicNameError::Reserved(_)
            | TopicNameError::TooLong(_)
            | TopicNameError::Character(..) => Kafka::InvalidTopicException,
        }
    }
}

impl Coded for MetadataError {
    fn kafka(&self) -> Kafka {
        match self {
            MetadataError::Name(name) => name.kafka(),
            MetadataError::Exists(_) => Kafka::TopicAlreadyExists,
            MetadataError::Collides { .. } => Kafka::InvalidTopicException,
            MetadataError::UnknownName(_) => Kafka::UnknownTopicOrPartition,
            MetadataError::UnknownId(_) => Kafka::UnknownTopicId,
            MetadataError::Partitions(_) => Kafka::InvalidPartitions,
            MetadataError::Config(_) => Kafka::InvalidConfig,
            MetadataError::BrokerConfig(_) => Kafka::InvalidRequest,
            MetadataError::Internal(_) => Kafka::InvalidTopicException,
            MetadataError::Storage(_) => Kafka::KafkaStorageError,
        }
    }
}

impl Coded for GroupError {
    fn kafka(&self) -> Kafka {
        match self {
            GroupError::InvalidGroupId => Kafka::InvalidGroupId,
            GroupError::UnknownMember(_) => Kafka::UnknownMemberId,
            GroupError::IllegalGeneration(_) => Kafka::IllegalGeneration,
            GroupError::RebalanceInProgress => Kafka::RebalanceInProgress,
            GroupError::InconsistentProtocol => Kafka::InconsistentGroupProtocol,
            GroupError::InvalidSessionTimeout(_) => Kafka::InvalidSessionTimeout,
            GroupError::MemberIdRequired(_) => Kafka::MemberIdRequired,
            GroupError::FencedInstance(_) => Kafka::FencedInstanceId,
            GroupError::NotEmpty(_) => Kafka::NonEmptyGroup,
            GroupError::NotFound(_) => Kafka::GroupIdNotFound,
            GroupError::MetadataTooLarge(_) => Kafka::OffsetMetadataTooLarge,
            GroupError::Full => Kafka::GroupMaxSizeReached,
            GroupError::NotAvailable => Kafka::CoordinatorNotAvailable,
            // Kafka's coordinator turns a storage error of its topic into this: clients look for
            // the coordinator again and retry.
            GroupError::Storage(_) => Kafka::NotCoordinator,
        }
    }
}

impl Coded for Denied {
    fn kafka(&self) -> Kafka {
        match self.kind {
            ResourceKind::Topic => Kafka::TopicAuthorizationFailed,
            ResourceKind::Group => Kafka::GroupAuthorizationFailed,
            ResourceKind::TransactionalId => Kafka::TransactionalIdAuthorizationFailed,
            ResourceKind::Cluster => Kafka::ClusterAuthorizationFailed,
        }
    }
}

impl From<Denied> for Kafka {
    fn from(denied: Denied) -> Kafka {
        denied.kafka()
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Refused {
        Refused::new(denied.kafka(), denied.to_string())
    }
}

impl Coded for Unreachable {
    fn kafka(&self) -> Kafka {
        match self {
            Unreachable::Denied(denied) => denied.kafka(),
            Unreachable::UnknownName => Kafka::UnknownTopicOrPartition,
            Unreachable::UnknownId => Kafka::UnknownTopicId,
        }
    }
}

impl Unreachable {
    /// The refusal of a topic that was asked for by name. A name that no topic can have is told of.
    pub(super) fn refused(self, name: &str) -> Refused {
        match self {
            Unreachable::Denied(denied) => denied.into(),
            Unreachable::UnknownName | Unreachable::UnknownId => match TopicName::parse(name) {
                Ok(_) => MetadataError::UnknownName(name.to_owned()).into(),
                Err(illegal) => MetadataError::from(illegal).into(),
            },
        }
    }
}

impl From<Unreachable> for Kafka {
    fn from(unreachable: Unreachable) -> Kafka {
        unreachable.kafka()
    }
}

impl Coded for ProducerIdError {
    fn kafka(&self) -> Kafka {
        match self {
            ProducerIdError::Storage(_) => Kafka::CoordinatorNotAvailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_kafkas_numbers() {
        assert_eq!(code(&Ok::<_, AppendError>(())), 0);
        assert_eq!(code(&Err::<(), _>(AppendError::Corrupt(String::new()))), 2);
        assert_eq!(code(&Err::<(), _>(AppendError::Invalid(String::new()))), 87);
        assert_eq!(code(&Err::<(), _>(ReadError::Deleted)), 3);
        assert_eq!(code(&Err::<(), _>(MetadataError::Exists("t".into()))), 36);
        assert_eq!(code(&Err::<(), _>(GroupError::RebalanceInProgress)), 27);
        assert_eq!(code(&Err::<(), _>(GroupError::Storage(String::new()))), 16);
    }
}
