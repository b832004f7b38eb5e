//! Ports for servers that bind them later.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};

/// A port of the loopback that nobody has, by UDP or TCP; below those that the kernel gives to clients, so that none gets it meanwhile.
pub fn free() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 600).expect("it is small") * 20;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 20;
        let udp = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
        if udp.is_ok() && std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
