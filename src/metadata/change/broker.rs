//! Changes of broker configs while running.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Area, codec, unknown_tag};
use crate::config::{Overlay, Secret};
use crate::metadata::BrokerScope;

/// Configs of `scope` have other values from here on, or none of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::metadata) struct BrokerChange {
    pub(in crate::metadata) scope: BrokerScope,
    pub(in crate::metadata) set: Overlay,
    pub(in crate::metadata) unset: BTreeSet<String>,
}

/// Persisted. Never reuse a number.
mod tag {
    pub(super) const CLUSTER: u8 = 0;
    pub(super) const BROKER: u8 = 1;
}

impl Area for BrokerChange {
    const NUMBER: u8 = 2;
    const VERSION: u8 = 0;
    const NAME: &'static str = "broker configs";

    fn version(&self) -> u8 {
        0
    }

    fn put(&self, out: &mut BytesMut) {
        match self.scope {
            BrokerScope::Cluster => out.put_u8(tag::CLUSTER),
            BrokerScope::Broker(node) => {
                out.put_u8(tag::BROKER);
                out.put_i32(node);
            }
        }
        codec::put_list(out, self.set.iter(), |out, (name, value)| {
            codec::put_text(out, name);
            codec::put_text(out, value.reveal());
        });
        codec::put_texts(out, &self.unset);
    }

    fn read(_: u8, from: &mut Bytes) -> Result<BrokerChange, String> {
        let scope = match codec::byte(from)? {
            tag::CLUSTER => BrokerScope::Cluster,
            tag::BROKER => BrokerScope::Broker(codec::number(from)? as i32),
            tag => return Err(unknown_tag(Self::NAME, tag)),
        };
        let pair = |from: &mut Bytes| Ok((codec::text(from)?, Secret::new(codec::text(from)?)));
        Ok(BrokerChange { scope, set: codec::list(from, pair)?, unset: codec::texts(from)? })
    }
}
