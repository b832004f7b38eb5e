//! What strangers may send: a corpus of good packets, made worse in seeded ways, through the readers and the whole answer
//! path. An answer that somebody else's reader takes, or silence; never a panic, never more bytes than the client takes,
//! never an error longer than what caused it, never memory that stays.
//!
//! `PORTOLAN_HOSTILE_PACKETS` and `PORTOLAN_HOSTILE_SEED` make a long run of it (`make soak`).

#[path = "hostile/counting.rs"]
mod counting;
#[path = "hostile/mutate.rs"]
mod mutate;
#[path = "hostile/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use counting::{Counting, held, most_in};
use domain::base::iana::Rtype;
use domain::base::{Message as Stranger, ToName};
use mutate::{Dice, mutated};
use portolan_dns::corefile::{Sources, read};
use portolan_dns::message::Message;
use portolan_dns::pods::{ClientPod, Pods, PodsChange};
use portolan_dns::site::{Now, Setup, Site, Surroundings};
use portolan_dns::wire::{HEADER, Query, Transport};
use portolan_dns::{Client, Corefile, Effect, Name, Plugin, Server, Token};
use portolan_model::NsName;

/// Every plugin that does something, so that each stands in the way of what is hostile.
const EVERYTHING: &str = include_str!("hostile/everything.Corefile");

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    if text.is_empty() { default } else { text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")) }
}

/// Packets for each test.
fn packets() -> u64 {
    setting("PORTOLAN_HOSTILE_PACKETS", 60_000)
}

fn dice() -> Dice {
    Dice::new(setting("PORTOLAN_HOSTILE_SEED", 20_260_820))
}

/// Each with a word for it: as it is shipped, and with every plugin there is.
fn sites() -> [(&'static str, Site); 2] {
    let zone = Name::parse("cluster.local").expect("a name");
    let shipped = Corefile::shipped(&zone, 30, "/etc/resolv.conf");
    let everything = read(EVERYTHING, &Sources::none()).expect("a good Corefile");
    [("shipped", shipped), ("everything", everything)].map(|(word, corefile)| {
        let setup = Arc::new(Setup::new(corefile, &Surroundings::default()));
        (word, Site::new(setup, world::records(), asking_pods()))
    })
}

/// The pod that [`client`] is, whose search list `autopath` walks.
fn asking_pods() -> Pods {
    let search = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"];
    let pod = ClientPod {
        key: NsName::new("default", "asker"),
        link: 0,
        addresses: vec![client(Transport::Udp).ip()],
        search: search.iter().map(|text| Name::parse(text).expect("a name")).collect(),
        ndots: 5,
    };
    let mut pods = Pods::default();
    pods.apply(PodsChange { set: vec![pod], gone: Vec::new() });
    pods
}

fn client(transport: Transport) -> Client {
    let addr = |text: &str| text.parse::<SocketAddr>().expect("an address");
    Client { addr: addr("10.244.1.7:40000"), local: addr("10.96.0.10:53"), transport, link: 0 }
}

/// Runs `judge` on so many packets; a failure names the packet, to be repeated by itself.
fn storm(packets: u64, corpus: &[Vec<u8>], mut judge: impl FnMut(&[u8])) {
    let mut dice = dice();
    for round in 0..packets {
        let packet = mutated(&mut dice, corpus);
        let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| judge(&packet)));
        assert!(held.is_ok(), "packet {round}: {}", hex(&packet[..packet.len().min(600)]));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_good_query_is_read_and_nothing_of_it_is_lost() {
    for packet in world::queries() {
        let ours = Query::parse(&packet).expect("a good query");
        let theirs = Stranger::from_octets(&packet[..]).expect("a good query");
        let question = theirs.sole_question().expect("one question");
        assert_eq!(ours.id, theirs.header().id());
        assert_eq!(ours.name, question.qname().to_vec().as_slice());
        assert_eq!((ours.rtype.0, ours.class), (question.qtype().to_int(), question.qclass().to_int()));
        assert_eq!(ours.edns.map(|edns| edns.udp_size), theirs.opt().map(|opt| opt.udp_payload_size()));
    }
}

/// What is hostile meets them only if what is good does.
#[test]
fn the_corpus_meets_every_plugin_that_answers() {
    let [_, (_, site)] = sites();
    let (mut out, mut met) = (Vec::new(), BTreeSet::new());
    for packet in world::queries() {
        if let Now::Replied(served) =
            site.answer_now(&packet, &client(Transport::Udp), Duration::from_secs(1), &mut out)
        {
            met.insert(served.by);
        }
    }
    use Plugin::{Acl, Any, External, Hosts, Kubernetes, Local, Template, Transfer};
    let expected = BTreeSet::from([Acl, Any, External, Hosts, Kubernetes, Local, Template, Transfer]);
    assert_eq!(met, expected);
}

#[test]
fn a_query_made_worse_gets_an_answer_a_stranger_can_read_or_silence() {
    let [(_, shipped), (_, everything)] = sites();
    answers_well("shipped", &shipped, packets());
    // Each of its plugins is asked about each packet.
    answers_well("everything", &everything, packets() / 6);
}

fn answers_well(word: &str, site: &Site, packets: u64) {
    let (mut replied, mut out) = (0u64, Vec::new());
    storm(packets, &world::queries(), |packet| {
        for transport in [Transport::Udp, Transport::Tcp] {
            match site.answer_now(packet, &client(transport), Duration::from_secs(1), &mut out) {
                Now::Silent => {}
                Now::Replied(served) => {
                    replied += 1;
                    judge_reply(packet, &out, transport);
                    assert_eq!(served.rcode.0 & 15, u16::from(out[3] & 15), "what is counted is what is sent");
                }
                Now::Later => assert!(Query::parse(packet).is_ok(), "nobody can answer that later"),
            }
        }
    });
    assert!(replied > packets / 4, "{word}: most were thrown away: {replied}");
}

/// Who waits, and what each asked.
type Waiting = BTreeMap<Token, Vec<u8>>;

/// What the hot threads leave to the task, answered by upstreams that have gone mad.
#[test]
fn a_query_made_worse_and_replies_made_worse_leave_nobody_waiting() {
    let [_, (_, site)] = sites();
    let (queries, replies) = (world::queries(), world::replies());
    let (mut dice, mut ids) = (dice(), dice());
    let mut draw = move || ids.next() as u16;
    let mut server = Server::new(site);
    server.configure_upstreams(Duration::ZERO, &mut draw);
    let (mut waiting, mut told, rounds) = (Waiting::new(), [0u64; 2], packets() / 3);
    for round in 0..rounds {
        let (now, packet) = (Duration::from_millis(5 * round), mutated(&mut dice, &queries));
        waiting.insert(Token(round), packet.clone());
        let mut effects = server.handle_query(Token(round), &packet, &client(Transport::Udp), now, &mut draw);
        effects.extend(server.tick(now, &mut draw));
        while let Some(effect) = effects.pop() {
            let Effect::Send(sending) = effect else {
                take(effect, &mut waiting, &mut told);
                continue;
            };
            let reply = mad_reply(&mut dice, &sending.bytes, &replies);
            effects.extend(server.handle_upstream(sending.exchange, &reply, now, &mut draw));
        }
    }
    let end = Duration::from_millis(5 * rounds) + Duration::from_secs(60);
    for effect in server.tick(end, &mut draw) {
        take(effect, &mut waiting, &mut told);
    }
    assert_eq!((server.waiting(), waiting.len()), (0, 0), "somebody waits for ever");
    assert!(told.iter().all(|count| *count > rounds / 50), "replies and silences: {told:?}");
}

/// One of `replies` made worse that claims to be for this query, or any.
fn mad_reply(dice: &mut Dice, query: &[u8], replies: &[Vec<u8>]) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x80;
    let mut reply = mutated(dice, &[&[reply][..], replies].concat());
    if let Some(id) = reply.first_chunk_mut::<2>().filter(|_| dice.below(8) > 0) {
        id.copy_from_slice(&query[..2]);
    }
    reply
}

/// Carries an effect out as far as a client sees it.
fn take(effect: Effect, waiting: &mut Waiting, told: &mut [u64; 2]) {
    match effect {
        Effect::Reply { token, bytes, served } => {
            let packet = waiting.remove(&token).expect("a client is answered once");
            judge_reply(&packet, &bytes, Transport::Udp);
            assert_eq!(served.rcode.0 & 15, u16::from(bytes[3] & 15), "what is counted is what is sent");
            told[0] += 1;
        }
        Effect::Part { token, bytes } => {
            assert!(waiting.contains_key(&token), "a part after the end");
            Stranger::from_octets(bytes).expect("a header");
        }
        Effect::Forget(token) => {
            waiting.remove(&token).expect("a client is forgotten once");
            told[1] += 1;
        }
        Effect::Send(_) | Effect::Close(_) | Effect::Loop { .. } | Effect::Error(_) => {}
    }
}

fn judge_reply(packet: &[u8], out: &[u8], transport: Transport) {
    assert!(packet.len() >= HEADER, "an answer to less than a header");
    assert_eq!(packet[2] & 0x80, 0, "an answer to an answer: two servers would go on for ever");
    assert_eq!(out[..2], packet[..2], "another ID");
    assert_eq!(out[2] & 0xf8, 0x80 | packet[2] & 0x78, "not a reply to this opcode");
    let reply = Stranger::from_octets(out).expect("a header");
    for section in [reply.answer(), reply.authority(), reply.additional()] {
        assert!(section.expect("a section").all(|record| record.is_ok()), "a record that cannot be read");
    }
    let limit = limit(packet, transport);
    assert!(out.len() <= limit, "{} bytes to a client that takes {limit}", out.len());
    let rcode = reply.opt_rcode().to_int();
    let asked = reply.header_counts().qdcount();
    assert!(asked <= 1, "more questions than one");
    if matches!(rcode, 1 | 4) {
        assert!(out.len() <= packet.len(), "an error of {} bytes for {}", out.len(), packet.len());
    }
    if matches!(rcode, 5 | 16) {
        assert!(out.len() <= packet.len() + 11, "a refusal of {} bytes for {}", out.len(), packet.len());
    }
}

/// What the client takes, as a stranger reads its query: the class of its OPT record. One that has none takes 512 bytes.
fn limit(packet: &[u8], transport: Transport) -> usize {
    if transport == Transport::Tcp {
        return 65_535;
    }
    let query = Stranger::from_octets(packet).expect("it has a header");
    let opt = query.iter().filter_map(|record| record.ok()).find(|(record, _)| record.rtype() == Rtype::OPT);
    usize::from(opt.map_or(512, |(record, _)| record.class().to_int())).clamp(512, 1232)
}

#[test]
fn a_reply_made_worse_is_read_or_thrown_away() {
    let mut read = 0u64;
    storm(packets(), &world::replies(), |packet| {
        let (message, most) = most_in(|| Message::parse(packet));
        let bound = 128 * packet.len() as isize + 65_536;
        assert!(most <= bound, "{most} bytes held for a packet of {}", packet.len());
        if let Some(message) = message {
            read += 1;
            assert!(packet[2] & 0x80 != 0, "a query was taken for a reply");
            let records = message.answers.len() + message.authority.len() + message.additional.len();
            assert!(records <= packet.len() / 11, "more records than there are bytes for");
        }
    });
    assert!(read > packets() / 20, "next to none could be read: {read}");
}

/// What a stranger reads as whole, and what we read of it, is the same.
#[test]
fn a_good_reply_is_read_as_a_stranger_reads_it() {
    for packet in world::replies() {
        let ours = Message::parse(&packet).expect("a good reply");
        let theirs = Stranger::from_octets(&packet[..]).expect("a good reply");
        let count = |section: domain::base::RecordSection<'_, &[u8]>| {
            section.filter(|record| record.as_ref().is_ok_and(|record| record.rtype().to_int() != 41)).count()
        };
        let theirs_has = [theirs.answer(), theirs.authority(), theirs.additional()];
        let theirs_has = theirs_has.map(|section| count(section.expect("a section")));
        assert_eq!([ours.answers.len(), ours.authority.len(), ours.additional.len()], theirs_has);
    }
}

#[test]
fn pointers_that_lead_on_and_on_cost_no_time_and_no_memory() {
    // A name of pointers, each to the one before; and one that leads to itself.
    let mut chain = world::replies()[0][..12].to_vec();
    chain[4..12].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
    chain.extend_from_slice(&[1, b'x', 0]);
    for at in (15..16_000u16).step_by(2) {
        chain.extend_from_slice(&(0xc000 | at.saturating_sub(2).max(12)).to_be_bytes());
    }
    let (_, most) = most_in(|| Message::parse(&chain));
    assert!(most < 65_536, "{most} bytes");
    for target in [12u16, 13, 14, 0x3fff] {
        let mut own = chain[..12].to_vec();
        own.extend_from_slice(&(0xc000 | target).to_be_bytes());
        own.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4]);
        assert!(Message::parse(&own).is_none(), "a pointer to {target} is no name");
    }
}

/// 5,400 records whose owners are one pointer each to a name of 255 bytes: a small packet must not become a large memory.
#[test]
fn a_packet_full_of_pointers_to_a_long_name_stays_small() {
    let mut bomb = vec![0, 9, 0x80, 0, 0, 0, 0x15, 0x18, 0, 0, 0, 0];
    for length in [63u8, 63, 63, 57] {
        bomb.push(length);
        bomb.extend(std::iter::repeat_n(b'x', usize::from(length)));
    }
    bomb.extend_from_slice(&[0, 0, 2, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12]);
    while bomb.len() + 14 <= 65_535 {
        bomb.extend_from_slice(&[0xc0, 12, 0, 2, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12]);
    }
    let (_, most) = most_in(|| Message::parse(&bomb));
    assert!(most < 8 << 20, "{most} bytes held for a packet of 64 KB");
}

#[test]
fn a_storm_of_packets_leaves_no_memory_behind() {
    for (word, site) in sites() {
        let (mut out, corpus, mut dice) = (Vec::with_capacity(65_535), world::queries(), dice());
        let mut answer = |rounds: u64| {
            for _ in 0..rounds {
                let packet = mutated(&mut dice, &corpus);
                site.answer_now(&packet, &client(Transport::Udp), Duration::from_secs(1), &mut out);
            }
            held()
        };
        let rounds = if word == "shipped" { packets() } else { packets() / 6 };
        let warm = answer(rounds / 4);
        let after = answer(rounds);
        assert!(after - warm < 16_384, "{word}: {} bytes more are held after {rounds} packets", after - warm);
    }
}
