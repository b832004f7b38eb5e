//! Whatever comes over an upgraded connection: the node answers the next one.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use hyper_util::rt::TokioExecutor;
use hyper_util::service::TowerToHyperService;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const BINARY: u8 = 2;

const PING: u8 = 9;
const PONG: u8 = 10;

/// A node's port-forward, and an exec that cannot be, on loopback, for all tests of this process.
fn server() -> SocketAddr {
    static ADDR: OnceLock<SocketAddr> = OnceLock::new();
    *ADDR.get_or_init(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(accept(listener));
        });
        addr
    })
}

async fn accept(listener: std::net::TcpListener) {
    listener.set_nonblocking(true).expect("set");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let pod = || Pod { name: "n/p".to_owned(), netns: "/proc/self/ns/net".into() };
    let tunnelled = move |upgrade: WebSocketUpgrade| async move {
        let upgrade = bounded(upgrade.protocols([portforward::TUNNEL_PROTOCOL]));
        upgrade.on_upgrade(move |socket| tunnel(socket, pod()))
    };
    let refused = |upgrade: WebSocketUpgrade| async {
        upgrade.protocols(exec::PROTOCOLS).on_upgrade(|socket| exec::refuse(socket, ExecError::NoCommand))
    };
    let router: Router = Router::new().route("/", get(tunnelled)).route("/refused", get(refused));
    loop {
        let (stream, _) = listener.accept().await.expect("accepts");
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }
}

/// An upgraded connection to port-forward.
fn connect() -> TcpStream {
    connect_to("/", portforward::TUNNEL_PROTOCOL)
}

fn connect_to(path: &str, protocol: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("answered");
        answer.extend(byte);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    stream
}

/// A client's frame; its mask is of zeroes, so that the payload stands as it is. RFC 6455 §5.2.
fn message(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ ..126 => frame.push(0x80 | short as u8),
        medium @ ..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Sends and ends; whatever is answered, the answer ends too.
fn sent(bytes: &[u8]) {
    let mut stream = connect();
    // The server may have closed before all was sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut rest = [0; 4096];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the server holds the connection open");
                return;
            }
        }
    }
}

#[track_caller]
fn answers() {
    let mut stream = connect();
    let ping = spdy::pong(1);
    stream.write_all(&message(BINARY, &ping)).expect("sent");
    let mut back = vec![0; 2 + ping.len()];
    stream.read_exact(&mut back).expect("answered");
    assert_eq!(back[2..], ping[..]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_bytes_end_that_connection_only(bytes in vec(any::<u8>(), 0..2000)) {
        sent(&bytes);
        answers();
    }

    #[test]
    fn any_messages_end_that_connection_only(messages in vec((0_u8..16, vec(any::<u8>(), 0..300)), 0..12)) {
        let bytes: Vec<u8> = messages.iter().flat_map(|(opcode, payload)| message(*opcode, payload)).collect();
        sent(&bytes);
        answers();
    }
}

#[test]
fn a_message_longer_than_is_taken_is_refused_before_it_is_kept() {
    let header = [&[0x82, 0x80 | 127][..], &(1_u64 << 40).to_be_bytes(), &[0; 4]].concat();
    let mut stream = connect();
    stream.write_all(&header).expect("sent");
    // Closed without waiting for a terabyte.
    let mut rest = [0; 64];
    while let Ok(1..) = stream.read(&mut rest) {}
    sent(&message(BINARY, &vec![0; MAX_MESSAGE_BYTES + 1]));
    answers();
}

#[test]
fn a_client_hears_nothing_of_a_command_before_it_has_shown_that_it_reads() {
    let mut stream = connect_to("/refused", exec::PROTOCOLS[0]);
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a ping");
    assert_eq!(head, [0x80 | PING, 0]);
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    let early = stream.read(&mut head).expect_err("nothing yet");
    assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    stream.write_all(&message(PONG, &[])).expect("sent");
    let mut rest = Vec::new();
    stream.read_exact(&mut head).expect("a frame");
    assert_eq!(head[0], 0x80 | BINARY);
    stream.shutdown(Shutdown::Write).expect("closed");
    stream.read_to_end(&mut rest).expect("the rest");
    let text = String::from_utf8_lossy(&rest);
    assert!(text.contains(r#""status":"Failure""#), "{text}");
}
