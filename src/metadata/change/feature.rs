//! Changes of the cluster's finalized features.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Area, codec, unknown_tag};

/// One decision about features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::metadata) enum FeatureChange {
    /// The feature has this level from here on.
    Finalized { name: String, level: i16 },
    /// These are all finalized features, and `epoch` is the position of the change that made them so.
    /// Said when the journal is written anew.
    All { epoch: u64, levels: BTreeMap<String, i16> },
}

/// Persisted. Never reuse a number.
mod tag {
    pub(super) const FINALIZED: u8 = 0;
    pub(super) const ALL: u8 = 1;
}

fn put_level(out: &mut BytesMut, name: &str, level: i16) {
    codec::put_text(out, name);
    out.put_i16(level);
}

fn level(from: &mut Bytes) -> Result<(String, i16), String> {
    Ok((codec::text(from)?, from.try_get_i16().map_err(codec::cut)?))
}

impl Area for FeatureChange {
    const NUMBER: u8 = 3;
    const VERSION: u8 = 0;
    const NAME: &'static str = "features";

    fn version(&self) -> u8 {
        0
    }

    fn put(&self, out: &mut BytesMut) {
        match self {
            FeatureChange::Finalized { name, level } => {
                out.put_u8(tag::FINALIZED);
                put_level(out, name, *level);
            }
            FeatureChange::All { epoch, levels } => {
                out.put_u8(tag::ALL);
                out.put_u64(*epoch);
                codec::put_list(out, levels.iter(), |out, (name, it)| put_level(out, name, *it));
            }
        }
    }

    fn read(_: u8, from: &mut Bytes) -> Result<FeatureChange, String> {
        match codec::byte(from)? {
            tag::FINALIZED => {
                let (name, level) = level(from)?;
                Ok(FeatureChange::Finalized { name, level })
            }
            tag::ALL => Ok(FeatureChange::All {
                epoch: from.try_get_u64().map_err(codec::cut)?,
                levels: codec::list(from, level)?,
            }),
            tag => Err(unknown_tag(Self::NAME, tag)),
        }
    }
}
