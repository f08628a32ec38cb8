//! What the view knows of a log, if the log still fits it.

use std::io;

use tracing::warn;

use crate::log::format::scan::Scan;
use crate::log::object::manifest::Manifest;
use crate::log::object::record_store::{Listing, ObjectId, RecordStore};
use crate::log::settings::Settings;
use crate::store::{AbortedEntry, LogSnapshot, SegmentEntry, StoreError};
use crate::types::{LogId, Offset};

/// The state of a log in the view.
pub(super) type Known = (LogSnapshot, Vec<AbortedEntry>);

/// The view's snapshot of a log, if it fits the log; and the offset up to which the log was once on the disk
/// according to the view, also if the snapshot does not fit.
pub(super) fn snapshot(
    log: LogId,
    objects: &[(ObjectId, u64)],
    listing: &mut Listing,
    settings: &Settings,
) -> (Option<Known>, Option<Offset>) {
    let (store, view) = (&*settings.store, &settings.view);
    let known = || -> Result<_, StoreError> {
        let Some(snapshot) = view.log_snapshot(log)? else { return Ok(None) };
        Ok(Some((snapshot, view.log_aborted(log)?)))
    };
    let (misfit, snapshot) = match known() {
        Ok(None) => return (None, None),
        Ok(Some((snapshot, aborted))) => match misfit(log, &snapshot, objects, store) {
            None => {
                let end = snapshot.end;
                return (Some((snapshot, aborted)), Some(end));
            }
            Some(misfit) => (misfit, Some(snapshot)),
        },
        Err(error) => (error.to_string(), None),
    };
    let label = settings.label(log);
    warn!(log = label, misfit, "view does not fit the log, scanning the whole log");
    let synced = snapshot.as_ref().map(|snapshot| snapshot.end);
    // Of a log that an earlier version wrote, the view alone tells how far it was on the disk.
    if let Err(error) = keep_end(log, synced.unwrap_or_default(), listing, store) {
        warn!(log = label, %error, "manifest was not written, the snapshot stays in the view");
    } else if let Err(error) = view.forget_log(log) {
        warn!(log = label, %error, "a snapshot that does not fit could not be removed from the view");
    }
    (None, synced)
}

/// Raises the durable end in a log's manifest to `end`.
fn keep_end(
    log: LogId,
    end: Offset,
    listing: &mut Listing,
    store: &dyn RecordStore,
) -> io::Result<()> {
    if listing.manifest.as_ref().map_or(Offset::ZERO, |manifest| manifest.end) >= end {
        return Ok(());
    }
    let manifest = Manifest::raised(listing, end);
    store.put_manifest(log, manifest.clone())?;
    listing.manifest = Some(manifest);
    Ok(())
}

/// Why a snapshot does not fit its log; `None` if it fits.
fn misfit(
    log: LogId,
    snapshot: &LogSnapshot,
    objects: &[(ObjectId, u64)],
    store: &dyn RecordStore,
) -> Option<String> {
    let Some((last, sealed)) = snapshot.segments.split_last() else {
        return Some("it names no segment".to_owned());
    };
    let object =
        |entry: &SegmentEntry| ObjectId { log, base: entry.base, revision: entry.revision };
    let is_there =
        |(i, entry): (usize, &SegmentEntry)| objects.get(i) == Some(&(object(entry), entry.bytes));
    if !sealed.iter().enumerate().all(is_there) {
        return Some("its older segments differ".to_owned());
    }
    match objects.get(sealed.len()) {
        Some((found, length)) if *found == object(last) && *length >= last.bytes => {}
        _ => return Some(format!("segment {} is shorter", last.base)),
    }
    let Some(anchor) = snapshot.anchor else {
        let is_empty = last.bytes == 0 && snapshot.end == last.base;
        return (!is_empty).then(|| "it names no last batch".to_owned());
    };
    match Scan::new(store, object(last), anchor.position, last.bytes).peek() {
        Ok(Some(Ok(header)))
            if header.base_offset == anchor.base_offset
                && header.crc == anchor.crc
                && header.next_offset() == snapshot.end
                && anchor.position + header.bytes as u64 == last.bytes =>
        {
            None
        }
        _ => Some(format!("batch at offset {} differs", anchor.base_offset)),
    }
}
