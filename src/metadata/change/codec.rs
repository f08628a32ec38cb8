//! The fields of changes as bytes: integers big-endian, texts and lists behind a `u32` length.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::types::TopicId;

const CUT: &str = "it ends before its last field does";

/// Bytes that are no such field.
pub(super) fn cut<E>(_: E) -> String {
    CUT.to_owned()
}

pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    // Cannot fail: what a request or a config brings is far below 4 GiB.
    out.put_u32(text.len() as u32);
    out.put_slice(text.as_bytes());
}

pub(super) fn put_topic(out: &mut BytesMut, id: TopicId) {
    out.put_slice(id.0.as_bytes());
}

pub(super) fn put_list<T>(
    out: &mut BytesMut,
    items: impl ExactSizeIterator<Item = T>,
    mut put: impl FnMut(&mut BytesMut, T),
) {
    out.put_u32(items.len() as u32);
    items.for_each(|item| put(out, item));
}

pub(super) fn put_texts(out: &mut BytesMut, texts: &BTreeSet<String>) {
    put_list(out, texts.iter(), |out, text| put_text(out, text));
}

pub(super) fn put_pairs(out: &mut BytesMut, pairs: &BTreeMap<String, String>) {
    put_list(out, pairs.iter(), |out, (name, value)| {
        put_text(out, name);
        put_text(out, value);
    });
}

pub(super) fn byte(from: &mut Bytes) -> Result<u8, String> {
    from.try_get_u8().map_err(cut)
}

pub(super) fn flag(from: &mut Bytes) -> Result<bool, String> {
    match byte(from)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(format!("{other} is neither true nor false")),
    }
}

pub(super) fn number(from: &mut Bytes) -> Result<u32, String> {
    from.try_get_u32().map_err(cut)
}

pub(super) fn slice(from: &mut Bytes, length: usize) -> Result<Bytes, String> {
    if length > from.len() {
        return Err(CUT.to_owned());
    }
    Ok(from.split_to(length))
}

pub(super) fn text(from: &mut Bytes) -> Result<String, String> {
    let length = number(from)? as usize;
    let text = slice(from, length)?;
    String::from_utf8(text.into()).map_err(|_| "a text is not UTF-8".to_owned())
}

pub(super) fn topic(from: &mut Bytes) -> Result<TopicId, String> {
    let id = slice(from, size_of::<Uuid>())?;
    Uuid::from_slice(&id).map(TopicId).map_err(|error| error.to_string())
}

/// As many items as the list says, each read by `item`: a count that the bytes do not hold ends at
/// the first item that is missing.
pub(super) fn list<T, C: FromIterator<T>>(
    from: &mut Bytes,
    item: impl Fn(&mut Bytes) -> Result<T, String>,
) -> Result<C, String> {
    let count = number(from)?;
    (0..count).map(|_| item(from)).collect()
}

pub(super) fn texts(from: &mut Bytes) -> Result<BTreeSet<String>, String> {
    list(from, text)
}

pub(super) fn pairs(from: &mut Bytes) -> Result<BTreeMap<String, String>, String> {
    list(from, |from| Ok((text(from)?, text(from)?)))
}
