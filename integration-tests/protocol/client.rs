//! A Kafka client without opinions: one connection, any request at any version, or any bytes.
//!
//! It knows no metadata, retries and batching, so a test says exactly what goes over the wire. An
//! answer must be used up by its decoder to the last byte.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

/// How long an answer may take before the test fails.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// One connection to a broker.
pub struct Client {
    stream: TcpStream,
    next_correlation_id: i32,
}

impl Client {
    /// Connects; panics if nobody listens.
    #[track_caller]
    pub fn connect(broker: SocketAddr) -> Client {
        match Client::try_connect(broker) {
            Ok(client) => client,
            Err(error) => panic!("cannot connect to {broker}: {error}"),
        }
    }

    /// Connects.
    pub fn try_connect(broker: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&broker, ANSWER_PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
        stream.set_write_timeout(Some(ANSWER_PATIENCE))?;
        Ok(Client { stream, next_correlation_id: 0 })
    }

    /// Sends `request` at `version` and waits for its answer.
    #[track_caller]
    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        match self.try_call(version, request) {
            Ok(response) => response,
            Err(error) => panic!("API {} v{version}: {error}", R::KEY),
        }
    }

    /// Sends `request` at `version` and waits for its answer.
    pub fn try_call<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        let correlation_id = self.try_send(version, request)?;
        self.try_receive::<R>(version, correlation_id)
    }

    /// Sends `request` without waiting; returns its correlation id.
    #[track_caller]
    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        match self.try_send(version, request) {
            Ok(correlation_id) => correlation_id,
            Err(error) => panic!("API {} v{version}: {error}", R::KEY),
        }
    }

    /// Sends `request` without waiting; returns its correlation id.
    pub fn try_send<R: Request>(&mut self, version: i16, request: &R) -> io::Result<i32> {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id += 1;
        self.send_frame(&request_frame(version, correlation_id, request))?;
        Ok(correlation_id)
    }

    /// The next answer, which must be that to `correlation_id`.
    #[track_caller]
    pub fn receive<R: Request>(&mut self, version: i16, correlation_id: i32) -> R::Response {
        match self.try_receive::<R>(version, correlation_id) {
            Ok(response) => response,
            Err(error) => panic!("API {} v{version}: {error}", R::KEY),
        }
    }

    /// The next answer, which must be that to `correlation_id`; `InvalidData` if it is not.
    pub fn try_receive<R: Request>(
        &mut self,
        version: i16,
        correlation_id: i32,
    ) -> io::Result<R::Response> {
        let Some(mut frame) = self.read_frame()? else {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the broker closed"));
        };
        let wrong = |what: String| io::Error::new(ErrorKind::InvalidData, what);
        let header = ResponseHeader::decode(&mut frame, R::Response::header_version(version))
            .map_err(|error| wrong(format!("response header: {error}")))?;
        if header.correlation_id != correlation_id {
            return Err(wrong(format!(
                "answer to {} came before that to {correlation_id}",
                header.correlation_id
            )));
        }
        let response = R::Response::decode(&mut frame, version)
            .map_err(|error| wrong(format!("response body: {error}")))?;
        if frame.has_remaining() {
            return Err(wrong(format!("{} bytes follow the response", frame.remaining())));
        }
        Ok(response)
    }

    /// Sends `frame` behind its length.
    pub fn send_frame(&mut self, frame: &[u8]) -> io::Result<()> {
        let length = i32::try_from(frame.len()).expect("a frame of a test is short");
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(frame);
        self.send_bytes(&bytes)
    }

    /// Sends bytes as they are.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The content of the next frame, or `None` when the broker has closed the connection.
    pub fn read_frame(&mut self) -> io::Result<Option<Bytes>> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if is_close(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        let length = usize::try_from(i32::from_be_bytes(length))
            .map_err(|_| io::Error::new(ErrorKind::InvalidData, "a negative frame length"))?;
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame)?;
        Ok(Some(frame.into()))
    }

    /// How long reads wait.
    pub fn set_patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).expect("a read timeout above zero");
    }

    /// Says that nothing more will be sent; answers can still be read.
    pub fn finish_sending(&self) {
        // The broker may have closed already: then there is nothing to finish.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The broker's own list of APIs.
    #[track_caller]
    pub fn api_versions(&mut self) -> Vec<ApiVersion> {
        self.call(0, &ApiVersionsRequest::default()).api_keys
    }

    /// Lowest, middle and highest version of `R` that both the broker and this client know.
    #[track_caller]
    pub fn versions<R: Request>(&mut self) -> Vec<i16> {
        let api = self.api_versions().into_iter().find(|api| api.api_key == R::KEY);
        let api = api.unwrap_or_else(|| panic!("API {} is not advertised", R::KEY));
        let low = api.min_version.max(R::VERSIONS.min);
        let high = api.max_version.min(R::VERSIONS.max);
        assert!(low <= high, "API {}: v{low}-{high}", R::KEY);
        let mut versions = vec![low, low + (high - low) / 2, high];
        versions.dedup();
        versions
    }

    /// The highest version of `R` that both the broker and this client know.
    #[track_caller]
    pub fn latest<R: Request>(&mut self) -> i16 {
        self.versions::<R>().pop().expect("there is a highest version")
    }
}

/// Header and body of `request`, without the length before them.
pub fn request_frame<R: Request>(version: i16, correlation_id: i32, request: &R) -> Vec<u8> {
    let mut frame = request_header(R::KEY, version, R::header_version(version), correlation_id);
    let mut body = BytesMut::new();
    request
        .encode(&mut body, version)
        .unwrap_or_else(|error| panic!("API {} v{version} does not encode: {error}", R::KEY));
    frame.extend_from_slice(&body);
    frame
}

/// A request header at `header_version` (0, 1 or 2).
pub fn request_header(key: i16, version: i16, header_version: i16, correlation_id: i32) -> Vec<u8> {
    let mut header = BytesMut::new();
    RequestHeader::default()
        .with_request_api_key(key)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_static_str("protocol-test")))
        .encode(&mut header, header_version)
        .expect("a request header encodes");
    header.to_vec()
}

/// Whether `error` says that the other side has closed the connection.
pub fn is_close(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
    )
}

/// A string as the messages carry it.
pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
