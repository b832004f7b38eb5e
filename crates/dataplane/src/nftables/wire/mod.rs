//! Wire: steps as one nfnetlink batch, the form in which the kernel takes them all or none.
//!
//! ```text
//!  steps ─► BATCH_BEGIN │ NEWTABLE … NEWSETELEM … DELRULE … │ BATCH_END ─► one send
//!            seq 0        seq = index of the step + 1         seq of the last
//! ```
//!
//! A refusal carries the sequence number, so it names the step; 0 stands for the transaction as a whole. A step may take
//! several messages (long lists of elements, since an attribute ends at 64 KiB); they share its number. Spec:
//! `linux/netfilter/nf_tables.h`; order and form of attributes as nft 1.0.6 sends them.

mod attributes;
mod expressions;
pub mod userdata;

use std::net::IpAddr;

use portolan_model::{Family, Proto, Text};

use attributes::{Head, Writer};
pub(super) use expressions::words;

use super::lang::{Base, ChainKind, Data, Element, HookPoint, Key, Rule, SetShape, Step};
use super::numbers::*;

/// Where a list of elements is cut: far enough below 64 KiB for one more element.
const LIST_BYTES: usize = 60_000;
/// Bytes of an element with a comment, roughly; only the first guess of the buffer's size.
const ELEMENT_BYTES: usize = 96;
const STEP_BYTES: usize = 256;

/// The batch that carries out `steps` on `table`.
///
/// The message of the last step asks for an acknowledgement, so exactly one answer comes where nothing is refused. Steps
/// that come to nothing are no bytes.
pub fn transaction(family: Family, table: &str, steps: &[Step]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(steps.iter().map(size_of_step).sum::<usize>() + 64);
    let frame = |kind, sequence| Head { kind, flags: REQUEST, sequence, family: 0, resource: SUBSYSTEM };
    writer.message(frame(BATCH_BEGIN, 0), |_| {});
    let mut batch = Batch { writer, family, table, sequence: 0, last: 0, user: Vec::new() };
    for step in steps {
        batch.sequence += 1;
        batch.step(step);
    }
    let Batch { mut writer, sequence, last, .. } = batch;
    if last == 0 {
        return Vec::new();
    }
    writer.add_flags(last, ACK);
    writer.message(frame(BATCH_END, sequence + 1), |_| {});
    writer.finish()
}

fn size_of_step(step: &Step) -> usize {
    match step {
        Step::AddElements(_, elements) => STEP_BYTES + elements.len() * ELEMENT_BYTES,
        Step::DeleteElements(_, keys) => STEP_BYTES + keys.len() * ELEMENT_BYTES / 2,
        Step::AddRule(_, rule) => STEP_BYTES * (1 + rule.statements.len()),
        _ => STEP_BYTES,
    }
}

struct Batch<'a> {
    writer: Writer,
    family: Family,
    table: &'a str,
    sequence: u32,
    /// Where the last message begins; 0, where the batch itself does, until there is one.
    last: usize,
    /// Room for a comment.
    user: Vec<u8>,
}

impl Batch<'_> {
    fn step(&mut self, step: &Step) {
        match step {
            Step::AddTable => self.table(NEW_TABLE),
            Step::DeleteTable => {
                self.table(NEW_TABLE); // deleting needs something to be there
                self.table(DEL_TABLE);
            }
            Step::AddChain(name, base) => self.add_chain(name, *base),
            Step::FlushChain(name) => self.named(DEL_RULE, RULE_TABLE, RULE_CHAIN, name),
            Step::DeleteChain(name) => self.named(DEL_CHAIN, CHAIN_TABLE, CHAIN_NAME, name),
            Step::AddRule(chain, rule) => self.add_rule(chain, rule),
            Step::AddSet(name, shape) => self.add_set(name, shape),
            Step::DeleteSet(name) => self.named(DEL_SET, SET_TABLE, SET_NAME, name),
            Step::AddElements(set, elements) => self.add_elements(set, elements),
            Step::DeleteElements(set, keys) => self.delete_elements(set, keys),
        }
    }

    fn message(&mut self, kind: u8, flags: u16, body: impl FnOnce(&mut Writer)) {
        let kind = SUBSYSTEM << 8 | u16::from(kind);
        let family = family_number(self.family);
        let head = Head { kind, flags: REQUEST | flags, sequence: self.sequence, family, resource: 0 };
        self.last = self.writer.message(head, body);
    }

    fn table(&mut self, kind: u8) {
        let (table, flags) = (self.table, if kind == NEW_TABLE { CREATE } else { 0 });
        self.message(kind, flags, |w| w.text(TABLE_NAME, table));
    }

    fn named(&mut self, kind: u8, table_kind: u16, name_kind: u16, name: &str) {
        let table = self.table;
        self.message(kind, 0, |w| {
            w.text(table_kind, table);
            w.text(name_kind, name);
        });
    }

    fn add_chain(&mut self, name: &str, base: Option<Base>) {
        let table = self.table;
        self.message(NEW_CHAIN, CREATE, |w| {
            w.text(CHAIN_TABLE, table);
            w.text(CHAIN_NAME, name);
            let Some(base) = base else { return };
            w.nested(CHAIN_HOOK, |w| {
                w.number(HOOK_NUMBER, hook_number(base.hook));
                w.number(HOOK_PRIORITY, base.priority.cast_unsigned());
            });
            w.number(CHAIN_POLICY, ACCEPT.cast_unsigned());
            w.text(CHAIN_TYPE, kind_name(base.kind));
        });
    }

    fn add_rule(&mut self, chain: &str, rule: &Rule) {
        let (table, family, mut user) = (self.table, self.family, std::mem::take(&mut self.user));
        self.message(NEW_RULE, CREATE | APPEND, |w| {
            w.text(RULE_TABLE, table);
            w.text(RULE_CHAIN, chain);
            w.nested(RULE_EXPRESSIONS, |w| expressions::write(w, family, &rule.statements));
            if let Some(comment) = &rule.comment {
                userdata::comment(comment, &mut user);
                w.bytes(RULE_USERDATA, &user);
            }
        });
        self.user = user;
    }

    fn add_set(&mut self, name: &str, shape: &SetShape) {
        let (table, family, id) = (self.table, self.family, self.sequence);
        self.message(NEW_SET, CREATE, |w| {
            w.text(SET_TABLE, table);
            w.text(SET_NAME, name);
            w.number(SET_FLAGS, set_flags(shape));
            let (key, length) = concatenated(family, &shape.key);
            w.number(SET_KEY_TYPE, key);
            w.number(SET_KEY_LEN, length);
            if let Some(data) = &shape.data {
                let (data, length) = concatenated(family, data);
                w.number(SET_DATA_TYPE, data);
                w.number(SET_DATA_LEN, length);
            }
            w.number(SET_ID, id);
            if let Some(size) = shape.dynamic {
                w.nested(SET_DESC, |w| w.number(SET_DESC_SIZE, size));
            }
            w.bytes(SET_USERDATA, &userdata::of_set(family, shape));
        });
    }

    fn add_elements(&mut self, set: &str, elements: &[Element]) {
        let mut user = std::mem::take(&mut self.user);
        self.lists(NEW_SETELEM, CREATE, set, elements, |w, element| {
            w.nested(ELEMENT_KEY, |w| w.bytes(DATA_VALUE, Packed::key(&element.key).as_slice()));
            if let Some(data) = &element.data {
                w.nested(ELEMENT_DATA, |w| w.bytes(DATA_VALUE, Packed::data(data).as_slice()));
            }
            if let Some(comment) = &element.comment {
                userdata::comment(comment, &mut user);
                w.bytes(ELEMENT_USERDATA, &user);
            }
        });
        self.user = user;
    }

    fn delete_elements(&mut self, set: &str, keys: &[Key]) {
        self.lists(DEL_SETELEM, 0, set, keys, |w, key| {
            w.nested(ELEMENT_KEY, |w| w.bytes(DATA_VALUE, Packed::key(key).as_slice()));
        });
    }

    /// Messages with lists of items, as many as it takes.
    fn lists<T>(&mut self, kind: u8, flags: u16, set: &str, items: &[T], mut item: impl FnMut(&mut Writer, &T)) {
        let mut left = items.iter().peekable();
        while left.peek().is_some() {
            let table = self.table;
            self.message(kind, flags, |w| {
                w.text(ELEMENTS_TABLE, table);
                w.text(ELEMENTS_SET, set);
                w.nested(ELEMENTS_LIST, |w| {
                    let end = w.len() + LIST_BYTES;
                    while w.len() < end
                        && let Some(next) = left.next()
                    {
                        w.nested(LIST_ITEM, |w| item(w, next));
                    }
                });
            });
        }
    }
}

/// Bytes of a key or of data: each part of a concatenation fills whole words.
struct Packed {
    bytes: [u8; 64],
    len: usize,
}

impl Packed {
    fn new() -> Self {
        Self { bytes: [0; 64], len: 0 }
    }

    fn key(key: &Key) -> Self {
        let packed = Self::new();
        match *key {
            Key::Addr(addr) => packed.addr(addr),
            Key::Pair(from, to) => packed.addr(from).addr(to),
            Key::Dest(addr, proto, port) => packed.addr(addr).proto(proto).port(port),
            Key::DestSlot(addr, proto, port, slot) => packed.addr(addr).proto(proto).port(port).host_order(slot),
            Key::DestFrom(addr, proto, port, from) => packed.addr(addr).proto(proto).port(port).addr(from),
            Key::Port(proto, port) => packed.proto(proto).port(port),
            Key::PortSlot(proto, port, slot) => packed.proto(proto).port(port).host_order(slot),
            Key::Id(id) => packed.host_order(id),
            Key::Client(addr, proto, id) => packed.addr(addr).proto(proto).host_order(id),
        }
    }

    fn data(data: &Data) -> Self {
        match *data {
            Data::Endpoint(addr, port) => Self::new().addr(addr).port(port),
            Data::Id(id) => Self::new().host_order(id),
        }
    }

    fn part(mut self, value: &[u8]) -> Self {
        self.bytes[self.len..self.len + value.len()].copy_from_slice(value);
        self.len += value.len().next_multiple_of(4);
        self
    }

    fn addr(self, addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => self.part(&addr.octets()),
            IpAddr::V6(addr) => self.part(&addr.octets()),
        }
    }

    fn proto(self, proto: Proto) -> Self {
        self.part(&[proto_number(proto)])
    }

    fn port(self, port: u16) -> Self {
        self.part(&port.to_be_bytes())
    }

    fn host_order(self, number: u32) -> Self {
        self.part(&number.to_ne_bytes())
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn set_flags(shape: &SetShape) -> u32 {
    let map = if shape.data.is_some() { SET_IS_MAP } else { 0 };
    let dynamic = if shape.dynamic.is_some() { SET_HAS_TIMEOUT | SET_BY_RULES } else { 0 };
    map | dynamic
}

/// `NF_INET_*`.
pub(super) fn hook_number(hook: HookPoint) -> u32 {
    match hook {
        HookPoint::Prerouting => 0,
        HookPoint::Input => 1,
        HookPoint::Forward => 2,
        HookPoint::Output => 3,
        HookPoint::Postrouting => 4,
    }
}

/// `hook` of a base chain.
pub(super) fn hook_name(hook: HookPoint) -> &'static str {
    match hook {
        HookPoint::Prerouting => "prerouting",
        HookPoint::Input => "input",
        HookPoint::Forward => "forward",
        HookPoint::Output => "output",
        HookPoint::Postrouting => "postrouting",
    }
}

/// `type` of a base chain.
pub(super) fn kind_name(kind: ChainKind) -> &'static str {
    match kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
    }
}

/// Steps that make `table` from nothing: the table, its sets with their elements, its chains, its rules.
pub fn steps_of(table: &super::lang::Table) -> Vec<Step> {
    let mut steps = vec![Step::AddTable];
    let mut filled = Vec::new();
    for (name, set) in &table.sets {
        steps.push(Step::AddSet(name.clone(), set.shape.clone()));
        let element = |(key, (data, comment)): (&Key, &(Option<Data>, Option<Text>))| Element {
            key: *key,
            data: *data,
            comment: comment.clone(),
        };
        let elements: Vec<Element> = set.elements.iter().map(element).collect();
        if !elements.is_empty() {
            filled.push(Step::AddElements(name.clone(), elements));
        }
    }
    steps.extend(filled);
    steps.extend(table.chains.iter().map(|(name, chain)| Step::AddChain(name.clone(), chain.base)));
    let rules = table.chains.iter().flat_map(|(name, chain)| chain.rules.iter().map(move |rule| (name, rule)));
    steps.extend(rules.map(|(name, rule)| Step::AddRule(name.clone(), rule.clone())));
    steps
}
