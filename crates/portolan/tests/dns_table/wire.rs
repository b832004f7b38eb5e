//! Queries and replies as a stranger writes and reads them: with the `domain` crate, never with our own reader.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use domain::base::iana::{Class, Rtype};
use domain::base::name::Name;
use domain::base::{Message, MessageBuilder, ParsedName, ParsedRecord};
use domain::rdata::AllRecordData;
use rustix::net::{AddressFamily, SocketType};

/// For one answer, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    pub name: String,
    pub rtype: Rtype,
    pub class: Class,
    /// Size in the OPT record; `None`: no OPT.
    pub edns: Option<u16>,
    pub dnssec_ok: bool,
    /// Serial of the SOA in the authority section, for IXFR.
    pub serial: Option<u32>,
}

impl Question {
    pub fn new(name: &str, rtype: &str) -> Question {
        Question {
            name: name.into(),
            rtype: rtype.parse().unwrap_or_else(|_| panic!("{rtype:?} is no type")),
            class: Class::IN,
            edns: None,
            dnssec_ok: false,
            serial: None,
        }
    }

    pub fn packet(&self, id: u16) -> Vec<u8> {
        let name: Name<Vec<u8>> = self.name.parse().unwrap_or_else(|e| panic!("{:?}: {e}", self.name));
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_id(id);
        builder.header_mut().set_rd(true);
        let mut builder = builder.question();
        builder.push((&name, self.rtype, self.class)).expect("there is room");
        let mut builder = builder.authority();
        if let Some(serial) = self.serial {
            let span = domain::base::Ttl::from_secs(1);
            let soa = domain::rdata::Soa::new(name.clone(), name.clone(), serial.into(), span, span, span, span);
            builder.push((&name, 0, soa)).expect("there is room");
        }
        let mut builder = builder.additional();
        if let Some(size) = self.edns {
            let set = |opt: &mut domain::base::message_builder::OptBuilder<'_, Vec<u8>>| {
                opt.set_udp_payload_size(size);
                opt.set_dnssec_ok(self.dnssec_ok);
                Ok(())
            };
            builder.opt(set).expect("there is room");
        }
        builder.finish()
    }
}

/// A record: `owner ttl TYPE data`, names without their final dot, in the case they came in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rr {
    pub owner: String,
    pub ttl: u32,
    pub rtype: String,
    pub data: String,
}

/// A reply, read.
#[derive(Clone, Debug)]
pub struct Seen {
    pub id: u16,
    pub rcode: String,
    pub is_reply: bool,
    pub authoritative: bool,
    pub truncated: bool,
    pub authentic: bool,
    pub question: Vec<(String, Rtype, Class)>,
    pub answers: Vec<Rr>,
    pub authority: Vec<Rr>,
    pub additional: Vec<Rr>,
    pub has_opt: bool,
    pub bytes: usize,
}

impl Seen {
    /// # Panics
    /// The bytes are no message.
    pub fn read(bytes: &[u8]) -> Seen {
        Seen::try_read(bytes).unwrap_or_else(|why| panic!("{why}: {bytes:02x?}"))
    }

    pub fn try_read(bytes: &[u8]) -> Result<Seen, String> {
        let message = Message::from_slice(bytes).map_err(|e| format!("no header: {e}"))?;
        let header = message.header();
        let mut question = Vec::new();
        for one in message.question() {
            let one = one.map_err(|e| format!("question: {e}"))?;
            question.push((one.qname().to_string(), one.qtype(), one.qclass()));
        }
        let answers = section(message.answer().map_err(|e| format!("answers: {e}"))?)?;
        let authority = section(message.authority().map_err(|e| format!("authority: {e}"))?)?;
        let additional = section(message.additional().map_err(|e| format!("additional: {e}"))?)?;
        let (opt, additional): (Vec<Rr>, Vec<Rr>) = additional.into_iter().partition(|rr| rr.rtype == "OPT");
        Ok(Seen {
            id: header.id(),
            rcode: message.opt_rcode().to_string(),
            is_reply: header.qr(),
            authoritative: header.aa(),
            truncated: header.tc(),
            authentic: header.ad(),
            question,
            answers,
            authority,
            additional,
            has_opt: !opt.is_empty(),
            bytes: bytes.len(),
        })
    }
}

fn section(section: domain::base::RecordSection<'_, [u8]>) -> Result<Vec<Rr>, String> {
    section.map(|one| one.map_err(|e| format!("a record: {e}")).and_then(|one| record(&one))).collect()
}

fn record(record: &ParsedRecord<'_, [u8]>) -> Result<Rr, String> {
    let read = record.to_record::<AllRecordData<_, ParsedName<_>>>().map_err(|e| format!("record data: {e}"))?;
    let read = read.ok_or("record data of no known shape")?;
    let data: Vec<String> = read.data().to_string().split_whitespace().map(undotted).collect();
    Ok(Rr {
        owner: read.owner().to_string(),
        ttl: read.ttl().as_secs(),
        rtype: read.rtype().to_string(),
        data: data.join(" "),
    })
}

/// A word without its final dot; the root stays.
pub fn undotted(word: &str) -> String {
    if word == "." { word.into() } else { word.trim_end_matches('.').into() }
}

/// Asks once by UDP from `from`; `None`: nothing came within `patience`.
pub fn try_udp(server: SocketAddr, from: Ipv4Addr, packet: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind((from, 0)).expect("an address of this namespace");
    socket.connect(server).expect("loopback");
    socket.set_read_timeout(Some(patience)).expect("a time");
    socket.send(packet).ok()?;
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

/// Asks once by UDP.
pub fn udp(server: SocketAddr, from: Ipv4Addr, packet: &[u8]) -> Vec<u8> {
    try_udp(server, from, packet, PATIENCE).expect("an answer by UDP")
}

/// Asks by TCP; messages until `is_last` says so.
pub fn tcp(server: SocketAddr, from: Ipv4Addr, packet: &[u8], mut is_last: impl FnMut(&Seen) -> bool) -> Vec<Seen> {
    let until = Instant::now() + PATIENCE;
    let mut stream = connected(server, from).expect("TCP is served");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let length = u16::try_from(packet.len()).expect("a short query").to_be_bytes();
    stream.write_all(&[&length[..], packet].concat()).expect("the query goes out");
    let mut all = Vec::new();
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length).expect("an answer by TCP");
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut bytes).expect("a whole answer by TCP");
        all.push(Seen::read(&bytes));
        if is_last(&all[all.len() - 1]) {
            return all;
        }
        assert!(Instant::now() < until, "the answers do not end");
    }
}

fn connected(server: SocketAddr, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((from, 0)))?;
    rustix::net::connect(&socket, &server)?;
    Ok(TcpStream::from(socket))
}

/// Every second letter in upper case, as a client that hides a nonce in its question would write it.
pub fn mixed_case(name: &str) -> String {
    let turn = |(at, c): (usize, char)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c };
    name.chars().enumerate().map(turn).collect()
}
