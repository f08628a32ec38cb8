//! What can change: an enum per area. A list of changes is decided together, as one journal record,
//! and [`super::Image::apply`] is the only code that carries changes out.
//!
//! Each area has a number and a version of its own, and its module says how its changes look as
//! bytes. A change carries the first version that has it, so that an older binary opens a directory
//! in which it was never needed, and refuses by name one in which it was.

pub(super) mod broker;
mod codec;
pub(super) mod feature;
pub(super) mod text;
pub(super) mod topic;

use bytes::{BufMut, Bytes, BytesMut};

pub(super) use broker::BrokerChange;
pub(super) use feature::FeatureChange;
pub(super) use topic::TopicChange;

/// One change, in one area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Topics and their configs.
    Topic(TopicChange),
    /// Broker configs that are changed while running.
    Broker(BrokerChange),
    /// Finalized features.
    Feature(FeatureChange),
}

/// The changes of one area.
trait Area: Sized {
    /// Persisted. Never reuse a number.
    const NUMBER: u8;
    /// The newest version this binary reads. Persisted.
    const VERSION: u8;
    /// How an error names it.
    const NAME: &'static str;

    /// The first version that has this change.
    fn version(&self) -> u8;
    /// Writes its fields.
    fn put(&self, out: &mut BytesMut);
    /// Reads its fields, as version `version` wrote them.
    fn read(version: u8, from: &mut Bytes) -> Result<Self, String>;
}

/// Writes changes one after the other: area, version, length, fields.
pub(super) fn put(changes: &[Change], out: &mut BytesMut) {
    for change in changes {
        match change {
            Change::Topic(change) => put_one(change, out),
            Change::Broker(change) => put_one(change, out),
            Change::Feature(change) => put_one(change, out),
        }
    }
}

fn put_one<A: Area>(change: &A, out: &mut BytesMut) {
    out.put_u8(A::NUMBER);
    out.put_u8(change.version());
    let mut fields = BytesMut::new();
    change.put(&mut fields);
    // Cannot fail: what a request or a config brings is far below 4 GiB.
    out.put_u32(fields.len() as u32);
    out.put_slice(&fields);
}

/// Reads what `put` wrote, to the end.
pub(super) fn read(mut from: Bytes) -> Result<Vec<Change>, String> {
    let mut changes = Vec::new();
    while !from.is_empty() {
        let (area, version) = (codec::byte(&mut from)?, codec::byte(&mut from)?);
        let length = codec::number(&mut from)? as usize;
        let fields = codec::slice(&mut from, length)?;
        changes.push(match area {
            TopicChange::NUMBER => Change::Topic(read_one(version, fields)?),
            BrokerChange::NUMBER => Change::Broker(read_one(version, fields)?),
            FeatureChange::NUMBER => Change::Feature(read_one(version, fields)?),
            other => {
                return Err(format!(
                    "it changes area {other}, which this version does not know; run a newer Ottla"
                ));
            }
        });
    }
    Ok(changes)
}

fn read_one<A: Area>(version: u8, mut fields: Bytes) -> Result<A, String> {
    if version > A::VERSION {
        return Err(format!(
            "a change of {} has version {version}, this binary reads up to {}; run a newer Ottla",
            A::NAME,
            A::VERSION
        ));
    }
    let change = A::read(version, &mut fields)?;
    if !fields.is_empty() {
        return Err(format!("a change of {} has {} bytes too many", A::NAME, fields.len()));
    }
    Ok(change)
}

fn unknown_tag(area: &str, tag: u8) -> String {
    format!("a change of {area} has the unknown tag {tag}")
}

#[cfg(test)]
pub(super) mod tests;
