//! Listeners: bound once, alive as long as the process.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::DnsError;
use crate::task::{DATAGRAM_BYTES, Event};

/// How long a TCP client may take for its next query.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// TCP clients served at once.
const TCP_CLIENTS: usize = 256;
/// Bursts must not be lost: the default of 208 KiB is a few hundred queries.
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// The listeners of one address, both transports.
pub struct Listener {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
}

impl Listener {
    /// Binds UDP and TCP on `addr`.
    pub async fn bind(addr: SocketAddr) -> Result<Self, DnsError> {
        let failed = |transport| move |source| DnsError::Bind { addr, transport, source };
        let udp = UdpSocket::bind(addr).await.map_err(failed("udp"))?;
        if let Err(error) = rustix::net::sockopt::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER_BYTES) {
            debug!(%error, "the receive buffer stays at its default");
        }
        let tcp = TcpListener::bind(addr).await.map_err(failed("tcp"))?;
        Ok(Self { udp: Arc::new(udp), tcp })
    }

    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.udp.local_addr().ok().map(|addr| addr.ip())
    }

    pub(crate) fn open(self, events: &mpsc::UnboundedSender<Event>) {
        tokio::spawn(receive(self.udp, events.clone()));
        tokio::spawn(accept(self.tcp, events.clone()));
    }
}

async fn receive(socket: Arc<UdpSocket>, events: mpsc::UnboundedSender<Event>) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let packet = buffer[..length].to_vec();
                if events.send(Event::Udp { from, socket: socket.clone(), packet }).is_err() {
                    return;
                }
            }
            // An ICMP error about an earlier reply; the socket goes on.
            Err(error) => debug!(%error, "receiving a query"),
        }
    }
}

async fn accept(listener: TcpListener, events: mpsc::UnboundedSender<Event>) {
    let seats = Arc::new(tokio::sync::Semaphore::new(TCP_CLIENTS));
    while let Ok(seat) = seats.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let events = events.clone();
                tokio::spawn(async move {
                    // A client that breaks off is done.
                    let _ = serve_tcp(stream, events).await;
                    drop(seat);
                });
            }
            Err(error) => {
                debug!(%error, "accepting a DNS client");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_tcp(mut stream: TcpStream, events: mpsc::UnboundedSender<Event>) -> std::io::Result<()> {
    loop {
        let length = tokio::time::timeout(TCP_IDLE, stream.read_u16()).await??;
        let mut packet = vec![0; usize::from(length)];
        tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut packet)).await??;
        let (reply, answer) = oneshot::channel();
        if events.send(Event::Tcp { packet, reply }).is_err() {
            return Ok(());
        }
        let Ok(bytes) = answer.await else { return Ok(()) };
        let length = u16::try_from(bytes.len()).expect("a DNS message is never longer than 65,535 bytes");
        let framed = [&length.to_be_bytes()[..], &bytes].concat();
        stream.write_all(&framed).await?;
    }
}
