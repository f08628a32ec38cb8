//! The authoriser: who may do what. Everything is allowed until ACLs are kept.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::{Authorized, Client, Covers, Operation, Resource, ResourceKind, Target, op};

/// Decides for each operation on a resource. Cheap to clone.
#[derive(Clone)]
pub enum Authorizer {
    /// Everybody may do everything. Costs nothing: it looks at neither client nor resource.
    AllowAll,
    /// A policy is asked each time.
    Policy(Arc<dyn Policy>),
}

/// The rules behind an [`Authorizer`]: ACLs, for example.
pub trait Policy: Send + Sync {
    /// Whether `client` may carry out `operation` on `resource`, by a rule for it or for an operation
    /// that implies it ([`Operation::implied_by`]).
    fn allows(&self, client: Client<'_>, operation: Operation, resource: Resource<'_>) -> bool;

    /// Whether there is any resource of that kind on which `client` may carry out `operation`.
    fn allows_on_any(&self, client: Client<'_>, operation: Operation, kind: ResourceKind) -> bool;
}

/// A client may not do what it asked for. Names no resource: the client need not know that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{kind} authorization failed: {operation} is not allowed")]
pub struct Denied {
    /// What it asked for.
    pub operation: Operation,
    /// On what.
    pub kind: ResourceKind,
}

impl Authorizer {
    /// `target`, if `client` may carry out `O` on it.
    pub fn authorize<T: Target, O: op::Marker>(
        &self,
        client: Client<'_>,
        target: T,
    ) -> Result<Authorized<T, O>, Denied> {
        if self.allows(client, O::OPERATION, target.resource()) {
            return Ok(Authorized::granted(target));
        }
        Err(Denied { operation: O::OPERATION, kind: target.resource().kind() })
    }

    /// The same, without asking for `target` where the client may carry out `W` on the whole cluster.
    pub fn authorize_within<C: Target, T: Target, W: Covers<O>, O: op::Marker>(
        &self,
        client: Client<'_>,
        cluster: &Result<Authorized<C, W>, Denied>,
        target: T,
    ) -> Result<Authorized<T, O>, Denied> {
        match cluster {
            Ok(whole) if whole.resource() == Resource::Cluster => Ok(Authorized::granted(target)),
            Ok(_) | Err(_) => self.authorize(client, target),
        }
    }

    /// The same, where who may carry out `A` on any resource of a kind may carry out `O` as well: who may
    /// write to a topic may be an idempotent producer (KIP-679).
    pub fn authorize_or_any<T: Target, O: op::Marker, A: op::Marker>(
        &self,
        client: Client<'_>,
        target: T,
        kind: ResourceKind,
    ) -> Result<Authorized<T, O>, Denied> {
        let is_allowed = self.allows(client, O::OPERATION, target.resource())
            || self.allows_on_any(client, A::OPERATION, kind);
        if is_allowed {
            return Ok(Authorized::granted(target));
        }
        Err(Denied { operation: O::OPERATION, kind: target.resource().kind() })
    }

    /// Which of the operations that there are on `resource` are allowed.
    pub fn allowed_operations(
        &self,
        client: Client<'_>,
        resource: Resource<'_>,
    ) -> impl Iterator<Item = Operation> {
        let operations = resource.kind().operations().iter().copied();
        operations.filter(move |operation| self.allows(client, *operation, resource))
    }

    #[inline]
    fn allows(&self, client: Client<'_>, operation: Operation, resource: Resource<'_>) -> bool {
        match self {
            Authorizer::AllowAll => true,
            Authorizer::Policy(policy) => policy.allows(client, operation, resource),
        }
    }

    fn allows_on_any(&self, client: Client<'_>, operation: Operation, kind: ResourceKind) -> bool {
        match self {
            Authorizer::AllowAll => true,
            Authorizer::Policy(policy) => policy.allows_on_any(client, operation, kind),
        }
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Authorizer::AllowAll => "AllowAll",
            Authorizer::Policy(_) => "Policy",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::security::Principal;
    use crate::types::ListenerName;

    struct Named(&'static str);

    impl Target for Named {
        fn resource(&self) -> Resource<'_> {
            Resource::Topic(self.0)
        }
    }

    struct Cluster;

    impl Target for Cluster {
        fn resource(&self) -> Resource<'_> {
            Resource::Cluster
        }
    }

    /// Alice may, from one address, do one thing to one topic.
    struct OneRule(Operation);

    impl Policy for OneRule {
        fn allows(&self, client: Client<'_>, operation: Operation, resource: Resource<'_>) -> bool {
            let is_covered = operation == self.0 || operation.implied_by().contains(&self.0);
            is_covered
                && resource == Resource::Topic("clicks")
                && client.principal.to_string() == "User:alice"
                && client.host == IpAddr::V4(Ipv4Addr::LOCALHOST)
        }

        fn allows_on_any(&self, _: Client<'_>, operation: Operation, kind: ResourceKind) -> bool {
            operation == self.0 && kind == ResourceKind::Topic
        }
    }

    fn with(policy: OneRule, test: impl Fn(&Authorizer, Client<'_>)) {
        let (principal, listener) = (Principal::user("alice"), ListenerName::plaintext());
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let client = Client { principal: &principal, host, listener: &listener };
        test(&Authorizer::Policy(Arc::new(policy)), client);
    }

    #[test]
    fn only_what_is_allowed_is_handed_out() {
        with(OneRule(Operation::Write), |authorizer, client| {
            let write = authorizer.authorize::<_, op::Write>(client, Named("clicks"));
            assert_eq!(write.ok().map(|topic| topic.0), Some("clicks"));
            let denied = authorizer.authorize::<_, op::Read>(client, Named("clicks")).err();
            let text = "Topic authorization failed: Read is not allowed";
            assert_eq!(denied.map(|denied| denied.to_string()).as_deref(), Some(text));
            assert!(authorizer.authorize::<_, op::Write>(client, Named("views")).is_err());
            assert!(authorizer.authorize::<_, op::Describe>(client, Named("clicks")).is_ok());
            let elsewhere = Client { host: IpAddr::V4(Ipv4Addr::BROADCAST), ..client };
            assert!(authorizer.authorize::<_, op::Write>(elsewhere, Named("clicks")).is_err());
            let allowed = authorizer.allowed_operations(client, Resource::Topic("clicks"));
            assert_eq!(allowed.collect::<Vec<_>>(), [Operation::Write, Operation::Describe]);
        });
    }

    #[test]
    fn who_may_write_to_a_topic_may_be_an_idempotent_producer() {
        with(OneRule(Operation::Write), |authorizer, client| {
            let any = |authorizer: &Authorizer| {
                let topic = ResourceKind::Topic;
                let granted = authorizer
                    .authorize_or_any::<_, op::IdempotentWrite, op::Write>(client, Cluster, topic);
                granted.is_ok()
            };
            assert!(any(authorizer));
            assert!(!any(&Authorizer::Policy(Arc::new(OneRule(Operation::Read)))));
        });
    }

    #[test]
    fn what_holds_for_the_cluster_is_not_asked_for_each_topic() {
        with(OneRule(Operation::Create), |authorizer, client| {
            let whole = Authorizer::AllowAll.authorize::<_, op::Create>(client, Cluster);
            let none = authorizer.authorize::<_, op::Create>(client, Cluster);
            let may_create = |cluster, name| {
                let granted = authorizer.authorize_within::<_, _, _, op::Create>(
                    client,
                    cluster,
                    Named(name),
                );
                granted.is_ok()
            };
            assert!(may_create(&whole, "views"));
            assert!(may_create(&none, "clicks") && !may_create(&none, "views"));
        });
    }
}
