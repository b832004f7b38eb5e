//! What `outside` serves: a resolver for the notes' zone, and a web page that names its caller.
//!
//! The resolver answers on the LAN address and on the notes' two resolvers' addresses, and logs each
//! question with the address it came to, so that a check can tell which server a node asked. Zone
//! `ylzhong.top`: the name itself and `www` are 192.168.100.100, `ns` is `outside`. All else is
//! NXDOMAIN. Spec: RFC 1035 §4.1, RFC 2308 §2 (SOA in negative answers).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::Files;
use crate::topology::{LAN, OUTSIDE_ADDRESSES};

const DNS_PORT: u16 = 53;
const WEB_PORT: u16 = 80;
const TTL_SECS: u32 = 60;
const PATIENCE: Duration = Duration::from_secs(5);

/// `lab-upstream STATE_DIR`
pub(crate) fn run(state_dir: &Path) -> ExitCode {
    match serve(state_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("upstream: {error}");
            ExitCode::FAILURE
        }
    }
}

type Log = Arc<Mutex<File>>;

fn serve(state_dir: &Path) -> io::Result<()> {
    let web = TcpListener::bind((Ipv4Addr::UNSPECIFIED, WEB_PORT))?;
    let bind = |address: Ipv4Addr| -> io::Result<_> {
        Ok((address, UdpSocket::bind((address, DNS_PORT))?, TcpListener::bind((address, DNS_PORT))?))
    };
    let resolvers = resolver_addresses().into_iter().map(bind).collect::<io::Result<Vec<_>>>()?;
    // Last, so that the log is there only when every question will be heard.
    let file = OpenOptions::new().create(true).append(true).open(Files::new(state_dir).upstream_queries())?;
    let log: Log = Arc::new(Mutex::new(file));
    for (address, udp, tcp) in resolvers {
        let (udp_log, tcp_log) = (log.clone(), log.clone());
        thread::spawn(move || serve_udp(&udp, address, &udp_log));
        thread::spawn(move || serve_tcp(&tcp, address, &tcp_log));
    }
    serve_web(&web)
}

fn lan_address() -> Ipv4Addr {
    LAN.hosts().next().expect("a LAN has hosts")
}

fn resolver_addresses() -> [Ipv4Addr; 3] {
    let [first, second, _web] = OUTSIDE_ADDRESSES;
    [lan_address(), first, second]
}

fn serve_udp(socket: &UdpSocket, address: Ipv4Addr, log: &Log) {
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        if let Some(reply) = reply_and_log(&buffer[..length], address, from, log) {
            let _ = socket.send_to(&reply, from); // a resolver that is gone asks again
        }
    }
}

fn serve_tcp(listener: &TcpListener, address: Ipv4Addr, log: &Log) {
    for stream in listener.incoming().flatten() {
        let log = log.clone();
        thread::spawn(move || serve_tcp_client(stream, address, &log));
    }
}

/// Messages with their length in front, until the client ends or is silent. RFC 7766 §8.
fn serve_tcp_client(mut stream: TcpStream, address: Ipv4Addr, log: &Log) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let from = stream.peer_addr()?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message)?;
        let Some(reply) = reply_and_log(&message, address, from, log) else {
            return Ok(());
        };
        stream.write_all(&(reply.len() as u16).to_be_bytes())?;
        stream.write_all(&reply)?;
    }
}

fn reply_and_log(message: &[u8], server: Ipv4Addr, from: SocketAddr, log: &Log) -> Option<Vec<u8>> {
    let question = Question::parse(message)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let line = format!("{now:.3} server={server} from={} {} {}\n", from.ip(), question.name, type_name(question.kind));
    let mut file = log.lock().expect("a writer does not panic");
    let _ = file.write_all(line.as_bytes()); // a full disk must not stop answers
    Some(question.answer(message))
}

const A: u16 = 1;
const SOA: u16 = 6;

fn type_name(kind: u16) -> String {
    let known = [
        (A, "A"),
        (2, "NS"),
        (5, "CNAME"),
        (SOA, "SOA"),
        (12, "PTR"),
        (15, "MX"),
        (16, "TXT"),
        (28, "AAAA"),
        (33, "SRV"),
    ];
    known
        .iter()
        .find(|(number, _)| *number == kind)
        .map_or_else(|| format!("TYPE{kind}"), |(_, name)| (*name).to_owned())
}

const ZONE: &str = "ylzhong.top.";

/// The address of a name of the zone.
fn address_of(name: &str) -> Option<Ipv4Addr> {
    match name {
        "ylzhong.top." | "www.ylzhong.top." => Some(OUTSIDE_ADDRESSES[2]),
        "ns.ylzhong.top." => Some(lan_address()),
        _ => None,
    }
}

#[derive(Debug, PartialEq)]
struct Question {
    /// Lower case, with the last dot.
    name: String,
    kind: u16,
    /// Where the question ends in the message.
    end: usize,
}

const HEADER_LEN: usize = 12;

impl Question {
    /// The one question of a query; `None` for anything else.
    fn parse(message: &[u8]) -> Option<Question> {
        let header = message.get(..HEADER_LEN)?;
        let is_response = header[2] & 0x80 != 0;
        if is_response || u16::from_be_bytes([header[4], header[5]]) != 1 {
            return None;
        }
        let mut name = String::new();
        let mut at = HEADER_LEN;
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            if length > 63 {
                return None; // a pointer has no place in a question
            }
            let label = message.get(at..at + length)?;
            name.extend(label.iter().map(|byte| byte.to_ascii_lowercase() as char));
            name.push('.');
            at += length;
        }
        let kind = u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?);
        message.get(at + 2..at + 4)?;
        Some(Question { name, kind, end: at + 4 })
    }

    fn answer(&self, message: &[u8]) -> Vec<u8> {
        let in_zone = self.name == ZONE || self.name.ends_with(&format!(".{ZONE}"));
        let address = address_of(&self.name);
        let is_answer = address.is_some() && self.kind == A;
        let refused = if in_zone { 0 } else { 3 };
        let code = if in_zone && address.is_none() { 3 } else { refused };
        let mut reply = Vec::with_capacity(128);
        reply.extend_from_slice(&message[..2]);
        // Response, authoritative in the zone; recursion desired is copied, available always.
        reply.push(0x80 | if in_zone { 0x04 } else { 0 } | (message[2] & 0x01));
        reply.push(0x80 | code);
        let counts: [u16; 4] = [1, u16::from(is_answer), u16::from(in_zone && !is_answer), 0];
        reply.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        reply.extend_from_slice(&message[HEADER_LEN..self.end]);
        if let (Some(address), true) = (address, is_answer) {
            record(&mut reply, &[0xc0, HEADER_LEN as u8], A, &address.octets());
        } else if in_zone {
            record(&mut reply, &wire_name(ZONE), SOA, &soa());
        }
        reply
    }
}

fn record(reply: &mut Vec<u8>, name: &[u8], kind: u16, data: &[u8]) {
    const IN: u16 = 1;
    reply.extend_from_slice(name);
    reply.extend_from_slice(&kind.to_be_bytes());
    reply.extend_from_slice(&IN.to_be_bytes());
    reply.extend_from_slice(&TTL_SECS.to_be_bytes());
    reply.extend_from_slice(&(data.len() as u16).to_be_bytes());
    reply.extend_from_slice(data);
}

fn soa() -> Vec<u8> {
    let mut data = wire_name("ns.ylzhong.top.");
    data.extend(wire_name("hostmaster.ylzhong.top."));
    // Serial, refresh, retry, expire, and the time a "no" may be kept.
    data.extend([1u32, 3600, 600, 86_400, TTL_SECS].iter().flat_map(|number| number.to_be_bytes()));
    data
}

fn wire_name(name: &str) -> Vec<u8> {
    let labels = name.split_terminator('.').flat_map(|label| std::iter::once(label.len() as u8).chain(label.bytes()));
    labels.chain(std::iter::once(0)).collect()
}

/// Answers every request with the caller's address on one line.
fn serve_web(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (stream, from) = listener.accept()?;
        thread::spawn(move || answer_web(stream, from.ip()));
    }
}

fn answer_web(mut stream: TcpStream, from: IpAddr) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") && request.len() < 16 * 1024 {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        request.extend_from_slice(&buffer[..length]);
    }
    let body = format!("client={from}\n");
    let length = body.len();
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all((head + &body).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(wire_name(name));
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    /// Code, answers, authorities, and the last four bytes of the reply.
    fn ask(name: &str, kind: u16) -> (u8, u16, u16, [u8; 4]) {
        let message = query(name, kind);
        let reply = Question::parse(&message).unwrap().answer(&message);
        assert_eq!(reply[..2], message[..2]);
        let number = |at: usize| u16::from_be_bytes([reply[at], reply[at + 1]]);
        (reply[3] & 0x0f, number(6), number(8), reply[reply.len() - 4..].try_into().unwrap())
    }

    #[test]
    fn names_of_the_zone_have_their_addresses_in_any_case() {
        for name in ["ylzhong.top.", "www.ylzhong.top.", "WWW.YLzhong.top."] {
            assert_eq!(ask(name, A), (0, 1, 0, [192, 168, 100, 100]), "{name}");
        }
        assert_eq!(ask("ns.ylzhong.top.", A), (0, 1, 0, [172, 18, 0, 1]));
    }

    #[test]
    fn another_type_is_no_data_and_another_name_is_no_such_domain_with_the_soa() {
        let (code, answers, authorities, _) = ask("ylzhong.top.", 28);
        assert_eq!((code, answers, authorities), (0, 0, 1));
        let (code, answers, authorities, _) = ask("nothing.ylzhong.top.", A);
        assert_eq!((code, answers, authorities), (3, 0, 1));
        let (code, answers, authorities, _) = ask("example.com.", A);
        assert_eq!((code, answers, authorities), (3, 0, 0));
    }

    #[test]
    fn what_is_no_question_gets_no_answer() {
        let good = query("ylzhong.top.", A);
        for length in 0..good.len() {
            assert_eq!(Question::parse(&good[..length]), None, "{length} bytes");
        }
        let mut response = good.clone();
        response[2] |= 0x80;
        assert_eq!(Question::parse(&response), None);
        let mut pointer = good;
        pointer[HEADER_LEN] = 0xc0;
        assert_eq!(Question::parse(&pointer), None);
    }
}
