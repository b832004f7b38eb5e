//! A rule's statements as the kernel's expressions over registers.
//!
//! Keys are put together from word 0 on; what a map gives back lies from word 0 on too. The registers are those that nft
//! would take, so that it can list the rules again.

use ipnet::IpNet;
use portolan_model::Family;

use super::attributes::Writer;
use crate::nftables::lang::{Field, Sign, Statement};
use crate::nftables::numbers::*;

/// Writes the list of expressions of a rule.
pub fn write(w: &mut Writer, family: Family, statements: &[Statement]) {
    let mut list = Expressions { w, family };
    for statement in statements {
        list.statement(statement);
    }
}

/// Bytes of a netmask, or of a number in host order, to compare or to mask with.
type Value = ([u8; 16], usize);

struct Expressions<'a> {
    w: &'a mut Writer,
    family: Family,
}

impl Expressions<'_> {
    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::In(sign, key, set) => {
                self.load(key, 0);
                let inverted = *sign == Sign::Not;
                self.lookup(set, None, inverted);
            }
            Statement::Net(sign, field, net) => self.net(*sign, *field, *net),
            Statement::Local(sign, field) => self.local(*sign, *field),
            Statement::CameBy(sign, name) => self.came_by(*sign, name),
            Statement::Proto(proto) => {
                self.meta(META_L4PROTO, 0);
                self.compare(CMP_EQ, &[proto_number(*proto)]);
            }
            Statement::Dport(port) => self.port(2, *port),
            Statement::Sport(port) => self.port(0, *port),
            Statement::StateNew => self.conntrack_bit(CT_STATE, STATE_NEW),
            Statement::Redirected => self.conntrack_bit(CT_STATUS, STATUS_DNAT),
            Statement::Marked(bits) => {
                self.meta(META_MARK, 0);
                self.mask(host_order(*bits), host_order(0), 0);
                self.compare(CMP_EQ, &bits.to_ne_bytes());
            }
            Statement::MarkOr(bits) => self.change_mark(!bits, *bits),
            Statement::MarkXor(bits) => self.change_mark(u32::MAX, *bits),
            Statement::PriorityFrom(key, map) => {
                self.load(key, 0);
                self.lookup(map, Some(0), false);
                self.set_meta(META_PRIORITY);
            }
            Statement::PriorityNone => {
                self.immediate(|w| w.bytes(DATA_VALUE, &[0; 4]), register(0));
                self.set_meta(META_PRIORITY);
            }
            Statement::Update { map, key, timeout_secs, data } => self.update(map, key, *timeout_secs, data),
            Statement::DnatFrom(key, map) => self.dnat_from(key, map),
            Statement::Masquerade { fully_random } => self.expression("masq", |w| {
                if *fully_random {
                    w.number(MASQ_FLAGS, FULLY_RANDOM);
                }
            }),
            Statement::NoTrack => self.w.nested(LIST_ITEM, |w| w.text(EXPRESSION_NAME, "notrack")),
            Statement::Accept => self.verdict(ACCEPT, None),
            Statement::Drop => self.verdict(DROP, None),
            Statement::Reject => self.reject(),
            Statement::Return => self.verdict(RETURN, None),
            Statement::Jump(chain) => self.verdict(JUMP, Some(chain)),
            Statement::Goto(chain) => self.verdict(GOTO, Some(chain)),
        }
    }

    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Writer)) {
        self.w.nested(LIST_ITEM, |w| {
            w.text(EXPRESSION_NAME, name);
            w.nested(EXPRESSION_DATA, data);
        });
    }

    /// Puts the fields into words from `word` on.
    fn load(&mut self, fields: &[Field], mut word: usize) {
        for field in fields {
            self.field(*field, word);
            word += words(self.family, *field);
        }
    }

    fn field(&mut self, field: Field, word: usize) {
        let (source, destination) = address_offsets(self.family);
        let length = address_len(self.family);
        match field {
            Field::Source => self.payload(NETWORK_HEADER, source, length, word),
            Field::SourceNet(prefix) => {
                self.payload(NETWORK_HEADER, source, length, word);
                self.mask(prefix_mask(prefix, length), ([0; 16], length), word);
            }
            Field::Destination => self.payload(NETWORK_HEADER, destination, length, word),
            Field::OriginalDestination if self.family == Family::V4 => self.conntrack(CT_DST_IP, true, word),
            Field::OriginalDestination => self.conntrack(CT_DST_IP6, true, word),
            Field::Proto => self.meta(META_L4PROTO, word),
            Field::Port => self.payload(TRANSPORT_HEADER, 2, 2, word),
            Field::OriginalPort => self.conntrack(CT_PROTO_DST, true, word),
            Field::Random(modulus) => self.expression("numgen", |w| {
                w.number(NUMGEN_DREG, register(word));
                w.number(NUMGEN_MODULUS, modulus);
                w.number(NUMGEN_TYPE, NUMGEN_RANDOM);
                w.number(NUMGEN_OFFSET, 0);
            }),
            Field::Priority => self.meta(META_PRIORITY, word),
        }
    }

    fn payload(&mut self, base: u32, offset: u32, length: usize, word: usize) {
        self.expression("payload", |w| {
            w.number(PAYLOAD_DREG, register(word));
            w.number(PAYLOAD_BASE, base);
            w.number(PAYLOAD_OFFSET, offset);
            w.number(PAYLOAD_LEN, length as u32);
        });
    }

    fn meta(&mut self, key: u32, word: usize) {
        self.expression("meta", |w| {
            w.number(META_KEY, key);
            w.number(META_DREG, register(word));
        });
    }

    fn set_meta(&mut self, key: u32) {
        self.expression("meta", |w| {
            w.number(META_KEY, key);
            w.number(META_SREG, register(0));
        });
    }

    fn conntrack(&mut self, key: u32, original: bool, word: usize) {
        self.expression("ct", |w| {
            w.number(CT_KEY, key);
            w.number(CT_DREG, register(word));
            if original {
                w.bytes(CT_DIRECTION, &[0]);
            }
        });
    }

    /// The word at `word` and with `mask`, xor with `xor`.
    fn mask(&mut self, mask: Value, xor: Value, word: usize) {
        self.expression("bitwise", |w| {
            w.number(BITWISE_SREG, register(word));
            w.number(BITWISE_DREG, register(word));
            w.number(BITWISE_OP, 0);
            w.number(BITWISE_LEN, mask.1 as u32);
            w.nested(BITWISE_MASK, |w| w.bytes(DATA_VALUE, &mask.0[..mask.1]));
            w.nested(BITWISE_XOR, |w| w.bytes(DATA_VALUE, &xor.0[..xor.1]));
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.expression("cmp", |w| {
            w.number(CMP_SREG, register(0));
            w.number(CMP_OP, operator);
            w.nested(CMP_DATA, |w| w.bytes(DATA_VALUE, value));
        });
    }

    fn lookup(&mut self, set: &str, into: Option<usize>, inverted: bool) {
        self.expression("lookup", |w| {
            w.number(LOOKUP_SREG, register(0));
            if let Some(word) = into {
                w.number(LOOKUP_DREG, register(word));
            }
            w.text(LOOKUP_SET, set);
            if inverted {
                w.number(LOOKUP_FLAGS, LOOKUP_INVERTED);
            }
        });
    }

    /// A prefix of whole bytes needs no mask: fewer bytes are loaded.
    fn net(&mut self, sign: Sign, field: Field, net: IpNet) {
        let (source, destination) = address_offsets(self.family);
        let offset = if field == Field::Source { source } else { destination };
        let (length, prefix) = (address_len(self.family), net.prefix_len());
        let (address, _) = address_bytes(net.network());
        if prefix > 0 && prefix.is_multiple_of(8) {
            let whole = usize::from(prefix / 8).min(length);
            self.payload(NETWORK_HEADER, offset, whole, 0);
            self.compare(operator(sign), &address[..whole]);
        } else {
            self.payload(NETWORK_HEADER, offset, length, 0);
            self.mask(prefix_mask(prefix, length), ([0; 16], length), 0);
            self.compare(operator(sign), &address[..length]);
        }
    }

    fn local(&mut self, sign: Sign, field: Field) {
        let flags = if field == Field::Source { FIB_SADDR } else { FIB_DADDR };
        self.expression("fib", |w| {
            w.number(FIB_FLAGS, flags);
            w.number(FIB_RESULT, FIB_ADDRTYPE);
            w.number(FIB_DREG, register(0));
        });
        self.compare(operator(sign), &RTN_LOCAL.to_ne_bytes());
    }

    /// A name with a star is compared by its beginning, any other with the zeros behind it.
    fn came_by(&mut self, sign: Sign, name: &str) {
        if name == "*" && sign == Sign::Is {
            return; // any link
        }
        let mut padded = [0; IFNAME_LEN];
        let begins = name.strip_suffix('*');
        let text = begins.unwrap_or(name).as_bytes();
        let length = text.len().min(IFNAME_LEN - 1); // no link has a longer name
        padded[..length].copy_from_slice(&text[..length]);
        self.meta(META_IIFNAME, 0);
        let compared = if begins.is_some() { length.max(1) } else { IFNAME_LEN };
        self.compare(operator(sign), &padded[..compared]);
    }

    fn port(&mut self, offset: u32, port: u16) {
        self.payload(TRANSPORT_HEADER, offset, 2, 0);
        self.compare(CMP_EQ, &port.to_be_bytes());
    }

    fn conntrack_bit(&mut self, key: u32, bit: u32) {
        self.conntrack(key, false, 0);
        self.mask(host_order(bit), host_order(0), 0);
        self.compare(CMP_NEQ, &[0; 4]);
    }

    fn change_mark(&mut self, mask: u32, xor: u32) {
        self.meta(META_MARK, 0);
        self.mask(host_order(mask), host_order(xor), 0);
        self.set_meta(META_MARK);
    }

    /// The data begins at the next area of four words, where nft puts it.
    fn update(&mut self, map: &str, key: &[Field], timeout_secs: u32, data: &[Field]) {
        let behind: usize = key.iter().map(|field| words(self.family, *field)).sum();
        let at = behind.next_multiple_of(4);
        self.load(key, 0);
        self.load(data, at);
        self.expression("dynset", |w| {
            w.number(DYNSET_KEY, register(0));
            if !data.is_empty() {
                w.number(DYNSET_DATA, register(at));
            }
            w.number(DYNSET_OP, DYNSET_UPDATE);
            w.bytes(DYNSET_TIMEOUT, &(u64::from(timeout_secs) * 1000).to_be_bytes());
            w.text(DYNSET_SET, map);
        });
    }

    fn dnat_from(&mut self, key: &[Field], map: &str) {
        self.load(key, 0);
        self.lookup(map, Some(0), false);
        let (family, port) = (family_number(self.family), address_len(self.family) / 4);
        self.expression("nat", |w| {
            w.number(NAT_TYPE, NAT_DNAT);
            w.number(NAT_FAMILY, u32::from(family));
            w.number(NAT_REG_ADDR, register(0));
            w.number(NAT_REG_PORT, register(port));
        });
    }

    fn reject(&mut self) {
        let code = if self.family == Family::V4 { PORT_UNREACHABLE_V4 } else { PORT_UNREACHABLE_V6 };
        self.expression("reject", |w| {
            w.number(REJECT_TYPE, REJECT_ICMP);
            w.bytes(REJECT_CODE, &[code]);
        });
    }

    fn immediate(&mut self, value: impl FnOnce(&mut Writer), into: u32) {
        self.expression("immediate", |w| {
            w.number(IMMEDIATE_DREG, into);
            w.nested(IMMEDIATE_DATA, value);
        });
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) {
        let value = |w: &mut Writer| {
            w.nested(DATA_VERDICT, |w| {
                w.number(VERDICT_CODE, code.cast_unsigned());
                if let Some(chain) = chain {
                    w.text(VERDICT_CHAIN, chain);
                }
            });
        };
        self.immediate(value, REG_VERDICT);
    }
}

/// Words that a field takes in a key.
pub(crate) fn words(family: Family, field: Field) -> usize {
    match field {
        Field::Source | Field::SourceNet(_) | Field::Destination | Field::OriginalDestination => {
            address_len(family) / 4
        }
        Field::Proto | Field::Port | Field::OriginalPort | Field::Random(_) | Field::Priority => 1,
    }
}

fn operator(sign: Sign) -> u32 {
    match sign {
        Sign::Is => CMP_EQ,
        Sign::Not => CMP_NEQ,
    }
}

fn host_order(number: u32) -> Value {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.to_ne_bytes());
    (bytes, 4)
}

fn address_bytes(addr: std::net::IpAddr) -> Value {
    let mut bytes = [0; 16];
    match addr {
        std::net::IpAddr::V4(addr) => {
            bytes[..4].copy_from_slice(&addr.octets());
            (bytes, 4)
        }
        std::net::IpAddr::V6(addr) => (addr.octets(), 16),
    }
}

/// The first `prefix` bits set, of `length` bytes.
fn prefix_mask(prefix: u8, length: usize) -> Value {
    let bits = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
    (bits.to_be_bytes(), length)
}
