//! Bytes that no client sends: whatever arrives, the process lives, its memory stays bounded and
//! everyone else is served.

mod frames;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, FetchRequest, ProduceRequest};

use self::frames::Everyday;
use crate::harness::{Broker, Options, PATIENCE, until};
use crate::protocol::batch::{Batch, read};
use crate::protocol::client::{Client, request_header};
use crate::protocol::requests::{
    Topic, append, describe, fetch, fetch_topic, fetched, produce, produced, read_from,
};

/// Memory that a hostile frame may cost at its worst. The counts below ask for up to hundreds of
/// gigabytes.
const GROWTH_BYTES_MAX: u64 = 96 << 20;

/// A broker, with a bystander that was connected before anything happened.
struct Besieged {
    broker: Broker,
    bystander: Client,
    topic: Topic,
    resident_before: u64,
}

impl Besieged {
    fn start(options: Options) -> Besieged {
        let broker = Broker::start_with(options);
        let mut bystander = Client::connect(broker.kafka());
        let topic = Topic::create(&mut bystander);
        assert_eq!(append(&mut bystander, &topic, &Batch::of(["kept"])), (0, 0));
        let resident_before = resident_bytes(broker.id());
        Besieged { broker, bystander, topic, resident_before }
    }

    fn address(&self) -> SocketAddr {
        self.broker.kafka()
    }

    /// The process is the same, has not grown, and serves old and new connections.
    #[track_caller]
    fn stands(&mut self, after: &str) {
        let peak = peak_resident_bytes(self.broker.id());
        let grown = peak.saturating_sub(self.resident_before);
        assert!(grown < GROWTH_BYTES_MAX, "{after}: memory grew by {grown} bytes");
        let kept = read_from(&mut self.bystander, &self.topic, 0);
        assert_eq!(kept.len(), 1, "{after}");
        let newcomer = read_from(&mut Client::connect(self.address()), &self.topic, 0);
        assert_eq!(newcomer.len(), 1, "{after}");
        let log = self.broker.log();
        assert!(!log.contains("panicked"), "{after}: a panic was logged");
    }
}

fn resident_bytes(process: u32) -> u64 {
    status_bytes(process, "VmRSS:")
}

fn peak_resident_bytes(process: u32) -> u64 {
    status_bytes(process, "VmHWM:")
}

fn status_bytes(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))
        .expect("the broker's process lives");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a memory line");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a size in kB");
    kib << 10
}

/// What became of a connection after hostile bytes.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    Closed,
    /// Neither within the patience given.
    Waiting,
}

fn fate(client: &mut Client, patience: Duration) -> Fate {
    client.set_patience(patience);
    match client.read_frame() {
        Ok(Some(_)) => Fate::Answered,
        Ok(None) => Fate::Closed,
        Err(_) => Fate::Waiting,
    }
}

/// Sends `bytes` as they are, then nothing more; the broker must end the connection by itself or
/// answer and then see its end.
fn strike(address: SocketAddr, bytes: &[u8]) -> Fate {
    let mut client = Client::connect(address);
    // The broker may close before all is sent: that is an answer, too.
    let _ = client.send_bytes(bytes);
    client.finish_sending();
    fate(&mut client, Duration::from_secs(10))
}

fn framed(frame: &[u8]) -> Vec<u8> {
    let length = i32::try_from(frame.len()).expect("a short frame");
    [&length.to_be_bytes(), frame].concat()
}

#[test]
fn impossible_frame_lengths_close_the_connection_before_anything_is_allocated() {
    let mut besieged = Besieged::start(Options::new());
    for length in [i32::MAX, i32::MAX - 1, 1 << 30, (100 << 20) + 1, 0, -1, i32::MIN] {
        // The connection stays open on this side: the broker must end it.
        let mut client = Client::connect(besieged.address());
        let metadata = request_header(3, 9, 2, 1);
        let bytes = [&length.to_be_bytes()[..], &metadata].concat();
        // Closed before all is sent is fine.
        let _ = client.send_bytes(&bytes);
        assert_eq!(fate(&mut client, PATIENCE), Fate::Closed, "length {length}");
    }
    besieged.stands("impossible frame lengths");
}

#[test]
fn frames_too_short_for_a_header_close_the_connection() {
    let mut besieged = Besieged::start(Options::new());
    let whole = request_header(18, 3, 2, 1);
    for length in 1..whole.len() {
        let mut client = Client::connect(besieged.address());
        client.send_bytes(&framed(&whole[..length])).expect("a short frame is taken");
        let fate = fate(&mut client, PATIENCE);
        // Correlation id and version suffice for ApiVersions to be refused in a form that any
        // client reads; everything shorter cannot be answered.
        assert_ne!(fate, Fate::Waiting, "{length} bytes");
        if length < 8 {
            assert_eq!(fate, Fate::Closed, "{length} bytes");
        }
    }
    for client_id_length in [i16::MAX, i16::MIN, -2] {
        let mut header = whole[..8].to_vec();
        header.extend_from_slice(&client_id_length.to_be_bytes());
        assert_ne!(strike(besieged.address(), &framed(&header)), Fate::Waiting);
    }
    besieged.stands("short headers");
}

/// Every advertised API with its versions and header version.
fn advertised(address: SocketAddr) -> Vec<(ApiKey, RangeInclusive<i16>)> {
    let apis = Client::connect(address).api_versions();
    assert!(apis.len() > 10, "{} APIs", apis.len());
    apis.into_iter()
        .map(|api| {
            let key = ApiKey::try_from(api.api_key).expect("an API that the crate knows");
            (key, api.min_version..=api.max_version)
        })
        .collect()
}

/// Beginnings after which a count may stand: nothing, a null or empty string in either encoding,
/// numbers, a count of one with an element begun.
const PREFIXES: &[&[u8]] = &[
    &[],
    &[0],
    &[0, 0],
    &[0xff, 0xff],
    &[1],
    &[2, b'g'],
    &[0, 1, b'g'],
    &[0, 0, 0, 1],
    &[0, 0, 0, 0],
    &[0xff, 0xff, 0xff, 0xff],
    &[0, 0, 0, 1, 0, 1, b't'],
    &[2, 2, b't'],
    &[0xff, 0xff, 0, 1, 0, 0, 0x75, 0x30],
    &[0, 0xff, 0xff, 0, 0, 0x75, 0x30],
    &[0xff, 0xff, 0xff, 0xff, 0, 0, 0],
    &[0, 1, b'g', 0, 0, 0, 1, 0, 1, b'm'],
    &[2, b'g', 0, 0, 0, 1, 2, b'm', 0],
    &[0, 1, b'g', 0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30, 0, 0, 0, 1, b'c'],
    &[2, b'g', 0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30, 1, 0, 2, b'c'],
    &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0],
    &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
];

/// Counts and lengths: the largest that the encodings hold, and some that only look small.
const BOMBS: &[&[u8]] = &[
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x7f, 0xff, 0x00, 0x00],
    &[0x00, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0x07],
    &[0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0x07],
    &[0x7f, 0xff],
];

#[test]
fn count_bombs_in_any_api_and_version_end_as_an_error_or_a_close() {
    let mut besieged = Besieged::start(Options::new());
    let mut frames = 0;
    for (key, versions) in advertised(besieged.address()) {
        for version in versions {
            let header =
                request_header(key as i16, version, key.request_header_version(version), 1);
            for prefix in PREFIXES {
                for bomb in BOMBS {
                    let body = [&header, *prefix, *bomb].concat();
                    let fate = strike(besieged.address(), &framed(&body));
                    assert_ne!(fate, Fate::Waiting, "{key:?} v{version}: {body:x?}");
                    frames += 1;
                }
            }
        }
        besieged.stands(&format!("count bombs in {key:?}"));
    }
    println!("{frames} count bombs");
}

#[test]
fn tag_bombs_in_headers_and_bodies_end_as_an_error_or_a_close() {
    let mut besieged = Besieged::start(Options::new());
    for (key, versions) in advertised(besieged.address()) {
        let version = *versions.end();
        if key.request_header_version(version) < 2 {
            continue;
        }
        let mut header = request_header(key as i16, version, 2, 1);
        // The header ends with its number of tags.
        assert_eq!(header.pop(), Some(0));
        for bomb in BOMBS {
            let many_tags = [&header, *bomb].concat();
            assert_ne!(strike(besieged.address(), &framed(&many_tags)), Fate::Waiting);
            // One tag of an enormous size.
            let large_tag = [&header, &[1, 9][..], bomb].concat();
            assert_ne!(strike(besieged.address(), &framed(&large_tag)), Fate::Waiting);
        }
    }
    besieged.stands("tag bombs");
}

/// xorshift64*: the same bytes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        // Small values are the counts and lengths that let a decoder go on.
        (0..length)
            .map(|_| {
                let byte = self.next().to_be_bytes()[0];
                if self.below(3) == 0 { byte } else { byte & 3 }
            })
            .collect()
    }
}

#[test]
fn random_bodies_in_any_api_and_version_end_as_an_error_or_a_close() {
    let mut besieged = Besieged::start(Options::new());
    let mut random = Random(0x0771_a5ee_d000_0001);
    for (key, versions) in advertised(besieged.address()) {
        for version in versions {
            let header =
                request_header(key as i16, version, key.request_header_version(version), 1);
            for _ in 0..25 {
                let length = random.below(120);
                let body = [header.clone(), random.bytes(length)].concat();
                // A random Produce may say acks=0 and a random JoinGroup may wait for members;
                // that this side has sent its last ends either.
                let fate = strike(besieged.address(), &framed(&body));
                assert_ne!(fate, Fate::Waiting, "{key:?} v{version}: {body:x?}");
            }
        }
    }
    besieged.stands("random bodies");
}

#[test]
fn many_tiny_elements_in_a_large_frame_are_refused() {
    let mut besieged = Besieged::start(Options::new());
    // Metadata v0: an array of empty names, two bytes each on the wire and far more decoded.
    let count = 20_000_000_i32;
    let mut body = request_header(3, 0, 1, 1);
    body.extend_from_slice(&count.to_be_bytes());
    body.resize(body.len() + 40_000_000, 0);
    let fate = strike(besieged.address(), &framed(&body));
    assert_eq!(fate, Fate::Closed);
    besieged.stands("many tiny elements");
}

#[test]
fn unknown_apis_and_versions_are_refused_and_logged() {
    let mut besieged = Besieged::start(Options::new());
    for key in [4, 5, 6, 7, 27, 93, 1_000, -1, i16::MIN, i16::MAX] {
        let mut client = Client::connect(besieged.address());
        client.send_frame(&request_header(key, 0, 1, 1)).expect("a sent frame");
        assert_eq!(fate(&mut client, PATIENCE), Fate::Closed, "API {key}");
    }
    for (key, versions) in advertised(besieged.address()) {
        for version in [versions.start() - 1, versions.end() + 1, i16::MAX, i16::MIN] {
            let mut client = Client::connect(besieged.address());
            // Versions to come are flexible, as every newest one is; the old ones are not.
            let flexible = key == ApiKey::ApiVersions || version > *versions.end();
            let header_version = if flexible { 2 } else { 1 };
            let header = request_header(key as i16, version, header_version, 1);
            client.send_frame(&header).expect("a sent frame");
            let expected = if key == ApiKey::ApiVersions { Fate::Answered } else { Fate::Closed };
            assert_eq!(fate(&mut client, PATIENCE), expected, "{key:?} v{version}");
        }
    }
    besieged.stands("unknown APIs and versions");
    let log = besieged.broker.log();
    for line in ["api key 1000 is not served", "Metadata version 32767 is not served"] {
        assert!(log.contains(line), "'{line}' is not in {log}");
    }
}

#[test]
fn unfinished_frames_hold_nobody_up() {
    let mut besieged = Besieged::start(Options::new());
    // Each has promised a large frame and sends a byte of it now and then.
    let mut slow: Vec<Client> = (0..200).map(|_| Client::connect(besieged.address())).collect();
    let promise = [&(50_i32 << 20).to_be_bytes()[..], &request_header(0, 9, 2, 1)].concat();
    for client in &mut slow {
        client.send_bytes(&promise).expect("the beginning of a frame");
    }
    let start = Instant::now();
    for _ in 0..5 {
        for client in &mut slow {
            // The broker may have given up on it.
            let _ = client.send_bytes(&[0]);
        }
        besieged.stands("unfinished frames");
    }
    assert!(start.elapsed() < PATIENCE, "others waited {:?}", start.elapsed());
}

#[test]
fn an_unread_answer_holds_nobody_up() {
    let mut besieged = Besieged::start(Options::new());
    let mut producer = Client::connect(besieged.address());
    let topic = Topic::create(&mut producer);
    for _ in 0..8 {
        assert_eq!(append(&mut producer, &topic, &Batch::of_size(1_000_000)).0, 0);
    }
    let mut deaf: Vec<Client> = (0..20).map(|_| Client::connect(besieged.address())).collect();
    let version = producer.latest::<FetchRequest>();
    for client in &mut deaf {
        for _ in 0..20 {
            let request = fetch(version, &topic, 0, 0);
            if client.try_send(version, &request).is_err() {
                break;
            }
        }
    }
    besieged.stands("unread answers");
}

/// Each asks for all of eight partitions and reads nothing of it, as a consumer does that hangs.
#[test]
fn unread_answers_take_no_more_memory_than_they_may_and_give_it_back_to_others() {
    const BUDGET_BYTES: u64 = 16 << 20;
    let options = Options::new()
        .set("queued.max.response.bytes", BUDGET_BYTES)
        .set("group.initial.rebalance.delay.ms", 0);
    let mut besieged = Besieged::start(options);
    // A member of a group, whose place nobody takes.
    let everyday = Everyday::start(besieged.address());
    let mut producer = Client::connect(besieged.address());
    let topic = Topic::create_with(&mut producer, 8);
    let version = producer.latest::<ProduceRequest>();
    for partition in 0..8 {
        for _ in 0..4 {
            let batch = Batch::of_size(1_000_000).encode();
            let request = produce(version, &topic, partition, -1, Some(batch));
            assert_eq!(produced(producer.call(version, &request)).error_code, 0);
        }
    }
    let resident_before = resident_bytes(besieged.broker.id());
    let version = producer.latest::<FetchRequest>();
    let all = (0..8).map(|partition| {
        FetchPartition::default().with_partition(partition).with_partition_max_bytes(8 << 20)
    });
    let all = fetch(version, &topic, 0, 0)
        .with_max_bytes(55 << 20)
        .with_max_wait_ms(500)
        .with_topics(vec![fetch_topic(version, &topic, all.collect())]);
    let mut deaf: Vec<Client> = (0..60).map(|_| Client::connect(besieged.address())).collect();
    for client in &mut deaf {
        client.send(version, &all);
    }
    let in_use = || besieged.broker.metric("ottla_answer_bytes");
    until("the answers to take all the room", PATIENCE, || {
        let bytes = in_use();
        // A sixteenth is for answers without records.
        if bytes > 0.9 * BUDGET_BYTES as f64 { Ok(()) } else { Err(format!("{bytes} bytes")) }
    });
    // Requests with small answers wait for nobody.
    besieged.bystander.api_versions();
    assert_eq!(describe(&mut besieged.bystander, &topic.name).error_code, 0);
    Topic::create(&mut besieged.bystander);
    // Those that read get room again: at the latest when the others were closed for not reading.
    until("a client that reads to get its records", PATIENCE, || {
        let request = fetch(version, &besieged.topic, 0, 0).with_max_wait_ms(500);
        let answer = fetched(besieged.bystander.call(version, &request));
        match read(answer.records.unwrap_or_default()).len() {
            1 => Ok(()),
            records => Err(format!("{records} records")),
        }
    });
    let grown = peak_resident_bytes(besieged.broker.id()).saturating_sub(resident_before);
    // Besides the answers there are the clients' connections, and buffers that are kept for reads.
    assert!(grown < BUDGET_BYTES + (24 << 20), "memory grew by {grown} bytes");
    everyday.end("60 clients that read nothing of 55 MiB");
    drop(deaf);
    until("the room to be given back", PATIENCE, || match in_use() {
        0.0 => Ok(()),
        bytes => Err(format!("{bytes} bytes are held")),
    });
    besieged.stands("unread answers of all partitions");
}

#[test]
fn a_connection_storm_is_outlived() {
    let mut besieged = Besieged::start(Options::new().set("max.connections", 50));
    let mut crowd: Vec<_> =
        (0..120).filter_map(|_| Client::try_connect(besieged.address()).ok()).collect();
    assert!(crowd.len() > 50);
    // Those within the bound are served, the bystander among them; the others' turn comes when
    // the crowd is gone.
    besieged.bystander.api_versions();
    // The last to come has a place in the kernel's backlog and none in the broker.
    let mut beyond = crowd.pop().expect("a crowd");
    // The kernel may have turned it away already.
    let _ = beyond.try_send(0, &ApiVersionsRequest::default());
    assert_ne!(fate(&mut beyond, Duration::from_millis(500)), Fate::Answered);
    drop(beyond);
    drop(crowd);
    until("the broker to serve newcomers again", PATIENCE, || {
        let mut client = Client::try_connect(besieged.address()).map_err(|e| e.to_string())?;
        let answer = client.try_call(0, &ApiVersionsRequest::default());
        answer.map(drop).map_err(|error| error.to_string())
    });
    besieged.stands("a connection storm");
}
