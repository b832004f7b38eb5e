//! A rule's expressions, read back as statements by following what lies in the registers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use portolan_model::{Family, Text};

use super::{Attributes, Cut, data_value, number, pick, text};
use crate::nftables::lang::{Field, Sign, Statement};
use crate::nftables::numbers::*;
use crate::nftables::wire::words;

/// The statements of a list of expressions; inside, why it has none.
pub fn read(family: Family, list: &[u8]) -> Result<Result<Vec<Statement>, String>, Cut> {
    let mut machine = Machine { family, loads: Vec::new(), statements: Vec::new() };
    for expression in Attributes(list) {
        let (_, expression) = expression?;
        let [name, data] = pick(expression, [EXPRESSION_NAME, EXPRESSION_DATA])?;
        let name = text(name);
        match machine.expression(&name, data.unwrap_or(&[])) {
            Ok(()) => {}
            Err(Odd::Cut(cut)) => return Err(cut),
            Err(Odd::Unknown) => return Ok(Err(format!("expression {} ({name})", machine.statements.len()))),
        }
    }
    match machine.loads.is_empty() {
        true => Ok(Ok(machine.statements)),
        false => Ok(Err("it loads what it does not use".into())),
    }
}

/// Why an expression was not read.
enum Odd {
    Cut(Cut),
    Unknown,
}

impl From<Cut> for Odd {
    fn from(cut: Cut) -> Self {
        Odd::Cut(cut)
    }
}

fn known<T>(value: Option<T>) -> Result<T, Odd> {
    value.ok_or(Odd::Unknown)
}

fn only_if(holds: bool) -> Result<(), Odd> {
    if holds { Ok(()) } else { Err(Odd::Unknown) }
}

/// What lies in a register.
#[derive(Clone, Debug, PartialEq)]
enum Load {
    Field(Field),
    /// The first bytes of an address.
    Beginning(Field, usize),
    /// An address with all but its first bits cleared.
    Masked(Field, u8),
    SourcePort,
    BothPorts,
    Mark,
    /// The packet mark, and with the first, xor with the second.
    ChangedMark(u32, u32),
    LinkName,
    State,
    Status,
    NewBit,
    RedirectedBit,
    AddressType(Field),
    /// What a map gives for a key.
    Mapped(Vec<Field>, Text),
    Zero,
}

struct Machine {
    family: Family,
    /// What was loaded and not used yet, by word.
    loads: Vec<(usize, Load)>,
    statements: Vec<Statement>,
}

impl Machine {
    fn expression(&mut self, name: &str, data: &[u8]) -> Result<(), Odd> {
        match name {
            "payload" => self.payload(data),
            "meta" => self.meta(data),
            "ct" => self.conntrack(data),
            "fib" => self.fib(data),
            "numgen" => self.numgen(data),
            "bitwise" => self.bitwise(data),
            "cmp" => self.compare(data),
            "lookup" => self.lookup(data),
            "immediate" => self.immediate(data),
            "nat" => self.nat(data),
            "masq" => self.masquerade(data),
            "reject" => self.reject(data),
            "dynset" => self.update(data),
            "notrack" => self.say(Statement::NoTrack),
            _ => Err(Odd::Unknown),
        }
    }

    fn say(&mut self, statement: Statement) -> Result<(), Odd> {
        self.statements.push(statement);
        Ok(())
    }

    fn load(&mut self, register: Option<u32>, load: Load) -> Result<(), Odd> {
        let word = known(register.and_then(word_of))?;
        only_if(self.loads.iter().all(|(taken, _)| *taken != word))?;
        self.loads.push((word, load));
        Ok(())
    }

    /// The one thing that was loaded, if it lies in this register.
    fn take(&mut self, register: Option<u32>) -> Result<Load, Odd> {
        let word = known(register.and_then(word_of))?;
        match &mut self.loads[..] {
            [(at, _)] if *at == word => Ok(self.loads.remove(0).1),
            _ => Err(Odd::Unknown),
        }
    }

    /// Fields that lie one behind the other from a register on, without those from `end` on.
    fn take_key(&mut self, register: Option<u32>, end: usize) -> Result<Vec<Field>, Odd> {
        let mut next = known(register.and_then(word_of))?;
        let mut key = Vec::new();
        while let Some((word, load)) = self.loads.first().filter(|(word, _)| *word < end) {
            only_if(*word == next)?;
            let field = match load {
                Load::Field(field) => *field,
                Load::Masked(Field::Source, prefix) => Field::SourceNet(*prefix),
                _ => return Err(Odd::Unknown),
            };
            next += words(self.family, field);
            key.push(field);
            self.loads.remove(0);
        }
        only_if(!key.is_empty())?;
        Ok(key)
    }

    fn payload(&mut self, data: &[u8]) -> Result<(), Odd> {
        let [dreg, base, offset, length] = pick(data, [PAYLOAD_DREG, PAYLOAD_BASE, PAYLOAD_OFFSET, PAYLOAD_LEN])?;
        let (source, destination) = address_offsets(self.family);
        let whole = address_len(self.family);
        let length = known(number(length))? as usize;
        let load = match (known(number(base))?, known(number(offset))?) {
            (TRANSPORT_HEADER, 2) if length == 2 => Load::Field(Field::Port),
            (TRANSPORT_HEADER, 0) if length == 2 => Load::SourcePort,
            (TRANSPORT_HEADER, 0) if length == 4 => Load::BothPorts,
            (NETWORK_HEADER, at) if (at == source || at == destination) && (1..=whole).contains(&length) => {
                let field = if at == source { Field::Source } else { Field::Destination };
                if length == whole { Load::Field(field) } else { Load::Beginning(field, length) }
            }
            _ => return Err(Odd::Unknown),
        };
        self.load(number(dreg), load)
    }

    fn meta(&mut self, data: &[u8]) -> Result<(), Odd> {
        let [dreg, key, sreg] = pick(data, [META_DREG, META_KEY, META_SREG])?;
        let key = known(number(key))?;
        if sreg.is_some() {
            let load = self.take(number(sreg))?;
            return self.set_meta(key, load);
        }
        let load = match key {
            META_L4PROTO => Load::Field(Field::Proto),
            META_PRIORITY => Load::Field(Field::Priority),
            META_MARK => Load::Mark,
            META_IIFNAME => Load::LinkName,
            _ => return Err(Odd::Unknown),
        };
        self.load(number(dreg), load)
    }

    fn set_meta(&mut self, key: u32, load: Load) -> Result<(), Odd> {
        let statement = match (key, load) {
            (META_PRIORITY, Load::Mapped(key, map)) => Statement::PriorityFrom(key, map),
            (META_PRIORITY, Load::Zero) => Statement::PriorityNone,
            (META_MARK, Load::ChangedMark(u32::MAX, bits)) => Statement::MarkXor(bits),
            (META_MARK, Load::ChangedMark(mask, bits)) if mask == !bits => Statement::MarkOr(bits),
            _ => return Err(Odd::Unknown),
        };
        self.say(statement)
    }

    fn conntrack(&mut self, data: &[u8]) -> Result<(), Odd> {
        let [dreg, key, direction] = pick(data, [CT_DREG, CT_KEY, CT_DIRECTION])?;
        let original = match direction {
            None => false,
            Some([0]) => true,
            Some(_) => return Err(Odd::Unknown),
        };
        let load = match (known(number(key))?, original, self.family) {
            (CT_STATE, false, _) => Load::State,
            (CT_STATUS, false, _) => Load::Status,
            (CT_DST_IP, true, Family::V4) | (CT_DST_IP6, true, Family::V6) => Load::Field(Field::OriginalDestination),
            (CT_PROTO_DST, true, _) => Load::Field(Field::OriginalPort),
            _ => return Err(Odd::Unknown),
        };
        self.load(number(dreg), load)
    }

    fn fib(&mut self, data: &[u8]) -> Result<(), Odd> {
        let [dreg, result, flags] = pick(data, [FIB_DREG, FIB_RESULT, FIB_FLAGS])?;
        only_if(number(result) == Some(FIB_ADDRTYPE))?;
        let field = match known(number(flags))? {
            FIB_SADDR => Field::Source,
            FIB_DADDR => Field::Destination,
            _ => return Err(Odd::Unknown),
        };
        self.load(number(dreg), Load::AddressType(field))
    }

    fn numgen(&mut self, data: &[u8]) -> Result<(), Odd> {
        let wanted = [NUMGEN_DREG, NUMGEN_MODULUS, NUMGEN_TYPE, NUMGEN_OFFSET];
        let [dreg, modulus, kind, offset] = pick(data, wanted)?;
        only_if(number(kind) == Some(NUMGEN_RANDOM) && number(offset).unwrap_or(0) == 0)?;
        let modulus = known(number(modulus))?;
        self.load(number(dreg), Load::Field(Field::Random(modulus)))
    }

    fn bitwise(&mut self, data: &[u8]) -> Result<(), Odd> {
        let wanted = [BITWISE_SREG, BITWISE_DREG, BITWISE_MASK, BITWISE_XOR, BITWISE_OP];
        let [sreg, dreg, mask, xor, operation] = pick(data, wanted)?;
        only_if(number(operation).unwrap_or(0) == 0 && sreg == dreg)?;
        let mask = known(data_value(mask)?)?;
        let xor = known(data_value(xor)?)?;
        let word = known(number(dreg).and_then(word_of))?;
        let (at, load) = known(self.loads.last_mut())?;
        only_if(*at == word)?;
        let plain = xor.iter().all(|byte| *byte == 0);
        *load = match (&*load, host_order(mask), host_order(xor)) {
            (Load::Mark, Some(mask), Some(xor)) => Load::ChangedMark(mask, xor),
            (Load::State, Some(STATE_NEW), Some(0)) => Load::NewBit,
            (Load::Status, Some(STATUS_DNAT), Some(0)) => Load::RedirectedBit,
            (Load::Field(field @ (Field::Source | Field::Destination)), ..) if plain => {
                Load::Masked(*field, known(prefix_of(mask, address_len(self.family)))?)
            }
            _ => return Err(Odd::Unknown),
        };
        Ok(())
    }

    fn compare(&mut self, data: &[u8]) -> Result<(), Odd> {
        let [sreg, operator, value] = pick(data, [CMP_SREG, CMP_OP, CMP_DATA])?;
        let value = known(data_value(value)?)?;
        let sign = match number(operator) {
            Some(CMP_EQ) => Sign::Is,
            Some(CMP_NEQ) => Sign::Not,
            _ => return Err(Odd::Unknown),
        };
        let load = self.take(number(sreg))?;
        let statement = match (load, sign, value) {
            (Load::Field(Field::Proto), Sign::Is, [number]) => Statement::Proto(known(proto_of(*number))?),
            (Load::Field(Field::Port), Sign::Is, [high, low]) => Statement::Dport(u16::from_be_bytes([*high, *low])),
            (Load::SourcePort, Sign::Is, [high, low]) => Statement::Sport(u16::from_be_bytes([*high, *low])),
            (Load::BothPorts, Sign::Is, [s0, s1, d0, d1]) => {
                self.say(Statement::Sport(u16::from_be_bytes([*s0, *s1])))?; // nft puts neighbours together
                Statement::Dport(u16::from_be_bytes([*d0, *d1]))
            }
            (Load::Field(field @ (Field::Source | Field::Destination)), sign, value) => {
                self.net(sign, field, value, value.len() * 8)?
            }
            (Load::Beginning(field, length), sign, value) if value.len() == length => {
                self.net(sign, field, value, length * 8)?
            }
            (Load::Masked(field, prefix), sign, value) => self.net(sign, field, value, usize::from(prefix))?,
            (Load::LinkName, sign, value) => Statement::CameBy(sign, known(link_name(value))?),
            (Load::NewBit, Sign::Not, [0, 0, 0, 0]) => Statement::StateNew,
            (Load::RedirectedBit, Sign::Not, [0, 0, 0, 0]) => Statement::Redirected,
            (Load::ChangedMark(mask, 0), Sign::Is, value) if host_order(value) == Some(mask) => Statement::Marked(mask),
            (Load::AddressType(field), sign, value) if host_order(value) == Some(RTN_LOCAL) => {
                Statement::Local(sign, field)
            }
            _ => return Err(Odd::Unknown),
        };
        self.say(statement)
    }

    fn net(&self, sign: Sign, field: Field, value: &[u8], prefix: usize) -> Result<Statement, Odd> {
        let whole = address_len(self.family);
        only_if(value.len() <= whole)?;
        let mut bytes = [0; 16];
        bytes[..value.len()].copy_from_slice(value);
        let addr: IpAddr = match self.family {
            Family::V4 => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(),
            Family::V6 => Ipv6Addr::from(bytes).into(),
        };
        let net = known(u8::try_from(prefix).ok().and_then(|prefix| IpNet::new(addr, prefix).ok()))?;
        only_if(net.trunc() == net)?; // bits beyond the prefix: it can never match
        Ok(Statement::Net(sign, field, net))
    }

    fn lookup(&mut self, data: &[u8]) -> Result<(), Odd> {
        let [set, sreg, dreg, flags] = pick(data, [LOOKUP_SET, LOOKUP_SREG, LOOKUP_DREG, LOOKUP_FLAGS])?;
        let key = self.take_key(number(sreg), usize::MAX)?;
        let flags = number(flags).unwrap_or(0);
        if dreg.is_some() {
            only_if(flags == 0)?;
            return self.load(number(dreg), Load::Mapped(key, text(set)));
        }
        let sign = match flags {
            0 => Sign::Is,
            LOOKUP_INVERTED => Sign::Not,
            _ => return Err(Odd::Unknown),
        };
        self.say(Statement::In(sign, key, text(set)))
    }

    fn immediate(&mut self, data: &[u8]) -> Result<(), Odd> {
        let [dreg, value] = pick(data, [IMMEDIATE_DREG, IMMEDIATE_DATA])?;
        if number(dreg) != Some(REG_VERDICT) {
            only_if(data_value(value)? == Some(&[0; 4]))?;
            return self.load(number(dreg), Load::Zero);
        }
        let [verdict] = pick(value.unwrap_or(&[]), [DATA_VERDICT])?;
        let [code, chain] = pick(known(verdict)?, [VERDICT_CODE, VERDICT_CHAIN])?;
        let statement = match known(number(code))?.cast_signed() {
            ACCEPT => Statement::Accept,
            DROP => Statement::Drop,
            RETURN => Statement::Return,
            JUMP => Statement::Jump(text(chain)),
            GOTO => Statement::Goto(text(chain)),
            _ => return Err(Odd::Unknown),
        };
        self.say(statement)
    }

    /// The kernel adds ends of ranges that are their beginnings, and flags that say that address and port are given.
    fn nat(&mut self, data: &[u8]) -> Result<(), Odd> {
        const REG_ADDR_MAX: u16 = 4;
        const REG_PORT_MAX: u16 = 6;
        const FLAGS: u16 = 7;
        const GIVEN: u32 = 3;
        let wanted = [NAT_TYPE, NAT_FAMILY, NAT_REG_ADDR, NAT_REG_PORT, REG_ADDR_MAX, REG_PORT_MAX, FLAGS];
        let [kind, family, addr, port, addr_max, port_max, flags] = pick(data, wanted)?;
        only_if(number(kind) == Some(NAT_DNAT) && number(family) == Some(u32::from(family_number(self.family))))?;
        only_if(addr_max.is_none_or(|max| Some(max) == addr) && port_max.is_none_or(|max| Some(max) == port))?;
        only_if(number(flags).unwrap_or(0) & !GIVEN == 0)?;
        only_if(number(port) == Some(register(address_len(self.family) / 4)))?;
        match self.take(number(addr))? {
            Load::Mapped(key, map) => self.say(Statement::DnatFrom(key, map)),
            _ => Err(Odd::Unknown),
        }
    }

    fn masquerade(&mut self, data: &[u8]) -> Result<(), Odd> {
        for attribute in Attributes(data) {
            only_if(attribute?.0 == MASQ_FLAGS)?;
        }
        let [flags] = pick(data, [MASQ_FLAGS])?;
        match number(flags).unwrap_or(0) {
            0 => self.say(Statement::Masquerade { fully_random: false }),
            FULLY_RANDOM => self.say(Statement::Masquerade { fully_random: true }),
            _ => Err(Odd::Unknown),
        }
    }

    fn reject(&mut self, data: &[u8]) -> Result<(), Odd> {
        let code = if self.family == Family::V4 { PORT_UNREACHABLE_V4 } else { PORT_UNREACHABLE_V6 };
        let [kind, given] = pick(data, [REJECT_TYPE, REJECT_CODE])?;
        only_if(number(kind) == Some(REJECT_ICMP) && given == Some(&[code]))?;
        self.say(Statement::Reject)
    }

    fn update(&mut self, data: &[u8]) -> Result<(), Odd> {
        const FLAGS: u16 = 9;
        let wanted = [DYNSET_SET, DYNSET_OP, DYNSET_KEY, DYNSET_DATA, DYNSET_TIMEOUT, FLAGS];
        let [map, operation, key, value, timeout, flags] = pick(data, wanted)?;
        only_if(number(operation) == Some(DYNSET_UPDATE) && number(flags).unwrap_or(0) == 0)?;
        let millis = known(timeout.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes))?;
        only_if(millis.is_multiple_of(1000))?;
        let timeout_secs = known(u32::try_from(millis / 1000).ok())?;
        let at = known(number(value).and_then(word_of))?;
        let key = self.take_key(number(key), at)?;
        let data = self.take_key(number(value), usize::MAX)?;
        self.say(Statement::Update { map: text(map), key, timeout_secs, data })
    }
}

fn host_order(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// The length of a mask of `length` bytes that is ones and then zeros.
fn prefix_of(mask: &[u8], length: usize) -> Option<u8> {
    if mask.len() != length {
        return None;
    }
    let mut bytes = [0; 16];
    bytes[..length].copy_from_slice(mask);
    let bits = u128::from_be_bytes(bytes);
    let prefix = bits.leading_ones();
    (bits.count_ones() == prefix).then_some(prefix as u8)
}

/// A name compared with its zeros is the whole name; one without is how it begins.
fn link_name(value: &[u8]) -> Option<Text> {
    let whole = value.len() == IFNAME_LEN;
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    let name = std::str::from_utf8(&value[..end]).ok()?;
    let clean = value[end..].iter().all(|byte| *byte == 0) && !name.contains('*') && (whole || end == value.len());
    match (clean, whole) {
        (false, _) => None,
        (true, true) => Some(name.into()),
        (true, false) => Some(format!("{name}*").into()),
    }
}
