//! A compressed body as an input that is inflated while it is read: in a window of fixed size, and up
//! to a bound on what comes out.

use std::io::{self, Read};

use super::compression;
use super::varint::{Input, ReadFault};

/// Inflated bytes that are kept for reading.
const WINDOW_BYTES: usize = 16 << 10;

/// See the module's header.
pub(in crate::log) struct Inflating<'a> {
    reader: Box<dyn Read + 'a>,
    window: Box<[u8]>,
    /// The next byte, and one past the last one, in the window.
    from: usize,
    to: usize,
    /// Bytes that were inflated before those in the window.
    before: usize,
    bytes_max: usize,
    /// What the codec said when it could not go on.
    error: Option<io::Error>,
}

impl<'a> Inflating<'a> {
    /// `body` under the codec of this number, which may inflate to at most `bytes_max`.
    pub(in crate::log) fn new(
        codec: i16,
        body: &'a [u8],
        bytes_max: usize,
    ) -> io::Result<Inflating<'a>> {
        Ok(Inflating {
            reader: compression::inflating(codec, body, bytes_max)?,
            window: vec![0; WINDOW_BYTES.min(bytes_max.saturating_add(1))].into_boxed_slice(),
            from: 0,
            to: 0,
            before: 0,
            bytes_max,
            error: None,
        })
    }

    /// Why a read was `Undecodable`.
    pub(in crate::log) fn error(&self) -> Option<&io::Error> {
        self.error.as_ref()
    }

    /// Inflates more; false at the end. The window was read.
    #[cold]
    fn refill(&mut self) -> Result<bool, ReadFault> {
        if self.error.is_some() {
            return Err(ReadFault::Undecodable);
        }
        self.before += self.to;
        (self.from, self.to) = (0, 0);
        match self.reader.read(&mut self.window) {
            Ok(read) => self.to = read,
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Err(ReadFault::TooLarge);
            }
            Err(error) => {
                self.error = Some(error);
                return Err(ReadFault::Undecodable);
            }
        }
        if self.before + self.to > self.bytes_max {
            return Err(ReadFault::TooLarge);
        }
        Ok(self.to > 0)
    }
}

impl Input for Inflating<'_> {
    #[inline]
    fn position(&self) -> usize {
        self.before + self.from
    }

    #[inline]
    fn may_have(&self, _length: usize) -> bool {
        true
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, ReadFault> {
        if self.from == self.to && !self.refill()? {
            return Err(ReadFault::Ends);
        }
        let byte = *self.window.get(self.from).ok_or(ReadFault::Ends)?;
        self.from += 1;
        Ok(byte)
    }

    #[inline]
    fn skip(&mut self, mut length: usize) -> Result<(), ReadFault> {
        loop {
            let here = (self.to - self.from).min(length);
            self.from += here;
            length -= here;
            if length == 0 {
                return Ok(());
            }
            if !self.refill()? {
                return Err(ReadFault::Ends);
            }
        }
    }

    fn is_at_end(&mut self) -> Result<bool, ReadFault> {
        Ok(self.from == self.to && !self.refill()?)
    }
}
