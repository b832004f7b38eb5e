//! One marked packet from a pod, or from where this program stands, the way a program there would send it.
//!
//! ```text
//!  Probe ──► resolver::find (hosts file, DNS) ──► kernel::probe ──► Probed        all in the sender's network namespace
//! ```
//!
//! A pod's name servers and hosts file are those that its containers see; a node's are the node's own.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use bytes::Bytes;
use portolan_dns::name::Name;
use portolan_dns::rdata::Rtype;
use portolan_dns::wire;
use portolan_kernel::netns;
use portolan_kernel::probe::{self as kernel, End, Seen, Shot};
use portolan_model::{NsName, Proto};
use portolan_story::evidence::{DnsTold, Flow, Probe, ProbeEnd, Probed, Target};
use tracing::debug;

use super::resolver::{self, Conf, Files};
use crate::api::NodeApi;

/// Nobody waits longer for one packet.
const MAX_PATIENCE: Duration = Duration::from_secs(60);
const DNS_PORT: u16 = 53;
/// What follows the mark in a datagram to any other port.
const GREETING: &[u8] = b" portolan probe\n";
/// Asked of a DNS server, whatever it answers; every cluster's has it.
const QUESTION: &str = "kubernetes.default.svc";
const DEFAULT_DOMAIN: &str = "cluster.local";

/// What makes the packet known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Sequence(u32),
    Payload([u8; 8]),
}

/// Where the sender's hosts file and resolv.conf are, and the domain of its cluster.
struct Surroundings {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    domain: String,
}

/// `POST /portolan/v1/trace/{id}/probe`. The watch is others'; the packet is sent whether it still listens or not.
pub(crate) async fn post(
    State(api): State<Arc<NodeApi>>,
    UrlPath(id): UrlPath<String>,
    body: Bytes,
) -> Result<Json<Probed>, (StatusCode, String)> {
    let refused = |why: String| (StatusCode::BAD_REQUEST, why + "\n");
    // Of any content type: `kubectl create --raw` names none.
    let probe: Probe = serde_json::from_slice(&body).map_err(|error| refused(format!("no probe as JSON: {error}")))?;
    let mark = mark_of(&probe).map_err(refused)?;
    let (place, surroundings) = sender(&api, probe.pod.as_ref()).map_err(|why| (StatusCode::NOT_FOUND, why + "\n"))?;
    debug!(id, to = ?probe.to, pod = ?probe.pod, "a packet is sent for a trace");
    let sent = tokio::task::spawn_blocking(move || send_from(place.as_deref(), &probe, mark, &surroundings));
    let probed = sent.await.map_err(|error| error.to_string()).flatten();
    probed.map(Json).map_err(|why| (StatusCode::INTERNAL_SERVER_ERROR, why + "\n"))
}

/// Sends from the network namespace, and with the files, of the calling thread. Blocks.
///
/// # Errors
/// One line: a probe of a pod, or one whose mark does not fit its transport.
pub fn send_here(probe: &Probe) -> Result<Probed, String> {
    if let Some(pod) = &probe.pod {
        return Err(format!("pod {pod} is on a node: ask the node's agent; a probe from here has no `pod`"));
    }
    let mark = mark_of(probe)?;
    let surroundings = Surroundings {
        hosts: "/etc/hosts".into(),
        resolv_conf: "/etc/resolv.conf".into(),
        domain: DEFAULT_DOMAIN.to_owned(),
    };
    Ok(send(probe, mark, &surroundings))
}

/// The sender's network namespace, `None` for the node's own, and its files.
fn sender(api: &NodeApi, pod: Option<&NsName>) -> Result<(Option<PathBuf>, Surroundings), String> {
    let domain = api.fixed.cluster_domain().to_owned();
    let Some(pod) = pod else {
        let resolv_conf = api.fixed.resolv_conf().to_owned();
        return Ok((None, Surroundings { hosts: "/etc/hosts".into(), resolv_conf, domain }));
    };
    let (namespace, name) = (&*pod.namespace, &*pod.name);
    let netns = api.kubelet.netns(namespace, name).map_err(|error| error.to_string())?;
    let etc = api.kubelet.etc(namespace, name).map_err(|error| error.to_string())?;
    Ok((Some(netns), Surroundings { hosts: etc.join("hosts"), resolv_conf: etc.join("resolv.conf"), domain }))
}

fn send_from(place: Option<&Path>, probe: &Probe, mark: Mark, surroundings: &Surroundings) -> Result<Probed, String> {
    let Some(place) = place else { return Ok(send(probe, mark, surroundings)) };
    let namespace = netns::open(place).map_err(|error| format!("{error}; the pod may just have ended"))?;
    netns::run_in(namespace.as_fd(), || send(probe, mark, surroundings)).map_err(|error| error.to_string())
}

fn send(probe: &Probe, mark: Mark, surroundings: &Surroundings) -> Probed {
    let patience = Duration::from_millis(probe.patience_ms).min(MAX_PATIENCE);
    let (dns, to) = match destination(probe, surroundings, patience) {
        Ok(found) => found,
        Err(end) => return Probed { dns: None, local: None, remote: None, end, took_us: 0 },
    };
    let Some(to) = to else {
        return Probed { dns, local: None, remote: None, end: ProbeEnd::NoName, took_us: 0 };
    };
    let shot = Shot { to, source_port: probe.source_port, patience };
    let seen = match mark {
        Mark::Sequence(number) => kernel::tcp(&shot, number),
        Mark::Payload(mark) => kernel::udp(&shot, &payload(mark, to.port(), &surroundings.domain)),
    };
    told(dns, to, seen)
}

fn told(dns: Option<DnsTold>, to: SocketAddr, seen: Seen) -> Probed {
    let end = match seen.end {
        End::Answered => ProbeEnd::Answered,
        End::Refused { by } => ProbeEnd::Refused { by },
        End::Unreachable { by, why } => ProbeEnd::Unreachable { by, why },
        End::Silence => ProbeEnd::Silence,
        End::NotSent { why } => ProbeEnd::NotSent { why },
    };
    let took_us = u64::try_from(seen.took.as_micros()).unwrap_or(u64::MAX);
    Probed { dns, local: seen.local, remote: Some(to), end, took_us }
}

/// Where the packet goes, and how that was found; no address: the name leads nowhere.
fn destination(
    probe: &Probe,
    surroundings: &Surroundings,
    patience: Duration,
) -> Result<(Option<DnsTold>, Option<SocketAddr>), ProbeEnd> {
    let (name, port) = match &probe.to {
        Target::Address(to) => return Ok((None, Some(*to))),
        Target::Name(name, port) => (name, *port),
    };
    // As a program does, which asks nobody for an address that is one already.
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok((None, Some(SocketAddr::new(address, port))));
    }
    let files = surroundings.read().map_err(|why| ProbeEnd::NotSent { why })?;
    let wait = files.conf.timeout.min(patience);
    let told = resolver::find(name, &probe.families, &files, |server, name, families| {
        resolver::ask(server, name, families, wait)
    });
    let first = told.addresses.first().map(|address| SocketAddr::new(*address, port));
    Ok((Some(told), first))
}

impl Surroundings {
    /// A hosts file that is not there names nobody; a resolv.conf that is not there means that nothing runs there yet.
    fn read(&self) -> Result<Files, String> {
        let conf = std::fs::read_to_string(&self.resolv_conf).map_err(|error| {
            format!("cannot read {}: {error}; does a container run there?", self.resolv_conf.display())
        })?;
        let hosts = std::fs::read_to_string(&self.hosts).unwrap_or_default();
        Ok(Files { hosts, conf: Conf::parse(&conf) })
    }
}

/// The mark, if it is one for this transport.
fn mark_of(probe: &Probe) -> Result<Mark, String> {
    match (probe.proto, &probe.flow) {
        (Proto::Tcp, Flow::Sequence { number: 0 }) => {
            Err("sequence number 0 cannot be chosen; take any other".to_owned())
        }
        (Proto::Tcp, Flow::Sequence { number }) => Ok(Mark::Sequence(*number)),
        (Proto::Udp, Flow::Payload { begins }) => mark_bytes(begins)
            .map(Mark::Payload)
            .ok_or_else(|| format!("a payload begins with 16 hexadecimal digits, not {begins:?}")),
        (Proto::Sctp, _) => Err("SCTP cannot be probed; TCP and UDP can".to_owned()),
        (Proto::Tcp, _) => Err("a TCP probe is marked by a sequence number".to_owned()),
        (Proto::Udp, _) => Err("a UDP probe is marked by the beginning of its payload".to_owned()),
    }
}

fn mark_bytes(text: &str) -> Option<[u8; 8]> {
    let is_plain = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_plain.then(|| u64::from_str_radix(text, 16).ok().map(u64::to_be_bytes)).flatten()
}

/// What is sent: to a DNS server a question with the mark as id, flags and counts, to others the mark and a greeting.
fn payload(mark: [u8; 8], port: u16, domain: &str) -> Vec<u8> {
    let is_question = port == DNS_PORT && mark[2..] == [0x01, 0, 0, 1, 0, 0];
    let asked = is_question.then(|| Name::parse(&format!("{QUESTION}.{domain}")).ok()).flatten();
    match asked {
        Some(name) => [&mark[..], &[0; 4], &wire::question(&name, Rtype::A)].concat(),
        None => [&mark[..], GREETING].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(proto: Proto, flow: Flow, to: Target) -> Probe {
        Probe { pod: None, to, proto, flow, source_port: None, patience_ms: 20_000, families: Vec::new() }
    }

    fn sequence(number: u32) -> Flow {
        Flow::Sequence { number }
    }

    fn begins(text: &str) -> Flow {
        Flow::Payload { begins: text.to_owned() }
    }

    #[test]
    fn a_mark_must_fit_its_transport() {
        let to = || Target::Name("web".into(), 80);
        let rows = [
            (Proto::Tcp, sequence(7), Ok(Mark::Sequence(7))),
            (Proto::Tcp, sequence(0), Err("0 cannot")),
            (Proto::Tcp, begins("0011223344556677"), Err("sequence number")),
            (Proto::Udp, begins("00112233445566ff"), Ok(Mark::Payload([0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0xff]))),
            (Proto::Udp, begins("+011223344556677"), Err("16 hexadecimal digits")),
            (Proto::Udp, begins("00"), Err("16 hexadecimal digits")),
            (Proto::Udp, sequence(7), Err("payload")),
            (Proto::Sctp, sequence(7), Err("SCTP")),
        ];
        for (proto, flow, expected) in rows {
            let told = mark_of(&probe(proto, flow.clone(), to()));
            match (told, expected) {
                (Ok(mark), Ok(expected)) => assert_eq!(mark, expected),
                (Err(why), Err(word)) => assert!(why.contains(word), "{why}"),
                (told, expected) => panic!("{flow:?}: {told:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_question_bears_the_mark_as_its_header_and_can_be_read() {
        let mark = [0xab, 0xcd, 0x01, 0, 0, 1, 0, 0];
        let sent = payload(mark, 53, "cluster.local");
        assert_eq!(sent[..8], mark);
        let query = wire::Query::parse(&sent).expect("a query");
        assert_eq!(query.id, 0xabcd);
        assert!(sent.windows(11).any(|part| part == b"\x0akubernetes"), "{sent:?}");
        for other in [payload(mark, 5353, "cluster.local"), payload([7; 8], 53, "cluster.local")] {
            assert!(other.ends_with(GREETING), "{other:?}");
        }
    }

    #[test]
    fn a_name_that_is_an_address_needs_no_dns_and_no_files() {
        let nothing = Surroundings { hosts: "/nowhere".into(), resolv_conf: "/nowhere".into(), domain: String::new() };
        let by_name = |name: &str| {
            destination(&probe(Proto::Tcp, sequence(7), Target::Name(name.into(), 80)), &nothing, Duration::ZERO)
        };
        assert_eq!(by_name("::1"), Ok((None, Some("[::1]:80".parse().expect("an address")))));
        let Err(ProbeEnd::NotSent { why }) = by_name("web") else { panic!("nothing is known there") };
        assert!(why.contains("/nowhere"), "{why}");
    }

    #[test]
    fn a_probe_from_here_reaches_loopback_and_one_of_a_pod_is_an_agents() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let to = listener.local_addr().expect("bound");
        let named = Target::Name("localhost".into(), to.port());
        let mut asked = probe(Proto::Tcp, sequence(0xfeed_beef), named);
        asked.families = vec![portolan_model::Family::V4];
        let told = send_here(&asked).expect("it is sent");
        assert_eq!((told.end, told.remote), (ProbeEnd::Answered, Some(to)));
        let (_, from) = listener.accept().expect("it came");
        assert_eq!(told.local, Some(from));
        let dns = told.dns.expect("a name was asked for");
        assert!(dns.hosts && dns.queries.is_empty(), "{dns:?}");
        asked.pod = Some(NsName::new("default", "web"));
        assert!(send_here(&asked).expect_err("no pod is here").contains("default/web"));
    }
}
