//! What a client was authorised for, as a type that only this room can make.

use std::marker::PhantomData;
use std::ops::Deref;

use super::{Resource, op};

/// What permissions are asked for: it says itself which resource it is, so that nobody can have one
/// authorised in another's name.
pub trait Target {
    /// The resource.
    fn resource(&self) -> Resource<'_>;
}

/// A `T` on which the operation `O` was granted to the client of a request. Only an
/// [`Authorizer`](super::Authorizer) makes one. It holds for that request: it is not to be kept.
#[must_use]
pub struct Authorized<T, O> {
    target: T,
    operation: PhantomData<O>,
}

impl<T, O> Authorized<T, O> {
    pub(super) const fn granted(target: T) -> Authorized<T, O> {
        Authorized { target, operation: PhantomData }
    }
}

impl<T, O> Deref for Authorized<T, O> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.target
    }
}

/// An operation that, granted on the whole cluster, stands for `O` on each resource of it: where
/// Kafka asks for it first, and for the resources only if it is denied.
pub trait Covers<O>: op::Marker {}

impl Covers<op::Create> for op::Create {}
impl Covers<op::Delete> for op::Delete {}
impl Covers<op::Describe> for op::Delete {}
impl Covers<op::Describe> for op::Describe {}
impl Covers<op::Describe> for op::ClusterAction {}
