//! A server at play: queries go in, upstreams answer at once from a table, replies come out as a stranger reads them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{Seen, client, ip, name, packet};
use crate::build::{Reply, Rr};
use crate::rdata::Rdata;
use crate::site::Now;
use crate::wire::{Query, Rcode};
use crate::{Client, Effect, Name, Rtype, Server, Site, Token, Transport};

/// What upstreams know: addresses by name, and names that make them fail. What is in neither does not exist.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    pub failing: Vec<String>,
}

impl Outside {
    pub fn with(rows: &[(&str, &str)]) -> Self {
        let mut outside = Self::default();
        for (name, addr) in rows {
            outside.addresses.entry((*name).to_owned()).or_default().push(ip(addr));
        }
        outside
    }

    /// The reply to a query of ours.
    fn reply(&self, packet: &[u8]) -> Vec<u8> {
        let query = Query::parse(packet).expect("we send queries that can be read");
        let owner = Name::from_wire(query.name).expect("a name");
        let text = owner.to_string().to_ascii_lowercase();
        let known = self.addresses.get(text.trim_end_matches('.'));
        let rcode = match known {
            _ if self.failing.contains(&text) => Rcode::SERVFAIL,
            Some(_) => Rcode::NOERROR,
            None => Rcode::NXDOMAIN,
        };
        let fitting = known.into_iter().flatten().filter(|addr| Rtype::of_addr(**addr) == query.rtype);
        let record = |addr: &IpAddr| Rr::internet(&owner, query.rtype, 20, std::borrow::Cow::Owned(Rdata::addr(*addr)));
        let answers = fitting.map(record).collect();
        Reply { recursion_available: true, answers, ..Reply::new(rcode) }.render(&query, Transport::Tcp)
    }
}

pub struct Play {
    pub server: Server,
    pub outside: Outside,
    /// Names that upstreams were asked for, in order.
    pub asked: Vec<String>,
    /// The time, for whoever moves it.
    pub now: Duration,
    next_id: u16,
}

impl Play {
    pub fn new(site: Site, outside: Outside) -> Self {
        let mut server = Server::new(site);
        let effects = server.configure_upstreams(Duration::ZERO, &mut || 0);
        assert_eq!(effects, [], "nothing is sent before anybody asks");
        Self { server, outside, asked: Vec::new(), now: Duration::ZERO, next_id: 0x5000 }
    }

    /// What a client from `addr` over `link` gets; `None`: silence. Hot threads and the server must say the same where the
    /// former say anything.
    pub fn ask(&mut self, text: &str, rtype: &str, addr: &str, link: u32) -> Option<Seen> {
        let client = Client { addr: (ip(addr), 4000).into(), link, ..client(Transport::Tcp) };
        let packet = packet(text, rtype);
        let by_server = self.by_server(&packet, &client);
        let mut out = Vec::new();
        match self.server.site().answer_now(&packet, &client, self.now, &mut out) {
            Now::Replied(_) => assert_eq!(by_server.as_ref(), Some(&out), "hot thread and server differ for {text}"),
            Now::Silent => assert_eq!(by_server, None, "hot thread and server differ for {text}"),
            Now::Later => {}
        }
        by_server.map(|bytes| Seen::read(&bytes))
    }

    fn by_server(&mut self, packet: &[u8], client: &Client) -> Option<Vec<u8>> {
        let next_id = &mut self.next_id;
        let mut ids = || {
            *next_id += 1;
            *next_id
        };
        let mut effects = self.server.handle_query(Token(1), packet, client, self.now, &mut ids);
        let mut reply = None;
        loop {
            let mut next = Vec::new();
            for effect in effects {
                match effect {
                    Effect::Reply { bytes, .. } => reply = Some(bytes),
                    Effect::Send(sending) => {
                        let query = Query::parse(&sending.bytes).expect("we send queries that can be read");
                        self.asked.push(Name::from_wire(query.name).expect("a name").to_string());
                        let said = self.outside.reply(&sending.bytes);
                        next.extend(self.server.handle_upstream(sending.exchange, &said, self.now, &mut ids));
                    }
                    Effect::Part { .. }
                    | Effect::Forget(_)
                    | Effect::Close(_)
                    | Effect::Loop { .. }
                    | Effect::Error(_) => {}
                }
            }
            if next.is_empty() {
                return reply;
            }
            effects = next;
        }
    }
}

pub fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|text| name(text)).collect()
}
