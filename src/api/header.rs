//! The request header, decoded by hand: the crate's decoder panics on short frames, and the frame
//! limit must be known before the frame is read.

use bytes::{Buf, Bytes};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;

use super::primitives::{Malformed, Reader};
use super::{Refusal, Session};
use crate::config::Config;

/// How much of a frame tells its API: the key and the version.
pub const PREFIX_BYTES: usize = 4;

/// Largest request that carries no records. Kafka applies `socket.request.max.bytes` (100 MiB) to
/// all; but many tiny elements decode to far more memory than they take on the wire.
const PLAIN_BYTES_MAX: usize = 4 << 20;

/// A request header, any version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
    pub client_id: StrBytes,
}

/// Largest frame of a client that has yet to authenticate.
const UNAUTHENTICATED_BYTES_MAX: usize = 64 << 10;

/// The largest frame allowed for the API that `prefix` names, if `bytes` are more than that.
pub fn exceeded_frame_bytes_max(
    prefix: [u8; PREFIX_BYTES],
    bytes: usize,
    config: &Config,
    session: &Session,
) -> Option<usize> {
    let [high, low, ..] = prefix;
    let mut bytes_max = config.socket_request_max_bytes;
    if i16::from_be_bytes([high, low]) != ApiKey::Produce as i16 {
        bytes_max = bytes_max.min(PLAIN_BYTES_MAX);
    }
    if bytes > UNAUTHENTICATED_BYTES_MAX && session.must_authenticate(Instant::now()) {
        bytes_max = UNAUTHENTICATED_BYTES_MAX;
    }
    (bytes > bytes_max).then_some(bytes_max)
}

impl Header {
    /// Takes the header off the front of `frame`.
    pub(super) fn decode(frame: &mut Bytes) -> Result<Header, Refusal> {
        let mut start = &frame[..];
        let (Ok(api_key), Ok(api_version)) = (start.try_get_i16(), start.try_get_i16()) else {
            return Err(Refusal::Header);
        };
        let is_flexible =
            ApiKey::try_from(api_key).is_ok_and(|api| api.request_header_version(api_version) >= 2);
        let rest = frame.split_off(PREFIX_BYTES);
        let mut reader = Reader::new(rest, is_flexible);
        let mut read = || {
            let correlation_id = reader.i32()?;
            let client_id = reader.plain_text()?.unwrap_or_default();
            reader.tags()?;
            Ok(Header { api_key, api_version, correlation_id, client_id })
        };
        let header = read().map_err(|_: Malformed| Refusal::Header)?;
        *frame = reader.into_rest();
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::RequestHeader;
    use kafka_protocol::protocol::encode_request_header_into_buffer;

    use super::*;
    use crate::api::tests::fixture;
    use crate::api::{Authentication, Identity};
    use crate::security::Principal;

    fn encoded(key: ApiKey, version: i16, client: Option<&'static str>) -> Bytes {
        let header = RequestHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(version)
            .with_correlation_id(7)
            .with_client_id(client.map(StrBytes::from_static_str));
        let mut buf = BytesMut::new();
        encode_request_header_into_buffer(&mut buf, &header).unwrap();
        buf.extend_from_slice(b"body");
        buf.freeze()
    }

    #[test]
    fn header_is_taken_off_in_both_formats() {
        for (version, client) in [(4, Some("c")), (9, Some("c")), (13, None)] {
            let mut frame = encoded(ApiKey::Metadata, version, client);
            let header = Header::decode(&mut frame).unwrap();
            assert_eq!(
                (header.api_key, header.api_version, header.correlation_id),
                (3, version, 7)
            );
            assert_eq!(header.client_id.as_str(), client.unwrap_or(""));
            assert_eq!(&frame[..], b"body");
        }
    }

    #[test]
    fn header_cut_anywhere_is_refused() {
        let whole = encoded(ApiKey::Metadata, 9, Some("client"));
        for end in 0..whole.len() - b"body".len() {
            assert_eq!(Header::decode(&mut whole.slice(..end)), Err(Refusal::Header), "at {end}");
        }
    }

    #[test]
    fn tagged_field_bombs_end_with_the_frame() {
        let mut frame = BytesMut::from(&encoded(ApiKey::Metadata, 9, None)[..10]);
        frame.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0]);
        assert_eq!(Header::decode(&mut frame.freeze()), Err(Refusal::Header));
    }

    #[test]
    fn only_produce_may_be_large_and_nothing_before_authentication() {
        let (config, session) = (Config::default(), fixture::session());
        let largest = config.socket_request_max_bytes;
        let exceeded =
            |api, bytes| exceeded_frame_bytes_max([0, api, 0, 9], bytes, &config, &session);
        assert_eq!((exceeded(0, largest), exceeded(0, largest + 1)), (None, Some(largest)));
        assert_eq!(exceeded(3, PLAIN_BYTES_MAX), None);
        assert_eq!(exceeded(3, PLAIN_BYTES_MAX + 1), Some(PLAIN_BYTES_MAX));
        session.identify(Identity {
            principal: Principal::ANONYMOUS,
            authentication: Authentication::Awaited,
        });
        for api in [0, 3] {
            assert_eq!(exceeded(api, 64 << 10), None);
            assert_eq!(exceeded(api, (64 << 10) + 1), Some(64 << 10));
        }
    }
}
