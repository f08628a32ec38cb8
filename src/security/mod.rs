//! Who a client is, and what it may do. Knows no Kafka message, no socket and no room that keeps
//! topics or groups: `api` asks, `wire` makes the sessions.
//!
//! [`Authorizer`] decides. Only it makes an [`Authorized`], and `api/access` hands out topics,
//! groups, transactional ids and the cluster as nothing else.

mod authorized;
mod authorizer;
mod operation;
mod principal;
mod resource;

pub use authorized::{Authorized, Covers, Target};
pub use authorizer::{Authorizer, Denied, Policy};
pub use operation::{Operation, op};
pub use principal::{Client, Principal};
pub use resource::{Resource, ResourceKind};
