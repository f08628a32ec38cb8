//! What an append must look like before it may wait for the writer. Runs on the caller's thread, so
//! that checksums of different connections are computed side by side.

use super::batch::{BatchHeader, HeaderError};
use crate::log::AppendError;
use crate::types::Offset;

/// The headers of `batches`, each checked: size, magic, length, CRC, count and flags, in the order
/// in which Kafka checks them.
pub fn headers(batches: &[u8], batch_bytes_max: u32) -> Result<Vec<BatchHeader>, AppendError> {
    if batches.is_empty() {
        return Err(AppendError::Invalid("there is no batch".to_owned()));
    }
    let mut headers = Vec::with_capacity(1);
    let mut rest = batches;
    while !rest.is_empty() {
        let header = BatchHeader::parse(rest).map_err(|e| match e {
            HeaderError::Magic(_) | HeaderError::BaseOffset(_) => {
                AppendError::Invalid(e.to_string())
            }
            HeaderError::Truncated | HeaderError::Length(_) => AppendError::Corrupt(e.to_string()),
        })?;
        if header.base_offset != Offset::ZERO {
            return Err(AppendError::Invalid(format!(
                "its base offset is {}, and producers count from 0",
                header.base_offset
            )));
        }
        if header.bytes > batch_bytes_max as usize {
            return Err(AppendError::TooLarge { bytes: header.bytes, bytes_max: batch_bytes_max });
        }
        let Some((batch, after)) = rest.split_at_checked(header.bytes) else {
            return Err(AppendError::Corrupt(HeaderError::Truncated.to_string()));
        };
        if !header.crc_matches(batch) {
            return Err(AppendError::Corrupt("its CRC does not match its bytes".to_owned()));
        }
        fields(&header)?;
        headers.push(header);
        rest = after;
    }
    Ok(headers)
}

fn fields(header: &BatchHeader) -> Result<(), AppendError> {
    let invalid = |reason: String| Err(AppendError::Invalid(reason));
    let count = header.record_count;
    if count <= 0 || header.last_offset_delta != count - 1 {
        return invalid(format!(
            "it says {count} records and a last offset delta of {}",
            header.last_offset_delta
        ));
    }
    if header.compression() > 4 {
        let reason = format!("compression codec {} is unknown", header.compression());
        return Err(AppendError::Undecodable(reason));
    }
    if header.control() {
        return invalid("clients may not write control batches".to_owned());
    }
    match header.producer {
        None if header.transactional() => {
            invalid("it is transactional and has no producer id".to_owned())
        }
        Some(producer) if producer.epoch.0 < 0 || producer.base_sequence < 0 => invalid(format!(
            "producer {} sent epoch {} and sequence {}",
            producer.id, producer.epoch, producer.base_sequence
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::batch::{self, HEADER_BYTES, NewRecord};

    fn batch() -> Vec<u8> {
        batch::encode(&[NewRecord::default(), NewRecord::default()], None).to_vec()
    }

    fn recrc(mut bytes: Vec<u8>) -> Vec<u8> {
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    #[test]
    fn whole_batches_pass_and_every_cut_is_corrupt() {
        let two = [batch(), batch()].concat();
        assert_eq!(headers(&two, 1000).unwrap().len(), 2);
        assert!(matches!(headers(&[], 1000), Err(AppendError::Invalid(_))));
        for cut in 1..batch().len() {
            assert!(matches!(headers(&batch()[..cut], 1000), Err(AppendError::Corrupt(_))));
        }
    }

    #[test]
    fn each_fault_has_its_own_error() {
        let mut flipped = batch();
        flipped[HEADER_BYTES] ^= 1;
        assert!(matches!(headers(&flipped, 1000), Err(AppendError::Corrupt(_))));
        for magic in [0, 1, 9] {
            let mut old = batch();
            old[16] = magic;
            assert!(matches!(headers(&old, 1000), Err(AppendError::Invalid(_))));
        }
        let mut offset = batch();
        offset[7] = 5;
        assert!(matches!(headers(&offset, 1000), Err(AppendError::Invalid(_))));
        let mut codec = batch();
        codec[22] |= 5;
        assert!(matches!(headers(&recrc(codec), 1000), Err(AppendError::Undecodable(_))));
        let mut count = batch();
        count[57..61].copy_from_slice(&3i32.to_be_bytes());
        assert!(matches!(headers(&recrc(count), 1000), Err(AppendError::Invalid(_))));
        let mut control = batch();
        control[22] |= 0x20;
        assert!(matches!(headers(&recrc(control), 1000), Err(AppendError::Invalid(_))));
        let bytes = batch().len();
        assert_eq!(
            headers(&batch(), bytes as u32 - 1),
            Err(AppendError::TooLarge { bytes, bytes_max: bytes as u32 - 1 })
        );
    }
}
