//! The least that a broker can do with what producers send: receive it, write it, answer. One blocking
//! thread per connection that checks nothing, knows no log and answers what it has read together. What
//! it costs is the kernel's share, about the least that a broker costs on the same machine.
//!
//! `written` writes to the page cache. `synced` writes past it, over blocks that the file has already,
//! and syncs these: the cheapest way to the disk that we know, and one that no reader finds anything by.
//!
//! ```text
//! floor received|written|synced FILE
//! ```
//!
//! It speaks just enough of the protocol for Kafka's own producer, with one topic of one partition, and
//! says `floor ready kafka=ADDRESS`. `scripts/bench-floor` runs it beside Ottla.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::{Buf, BufMut, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, BrokerId, InitProducerIdResponse, MetadataRequest,
    MetadataResponse, ProduceResponse, ProducerId, RequestHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use rustix::fs::OFlags;
use uuid::Uuid;

/// Room for what a producer with five requests in flight sends.
const BUFFER_BYTES: usize = 2 << 20;
/// What is written past the page cache consists of such blocks.
const BLOCK_BYTES: usize = 4096;
/// Positions at which such a write may begin, from the start of the file, which then is reused.
const SPAN_BYTES: u64 = 64 << 20;
/// The versions of each API; Produce names topics by id in its only one.
const VERSIONS: [(ApiKey, i16, i16); 4] = [
    (ApiKey::Produce, 13, 13),
    (ApiKey::Metadata, 0, 12),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::InitProducerId, 0, 5),
];

/// What is done with a request's bytes before it is answered.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    Received,
    Written,
    Synced,
}

struct Floor {
    work: Work,
    file: File,
    /// Where the next bytes go.
    end: AtomicU64,
    connections: AtomicUsize,
    address: SocketAddr,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [work, path] = &arguments[..] else {
        // As `cargo bench` and `cargo test` run every target.
        println!("usage: floor received|written|synced FILE; see scripts/bench-floor");
        return;
    };
    let work = match work.as_str() {
        "received" => Work::Received,
        "written" => Work::Written,
        "synced" => Work::Synced,
        other => panic!("'{other}' is none of received, written, synced"),
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let file = if work == Work::Synced { blocks(path) } else { File::create(path).unwrap() };
    let (end, connections) = (AtomicU64::new(0), AtomicUsize::new(0));
    let floor = Arc::new(Floor { work, file, end, connections, address });
    println!("floor ready kafka={address}");
    for stream in listener.incoming() {
        let floor = floor.clone();
        floor.connections.fetch_add(1, Ordering::Relaxed);
        std::thread::spawn(move || {
            floor.serve(stream.unwrap());
            // As a broker whose topic is deleted: what comes next finds memory that was used before.
            if floor.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
                floor.clear();
            }
        });
    }
}

impl Floor {
    /// Until the client closes.
    fn serve(&self, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut memory = vec![0; BUFFER_BYTES + BLOCK_BYTES];
        let from = memory.as_ptr().align_offset(BLOCK_BYTES);
        let buffer = &mut memory[from..from + BUFFER_BYTES];
        let mut filled = 0;
        loop {
            match stream.read(&mut buffer[filled..]) {
                Ok(0) | Err(_) => return,
                Ok(read) => filled += read,
            }
            let mut answers = BytesMut::new();
            let (mut taken, mut produced) = (0, false);
            while let Some((frame, rest)) = frame(&buffer[taken..filled]) {
                produced |= self.answer(frame, &mut answers);
                taken = filled - rest;
            }
            if produced {
                self.keep(buffer, taken);
            }
            buffer.copy_within(taken..filled, 0);
            filled -= taken;
            if !answers.is_empty() && stream.write_all(&answers).is_err() {
                return;
            }
        }
    }

    /// Does with the first `taken` bytes of the buffer what is to be done before they are answered.
    fn keep(&self, buffer: &[u8], taken: usize) {
        match self.work {
            Work::Received => {}
            Work::Written => {
                let position = self.end.fetch_add(taken as u64, Ordering::Relaxed);
                self.file.write_all_at(&buffer[..taken], position).unwrap();
            }
            Work::Synced => {
                let length = taken.next_multiple_of(BLOCK_BYTES);
                let position = self.end.fetch_add(length as u64, Ordering::Relaxed) % SPAN_BYTES;
                self.file.write_all_at(&buffer[..length], position).unwrap();
                self.file.sync_data().unwrap();
            }
        }
    }

    fn clear(&self) {
        if self.work != Work::Synced {
            self.file.set_len(0).unwrap();
            self.end.store(0, Ordering::Relaxed);
        }
    }

    /// Answers a request; whether it was Produce.
    fn answer(&self, frame: &[u8], answers: &mut BytesMut) -> bool {
        let mut body = frame;
        let (key, version) = (body.get_i16(), body.get_i16());
        let correlation = body.get_i32();
        match ApiKey::try_from(key).unwrap() {
            ApiKey::Produce => {
                // The client id, tags, no transactional id, acks, timeout, one topic.
                let client_id = usize::try_from(body.get_i16()).unwrap();
                body.advance(client_id + 1 + 1 + 2 + 4 + 1);
                let id = Uuid::from_u128(body.get_u128());
                let partition = PartitionProduceResponse::default().with_log_append_time_ms(-1);
                let topic = TopicProduceResponse::default()
                    .with_topic_id(id)
                    .with_partition_responses(vec![partition]);
                let response = ProduceResponse::default().with_responses(vec![topic]);
                put(answers, correlation, version, &response);
                return true;
            }
            ApiKey::Metadata => put(answers, correlation, version, &self.metadata(frame, version)),
            ApiKey::InitProducerId => {
                let response = InitProducerIdResponse::default().with_producer_id(ProducerId(1));
                put(answers, correlation, version, &response);
            }
            _ => {
                let served = VERSIONS.map(|(key, min, max)| {
                    ApiVersion::default()
                        .with_api_key(key as i16)
                        .with_min_version(min)
                        .with_max_version(max)
                });
                let response = ApiVersionsResponse::default().with_api_keys(served.to_vec());
                put(answers, correlation, version.min(4), &response);
            }
        }
        false
    }

    /// Every topic that is asked for exists.
    fn metadata(&self, frame: &[u8], version: i16) -> MetadataResponse {
        let mut frame = bytes::Bytes::copy_from_slice(frame);
        RequestHeader::decode(&mut frame, MetadataRequest::header_version(version)).unwrap();
        let asked = MetadataRequest::decode(&mut frame, version).unwrap().topics;
        let (me, host) = (BrokerId(0), self.address.ip().to_string());
        let topics = asked.unwrap_or_default().into_iter().map(|asked| {
            let partition = MetadataResponsePartition::default()
                .with_leader_id(me)
                .with_replica_nodes(vec![me])
                .with_isr_nodes(vec![me]);
            MetadataResponseTopic::default()
                .with_name(asked.name)
                .with_topic_id(Uuid::from_u128(1))
                .with_partitions(vec![partition])
        });
        let broker = MetadataResponseBroker::default()
            .with_node_id(me)
            .with_host(StrBytes::from_string(host))
            .with_port(self.address.port().into());
        MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_controller_id(me)
            .with_topics(topics.collect())
    }
}

/// A file that has its blocks, to be written past the page cache.
fn blocks(path: &str) -> File {
    let mut file = File::create(path).unwrap();
    let zeros = vec![0; BUFFER_BYTES];
    for _ in 0..=SPAN_BYTES / BUFFER_BYTES as u64 {
        file.write_all(&zeros).unwrap();
    }
    file.sync_all().unwrap();
    let direct = OFlags::DIRECT.bits().cast_signed();
    OpenOptions::new().write(true).custom_flags(direct).open(path).unwrap()
}

/// The first whole frame, and how many bytes are behind it.
fn frame(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    let frame = bytes.get(4..4 + length)?;
    Some((frame, bytes.len() - 4 - length))
}

/// Puts an answer behind those before it.
fn put<R: Encodable + HeaderVersion>(
    answers: &mut BytesMut,
    correlation: i32,
    version: i16,
    response: &R,
) {
    let from = answers.len();
    answers.put_i32(0);
    answers.put_i32(correlation);
    if R::header_version(version) >= 1 {
        answers.put_u8(0);
    }
    response.encode(answers, version).unwrap();
    let length = (answers.len() - from - 4) as u32;
    answers[from..from + 4].copy_from_slice(&length.to_be_bytes());
}
