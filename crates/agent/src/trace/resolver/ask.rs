//! Asking one server for a name's addresses, over UDP and, for what does not fit, TCP.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use portolan_dns::name::Name;
use portolan_dns::rdata::Rtype;
use portolan_dns::wire;
use portolan_kernel::probe::hear_icmp_errors;
use portolan_model::Family;
use portolan_story::evidence::DnsQuery;

use super::answer::{self, Reading};

const DNS_PORT: u16 = 53;
/// More than any datagram holds.
const DATAGRAM_BYTES: usize = 65_536;

/// One question and what became of it.
struct Question {
    id: u16,
    rtype: Rtype,
    bytes: Vec<u8>,
    /// `None`: nothing yet.
    told: Option<DnsQuery>,
}

/// Asks `server` at port 53 from the network namespace of the calling thread; one query a family, sent together.
pub(in crate::trace) fn ask(server: IpAddr, name: &Name, families: &[Family], wait: Duration) -> Vec<DnsQuery> {
    ask_at(SocketAddr::new(server, DNS_PORT), name, families, wait)
}

fn ask_at(server: SocketAddr, name: &Name, families: &[Family], wait: Duration) -> Vec<DnsQuery> {
    let asking = Asking { server, name, began: Instant::now(), deadline: Instant::now() + wait };
    let first_id: u16 = rand::random();
    let mut questions: Vec<Question> = families
        .iter()
        .zip(0..)
        .map(|(family, number)| Question::new(first_id.wrapping_add(number), name, *family))
        .collect();
    let silent = match asking.exchange(&mut questions) {
        Ok(()) => "timeout",
        Err(_) => "unreachable",
    };
    questions
        .into_iter()
        .map(|question| question.told.unwrap_or_else(|| asking.query(question.rtype, silent)))
        .collect()
}

impl Question {
    fn new(id: u16, name: &Name, family: Family) -> Question {
        let rtype = match family {
            Family::V4 => Rtype::A,
            Family::V6 => Rtype::AAAA,
        };
        Question { id, rtype, bytes: wire::ask(id, &wire::question(name, rtype), false, None), told: None }
    }
}

/// Both questions to one server.
struct Asking<'a> {
    server: SocketAddr,
    name: &'a Name,
    began: Instant,
    deadline: Instant,
}

impl Asking<'_> {
    /// Returns when all are answered or time is up; an error says that the server cannot be reached.
    fn exchange(&self, questions: &mut [Question]) -> io::Result<()> {
        let any: IpAddr = match self.server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        hear_icmp_errors(&socket, self.server.ip())?;
        socket.connect(self.server)?;
        for question in &*questions {
            socket.send(&question.bytes)?;
        }
        let mut buffer = vec![0; DATAGRAM_BYTES];
        while questions.iter().any(|question| question.told.is_none()) {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            socket.set_read_timeout(Some(left))?;
            match socket.recv(&mut buffer) {
                Ok(length) => self.take(&buffer[..length], questions),
                Err(error) if is_patience(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives a datagram to the question that it answers.
    fn take(&self, bytes: &[u8], questions: &mut [Question]) {
        for question in questions.iter_mut().filter(|question| question.told.is_none()) {
            let mut reading = answer::read(bytes, question.id, self.name, question.rtype);
            if reading == Reading::Truncated {
                reading = self.ask_by_tcp(question);
            }
            question.told = match reading {
                Reading::NotOurs => continue,
                Reading::Truncated | Reading::Garbled => Some(self.query(question.rtype, "garbled")),
                Reading::Told(told) => Some(DnsQuery {
                    aliases: told.aliases,
                    addresses: told.addresses,
                    ttl_secs: told.ttl_secs,
                    ..self.query(question.rtype, &told.answer)
                }),
            };
        }
    }

    /// The whole answer. A server that does not speak TCP leaves a cut one, which is of no use.
    fn ask_by_tcp(&self, question: &Question) -> Reading {
        match self.exchange_by_tcp(&question.bytes) {
            Ok(bytes) => answer::read(&bytes, question.id, self.name, question.rtype),
            Err(_) => Reading::Truncated,
        }
    }

    fn exchange_by_tcp(&self, query: &[u8]) -> io::Result<Vec<u8>> {
        let left = self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut stream = TcpStream::connect_timeout(&self.server, left)?;
        stream.set_read_timeout(Some(left))?;
        stream.set_write_timeout(Some(left))?;
        let length = u16::try_from(query.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], query].concat())?;
        let mut head = [0; 2];
        stream.read_exact(&mut head)?;
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(head))];
        stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn query(&self, rtype: Rtype, answer: &str) -> DnsQuery {
        DnsQuery {
            name: answer::text(self.name),
            record: rtype.to_string(),
            server: self.server.ip(),
            answer: answer.to_owned(),
            aliases: Vec::new(),
            addresses: Vec::new(),
            ttl_secs: None,
            took_us: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }
}

fn is_patience(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const PATIENT: Duration = Duration::from_secs(20);

    fn name() -> Name {
        Name::parse("web.default.svc.cluster.local").expect("a name")
    }

    /// An answer to `query`, with its id and question, and one address if it asks for A.
    fn answer(query: &[u8], flags: [u8; 2], with_address: bool) -> Vec<u8> {
        let is_a = query[query.len() - 3] == 1;
        let mut bytes = [&query[..2], &flags, &query[4..]].concat();
        if with_address && is_a {
            bytes[7] = 1;
            bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 96, 0, 7]);
        }
        bytes
    }

    /// A server on loopback that answers two queries by `reply`.
    fn server(reply: impl Fn(&UdpSocket, &[u8], SocketAddr) + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let at = socket.local_addr().expect("bound");
        thread::spawn(move || {
            let mut buffer = [0; 512];
            for _ in 0..2 {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { return };
                reply(&socket, &buffer[..length], from);
            }
        });
        at
    }

    #[test]
    fn both_families_are_asked_together_and_forged_answers_are_passed_over() {
        let at = server(|socket, query, from| {
            let mut forged = answer(query, [0x81, 0x80], true);
            forged[0] ^= 0x40;
            for bytes in [forged, b"x".to_vec(), answer(query, [0x81, 0x80], true)] {
                socket.send_to(&bytes, from).expect("loopback");
            }
        });
        let told = ask_at(at, &name(), &Family::BOTH, PATIENT);
        let [a, aaaa] = &told[..] else { panic!("{told:?}") };
        assert_eq!((a.record.as_str(), a.answer.as_str(), a.ttl_secs), ("A", "NOERROR", Some(5)));
        assert_eq!((a.name.as_str(), a.server), ("web.default.svc.cluster.local", at.ip()));
        assert_eq!(a.addresses, ["10.96.0.7".parse::<IpAddr>().expect("address")]);
        assert_eq!((aaaa.record.as_str(), aaaa.answer.as_str(), aaaa.addresses.len()), ("AAAA", "NOERROR", 0));
    }

    #[test]
    fn a_cut_answer_is_asked_for_again_by_tcp() {
        let (stream, at, socket) = loop {
            let stream = TcpListener::bind("127.0.0.1:0").expect("loopback");
            let at = stream.local_addr().expect("bound");
            // The same port of UDP may be another's.
            if let Ok(socket) = UdpSocket::bind(at) {
                break (stream, at, socket);
            }
        };
        thread::spawn(move || {
            let mut buffer = [0; 512];
            let (length, from) = socket.recv_from(&mut buffer).expect("a query");
            socket.send_to(&answer(&buffer[..length], [0x83, 0x80], false), from).expect("loopback");
            let (mut client, _) = stream.accept().expect("a client");
            let mut query = vec![0; length + 2];
            client.read_exact(&mut query).expect("the query again");
            let whole = answer(&query[2..], [0x81, 0x80], true);
            client.write_all(&[&(whole.len() as u16).to_be_bytes()[..], &whole].concat()).expect("loopback");
        });
        let told = ask_at(at, &name(), &[Family::V4], PATIENT);
        assert_eq!((told[0].answer.as_str(), told[0].addresses.len()), ("NOERROR", 1), "{told:?}");
    }

    #[test]
    fn what_cannot_be_read_silence_and_closed_ports_have_their_words() {
        let garbled = server(|socket, query, from| drop(socket.send_to(&query[..9], from)));
        let silent = server(|_, _, _| {});
        let closed = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let rows = [
            (garbled, PATIENT, "garbled"),
            (silent, Duration::from_millis(200), "timeout"),
            (closed, PATIENT, "unreachable"),
        ];
        for (at, wait, word) in rows {
            let told = ask_at(at, &name(), &Family::BOTH, wait);
            assert_eq!(told.iter().map(|query| query.answer.as_str()).collect::<Vec<_>>(), [word, word]);
        }
    }
}
