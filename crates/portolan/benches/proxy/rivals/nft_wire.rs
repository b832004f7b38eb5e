//! A rival's table as one nfnetlink batch: its layout without the cost of the program `nft`.
//!
//! Spec: `linux/netfilter/nf_tables.h`, `nfnetlink.h`. Registers are the 32-bit ones from 8 on.

use crate::rivals::nft::{Base, Item, Part, Say, TABLE, Verdict};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const DEL_RULE: u16 = SUBSYSTEM | 8;
const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENTS: u16 = SUBSYSTEM | 12;
/// NLM_F_REQUEST, NLM_F_ACK; NLM_F_CREATE, NLM_F_APPEND.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
const IPV4: u8 = 2;
/// NFT_REG_VERDICT and the first two registers.
const VERDICT: u32 = 0;
const R0: u32 = 8;
const R1: u32 = 9;
/// NFT_SET_ANONYMOUS | NFT_SET_CONSTANT | NFT_SET_MAP.
const ANONYMOUS_MAP: u32 = 1 | 2 | 8;
const MAP: u32 = 8;
const VERDICT_TYPE: u32 = 0xffff_ff00;

/// The batch, its last message but one asking for an acknowledgement.
pub fn write(items: &[Item]) -> Vec<u8> {
    let mut batch = Batch { bytes: Vec::new(), sequence: 0, sets: 0, message: 0 };
    batch.frame(BATCH_BEGIN);
    batch.message(NEW_TABLE, CREATE, |b| b.text(1, TABLE));
    items.iter().for_each(|item| batch.item(item));
    batch.acknowledge_last();
    batch.frame(BATCH_END);
    batch.bytes
}

struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    /// Anonymous sets so far.
    sets: u32,
    /// Where the last message begins.
    message: usize,
}

impl Batch {
    fn frame(&mut self, kind: u16) {
        self.begin(kind, REQUEST, 0, 10);
        self.end();
    }

    fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Self)) {
        self.begin(kind, REQUEST | flags, IPV4, 0);
        body(self);
        self.end();
    }

    fn begin(&mut self, kind: u16, flags: u16, family: u8, resource: u16) {
        self.message = self.bytes.len();
        self.sequence += 1;
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
    }

    fn end(&mut self) {
        let length = (self.bytes.len() - self.message) as u32;
        self.bytes[self.message..self.message + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn acknowledge_last(&mut self) {
        let at = self.message + 6;
        self.bytes[at] |= ACK as u8;
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend((value.len() as u16 + 4).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat());
    }

    fn number(&mut self, kind: u16, number: u32) {
        self.attribute(kind, &number.to_be_bytes());
    }

    fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        body(self);
        let length = (self.bytes.len() - at) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn item(&mut self, item: &Item) {
        match item {
            Item::Chain(name, base) => self.chain(name, *base),
            Item::Flush(name) => self.message(DEL_RULE, 0, |b| {
                b.text(1, TABLE);
                b.text(2, name);
            }),
            Item::Set(name, key, verdicts) => {
                let data = verdicts.then_some((VERDICT_TYPE, 0));
                let flags = if *verdicts { MAP } else { 0 };
                self.set(name, flags, 4 * key.len() as u32, data, 0);
            }
            Item::Rule(chain, says) => self.rule(chain, says),
            Item::Goto(map, address, port, chain) => {
                let key = [&address.octets()[..], &[6, 0, 0, 0], &port.to_be_bytes(), &[0, 0]].concat();
                self.elements(map, None, &[(key, Some(Data::Chain(chain.clone())))]);
            }
            Item::Address(set, address) => self.elements(set, None, &[(address.octets().to_vec(), None)]),
            Item::Hairpin(address, port) => {
                let address = address.octets();
                let key = [&address[..], &address, &[6, 0, 0, 0], &port.to_be_bytes(), &[0, 0]].concat();
                self.elements("hairpin-connections", None, &[(key, None)]);
            }
        }
    }

    fn chain(&mut self, name: &str, base: Option<Base>) {
        self.message(NEW_CHAIN, CREATE, |b| {
            b.text(1, TABLE);
            b.text(3, name);
            let Some((kind, hook, priority)) = base else { return };
            b.nested(4, |b| {
                let hooks = ["prerouting", "input", "forward", "output", "postrouting"];
                let hook = hooks.iter().position(|known| *known == hook).expect("a hook's name");
                b.number(1, hook as u32);
                b.number(2, priority as u32);
            });
            b.text(7, kind);
        });
    }

    /// `data`: type and length.
    fn set(&mut self, name: &str, flags: u32, key_len: u32, data: Option<(u32, u32)>, id: u32) {
        self.message(NEW_SET, CREATE, |b| {
            b.text(1, TABLE);
            b.text(2, name);
            b.number(3, flags);
            b.number(4, 0);
            b.number(5, key_len);
            if let Some((kind, length)) = data {
                b.number(6, kind);
                b.number(7, length);
            }
            b.number(10, id);
        });
    }

    fn elements(&mut self, set: &str, id: Option<u32>, elements: &[(Vec<u8>, Option<Data>)]) {
        self.message(NEW_ELEMENTS, CREATE, |b| {
            b.text(1, TABLE);
            b.text(2, set);
            b.nested(3, |b| elements.iter().for_each(|element| b.element(element)));
            if let Some(id) = id {
                b.number(4, id);
            }
        });
    }

    fn element(&mut self, (key, data): &(Vec<u8>, Option<Data>)) {
        self.nested(1, |b| {
            b.nested(1, |b| b.attribute(1, key));
            match data {
                None => {}
                Some(Data::Bytes(bytes)) => b.nested(2, |b| b.attribute(1, bytes)),
                Some(Data::Chain(chain)) => b.nested(2, |b| b.verdict(&Verdict::Goto(chain.clone()))),
            }
        });
    }

    fn verdict(&mut self, verdict: &Verdict) {
        let (code, chain): (i32, Option<&str>) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Return => (-5, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
        };
        self.nested(2, |b| {
            b.number(1, code as u32);
            if let Some(chain) = chain {
                b.text(2, chain);
            }
        });
    }

    /// An anonymous map stands before its rule.
    fn rule(&mut self, chain: &str, says: &[Say]) {
        let anonymous = says.iter().find_map(|say| self.anonymous(say));
        self.message(NEW_RULE, CREATE | APPEND, |b| {
            b.text(1, TABLE);
            b.text(2, chain);
            b.nested(4, |b| says.iter().for_each(|say| b.say(say, anonymous)));
        });
    }

    fn anonymous(&mut self, say: &Say) -> Option<u32> {
        let (data, elements): ((u32, u32), Vec<Data>) = match say {
            Say::RandomGoto(chains) => ((VERDICT_TYPE, 0), chains.iter().cloned().map(Data::Chain).collect()),
            Say::RandomDnat(to) => {
                let bytes = |(address, port): &(std::net::Ipv4Addr, u16)| {
                    Data::Bytes([&address.octets()[..], &port.to_be_bytes(), &[0, 0]].concat())
                };
                ((0, 8), to.iter().map(bytes).collect())
            }
            _ => return None,
        };
        self.sets += 1;
        let id = self.sets;
        let keyed: Vec<_> = (0u32..).zip(elements).map(|(at, data)| (at.to_ne_bytes().to_vec(), Some(data))).collect();
        self.set("__map%d", ANONYMOUS_MAP, 4, Some(data), id);
        self.elements("__map%d", Some(id), &keyed);
        Some(id)
    }

    fn expression(&mut self, name: &str, body: impl FnOnce(&mut Self)) {
        self.nested(1, |b| {
            b.text(1, name);
            b.nested(2, body);
        });
    }

    fn payload(&mut self, register: u32, part: Part) {
        let (base, offset, length) = match part {
            Part::Source => (1, 12, 4),
            Part::Destination => (1, 16, 4),
            Part::Port => (2, 2, 2),
            Part::Proto => return self.meta(16, register),
        };
        self.expression("payload", |b| {
            b.number(1, register);
            b.number(2, base);
            b.number(3, offset);
            b.number(4, length);
        });
    }

    fn meta(&mut self, key: u32, register: u32) {
        self.expression("meta", |b| {
            b.number(2, key);
            b.number(1, register);
        });
    }

    fn compare(&mut self, differs: bool, value: &[u8]) {
        self.expression("cmp", |b| {
            b.number(1, R0);
            b.number(2, u32::from(differs));
            b.nested(3, |b| b.attribute(1, value));
        });
    }

    fn bits(&mut self, mask: [u8; 4], xor: [u8; 4]) {
        self.expression("bitwise", |b| {
            b.number(1, R0);
            b.number(2, R0);
            b.number(3, 4);
            b.nested(4, |b| b.attribute(1, &mask));
            b.nested(5, |b| b.attribute(1, &xor));
        });
    }

    fn conntrack(&mut self, key: u32, bit: u32) {
        self.expression("ct", |b| {
            b.number(2, key);
            b.number(1, R0);
        });
        self.bits(bit.to_ne_bytes(), [0; 4]);
        self.compare(true, &[0; 4]);
    }

    fn net(&mut self, part: Part, differs: bool, net: ipnet::Ipv4Net) {
        self.payload(R0, part);
        self.bits(net.netmask().octets(), [0; 4]);
        self.compare(differs, &net.network().octets());
    }

    fn equals(&mut self, part: Part, value: &[u8]) {
        self.payload(R0, part);
        self.compare(false, value);
    }

    fn look_up(&mut self, key: &[Part], set: &str, to: Option<u32>) {
        for (register, part) in (R0..).zip(key) {
            self.payload(register, *part);
        }
        self.lookup(set, to, None);
    }

    fn lookup(&mut self, set: &str, to: Option<u32>, id: Option<u32>) {
        self.expression("lookup", |b| {
            b.text(1, set);
            b.number(2, R0);
            if let Some(register) = to {
                b.number(3, register);
            }
            if let Some(id) = id {
                b.number(4, id);
            }
        });
    }

    fn random(&mut self, modulus: usize) {
        self.expression("numgen", |b| {
            b.number(1, R0);
            b.number(2, modulus as u32);
            b.number(3, 1);
            b.number(4, 0);
        });
    }

    fn marked(&mut self, bits: u32, is_set: bool) {
        self.meta(3, R0);
        self.bits(bits.to_ne_bytes(), [0; 4]);
        self.compare(is_set, &[0; 4]);
    }

    fn mark(&mut self, mask: u32, xor: u32) {
        self.meta(3, R0);
        self.bits(mask.to_ne_bytes(), xor.to_ne_bytes());
        self.expression("meta", |b| {
            b.number(2, 3);
            b.number(3, R0);
        });
    }

    fn immediate(&mut self, register: u32, value: &[u8]) {
        self.expression("immediate", |b| {
            b.number(1, register);
            b.nested(2, |b| b.attribute(1, value));
        });
    }

    fn nat(&mut self) {
        self.expression("nat", |b| {
            b.number(1, 1);
            b.number(2, u32::from(IPV4));
            b.number(3, R0);
            b.number(5, R1);
        });
    }

    fn say(&mut self, say: &Say, anonymous: Option<u32>) {
        match say {
            Say::StateNew => self.conntrack(0, 8),
            Say::Redirected => self.conntrack(2, 1 << 5),
            Say::From(address) => self.equals(Part::Source, &address.octets()),
            Say::NotFrom(net) => self.net(Part::Source, true, *net),
            Say::To(address) => self.equals(Part::Destination, &address.octets()),
            Say::ToNet(net) => self.net(Part::Destination, false, *net),
            Say::Tcp => self.equals(Part::Proto, &[6]),
            Say::Dport(port) => self.equals(Part::Port, &port.to_be_bytes()),
            Say::In(key, set) => self.look_up(key, set, None),
            Say::Vmap(key, map) => self.look_up(key, map, Some(VERDICT)),
            Say::Unmarked(bits) => self.marked(*bits, false),
            Say::Marked(bits) => self.marked(*bits, true),
            Say::MarkOr(bits) => self.mark(!bits, *bits),
            Say::MarkXor(bits) => self.mark(u32::MAX, *bits),
            Say::RandomGoto(chains) => {
                self.random(chains.len());
                self.lookup("__map%d", Some(VERDICT), anonymous);
            }
            Say::Dnat(address, port) => {
                self.immediate(R0, &address.octets());
                self.immediate(R1, &port.to_be_bytes());
                self.nat();
            }
            Say::RandomDnat(to) => {
                self.random(to.len());
                self.lookup("__map%d", Some(R0), anonymous);
                self.nat();
            }
            Say::Masquerade => self.expression("masq", |b| b.number(1, 1 << 4)),
            Say::Reject => self.expression("reject", |b| {
                b.number(1, 0);
                b.attribute(2, &[3]);
            }),
            Say::Do(verdict) => self.expression("immediate", |b| {
                b.number(1, VERDICT);
                b.nested(2, |b| b.verdict(verdict));
            }),
        }
    }
}

/// What an element of a map holds.
enum Data {
    Chain(String),
    Bytes(Vec<u8>),
}
