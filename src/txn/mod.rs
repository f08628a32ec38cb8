//! Producer ids: allocated in durable blocks, never twice, also after a crash.

use std::sync::Arc;

use thiserror::Error;

use crate::catalog::journal::Journal;
use crate::types::ProducerId;

/// Why no id could be had.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProducerIdError {
    /// The block could not be claimed durably.
    #[error("a block of producer ids could not be claimed: {0}")]
    Storage(String),
}

/// A cheap handle to the producer-id allocator.
#[derive(Clone)]
pub struct ProducerIds {}

impl ProducerIds {
    /// Reads how far ids were claimed.
    pub async fn start(journal: Arc<dyn Journal>) -> Result<ProducerIds, ProducerIdError> {
        let _ = journal;
        todo!("group helper")
    }

    /// A producer id nobody was ever given, with epoch 0.
    pub async fn allocate(&self) -> Result<ProducerId, ProducerIdError> {
        todo!("group helper")
    }
}
