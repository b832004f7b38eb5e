//! Listeners: bound once, alive as long as the process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan_dns::Client;
use portolan_dns::wire::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tracing::debug;

use crate::DnsError;
use crate::task::{Asked, DATAGRAM_BYTES, Doors};

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

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.udp.local_addr().ok()
    }

    /// Answers from now on, until what is given back is dropped.
    pub(crate) fn open(self, doors: &Doors) -> Open {
        let receiving = tokio::spawn(receive(self.udp, doors.clone())).abort_handle();
        let accepting = tokio::spawn(accept(self.tcp, doors.clone())).abort_handle();
        Open(vec![receiving, accepting])
    }
}

/// Listeners at work. Dropped, they are closed.
pub(crate) struct Open(Vec<tokio::task::AbortHandle>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

async fn receive(socket: Arc<UdpSocket>, doors: Doors) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    let local = socket.local_addr().expect("it is bound");
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, addr)) => {
                let packet = buffer[..length].to_vec();
                let client = Client { addr, local, transport: Transport::Udp, link: 0 };
                let socket = socket.clone();
                let reply = Box::new(move |bytes| send_udp(&socket, addr, bytes));
                // With no room left, the client asks again.
                let _ = doors.later.try_send(Asked { client, packet, reply });
            }
            // An ICMP error about an earlier reply; the socket goes on.
            Err(error) => debug!(%error, "receiving a query"),
        }
    }
}

fn send_udp(socket: &Arc<UdpSocket>, to: SocketAddr, bytes: Vec<u8>) {
    match socket.try_send_to(&bytes, to) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            let socket = socket.clone();
            tokio::spawn(async move { socket.send_to(&bytes, to).await });
        }
        Err(error) => debug!(%to, %error, "a reply could not be sent"),
    }
}

async fn accept(listener: TcpListener, doors: Doors) {
    let seats = Arc::new(tokio::sync::Semaphore::new(TCP_CLIENTS));
    while let Ok(seat) = seats.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, addr)) => {
                let doors = doors.clone();
                tokio::spawn(async move {
                    // A client that breaks off is done.
                    let _ = serve_tcp(stream, addr, doors).await;
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

async fn serve_tcp(mut stream: TcpStream, addr: SocketAddr, doors: Doors) -> std::io::Result<()> {
    let local = stream.local_addr()?;
    let client = Client { addr, local, transport: Transport::Tcp, link: 0 };
    loop {
        let length = tokio::time::timeout(TCP_IDLE, stream.read_u16()).await??;
        let mut packet = vec![0; usize::from(length)];
        tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut packet)).await??;
        let (reply, mut answers) = mpsc::unbounded_channel::<Vec<u8>>();
        let reply = Box::new(move |bytes| {
            // The client may have hung up.
            let _ = reply.send(bytes);
        });
        if doors.later.send(Asked { client, packet, reply }).await.is_err() {
            return Ok(());
        }
        while let Some(bytes) = answers.recv().await {
            let length = u16::try_from(bytes.len()).expect("a DNS message is never longer than 65,535 bytes");
            stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
        }
    }
}
