//! Snapshots of a log in the view, so that the next start reads little of the log.

use tracing::warn;

use super::OwnedLog;
use crate::log::object::manifest::Manifest;
use crate::log::segment::Segment;
use crate::log::settings::Settings;
use crate::store::{AbortedEntry, LogSnapshot, LogUpdate};

impl OwnedLog {
    /// Writes a snapshot to the view, if enough was appended since the last one.
    pub(in crate::log) fn keep_view_if_due(&mut self, settings: &Settings) {
        if self.is_view_due(settings) {
            self.keep_view(settings);
        }
    }

    pub(in crate::log) fn is_view_due(&self, settings: &Settings) -> bool {
        self.view_due_bytes >= settings.view_interval_bytes
    }

    /// Keeps a manifest and writes a snapshot to the view, now.
    pub(super) fn keep_view(&mut self, settings: &Settings) {
        // Each start must find the damage again: a start does not read what a snapshot covers.
        if self.refused.is_some() || self.active.is_none() {
            return;
        }
        // The view must never know of bytes that a power loss could still take, also with `durability =
        // page-cache`.
        if self.force_sync(settings).is_err() {
            return;
        }
        // First: the view is a cache, and never tells more than the manifest.
        if self.keep_manifest(settings).is_ok() {
            self.keep_snapshot(settings);
        }
    }

    /// Writes a snapshot to the view, of a log that is synced and whose manifest says so.
    pub(in crate::log) fn keep_snapshot(&mut self, settings: &Settings) {
        self.view_due_bytes = 0;
        self.expire_producers(settings);
        let readable = self.shared.readable();
        let snapshot = LogSnapshot {
            start: self.start,
            end: self.end,
            anchor: self.anchor,
            cleaned_to: readable.cleaned_to,
            segments: readable.segments.iter().map(Segment::entry).collect(),
            producers: self.producers.entries(),
        };
        let aborted: Vec<AbortedEntry> = readable
            .aborted
            .iter()
            .skip(self.view_aborted)
            .map(|txn| AbortedEntry {
                producer: txn.producer,
                first_offset: txn.first_offset,
                marker: txn.last_offset,
            })
            .collect();
        let unindexed = readable.segments.iter().filter(|segment| !segment.index.is_empty());
        let update = LogUpdate {
            snapshot: &snapshot,
            index: unindexed.map(|s| (s.id(), s.index.as_slice())).collect(),
            aborted: &aborted,
            dropped: &self.dropped,
            aborted_from: self.start.max(readable.cleaned_to),
        };
        let kept = settings.view.keep_log(self.shared.id, &update);
        drop(readable);
        match kept {
            Ok(()) => {
                self.dropped.clear();
                self.view_aborted += aborted.len();
                for segment in &mut self.shared.readable_mut().segments {
                    segment.index = Vec::new();
                }
            }
            Err(error) => {
                let log = settings.label(self.shared.id);
                warn!(log, %error, "view was not updated, the next start scans more");
            }
        }
    }

    /// Makes the log durable before its thread ends, also with `durability = page-cache`. Returns the manifest
    /// that is to be kept before a last snapshot.
    pub(in crate::log) fn close(&mut self, settings: &Settings) -> Option<Manifest> {
        // A log that was only read is left alone.
        let is_changed = self.unsynced.is_any() || self.view_due_bytes > 0;
        if !is_changed || self.refused.is_some() || self.sync_active(settings).is_err() {
            return None;
        }
        self.publish();
        let is_due = self.view_due_bytes > 0 || self.unsynced.is_unlisted;
        is_due.then(|| self.shared.manifest())
    }
}
