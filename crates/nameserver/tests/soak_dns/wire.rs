//! Queries and replies as the `domain` crate writes and reads them.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::name::Name;
use domain::base::{Message, MessageBuilder, ToName};
use domain::rdata::{A, Ptr};

/// A lookup that takes longer is lost: stubs ask again after this.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn query(id: u16, name: &str, rtype: Rtype) -> Vec<u8> {
    let name: Name<Vec<u8>> = name.parse().expect("a name");
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name, rtype, Class::IN)).expect("room");
    let mut builder = builder.additional();
    builder
        .opt(|opt| {
            opt.set_udp_payload_size(1232);
            Ok(())
        })
        .expect("room");
    builder.finish()
}

/// What a reply says.
#[derive(Debug)]
pub struct Said {
    pub rcode: Rcode,
    pub truncated: bool,
    pub addresses: Vec<Ipv4Addr>,
    pub names: Vec<String>,
}

/// A client with a socket of its own.
pub struct Client {
    socket: UdpSocket,
    next_id: u16,
}

impl Client {
    pub fn new(server: std::net::SocketAddr) -> Client {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        socket.connect(server).expect("loopback");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time");
        Client { socket, next_id: 0 }
    }

    /// Asks once. `Err`: what is wrong with the answer, or that none came.
    pub fn ask(&mut self, name: &str, rtype: Rtype) -> Result<Said, String> {
        self.next_id = self.next_id.wrapping_add(1);
        self.socket.send(&query(self.next_id, name, rtype)).map_err(|e| format!("sending: {e}"))?;
        let mut buffer = [0; 2048];
        let length = self.socket.recv(&mut buffer).map_err(|e| format!("no answer: {e}"))?;
        let reply = Message::from_slice(&buffer[..length]).map_err(|e| e.to_string())?;
        let question = reply.sole_question().map_err(|e| e.to_string())?;
        let asked: Name<Vec<u8>> = name.parse().expect("a name");
        if reply.header().id() != self.next_id || !question.qname().name_eq(&asked) || question.qtype() != rtype {
            return Err("an answer to another question".into());
        }
        let answers = reply.answer().map_err(|e| e.to_string())?;
        let addresses = answers.limit_to_in::<A>().filter_map(|record| record.ok().map(|rr| rr.data().addr()));
        let names = answers
            .limit_to_in::<Ptr<_>>()
            .filter_map(|record| record.ok().map(|rr| rr.data().to_string().trim_end_matches('.').to_owned()));
        Ok(Said {
            rcode: reply.header().rcode(),
            truncated: reply.header().tc(),
            addresses: addresses.collect(),
            names: names.collect(),
        })
    }
}
