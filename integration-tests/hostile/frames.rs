//! Clients that begin large frames and stop: their memory is bounded by what has arrived, and small
//! requests wait for none of it.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::*;
use crate::protocol::groups::Member;

const ATTACKERS: usize = 300;
const FRAME_BYTES: usize = 2 << 20;

/// Memory of requests in all, of which frames of up to 2 MiB get 7/16, and one frame besides.
const REQUEST_BYTES_MAX: u64 = 512 << 20;
const ORDINARY_BYTES_MAX: u64 = REQUEST_BYTES_MAX / 16 * 7 + (2 << 20);
/// What each connection may hold besides.
const CONNECTION_BYTES_MAX: u64 = 192 << 10;
/// Frames that are closed give their memory to the allocator, which gives it back a little later.
const FREED_BYTES_MAX: u64 = 96 << 20;

/// A group member and a newcomer that ask small things all the time, on a thread of their own.
pub struct Everyday {
    stop: Arc<AtomicBool>,
    /// The longest that a heartbeat and an ApiVersions on a new connection took.
    asking: JoinHandle<(usize, [Duration; 2])>,
}

impl Everyday {
    pub fn start(address: SocketAddr) -> Everyday {
        let mut member = Member::at(address, &crate::harness::unique("everyday"), 3);
        member.join();
        assert_eq!(member.sync(&[]).0, 0);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let asking = std::thread::spawn(move || {
            let (mut rounds, mut longest) = (0, [Duration::ZERO; 2]);
            while !stopped.load(Ordering::Relaxed) || rounds == 0 {
                let asked = Instant::now();
                assert_eq!(member.heartbeat(), 0);
                longest[0] = longest[0].max(asked.elapsed());
                let asked = Instant::now();
                Client::connect(address).api_versions();
                longest[1] = longest[1].max(asked.elapsed());
                rounds += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            (rounds, longest)
        });
        Everyday { stop, asking }
    }

    pub fn end(self, during: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let (rounds, [heartbeat, api_versions]) =
            self.asking.join().expect("everyday requests are answered");
        println!(
            "{during}: {rounds} rounds, the longest heartbeat took {heartbeat:?}, the longest \
             ApiVersions on a new connection {api_versions:?}"
        );
    }
}

/// Connections of which each has announced a Produce of 2 MiB and sent up to `bytes` of it.
fn begin_frames(address: SocketAddr, bytes: usize) -> Vec<TcpStream> {
    let mut frame = u32::try_from(FRAME_BYTES).expect("a length").to_be_bytes().to_vec();
    frame.extend_from_slice(&request_header(0, 9, 2, 1));
    frame.resize(bytes, 0);
    let begin = |_| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_nonblocking(true).expect("a socket that does not block");
        let mut rest = &frame[..];
        // What the broker does not read stays in the kernel's buffers, or is not sent.
        for attempt in 0.. {
            match stream.write(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(full) if full.kind() == ErrorKind::WouldBlock && attempt < 20 => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => break,
            }
            if rest.is_empty() {
                break;
            }
        }
        stream
    };
    (0..ATTACKERS).map(begin).collect()
}

fn besieged() -> Besieged {
    Besieged::start(Options::new().set("group.initial.rebalance.delay.ms", 0))
}

/// Whether the broker has neither answered nor closed the connection.
fn is_parked(attacker: &TcpStream) -> bool {
    let peeked = attacker.peek(&mut [0]);
    matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn announced_frames_that_stop_arriving_cost_what_has_arrived_and_delay_nobody() {
    // The first come just short of being charged; of the others each is.
    for (bytes, charged) in [(16 << 10, 0), (20 << 10, ATTACKERS * (20 << 10))] {
        let mut besieged = besieged();
        let everyday = Everyday::start(besieged.address());
        let attackers = begin_frames(besieged.address(), bytes);
        let in_use = || besieged.broker.metric("ottla_request_bytes");
        until("the frames to be charged", PATIENCE, || match in_use() {
            bytes if bytes >= charged as f64 => Ok(()),
            bytes => Err(format!("{bytes} bytes")),
        });
        // Beside the frames, not behind them.
        besieged.bystander.api_versions();
        assert_eq!(describe(&mut besieged.bystander, &besieged.topic.name).error_code, 0);
        let mut newcomer = Client::connect(besieged.address());
        newcomer.api_versions();
        assert_eq!(describe(&mut newcomer, &besieged.topic.name).error_code, 0);
        assert!(attackers.iter().all(is_parked), "frames were given up");
        assert!(in_use() >= charged as f64);
        // Requests that need memory themselves, but for ordinary frames, are served, too.
        let topic = Topic::create(&mut besieged.bystander);
        for offset in 0..20 {
            let batch = Batch::of_size(900_000);
            assert_eq!(append(&mut besieged.bystander, &topic, &batch), (0, offset));
        }
        let peak = peak_resident_bytes(besieged.broker.id());
        everyday.end(&format!("300 frames of 2 MiB, of which {} KiB arrive", bytes >> 10));
        println!("memory: {} before, {peak} at most", besieged.resident_before);
        besieged.stands("announced frames");
        drop(attackers);
        until("the memory to be given back", PATIENCE, || {
            match besieged.broker.metric("ottla_request_bytes") {
                0.0 => Ok(()),
                bytes => Err(format!("{bytes} bytes are held")),
            }
        });
    }
}

#[test]
fn half_arrived_frames_cost_bounded_memory_and_delay_no_small_request() {
    let mut besieged = besieged();
    let everyday = Everyday::start(besieged.address());
    std::thread::sleep(Duration::from_secs(2));
    everyday.end("nobody else is there");
    let everyday = Everyday::start(besieged.address());
    let attackers = begin_frames(besieged.address(), FRAME_BYTES - 1);
    // A large request waits until frames that do not go on have given their memory back.
    let topic = Topic::create(&mut besieged.bystander);
    assert_eq!(append(&mut besieged.bystander, &topic, &Batch::of_size(900_000)), (0, 0));
    everyday.end("300 frames of 2 MiB, of which all but a byte is sent");
    let peak = peak_resident_bytes(besieged.broker.id());
    println!("memory: {} before, {peak} at most", besieged.resident_before);
    let connections = ATTACKERS as u64 * CONNECTION_BYTES_MAX;
    let bound = ORDINARY_BYTES_MAX + connections + FREED_BYTES_MAX + GROWTH_BYTES_MAX;
    let grown = peak.saturating_sub(besieged.resident_before);
    assert!(grown < bound, "memory grew by {grown} bytes");
    drop(attackers);
    let log = besieged.broker.log();
    assert!(log.contains("while others wait for the memory that it holds"), "{log}");
}
