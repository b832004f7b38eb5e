//! One socket and one random port for each query (RFC 5452): what the task asks with as long as its server knows no groups.

use std::net::SocketAddr;

use portolan_dns::forward::Exchange;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tracing::debug;

use crate::task::{DATAGRAM_BYTES, Event};

pub(crate) async fn ask_udp(
    exchange: Exchange,
    upstream: SocketAddr,
    query: Vec<u8>,
    events: mpsc::UnboundedSender<Event>,
) {
    // Whoever asked may be gone with the process.
    if let Err(error) = exchange_udp(exchange, upstream, &query, &events).await {
        debug!(%upstream, %error, "the upstream cannot be asked");
        let _ = events.send(Event::Failed { exchange });
    }
}

/// Hands in every datagram until the exchange is closed: a forged one must not keep the real one out.
async fn exchange_udp(
    exchange: Exchange,
    upstream: SocketAddr,
    query: &[u8],
    events: &mpsc::UnboundedSender<Event>,
) -> std::io::Result<()> {
    let any: SocketAddr = if upstream.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let _ = events.send(Event::Upstream { exchange, packet: buffer[..length].to_vec() });
    }
}

pub(crate) async fn ask_tcp(
    exchange: Exchange,
    upstream: SocketAddr,
    query: Vec<u8>,
    events: mpsc::UnboundedSender<Event>,
) {
    let event = match exchange_tcp(upstream, &query).await {
        Ok(packet) => Event::Upstream { exchange, packet },
        Err(error) => {
            debug!(%upstream, %error, "the upstream cannot be asked over TCP");
            Event::Failed { exchange }
        }
    };
    let _ = events.send(event);
}

async fn exchange_tcp(upstream: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut packet = vec![0; usize::from(length)];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}
