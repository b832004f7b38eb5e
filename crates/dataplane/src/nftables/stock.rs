//! Stock: which sets hold how much, and the steps that bring one service port's elements from what they were to what
//! they shall be.

use std::cmp::Ordering;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::net::IpAddr;

use portolan_model::Text;

use crate::nftables::changes::Writing;
use crate::nftables::fixed::InUse;
use crate::nftables::lang::{Element, Key};
use crate::nftables::names::SetId;
use crate::nftables::service::{Elem, Owner};

/// Counts by address, hashed the same way in every run.
type Refs = HashMap<IpAddr, u32, BuildHasherDefault<DefaultHasher>>;

/// What the sets hold, as far as it decides about others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stock {
    /// How many service ports reach each endpoint address.
    hairpins: Refs,
    /// Elements in each set that comes and goes.
    pub(super) in_use: InUse,
    names: BTreeMap<SetId, Text>,
}

/// One update's way through the stock.
pub(super) struct Shift<'a> {
    stock: &'a mut Stock,
    /// Steps so far.
    pub(super) writing: Writing,
    /// A set came into use or fell out of it.
    pub(super) redraw: bool,
    /// The set written last, with its name.
    last: Option<(SetId, Text)>,
    /// Addresses that one service port reaches no more.
    unreached: Vec<(IpAddr, Option<Owner>)>,
}

/// Whose elements, and what they say.
#[derive(Clone, Copy)]
pub(super) struct Signed<'a> {
    pub(super) owner: Option<&'a Owner>,
    pub(super) comment: &'a dyn Fn(&Elem) -> Option<Text>,
}

impl Stock {
    pub(super) fn shift(&mut self) -> Shift<'_> {
        Shift { stock: self, writing: Writing::default(), redraw: false, last: None, unreached: Vec::new() }
    }

    fn name(&mut self, set: SetId) -> Text {
        self.names.entry(set).or_insert_with(|| set.name()).clone()
    }
}

impl Shift<'_> {
    fn name(&mut self, set: SetId) -> Text {
        if let Some((_, name)) = self.last.as_ref().filter(|(last, _)| *last == set) {
            return name.clone();
        }
        let name = self.stock.name(set);
        self.last = Some((set, name.clone()));
        name
    }

    /// From `old` to `new`, both sorted.
    pub(super) fn replace(&mut self, signed: Signed<'_>, old: &[Elem], new: &[Elem]) {
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.cmp(new),
            };
            if order.is_le()
                && let Some(gone) = old.next()
                && order.is_lt()
            {
                self.take_out(signed, gone);
            }
            if order.is_ge()
                && let Some(come) = new.next()
                && order.is_gt()
            {
                self.put_in(signed, come);
            }
        }
    }

    fn put_in(&mut self, signed: Signed<'_>, elem: &Elem) {
        if let (SetId::Hairpin, Key::Pair(addr, _)) = (elem.set, elem.key) {
            let count = self.stock.hairpins.entry(addr).or_insert(0);
            *count += 1;
            if *count > 1 {
                return;
            }
        }
        if elem.set.comes_and_goes() {
            let count = self.stock.in_use.entry(elem.set).or_insert(0);
            *count += 1;
            self.redraw |= *count == 1;
        }
        let element = Element { key: elem.key, data: elem.data, comment: (signed.comment)(elem) };
        let name = self.name(elem.set);
        self.writing.put_in(&name, element, signed.owner);
    }

    fn take_out(&mut self, signed: Signed<'_>, elem: &Elem) {
        if let (SetId::Hairpin, Key::Pair(addr, _)) = (elem.set, elem.key) {
            self.unreached.push((addr, signed.owner.cloned()));
            return;
        }
        if let Some(count) = self.stock.in_use.get_mut(&elem.set) {
            *count -= 1;
            if *count == 0 {
                self.stock.in_use.remove(&elem.set);
                self.redraw = true;
            }
        }
        let name = self.name(elem.set);
        self.writing.take_out(&name, elem.key, signed.owner);
    }

    /// Last: addresses that one Service left and another came to stay as they are.
    pub(super) fn finish(mut self) -> (Writing, bool) {
        let name = self.stock.name(SetId::Hairpin);
        for (addr, owner) in std::mem::take(&mut self.unreached) {
            let Some(count) = self.stock.hairpins.get_mut(&addr) else { continue };
            *count -= 1;
            if *count == 0 {
                self.stock.hairpins.remove(&addr);
                self.writing.take_out(&name, Key::Pair(addr, addr), owner.as_ref());
            }
        }
        (self.writing, self.redraw)
    }
}
