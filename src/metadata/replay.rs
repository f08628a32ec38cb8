//! The journal's records become an image: at the start, where another writer was faster, and for
//! people who look at a directory.

use super::MetadataError;
use super::image::Image;
use super::journal::{History, Journal, Slot, SlotSize};
use super::record::{self, JournalRecord};

/// An image that follows the metadata's slot, record by record.
#[derive(Clone, Debug, Default)]
pub(super) struct Replay {
    image: Image,
    /// What was trimmed away before the first record is not in the image yet: the next whole image
    /// makes up for it, and records before that say nothing.
    is_partial: bool,
    /// The parts of an image that is being read: their size, and what they make.
    parts: Option<(SlotSize, Image)>,
    /// The slot's next vacant position, as far as it was read.
    next: u64,
    history: History,
}

impl Replay {
    /// Goes on from what is known.
    pub(super) fn from(image: Image, next: u64, history: History) -> Replay {
        Replay { image, next, history, ..Replay::default() }
    }

    /// Begins at a position, where those before it are gone.
    pub(super) fn beginning_at(position: u64) -> Replay {
        Replay { is_partial: position > 0, next: position, ..Replay::default() }
    }

    /// The image so far. May lack what was trimmed away, see `finish`.
    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// Takes in the record at `position`, which took `bytes` bytes. After an error the image is as
    /// it was before the record.
    pub(super) fn take(
        &mut self,
        position: u64,
        bytes: usize,
        record: &JournalRecord,
    ) -> Result<(), String> {
        self.next = position + 1;
        self.history.add(bytes);
        match record {
            JournalRecord::Changes(changes) => {
                // Another writer's, or what followed a crash: the image was not written to its end.
                self.parts = None;
                if self.is_partial {
                    return Ok(());
                }
                self.image.apply(position, changes)
            }
            JournalRecord::ImagePart { index, is_last, changes } => {
                let (mut size, mut image) = match self.parts.take() {
                    _ if *index == 0 => Default::default(),
                    Some(read) if read.0.records == u64::from(*index) => read,
                    // The parts before it were trimmed away, or are another writer's.
                    _ => return Ok(()),
                };
                image.apply(position, changes)?;
                size.add(bytes);
                if *is_last {
                    self.image = image;
                    self.is_partial = false;
                    self.history.rewritten(size);
                } else {
                    self.parts = Some((size, image));
                }
                Ok(())
            }
        }
    }

    /// Reads the slot to its end.
    pub(super) async fn read_on(&mut self, journal: &dyn Journal) -> Result<(), MetadataError> {
        let storage = |reason: String| MetadataError::Storage(reason);
        loop {
            let records = journal.read(Slot::METADATA, self.next).await;
            let records = records.map_err(|error| storage(error.to_string()))?;
            if records.is_empty() {
                break;
            }
            for (position, bytes) in records {
                if position > self.next {
                    // Trimmed meanwhile, or before: what follows is all.
                    *self = Replay::beginning_at(position);
                }
                let length = bytes.len();
                let taken =
                    record::decode(bytes).and_then(|record| self.take(position, length, &record));
                taken.map_err(|reason| {
                    storage(format!("record {position} of the metadata's journal: {reason}"))
                })?;
            }
        }
        if self.is_partial {
            return Err(storage(
                "the beginning of the metadata's journal is missing, and no whole image follows; \
                 restore the journal from a copy of the directory"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// The image, the slot's next vacant position, and how much of the slot is history.
    pub(super) fn finish(self) -> (Image, u64, History) {
        (self.image, self.next, self.history)
    }
}
