//! UDP: for each query a socket of its own, connected, on a port that the kernel draws.

use std::net::SocketAddr;
use std::sync::Arc;

use portolan_dns::forward::step::Sending;
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc};

use super::{Heard, tell, tell_failure};

/// More than any server sends to whom announces 1232 bytes. What is longer is cut, and then read as if it were forged.
const LARGEST: usize = 4096;

/// Sends, and hands in every datagram until the task is aborted: a forged one must not keep the real one out.
pub(super) async fn ask(sending: Sending, addr: SocketAddr, sockets: Arc<Semaphore>, heard: mpsc::Sender<Heard>) {
    let Ok(_seat) = sockets.acquire().await else { return };
    if let Err(error) = exchange(&sending, addr, &heard).await {
        tell_failure(&heard, sending.exchange, format!("{addr}/udp: {error}")).await;
    }
}

async fn exchange(sending: &Sending, addr: SocketAddr, heard: &mpsc::Sender<Heard>) -> std::io::Result<()> {
    let any: SocketAddr = if addr.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(addr).await?;
    socket.send(&sending.bytes).await?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        tell(heard, sending.exchange, buffer[..length].to_vec()).await;
    }
}
