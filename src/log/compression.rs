//! Bounded decompression of batch bodies: gzip, snappy (raw and xerial framing), lz4 and zstd.
//! A compressed bomb ends as an error after at most the bound, never as an allocation.

use std::io::Read;

use bytes::Bytes;

/// Why a body could not be inflated.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InflateError {
    /// The codec refused.
    Corrupt(String),
    /// More than the bound.
    TooLarge,
}

/// The stream header that Java's snappy library writes, followed by two version numbers.
const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;
/// Largest window a zstd frame may ask for: 2^27 bytes, zstd's own default limit.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Inflates `body` by the codec number of a batch's attributes; 0 shares the bytes.
pub(super) fn inflate(codec: i16, body: Bytes, bytes_max: usize) -> Result<Bytes, InflateError> {
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
        other => Err(InflateError::Corrupt(format!("unknown compression codec {other}"))),
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
    if length > bytes_max - out.len() {
        return Err(InflateError::TooLarge);
    }
    let from = out.len();
    out.resize(from + length, 0);
    snap::raw::Decoder::new().decompress(block, &mut out[from..]).map_err(corrupt)?;
    Ok(())
}
