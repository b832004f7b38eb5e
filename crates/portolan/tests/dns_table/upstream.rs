//! A server outside the cluster that says what its lines say, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::base::iana::Rcode;
use domain::base::name::Name;
use domain::base::{Message, MessageBuilder, Record, Ttl};
use domain::rdata::{A, Aaaa, Cname, Mx, Ptr, Srv, Txt};

use super::group::{Case, Want};
use super::place::Place;
use super::wire::Rr;

pub const UPSTREAM: &str = "127.0.0.53:53";

/// The server; it ends with the value.
pub struct Upstream {
    ended: Arc<AtomicBool>,
    /// `name TYPE` as they came, name in lower case, in order.
    pub asked: Arc<Mutex<Vec<String>>>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

type Lines = Arc<BTreeMap<(String, String), Want>>;

impl Upstream {
    pub fn start(place: &Place, cases: &[Case]) -> Upstream {
        let key = |case: &Case| (lower(&case.question.name), case.question.rtype.to_string());
        let lines: Lines = Arc::new(cases.iter().map(|case| (key(case), case.want.clone())).collect());
        let addr: SocketAddr = UPSTREAM.parse().expect("an address");
        let (udp, tcp) = place.inside(|| (UdpSocket::bind(addr), TcpListener::bind(addr)));
        let (udp, tcp) = (udp.expect("a free port"), tcp.expect("a free port"));
        udp.set_read_timeout(Some(Duration::from_millis(100))).expect("a time");
        tcp.set_nonblocking(true).expect("a flag");
        let (ended, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stop, seen, lines_udp) = (ended.clone(), asked.clone(), lines.clone());
        std::thread::spawn(move || serve_udp(&udp, &lines_udp, &stop, &seen));
        let (stop, seen) = (ended.clone(), asked.clone());
        std::thread::spawn(move || serve_tcp(&tcp, &lines, &stop, &seen));
        Upstream { ended, asked }
    }
}

fn serve_udp(socket: &UdpSocket, lines: &Lines, stop: &AtomicBool, asked: &Mutex<Vec<String>>) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(reply) = answer(&buffer[..length], lines, true, asked) {
            // Whoever asked may be gone.
            let _ = socket.send_to(&reply, from);
        }
    }
}

fn serve_tcp(listener: &TcpListener, lines: &Lines, stop: &AtomicBool, asked: &Mutex<Vec<String>>) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        stream.set_nonblocking(false).expect("a flag");
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a time");
        let mut length = [0; 2];
        while stream.read_exact(&mut length).is_ok() {
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut query).is_err() {
                break;
            }
            let Some(reply) = answer(&query, lines, false, asked) else { break };
            let framed = [&u16::try_from(reply.len()).expect("a short reply").to_be_bytes()[..], &reply].concat();
            // Whoever asked may be gone.
            let _ = stream.write_all(&framed);
        }
    }
}

fn answer(query: &[u8], lines: &Lines, is_udp: bool, asked: &Mutex<Vec<String>>) -> Option<Vec<u8>> {
    let query = Message::from_octets(query).ok()?;
    let question = query.sole_question().ok()?;
    let (name, rtype) = (lower(&question.qname().to_string()), question.qtype().to_string());
    asked.lock().expect("nobody panicked").push(format!("{name} {rtype}"));
    let want = lines.get(&(name.clone(), rtype)).cloned();
    let elsewhere = lines.keys().any(|(known, _)| *known == name);
    let want = want
        .unwrap_or_else(|| Want { rcode: if elsewhere { "NOERROR" } else { "NXDOMAIN" }.into(), ..Want::default() });
    if want.silence {
        return None;
    }
    let rcode = want.rcode.parse::<Rcode>().expect("a code");
    let mut builder = MessageBuilder::new_vec().start_answer(&query, rcode).expect("there is room");
    builder.header_mut().set_ra(true);
    if is_udp && want.truncated {
        builder.header_mut().set_tc(true);
        return Some(builder.finish());
    }
    want.answers.iter().for_each(|rr| push(&mut builder, rr));
    let mut builder = builder.authority();
    if want.answers.is_empty() && matches!(want.rcode.as_str(), "NOERROR" | "NXDOMAIN") {
        let root = Name::<Vec<u8>>::root();
        let span = Ttl::from_secs(60);
        let soa = domain::rdata::Soa::new(root.clone(), root.clone(), 1.into(), span, span, span, span);
        builder.push((root, 60, soa)).expect("there is room");
    }
    Some(builder.finish())
}

fn push(builder: &mut domain::base::message_builder::AnswerBuilder<Vec<u8>>, rr: &Rr) {
    let words: Vec<&str> = rr.data.split_whitespace().collect();
    let owner: Name<Vec<u8>> = name(&rr.owner);
    let number = |at: usize| words[at].parse::<u16>().expect("a number");
    let ttl = Ttl::from_secs(rr.ttl);
    let done = match rr.rtype.as_str() {
        "A" => builder.push(Record::new(
            owner,
            domain::base::iana::Class::IN,
            ttl,
            A::new(words[0].parse().expect("an address")),
        )),
        "AAAA" => builder.push((owner, ttl, Aaaa::new(words[0].parse().expect("an address")))),
        "CNAME" => builder.push((owner, ttl, Cname::new(name(words[0])))),
        "PTR" => builder.push((owner, ttl, Ptr::new(name(words[0])))),
        "MX" => builder.push((owner, ttl, Mx::new(number(0), name(words[1])))),
        "SRV" => builder.push((owner, ttl, Srv::new(number(0), number(1), number(2), name(words[3])))),
        "TXT" => builder.push((
            owner,
            ttl,
            Txt::<Vec<u8>>::build_from_slice(words[0].trim_matches('"').as_bytes()).expect("a text"),
        )),
        other => panic!("the upstream of the table has no {other}"),
    };
    done.expect("there is room");
}

fn name(text: &str) -> Name<Vec<u8>> {
    text.parse().unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

fn lower(name: &str) -> String {
    super::wire::undotted(name).to_ascii_lowercase()
}
