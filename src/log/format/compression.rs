//! Compresses and decompresses the bodies of batches: gzip, snappy (raw and in xerial framing), lz4 and
//! zstd. Every decompression has a bound: a decompression bomb is an error, and never a large allocation.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};

use crate::log::config::Codec;

/// Why a body could not be inflated.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::log) enum InflateError {
    /// The codec refused.
    Corrupt(String),
    /// More than the bound.
    TooLarge,
}

/// The stream header that Java's snappy library writes, followed by two version numbers.
const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;
/// Its version, and the oldest one that can read the stream.
const XERIAL_VERSION: u32 = 1;
/// How much of the body a block of its stream holds, as in that library.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;
/// No byte of a snappy block decompresses to more bytes than this: a copy of 64 bytes takes three.
const SNAPPY_RATIO_MAX: usize = 32;
/// Largest window a zstd frame may ask for: 2^27 bytes, zstd's own default limit.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Decompresses `body`, whose codec is the number in the batch's attributes, to at most `bytes_max`.
/// Codec 0 returns the same bytes, not a copy.
pub(in crate::log) fn inflate(
    codec: i16,
    body: Bytes,
    bytes_max: usize,
) -> Result<Bytes, InflateError> {
    match codec {
        0 => Ok(body),
        1 => drain(flate2::read::MultiGzDecoder::new(&body[..]), bytes_max),
        2 => snappy(&body, bytes_max),
        3 => drain(lz4_flex::frame::FrameDecoder::new(&body[..]), bytes_max),
        4 => {
            let corrupt = |e: std::io::Error| InflateError::Corrupt(e.to_string());
            let mut decoder = zstd::stream::read::Decoder::new(&body[..]).map_err(corrupt)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(corrupt)?;
            drain(decoder, bytes_max)
        }
        other => Err(InflateError::Corrupt(unknown(other).to_string())),
    }
}

/// `body` inflated while it is read, in little memory however much it holds: a codec's window, or the
/// block of a snappy stream, which is refused as `FileTooLarge` if it says that it holds more than
/// `block_bytes_max`.
pub(in crate::log) fn inflating<'a>(
    codec: i16,
    body: &'a [u8],
    block_bytes_max: usize,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match codec {
        0 => Box::new(body),
        1 => Box::new(flate2::bufread::MultiGzDecoder::new(body)),
        2 => {
            let framed = body.starts_with(XERIAL_MAGIC);
            let rest = &body[if framed { XERIAL_HEADER_BYTES.min(body.len()) } else { 0 }..];
            Box::new(SnappyReader { rest, framed, block_bytes_max, block: io::Cursor::default() })
        }
        3 => Box::new(lz4_flex::frame::FrameDecoder::new(body)),
        // No frames at all, which the decoder takes for one that is cut short.
        4 if body.is_empty() => Box::new(body),
        4 => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(body)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        other => return Err(unknown(other)),
    })
}

fn unknown(codec: i16) -> io::Error {
    io::Error::other(format!("unknown compression codec {codec}"))
}

/// What Kafka asks of a compressed body and the decoders here do not: bytes at all under snappy, and
/// an lz4 frame that ends and whose blocks do not lean on each other, which Java's reader refuses.
pub(in crate::log) fn check_frame(codec: i16, body: &[u8]) -> Result<(), &'static str> {
    match codec {
        2 if body.is_empty() => Err("there is no snappy block"),
        3 => lz4_frame(body),
        _ => Ok(()),
    }
}

/// Passes over an lz4 frame's blocks by their sizes.
fn lz4_frame(body: &[u8]) -> Result<(), &'static str> {
    const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
    const INDEPENDENT_BLOCKS: u8 = 1 << 5;
    const BLOCK_CHECKSUMS: u8 = 1 << 4;
    const CONTENT_SIZE: u8 = 1 << 3;
    const CONTENT_CHECKSUM: u8 = 1 << 2;
    const IS_PLAIN: u32 = 1 << 31;
    /// A compressed block of one byte: a token without literals.
    const EMPTY: u32 = 1;
    let Some(flags) = body.strip_prefix(&MAGIC).and_then(|rest| rest.first()) else {
        return Err("it does not begin with an lz4 frame's magic number");
    };
    if flags & INDEPENDENT_BLOCKS == 0 {
        return Err("its lz4 blocks depend on each other");
    }
    let size = |flag, bytes| if flags & flag == 0 { 0 } else { bytes };
    // Magic, flags, block size and header checksum.
    let mut at = MAGIC.len() + 3 + size(CONTENT_SIZE, 8);
    let truncated = "its lz4 frame does not end";
    loop {
        let block = body.get(at..).and_then(|rest| rest.first_chunk()).ok_or(truncated)?;
        at += 4;
        match u32::from_le_bytes(*block) {
            0 if at + size(CONTENT_CHECKSUM, 4) <= body.len() => return Ok(()),
            0 => return Err(truncated),
            // The decoder takes a block that holds nothing for the end, and would skip the rest.
            IS_PLAIN | EMPTY => return Err("an lz4 block of it is empty"),
            block => at += (block & !IS_PLAIN) as usize + size(BLOCK_CHECKSUMS, 4),
        }
    }
}

/// Snappy, block by block.
struct SnappyReader<'a> {
    rest: &'a [u8],
    /// Whether blocks have their length in front; else the rest is one block.
    framed: bool,
    block_bytes_max: usize,
    block: io::Cursor<Vec<u8>>,
}

impl Read for SnappyReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A block may be empty.
        while self.block.position() == self.block.get_ref().len() as u64 {
            if self.rest.is_empty() {
                return Ok(0);
            }
            let mut length = self.rest.len();
            if self.framed {
                length = self.rest.try_get_u32().map_err(io::Error::other)? as usize;
            }
            let truncated = || io::Error::from(io::ErrorKind::UnexpectedEof);
            let (block, rest) = self.rest.split_at_checked(length).ok_or_else(truncated)?;
            self.rest = rest;
            let mut inflated = std::mem::take(&mut self.block).into_inner();
            inflated.clear();
            snappy_block(block, self.block_bytes_max, &mut inflated).map_err(|e| match e {
                InflateError::Corrupt(reason) => io::Error::other(reason),
                InflateError::TooLarge => io::ErrorKind::FileTooLarge.into(),
            })?;
            self.block = io::Cursor::new(inflated);
        }
        self.block.read(buffer)
    }
}

fn drain(reader: impl Read, bytes_max: usize) -> Result<Bytes, InflateError> {
    let mut out = Vec::new();
    let limit = (bytes_max as u64).saturating_add(1);
    reader.take(limit).read_to_end(&mut out).map_err(|e| InflateError::Corrupt(e.to_string()))?;
    if out.len() > bytes_max { Err(InflateError::TooLarge) } else { Ok(Bytes::from(out)) }
}

fn snappy(body: &[u8], bytes_max: usize) -> Result<Bytes, InflateError> {
    let mut out = Vec::new();
    if !body.starts_with(XERIAL_MAGIC) {
        snappy_block(body, bytes_max, &mut out)?;
        return Ok(Bytes::from(out));
    }
    let truncated = || InflateError::Corrupt("snappy stream is truncated".to_owned());
    let mut rest = body.get(XERIAL_HEADER_BYTES..).ok_or_else(truncated)?;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(truncated)?;
        let length = u32::from_be_bytes(*length) as usize;
        let block = after.get(..length).ok_or_else(truncated)?;
        snappy_block(block, bytes_max, &mut out)?;
        rest = &after[length..];
    }
    Ok(Bytes::from(out))
}

/// Appends one inflated block to `out`, which may not grow over `bytes_max`.
fn snappy_block(block: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> Result<(), InflateError> {
    let corrupt = |e: snap::Error| InflateError::Corrupt(e.to_string());
    let length = snap::raw::decompress_len(block).map_err(corrupt)?;
    // No element stands for more bytes than this: a larger block is a lie.
    if length > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(InflateError::Corrupt(format!(
            "a snappy block of {} bytes cannot hold {length}",
            block.len()
        )));
    }
    if length > bytes_max - out.len() {
        return Err(InflateError::TooLarge);
    }
    let from = out.len();
    out.resize(from + length, 0);
    snap::raw::Decoder::new().decompress(block, &mut out[from..]).map_err(corrupt)?;
    Ok(())
}

/// Appends `body` to `out`, compressed as Kafka's clients expect it of a producer.
pub(in crate::log) fn deflate(codec: Codec, body: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    match codec {
        Codec::Uncompressed => out.extend_from_slice(body),
        Codec::Gzip(level) => {
            let level = u32::try_from(level).map_or(flate2::Compression::default(), |level| {
                flate2::Compression::new(level.min(9))
            });
            let mut encoder = flate2::write::GzEncoder::new(out, level);
            encoder.write_all(body)?;
            encoder.finish()?;
        }
        Codec::Snappy => xerial(body, out)?,
        Codec::Lz4 => {
            // Java's reader refuses linked blocks, and allocates a whole block before it reads one.
            let frame = lz4_flex::frame::FrameInfo::new()
                .block_mode(lz4_flex::frame::BlockMode::Independent)
                .block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, out);
            encoder.write_all(body)?;
            encoder.finish()?;
        }
        Codec::Zstd(level) => {
            let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
            // Then the frame says how much it holds, and a reader needs only one allocation.
            encoder.set_pledged_src_size(Some(body.len() as u64))?;
            encoder.include_contentsize(true)?;
            encoder.write_all(body)?;
            encoder.finish()?;
        }
    }
    Ok(())
}

fn xerial(body: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(XERIAL_MAGIC);
    out.extend_from_slice(&XERIAL_VERSION.to_be_bytes());
    out.extend_from_slice(&XERIAL_VERSION.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    let mut block = vec![0; snap::raw::max_compress_len(XERIAL_BLOCK_BYTES.min(body.len()))];
    for chunk in body.chunks(XERIAL_BLOCK_BYTES) {
        let length = encoder.compress(chunk, &mut block).map_err(io::Error::other)?;
        out.extend_from_slice(&(length as u32).to_be_bytes());
        out.extend_from_slice(&block[..length]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODECS: [Codec; 8] = [
        Codec::Uncompressed,
        Codec::Gzip(-1),
        Codec::Gzip(1),
        Codec::Gzip(9),
        Codec::Snappy,
        Codec::Lz4,
        Codec::Zstd(3),
        Codec::Zstd(-7),
    ];

    /// Text that compresses, noise that does not, and one byte over and over.
    fn bodies(length: usize) -> [Vec<u8>; 3] {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
        let text = b"the quick brown fox jumps over the lazy dog ".iter().copied().cycle();
        [text.take(length).collect(), noise.take(length).collect(), vec![7; length]]
    }

    #[test]
    fn bodies_of_every_size_come_back_under_every_codec_and_level() {
        let edges = [XERIAL_BLOCK_BYTES, 64 << 10, 128 << 10, 1 << 20];
        let sizes = edges.iter().flat_map(|edge| [edge - 1, *edge, edge + 1]);
        for size in [0, 1, 2, 61, 1000].into_iter().chain(sizes) {
            for body in bodies(size) {
                for codec in CODECS {
                    let mut out = b"header".to_vec();
                    deflate(codec, &body, &mut out).unwrap();
                    let deflated = Bytes::from(out).split_off(6);
                    let inflated = inflate(codec.number(), deflated.clone(), size);
                    assert!(inflated.is_ok_and(|back| back == body), "{codec:?} {size}");
                    let mut read = Vec::new();
                    let mut reader = inflating(codec.number(), &deflated, size).unwrap();
                    reader.read_to_end(&mut read).unwrap();
                    assert!(read == body, "{codec:?} {size}");
                    drop(reader);
                    if size > 0 && codec != Codec::Uncompressed {
                        let short = inflate(codec.number(), deflated, size - 1);
                        assert_eq!(short, Err(InflateError::TooLarge), "{codec:?} {size}");
                    }
                }
            }
        }
    }

    #[test]
    fn snappy_is_read_without_a_frame_too_and_cut_streams_are_errors() {
        let [text, ..] = bodies(100 << 10);
        let raw = Bytes::from(snap::raw::Encoder::new().compress_vec(&text).unwrap());
        let read = |body: Bytes| {
            let mut read = Vec::new();
            inflating(2, &body, usize::MAX)?.read_to_end(&mut read).map(|_| read)
        };
        assert!(read(raw.clone()).unwrap() == text);
        let mut framed = Vec::new();
        deflate(Codec::Snappy, &text, &mut framed).unwrap();
        for body in [raw, Bytes::from(framed)] {
            assert!(read(body.slice(..body.len() - 1)).is_err());
        }
        // A block that claims 4 GiB.
        assert!(read(Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0])).is_err());
    }

    #[test]
    fn lz4_frames_that_javas_reader_refuses_or_that_do_not_end_are_found() {
        let [text, ..] = bodies(200 << 10);
        let mut whole = Vec::new();
        deflate(Codec::Lz4, &text, &mut whole).unwrap();
        assert_eq!(check_frame(3, &whole), Ok(()));
        for cut in [0, 3, 4, 6, 7, 100, whole.len() - 4, whole.len() - 1] {
            assert!(check_frame(3, &whole[..cut]).is_err(), "{cut}");
        }
        let every_option = |mode| {
            let frame = lz4_flex::frame::FrameInfo::new()
                .block_mode(mode)
                .block_checksums(true)
                .content_checksum(true)
                .content_size(Some(text.len() as u64));
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
            encoder.write_all(&text).unwrap();
            encoder.finish().unwrap()
        };
        let independent = every_option(lz4_flex::frame::BlockMode::Independent);
        assert_eq!(check_frame(3, &independent), Ok(()));
        assert!(check_frame(3, &independent[..independent.len() - 1]).is_err());
        assert!(check_frame(3, &every_option(lz4_flex::frame::BlockMode::Linked)).is_err());
        // A compressed block of nothing, before those that hold something.
        let empty = [&whole[..7], &[1, 0, 0, 0, 0], &whole[7..]].concat();
        assert!(check_frame(3, &empty).is_err());
        assert!(check_frame(2, &[]).is_err());
    }

    #[test]
    fn text_gets_smaller_and_noise_hardly_grows() {
        let [text, noise, _] = bodies(1 << 20);
        for codec in CODECS.into_iter().filter(|codec| *codec != Codec::Uncompressed) {
            let mut out = Vec::new();
            deflate(codec, &text, &mut out).unwrap();
            assert!(out.len() < text.len() / 10, "{codec:?}: {}", out.len());
            out.clear();
            deflate(codec, &noise, &mut out).unwrap();
            assert!(out.len() < noise.len() + (4 << 10), "{codec:?}: {}", out.len());
        }
    }

    #[test]
    fn lz4_frames_have_independent_blocks_of_64_kib_and_snappy_streams_javas_header() {
        let [text, ..] = bodies(200 << 10);
        let mut lz4 = Vec::new();
        deflate(Codec::Lz4, &text, &mut lz4).unwrap();
        // The frame's magic, then version 1 with independent blocks and nothing optional, then the
        // size of a block.
        assert_eq!(lz4[..6], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40]);
        let mut snappy = Vec::new();
        deflate(Codec::Snappy, &text, &mut snappy).unwrap();
        assert_eq!(snappy[..16], *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
    }
}
