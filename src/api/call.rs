//! A request's way through the broker: header, table, decode, handler, encode. Replies are lists
//! of chunks, so that fetched records travel from log to socket without a copy.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Decodable, Encodable};
use thiserror::Error;
use tokio::time::Instant;

use super::answers::{Held, SMALL_BYTES_MAX};
use super::header::Header;
use super::table::{self, Begin};
use super::{Context, Later, Request, Session, api_versions, produce};

/// When a request runs, relative to the others of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Runs when all earlier requests of the connection are answered, and later ones wait for it,
    /// as in Kafka. Once begun it runs to its end, even when the client is gone.
    Ordered,
    /// Takes its place at once, in request order, and lets later requests begin before it is
    /// answered: Produce, whose appends are queued in order and answered after the disk.
    Staged,
    /// Like `Ordered`, but waits for time or other clients (long polls, rebalances): it is dropped
    /// when its client goes away or the broker stops.
    Parked,
}

/// One row of the table of APIs.
#[derive(Clone, Debug)]
pub(super) struct Api {
    /// Which API.
    pub key: ApiKey,
    /// Versions that are served.
    pub versions: RangeInclusive<i16>,
    /// Lowest version that ApiVersions shows; below `versions` only to satisfy old clients.
    pub advertised_min: i16,
    /// Whether a client may ask for it that has yet to authenticate.
    pub before_authentication: bool,
    /// See [`Order`].
    pub order: Order,
    /// See [`LargeAnswer`].
    pub large_answer: LargeAnswer,
}

/// What becomes of an answer without records that is larger than 64 KiB while clients have left no
/// room for it. Smaller ones never wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LargeAnswer {
    /// It is sent all the same: clients lose their places where it comes late.
    Sent,
    /// It is dropped, and made again once there is room: its request changes nothing that it does
    /// not find changed the second time.
    MadeAgain,
    /// Its request is not carried out before there is some room. That can be told of a large request
    /// only: a small one is carried out at once.
    Awaited,
}

/// Requests of up to this size have small answers, where these grow with the request.
const SMALL_REQUEST_BYTES_MAX: usize = 512;

impl Api {
    /// An API whose requests run one after the other.
    pub(super) const fn ordered(key: ApiKey, versions: RangeInclusive<i16>) -> Api {
        Api::new(key, versions, Order::Ordered)
    }

    /// An API whose requests overlap those that follow, once they have their place.
    pub(super) const fn staged(key: ApiKey, versions: RangeInclusive<i16>) -> Api {
        Api::new(key, versions, Order::Staged)
    }

    /// An API whose requests may wait long for others, and end with their connection.
    pub(super) const fn parked(key: ApiKey, versions: RangeInclusive<i16>) -> Api {
        Api::new(key, versions, Order::Parked)
    }

    const fn new(key: ApiKey, versions: RangeInclusive<i16>, order: Order) -> Api {
        let advertised_min = *versions.start();
        let large_answer = LargeAnswer::Awaited;
        Api { key, versions, advertised_min, before_authentication: false, order, large_answer }
    }

    /// Shows `min` in ApiVersions although versions below the served ones are refused.
    pub(super) const fn advertised_from(mut self, min: i16) -> Api {
        self.advertised_min = min;
        self
    }

    /// Its large answers do not wait until clients have left room for them.
    pub(super) const fn urgent(mut self) -> Api {
        self.large_answer = LargeAnswer::Sent;
        self
    }

    /// Its requests may be carried out twice.
    pub(super) const fn repeatable(mut self) -> Api {
        self.large_answer = LargeAnswer::MadeAgain;
        self
    }

    /// Is served to clients that have yet to authenticate.
    pub(super) const fn before_authentication(mut self) -> Api {
        self.before_authentication = true;
        self
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Reply {
    /// A whole response frame, length prefix included: what was encoded, and records that follow,
    /// with what was encoded between them, in chunks; and what is charged for them.
    Frame(BytesMut, Vec<Bytes>, Held),
    /// The client expects no answer (Produce with `acks=0`).
    Silence,
    /// The connection must be closed, as Kafka does when it cannot answer; the text says why.
    Close(String),
}

/// A request that has taken its place.
pub enum Begun {
    /// It is done.
    Answered(Reply),
    /// When it may run, and its outcome. Nothing of an `Ordered` or `Parked` request has run before
    /// this is polled.
    Pending(Order, Later<Reply>),
}

impl Begun {
    /// Also where it is done, for whoever has to wait for others first.
    pub fn into_pending(self) -> (Order, Later<Reply>) {
        match self {
            Begun::Answered(reply) => (Order::Staged, Box::pin(std::future::ready(reply))),
            Begun::Pending(order, reply) => (order, reply),
        }
    }
}

/// Why a request cannot be answered at all: the connection is closed with a log line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The header is cut short or malformed.
    #[error("the request header is malformed")]
    Header,
    /// The key is no API of this broker.
    #[error("api key {0} is not served")]
    UnknownApi(i16),
    /// The version is outside the served range.
    #[error("{api:?} version {version} is not served, versions {min} to {max} are")]
    UnknownVersion {
        /// Which API.
        api: ApiKey,
        /// What was asked.
        version: i16,
        /// Lowest served.
        min: i16,
        /// Highest served.
        max: i16,
    },
    /// The client must authenticate before it asks for this.
    #[error("{0:?} was asked for before the client has authenticated")]
    Unauthenticated(ApiKey),
    /// The body does not decode.
    #[error("{api:?} version {version} does not decode: {reason}")]
    Body {
        /// Which API.
        api: ApiKey,
        /// Its version.
        version: i16,
        /// The decoder's words.
        reason: String,
    },
}

/// Begins the request in `frame` (without its length prefix). Frames of one connection must be
/// begun in the order in which they came.
pub async fn begin(
    ctx: &Arc<Context>,
    session: &Arc<Session>,
    mut frame: Bytes,
) -> Result<Begun, Refusal> {
    let begun = Instant::now();
    let header = Header::decode(&mut frame)?;
    let (key, version) = (header.api_key, header.api_version);
    let api = ApiKey::try_from(key).map_err(|()| Refusal::UnknownApi(key))?;
    let route = table::route(api).ok_or(Refusal::UnknownApi(key))?;
    let identity = session.identity();
    if !route.api.before_authentication && identity.must_authenticate(begun) {
        return Err(Refusal::Unauthenticated(api));
    }
    let session = session.clone();
    let request = Request { version, client_id: header.client_id, session, identity };
    let mut call = Call {
        ctx: ctx.clone(),
        api,
        correlation_id: header.correlation_id,
        request,
        body: frame,
        begun,
    };
    if !route.api.versions.contains(&version) {
        if api == ApiKey::ApiVersions {
            call.request.version = 0;
            return Ok(Begun::Pending(Order::Ordered, api_versions::unsupported(call)));
        }
        return Err(Refusal::UnknownVersion {
            api,
            version,
            min: *route.api.versions.start(),
            max: *route.api.versions.end(),
        });
    }
    match route.begin {
        Begin::Append => produce::begin(call).await,
        Begin::Decode(decode) => Ok(Begun::Pending(route.api.order, decode(call)?)),
    }
}

/// One request on its way, with all that is needed to answer it.
pub(super) struct Call {
    /// The broker.
    pub ctx: Arc<Context>,
    /// Which API.
    pub api: ApiKey,
    /// What it says of itself.
    pub request: Request,
    correlation_id: i32,
    body: Bytes,
    begun: Instant,
}

impl Call {
    /// Decodes the body. Bytes behind it are ignored, as Kafka does.
    pub(super) fn decode<Q: Decodable>(&mut self) -> Result<Q, Refusal> {
        let body = self.take_body();
        self.decode_from(body)
    }

    /// Decodes the body, and keeps it for another time.
    pub(super) fn decode_kept<Q: Decodable>(&self) -> Result<Q, Refusal> {
        self.decode_from(self.body.clone())
    }

    fn decode_from<Q: Decodable>(&self, mut body: Bytes) -> Result<Q, Refusal> {
        Q::decode(&mut body, self.request.version).map_err(|reason| self.malformed(reason))
    }

    /// The body, for those that decode it by hand.
    pub(super) fn take_body(&mut self) -> Bytes {
        std::mem::take(&mut self.body)
    }

    /// A body that does not decode.
    pub(super) fn malformed(&self, reason: impl Display) -> Refusal {
        Refusal::Body { api: self.api, version: self.request.version, reason: reason.to_string() }
    }

    /// Waits for room in the budget of answers where the answer to a request like this may be large and
    /// cannot be made again.
    pub(super) async fn wait_for_room(&self, large_answer: LargeAnswer, body_bytes: usize) {
        if large_answer == LargeAnswer::Awaited && body_bytes > SMALL_REQUEST_BYTES_MAX {
            self.ctx.answers.any_plain().await;
        }
    }

    /// How many bytes the body has.
    pub(super) fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// Encodes `response` behind its header, charges it as far as there is room, and counts it.
    pub(super) fn answer<R: Encodable + Outcome>(&self, response: &R) -> Reply {
        match self.encode(response) {
            Ok(frame) => {
                let mut held = Held::default();
                if frame.len() > SMALL_BYTES_MAX {
                    held.resize_plain(frame.len(), &self.ctx.answers);
                }
                self.finish(frame, Vec::new(), held, response.error())
            }
            Err(closed) => closed,
        }
    }

    /// Like `answer`, if it is small or there is room for all of it, or `held` is room that was waited
    /// for. Otherwise how much room it needs.
    pub(super) fn answer_if_room<R: Encodable + Outcome>(
        &self,
        response: &R,
        mut held: Held,
    ) -> Result<Reply, usize> {
        let frame = match self.encode(response) {
            Ok(frame) => frame,
            Err(closed) => return Ok(closed),
        };
        let bytes = frame.len();
        if bytes <= SMALL_BYTES_MAX {
            held = Held::default();
        } else if held.bytes() > 0 {
            held.resize_plain(bytes, &self.ctx.answers);
        } else {
            held = self.ctx.answers.try_take_plain(bytes).ok_or(bytes)?;
        }
        Ok(self.finish(frame, Vec::new(), held, response.error()))
    }

    /// The frame of an answer; or the end of the connection, where it cannot be encoded.
    fn encode<R: Encodable>(&self, response: &R) -> Result<BytesMut, Reply> {
        let version = self.request.version;
        let mut frame = self.frame_start();
        response.encode(&mut frame, version).map_err(|reason| {
            // A field is set that this version lacks: a fault of ours, and no answer is better
            // than a wrong one.
            tracing::error!(api = ?self.api, version, %reason, "response does not encode");
            Reply::Close(format!("{:?} version {version} could not be answered", self.api))
        })?;
        Ok(frame)
    }

    /// The `throttle_time_ms` of the answer: how long its client is asked to send nothing, and is not
    /// read if it does (KIP-219). The one place that tells it for all APIs.
    pub(super) fn throttle_time_ms(&self) -> i32 {
        let left = self.request.session.throttle().time_left();
        left.map_or(0, |left| i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX))
    }

    /// The beginning of a response frame: room for the length, then the header.
    pub(super) fn frame_start(&self) -> BytesMut {
        let mut frame = BytesMut::with_capacity(256);
        frame.put_i32(0);
        frame.put_i32(self.correlation_id);
        if self.api.response_header_version(self.request.version) >= 1 {
            frame.put_u8(0);
        }
        frame
    }

    /// Ends a frame that began with `frame_start`: `more` follows it on the wire, `held` is charged for
    /// it.
    pub(super) fn finish(
        &self,
        mut frame: BytesMut,
        more: Vec<Bytes>,
        held: Held,
        error: i16,
    ) -> Reply {
        let bytes = frame.len() - 4 + more.iter().map(Bytes::len).sum::<usize>();
        let Ok(length) = i32::try_from(bytes) else {
            tracing::error!(api = ?self.api, bytes, "response is too large for a frame");
            return Reply::Close(format!("{:?} response is too large", self.api));
        };
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.count(error);
        Reply::Frame(frame, more, held)
    }

    /// Counts a request that gets no answer.
    pub(super) fn count(&self, error: i16) {
        self.ctx.meter.request(self.api, error, self.begun.elapsed());
    }
}

/// What a response says went wrong, for the counter of requests by error: its own error code, or
/// else the first one among its topics, partitions, groups or members. 0 when all went well.
pub(super) trait Outcome {
    /// Kafka's error code.
    fn error(&self) -> i16;
}

/// The first code that is not 0, else 0.
pub(super) fn first_error(codes: impl IntoIterator<Item = i16>) -> i16 {
    codes.into_iter().find(|code| *code != 0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
    use kafka_protocol::messages::{
        ApiVersionsRequest, DeleteTopicsRequest, FetchRequest, ListOffsetsRequest, MetadataRequest,
        ProduceRequest,
    };
    use kafka_protocol::protocol::StrBytes;

    use super::*;
    use crate::api::tests::fixture::Bench;
    use crate::api::{Authentication, Identity};
    use crate::security::Principal;

    #[tokio::test]
    async fn a_client_that_has_yet_to_authenticate_is_told_the_versions_and_nothing_else() {
        let bench = Bench::start().await;
        let identity =
            |authentication| Identity { principal: Principal::ANONYMOUS, authentication };
        bench.session.identify(identity(Authentication::Awaited));
        assert_eq!(bench.call(0, ApiVersionsRequest::default()).await.error_code, 0);
        for route in table::ROUTES.iter().filter(|route| !route.api.before_authentication) {
            let (key, version) = (route.api.key as i16, *route.api.versions.start());
            let mut frame = BytesMut::new();
            frame.put_i16(key);
            frame.put_i16(version);
            frame.put_i32(1);
            frame.put_i16(-1);
            // A flexible header ends with its tags.
            frame.put_u8(0);
            let refused = begin(&bench.ctx, &bench.session, frame.freeze()).await.err();
            assert_eq!(refused, Some(Refusal::Unauthenticated(route.api.key)));
        }
        let expires = None;
        bench.session.identify(identity(Authentication::Given { expires }));
        assert_eq!(bench.call(1, MetadataRequest::default()).await.topics.len(), 0);
    }

    /// As many unknown partitions, each of which has an answer.
    fn list_offsets(partitions: i32) -> ListOffsetsRequest {
        let partitions = (0..partitions)
            .map(|index| ListOffsetsPartition::default().with_partition_index(index))
            .collect();
        let topic = ListOffsetsTopic::default().with_partitions(partitions);
        ListOffsetsRequest::default().with_topics(vec![topic])
    }

    #[tokio::test]
    async fn small_answers_never_wait_behind_unread_ones_and_large_ones_until_there_is_room() {
        let bench = Bench::start().await;
        bench.topic("clicks", 1).await;
        let answers = &bench.ctx.answers;
        let unread = [answers.take_all_of_records(), answers.take_all_of_plain()];
        let metadata = bench.call(12, MetadataRequest::default().with_topics(None)).await;
        assert!(!metadata.topics.is_empty());
        assert_eq!(bench.call(7, list_offsets(10)).await.topics[0].partitions.len(), 10);
        bench.topic("views", 1).await;
        // A request that changes something and may have a large answer.
        let many = (0..100).map(|at| StrBytes::from_string(format!("unknown-{at}")).into());
        let many = many.collect();
        let many = DeleteTopicsRequest::default().with_topic_names(many).with_timeout_ms(1_000);
        let mut deleting = Box::pin(bench.call(5, many));
        let mut listing = Box::pin(bench.call(7, list_offsets(10_000)));
        while answers.waiting() < 2 {
            assert!((&mut deleting).now_or_never().is_none());
            assert!((&mut listing).now_or_never().is_none());
        }
        // Nothing of it is in memory, nor carried out, before what others did not read is gone.
        let [records, mut plain] = unread;
        drop(records);
        plain.release(1_000);
        assert_eq!(deleting.await.responses.len(), 100);
        assert!((&mut listing).now_or_never().is_none());
        drop(plain);
        assert_eq!(listing.await.topics[0].partitions.len(), 10_000);
    }

    #[tokio::test]
    async fn a_large_answer_without_records_is_charged_until_it_is_written() {
        let bench = Bench::start().await;
        let reply = bench.send(7, &list_offsets(10_000)).await.unwrap();
        let Reply::Frame(frame, _, held) = &reply else { panic!("no answer but {reply:?}") };
        assert_eq!(held.bytes(), frame.len());
        let reply = bench.send(7, &list_offsets(10)).await.unwrap();
        assert!(matches!(reply, Reply::Frame(_, _, held) if held.bytes() == 0));
    }

    #[tokio::test]
    async fn answers_of_every_kind_tell_the_throttle_time_where_their_version_has_it() {
        let bench = Bench::start().await;
        let request = MetadataRequest::default();
        assert_eq!(bench.call(3, request.clone()).await.throttle_time_ms, 0);
        bench.session.throttle().mute(Instant::now(), Duration::from_secs(3600));
        let told = [
            bench.call(2, request.clone()).await.throttle_time_ms,
            bench.call(3, request).await.throttle_time_ms,
            bench.call(1, ApiVersionsRequest::default()).await.throttle_time_ms,
            bench.call(9, ProduceRequest::default().with_acks(1)).await.throttle_time_ms,
            bench.call(12, FetchRequest::default().with_session_epoch(-1)).await.throttle_time_ms,
        ];
        let [too_old, told @ ..] = told;
        assert_eq!(too_old, 0);
        assert!(told.iter().all(|ms| (1..=3_600_000).contains(ms)), "{told:?}");
    }
}
