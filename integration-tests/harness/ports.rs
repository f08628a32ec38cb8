//! Ports for brokers that must come back on the address they had.

use std::net::{Ipv4Addr, TcpListener};

/// `count` ports that are free now and that the kernel hands to nobody as a source port, so that a
/// stopped broker finds its port free however many clients try to reconnect meanwhile.
pub fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let mut held = Vec::with_capacity(COUNT);
    while held.len() < COUNT {
        let random =
            u16::from_be_bytes(uuid::Uuid::new_v4().as_bytes()[..2].try_into().expect("two bytes"));
        // Linux's ephemeral ports start at 32768 unless told otherwise.
        let port = 10_000 + random % 22_000;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push(listener);
        }
    }
    std::array::from_fn(|at| held[at].local_addr().expect("a bound port has an address").port())
}
