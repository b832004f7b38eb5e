//! Parse: the kernel's messages about a table, read back as the values of [`super::lang`].
//!
//! What was written by [`super::wire`] comes back equal. What is not of this room's words (another's rule, a flag, a
//! verdict map) is never guessed: it is left out of the table and named in [`Read::unread`], so that a comparison with
//! what is planned cannot come out even. Bytes may be anything: nothing here panics.

mod expressions;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portolan_model::{Family, Proto, Text};

use super::lang::*;
use super::numbers::*;
use super::wire::{hook_number, kind_name, userdata};

/// A table as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// What was understood.
    pub table: Table,
    /// What was not, and is not in `table`.
    pub unread: Vec<Unread>,
}

impl Read {
    /// The table for a comparison: where something was not read, stands something that nobody plans. So whoever mends
    /// the table by it writes that chain anew, or the whole table where a set or a hook is in doubt.
    pub fn to_compare(&self) -> Table {
        let mut table = self.table.clone();
        let nobodys_base = Base { kind: ChainKind::Filter, hook: HookPoint::Prerouting, priority: i32::MIN };
        let nobodys_set = SetShape { key: Vec::new(), data: None, dynamic: None };
        for unread in &self.unread {
            match &unread.place {
                Place::Chain(name) => table.chains.entry(name.clone()).or_default().base = Some(nobodys_base),
                Place::Rule(chain, index) => {
                    let rules = &mut table.chains.entry(chain.clone()).or_default().rules;
                    rules.insert(
                        (*index).min(rules.len()),
                        Rule { comment: Some(unread.why.as_str().into()), ..Rule::default() },
                    );
                }
                Place::Set(name) | Place::Element(name) => {
                    let elements = BTreeMap::new();
                    table.sets.insert(name.clone(), Set { shape: nobodys_set.clone(), elements });
                }
            }
        }
        table
    }
}

/// Something in the table that this room has no words for: nothing that it ever wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Where it is.
    pub place: Place,
    /// What could not be read.
    pub why: String,
}

/// Where something stands in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// How a chain hangs.
    Chain(Text),
    /// A rule of a chain, counted from 0 in the kernel's order.
    Rule(Text, usize),
    /// The shape of a set or map; its elements are left out too.
    Set(Text),
    /// An element of a set or map.
    Element(Text),
}

/// The bytes are no whole messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of nf_tables is cut short: {0}")]
pub struct Cut(pub &'static str);

/// Reads what the kernel said of a table. Each item holds one message or several, in the order of a dump: a chain before
/// its rules, a set before its elements. `None`: no message makes such a table.
///
/// Messages of other tables and other kinds are passed over.
pub fn table<'a>(
    family: Family,
    name: &str,
    messages: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Option<Read>, Cut> {
    let empty = Table { family, name: name.into(), chains: BTreeMap::new(), sets: BTreeMap::new() };
    let read = Read { table: empty, unread: Vec::new() };
    let mut reader = Reader { read, is_there: false, rules: BTreeMap::new() };
    for bytes in messages {
        let mut left = bytes;
        while !left.is_empty() {
            reader.message(take_message(&mut left)?)?;
        }
    }
    Ok(reader.is_there.then_some(reader.read))
}

/// Reads the elements of one set out of the kernel's messages, each key once; those of other shapes are named.
///
/// Of a set with timeouts some may be gone before they are taken out, and one that is not there refuses a transaction:
/// a step that puts them in before the one that takes them out makes it hold either way.
pub fn elements<'a>(
    family: Family,
    shape: &SetShape,
    messages: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(Vec<Element>, Vec<String>), Cut> {
    let (mut read, mut unread) = (BTreeMap::new(), Vec::new());
    for bytes in messages {
        let mut left = bytes;
        while !left.is_empty() {
            let message = take_message(&mut left)?;
            if message.kind != NEW_SETELEM || message.family != family_number(family) {
                continue;
            }
            for item in items(message.attributes)? {
                match element(family, shape, item?) {
                    Ok(element) => _ = read.insert(element.key, element),
                    Err(why) => unread.push(why),
                }
            }
        }
    }
    Ok((read.into_values().collect(), unread))
}

struct Message<'a> {
    kind: u8,
    family: u8,
    attributes: &'a [u8],
}

/// Messages of other subsystems have kind 255.
fn take_message<'a>(left: &mut &'a [u8]) -> Result<Message<'a>, Cut> {
    let cut = Cut("header");
    let head = left.first_chunk::<HEADER_LEN>().ok_or(cut)?;
    let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let kind = u16::from_ne_bytes([head[4], head[5]]);
    let message = left.get(..length).ok_or(Cut("length"))?;
    let body = message.get(HEADER_LEN..).ok_or(cut)?;
    *left = left.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    if kind >> 8 != SUBSYSTEM {
        return Ok(Message { kind: u8::MAX, family: 0, attributes: &[] });
    }
    let (general, attributes) = body.split_at_checked(FAMILY_LEN).ok_or(Cut("family"))?;
    Ok(Message { kind: kind as u8, family: general[0], attributes })
}

/// Attributes one after another: type and value.
#[derive(Clone, Copy)]
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Cut>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let whole = self.0;
        self.0 = &[];
        let Some(head) = whole.first_chunk::<ATTRIBUTE_LEN>() else { return Some(Err(Cut("attribute"))) };
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let Some(value) = whole.get(ATTRIBUTE_LEN..length) else { return Some(Err(Cut("attribute's value"))) };
        self.0 = whole.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Ok((u16::from_ne_bytes([head[2], head[3]]) & TYPE_MASK, value)))
    }
}

/// The values of the wanted attributes; the last of a kind counts.
fn pick<const N: usize>(attributes: &[u8], wanted: [u16; N]) -> Result<[Option<&[u8]>; N], Cut> {
    let mut found = [None; N];
    for attribute in Attributes(attributes) {
        let (kind, value) = attribute?;
        if let Some(index) = wanted.iter().position(|w| *w == kind) {
            found[index] = Some(value);
        }
    }
    Ok(found)
}

fn text(value: Option<&[u8]>) -> Text {
    let value = value.unwrap_or(&[]);
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into()
}

fn number(value: Option<&[u8]>) -> Option<u32> {
    value?.try_into().ok().map(u32::from_be_bytes)
}

/// The bytes within `NFTA_DATA_VALUE`.
fn data_value(value: Option<&[u8]>) -> Result<Option<&[u8]>, Cut> {
    let Some(value) = value else { return Ok(None) };
    let [value] = pick(value, [DATA_VALUE])?;
    Ok(value)
}

/// The items of a message with elements.
fn items(attributes: &[u8]) -> Result<impl Iterator<Item = Result<&[u8], Cut>>, Cut> {
    let [list] = pick(attributes, [ELEMENTS_LIST])?;
    Ok(Attributes(list.unwrap_or(&[])).map(|item| item.map(|(_, value)| value)))
}

struct Reader {
    read: Read,
    is_there: bool,
    /// Rules seen of each chain, unread ones too.
    rules: BTreeMap<Text, usize>,
}

impl Reader {
    fn message(&mut self, message: Message<'_>) -> Result<(), Cut> {
        // In every kind the table's name is the first attribute.
        let [owner] = pick(message.attributes, [TABLE_NAME])?;
        if message.family != family_number(self.read.table.family) || text(owner) != self.read.table.name {
            return Ok(());
        }
        match message.kind {
            NEW_TABLE => self.is_there = true,
            NEW_CHAIN => self.chain(message.attributes)?,
            NEW_SET => self.set(message.attributes)?,
            NEW_RULE => self.rule(message.attributes)?,
            NEW_SETELEM => self.elements(message.attributes)?,
            _ => {}
        }
        Ok(())
    }

    fn unread(&mut self, place: Place, why: impl Into<String>) {
        self.read.unread.push(Unread { place, why: why.into() });
    }

    fn chain(&mut self, attributes: &[u8]) -> Result<(), Cut> {
        let wanted = [CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE];
        let [name, hook, policy, kind] = pick(attributes, wanted)?;
        let name = text(name);
        let mut chain = Chain::default();
        if let Some(hook) = hook {
            let [at, priority] = pick(hook, [HOOK_NUMBER, HOOK_PRIORITY])?;
            chain.base = base(&text(kind), number(at), number(priority));
            if chain.base.is_none() {
                self.unread(Place::Chain(name.clone()), format!("a hook of type {:?}", text(kind)));
            }
            if number(policy).is_some_and(|policy| policy.cast_signed() != ACCEPT) {
                self.unread(Place::Chain(name.clone()), "a policy other than accept");
            }
        }
        self.read.table.chains.insert(name, chain);
        Ok(())
    }

    fn rule(&mut self, attributes: &[u8]) -> Result<(), Cut> {
        let [chain, list, user] = pick(attributes, [RULE_CHAIN, RULE_EXPRESSIONS, RULE_USERDATA])?;
        let chain = text(chain);
        let count = self.rules.entry(chain.clone()).or_default();
        let place = Place::Rule(chain.clone(), *count);
        *count += 1;
        match expressions::read(self.read.table.family, list.unwrap_or(&[]))? {
            Err(why) => self.unread(place, why),
            Ok(statements) => match self.read.table.chains.get_mut(&chain) {
                None => self.unread(place, "its chain was not told of"),
                Some(chain) => {
                    let comment = user.and_then(userdata::comment_in).map(Text::from);
                    chain.rules.push(Rule { statements, comment });
                }
            },
        }
        Ok(())
    }

    fn set(&mut self, attributes: &[u8]) -> Result<(), Cut> {
        let [name] = pick(attributes, [SET_NAME])?;
        match shape(self.read.table.family, attributes)? {
            Ok(shape) => {
                self.read.table.sets.insert(text(name), Set { shape, elements: BTreeMap::new() });
            }
            Err(why) => self.unread(Place::Set(text(name)), why),
        }
        Ok(())
    }

    fn elements(&mut self, attributes: &[u8]) -> Result<(), Cut> {
        let [name] = pick(attributes, [ELEMENTS_SET])?;
        let name = text(name);
        let family = self.read.table.family;
        let Some(set) = self.read.table.sets.get_mut(&name) else { return Ok(()) };
        if set.shape.dynamic.is_some() {
            return Ok(());
        }
        let mut unread = Vec::new();
        for item in items(attributes)? {
            match element(family, &set.shape, item?) {
                Ok(Element { key, data, comment }) => {
                    set.elements.insert(key, (data, comment));
                }
                Err(why) => unread.push(why),
            }
        }
        for why in unread {
            self.unread(Place::Element(name.clone()), why);
        }
        Ok(())
    }
}

fn base(kind: &str, hook: Option<u32>, priority: Option<u32>) -> Option<Base> {
    use HookPoint::*;
    let kind = [ChainKind::Filter, ChainKind::Nat].into_iter().find(|one| kind_name(*one) == kind)?;
    let all = [Prerouting, Input, Forward, Output, Postrouting];
    let hook = all.into_iter().find(|one| Some(hook_number(*one)) == hook)?;
    Some(Base { kind, hook, priority: priority?.cast_signed() })
}

fn shape(family: Family, attributes: &[u8]) -> Result<Result<SetShape, String>, Cut> {
    let wanted = [SET_FLAGS, SET_KEY_TYPE, SET_DATA_TYPE, SET_DESC, SET_KEY_LEN, SET_DATA_LEN];
    let [flags, key, data, desc, key_len, data_len] = pick(attributes, wanted)?;
    let flags = number(flags).unwrap_or(0);
    let is_map = flags & SET_IS_MAP != 0;
    let dynamic = flags & !SET_IS_MAP;
    if dynamic != 0 && dynamic != SET_HAS_TIMEOUT | SET_BY_RULES {
        return Ok(Err(format!("flags {flags:#x}")));
    }
    let Some(key) = parts(family, number(key), number(key_len)) else { return Ok(Err("type of its key".into())) };
    let data = if is_map { parts(family, number(data), number(data_len)) } else { None };
    if is_map && data.is_none() {
        return Ok(Err("type of its data".into()));
    }
    let [size] = pick(desc.unwrap_or(&[]), [SET_DESC_SIZE])?;
    let dynamic = (dynamic != 0).then(|| number(size).unwrap_or(0));
    Ok(Ok(SetShape { key, data, dynamic }))
}

fn parts(family: Family, kind: Option<u32>, length: Option<u32>) -> Option<Vec<Type>> {
    let parts = parts_of(family, kind?)?;
    (Some(concatenated(family, &parts).1) == length).then_some(parts)
}

/// One element. Timeouts and expiry of what rules put in are passed over.
fn element(family: Family, shape: &SetShape, item: &[u8]) -> Result<Element, String> {
    const TIMEOUT: u16 = 4;
    const EXPIRATION: u16 = 5;
    const PADDING: u16 = 8;
    let cut = |Cut(what)| format!("cut short: {what}");
    for attribute in Attributes(item) {
        let (kind, _) = attribute.map_err(cut)?;
        if ![ELEMENT_KEY, ELEMENT_DATA, ELEMENT_USERDATA, TIMEOUT, EXPIRATION, PADDING].contains(&kind) {
            return Err(format!("an element with attribute {kind}"));
        }
    }
    let [key, data, user] = pick(item, [ELEMENT_KEY, ELEMENT_DATA, ELEMENT_USERDATA]).map_err(cut)?;
    let key = data_value(key).map_err(cut)?.ok_or("an element without a key")?;
    let read = key_of(family, &shape.key, key).ok_or_else(|| format!("key {key:02x?}"))?;
    let data = data_value(data).map_err(cut)?;
    let data = match (&shape.data, data) {
        (None, None) => None,
        (Some(types), Some(bytes)) => {
            Some(data_of(family, types, bytes).ok_or_else(|| format!("data {bytes:02x?} of {read}"))?)
        }
        _ => return Err(format!("{read} with or without data")),
    };
    let comment = user.and_then(userdata::comment_in).map(Text::from);
    Ok(Element { key: read, data, comment })
}

fn key_of(family: Family, types: &[Type], bytes: &[u8]) -> Option<Key> {
    use Type::*;
    let mut p = Parts { family, left: bytes };
    let key = match types {
        [Addr] => Key::Addr(p.addr()?),
        [Addr, Addr] => Key::Pair(p.addr()?, p.addr()?),
        [Addr, Proto, Port] => Key::Dest(p.addr()?, p.proto()?, p.port()?),
        [Addr, Proto, Port, Slot] => Key::DestSlot(p.addr()?, p.proto()?, p.port()?, p.host_order()?),
        [Addr, Proto, Port, Addr] => Key::DestFrom(p.addr()?, p.proto()?, p.port()?, p.addr()?),
        [Proto, Port] => Key::Port(p.proto()?, p.port()?),
        [Proto, Port, Slot] => Key::PortSlot(p.proto()?, p.port()?, p.host_order()?),
        [Id] => Key::Id(p.host_order()?),
        [Addr, Proto, Id] => Key::Client(p.addr()?, p.proto()?, p.host_order()?),
        _ => return None,
    };
    p.left.is_empty().then_some(key)
}

fn data_of(family: Family, types: &[Type], bytes: &[u8]) -> Option<Data> {
    let mut p = Parts { family, left: bytes };
    let data = match types {
        [Type::Addr, Type::Port] => Data::Endpoint(p.addr()?, p.port()?),
        [Type::Id] => Data::Id(p.host_order()?),
        _ => return None,
    };
    p.left.is_empty().then_some(data)
}

/// Parts of a concatenation, each in whole words.
struct Parts<'a> {
    family: Family,
    left: &'a [u8],
}

impl Parts<'_> {
    fn words<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (part, left) = self.left.split_first_chunk::<N>()?;
        self.left = left;
        Some(*part)
    }

    fn addr(&mut self) -> Option<IpAddr> {
        Some(match self.family {
            Family::V4 => Ipv4Addr::from(self.words::<4>()?).into(),
            Family::V6 => Ipv6Addr::from(self.words::<16>()?).into(),
        })
    }

    fn proto(&mut self) -> Option<Proto> {
        let [number, 0, 0, 0] = self.words::<4>()? else { return None };
        proto_of(number)
    }

    fn port(&mut self) -> Option<u16> {
        let [high, low, 0, 0] = self.words::<4>()? else { return None };
        Some(u16::from_be_bytes([high, low]))
    }

    fn host_order(&mut self) -> Option<u32> {
        self.words::<4>().map(u32::from_ne_bytes)
    }
}
