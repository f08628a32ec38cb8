//! One file per Kafka API: decode, ask the rooms below, encode. Sentinels end here.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::catalog::Catalog;
use crate::catalog::placement::Placement;
use crate::config::Config;
use crate::group::Groups;
use crate::txn::ProducerIds;
use crate::types::Clock;

/// What every handler may use. One per broker, shared.
pub struct Context {
    /// The broker's configuration.
    pub config: Arc<Config>,
    /// Identity of the cluster, as Metadata answers it.
    pub cluster_id: String,
    /// Topics and logs.
    pub catalog: Catalog,
    /// Groups and offsets.
    pub groups: Groups,
    /// Producer ids.
    pub producer_ids: ProducerIds,
    /// Leaders and coordinators.
    pub placement: Arc<dyn Placement>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// A reply that may still be waiting for disk, records or members.
pub type Later<T> = BoxFuture<'static, T>;
