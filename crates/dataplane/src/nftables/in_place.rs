//! In place: from an object to the elements it caused, and from a name in the table back to objects. What `portolan why`
//! asks. Rules serve all Services here; what one Service causes is elements of sets and maps.

use std::collections::BTreeSet;

use portolan_model::{ObjectKind, ObjectRef, Snapshot, Text};

use crate::causes::{object, services_of_pod};
use crate::meaning::InPlace;
use crate::nftables::lang::Element;
use crate::nftables::meaning::{told, told_element};
use crate::nftables::names::{SetId, TABLE};
use crate::nftables::plan::Desired;
use crate::nftables::service::Owner;
use crate::way::family_word;

/// Every element that `object` caused: of a Service all of its, of a Pod those that lead to it, of our Node the addresses
/// on which node ports answer. An element that several share stands with each of them.
pub fn in_place(desired: &Desired, snapshot: &Snapshot, object: &ObjectRef) -> Vec<InPlace> {
    let view = View { desired, snapshot };
    match object.kind {
        ObjectKind::Service => view.of_service(object),
        ObjectKind::Pod => {
            let services = services_of_pod(snapshot, &object.key);
            let services = services.map(|key| ObjectRef { kind: ObjectKind::Service, key: key.clone() });
            let by_service = services.flat_map(|service| view.of_service(&service));
            by_service.chain(view.of_node()).filter(|place| place.told.objects.contains(object)).collect()
        }
        ObjectKind::Node => view.of_node().filter(|place| place.told.objects.contains(object)).collect(),
        _ => Vec::new(),
    }
}

/// What `text` names in our table, with what it is there for: a chain, a rule of one (`services 3`), a set or a map, one of
/// its elements (`endpoints 10.96.0.20 . tcp . 80 . 0`), or an element in whatever set. Braces, a comment, and `table ip
/// portolan` before it may stand or be left out. Empty: nothing of ours has that name.
pub fn owner_of(desired: &Desired, snapshot: &Snapshot, text: &str) -> Vec<InPlace> {
    let view = View { desired, snapshot };
    let text: Vec<&str> = text.split_whitespace().filter(|word| !matches!(*word, "{" | "}" | "table")).collect();
    let words = match text.as_slice() {
        [family, table, rest @ ..] if *family == family_word(desired.family()) && *table == TABLE => rest,
        all => all,
    };
    match words {
        [] => Vec::new(),
        [chain, number @ ..] if desired.skeleton().chains.contains_key(*chain) => {
            let mut rules = view.rules(chain);
            rules.extend(view.elements().filter(|place| number.is_empty() && *place.name == **chain));
            let wanted: Option<usize> = number.first().and_then(|number| number.parse().ok());
            rules.retain(|place| number.is_empty() || (wanted.is_some() && place.number == wanted));
            match rules.is_empty() {
                true => view.element(Some(chain), number),
                false => rules,
            }
        }
        [set, key @ ..] if desired.skeleton().sets.contains_key(*set) => view.element(Some(set), key),
        key => view.element(None, key),
    }
}

struct View<'a> {
    desired: &'a Desired,
    snapshot: &'a Snapshot,
}

impl View<'_> {
    fn of_service(&self, service: &ObjectRef) -> Vec<InPlace> {
        let elements = self.desired.elements_of(&service.key);
        elements.iter().map(|(owner, set, element)| self.place(*set, element, Some(owner))).collect()
    }

    fn of_node(&self) -> impl Iterator<Item = InPlace> {
        self.desired.ground_elements().into_iter().map(|(set, element)| self.place(set, &element, None))
    }

    fn elements(&self) -> impl Iterator<Item = InPlace> {
        let services = self.desired.services();
        let elements = services.into_iter().flat_map(|key| self.desired.elements_of(&key));
        let of_services = elements.map(|(owner, set, element)| self.place(set, &element, Some(&owner)));
        of_services.chain(self.of_node())
    }

    /// The elements of `set`, or of all, whose text begins with `key`; none given: all.
    fn element(&self, set: Option<&str>, key: &[&str]) -> Vec<InPlace> {
        let begins = |place: &InPlace| {
            let mut words = place.told.text.split_whitespace();
            key.iter().all(|word| words.next() == Some(word.trim_end_matches(',')))
        };
        let whole = |place: &InPlace| {
            let written = place.told.text.split_whitespace().nth(key.len());
            written.is_none_or(|next| key.is_empty() || next != ".")
        };
        let of_set = |place: &InPlace| set.is_none_or(|set| *place.name == *set);
        self.elements().filter(of_set).filter(begins).filter(whole).collect()
    }

    /// The rules of a chain. No packet says which Service: those that stand in a rule's set are its objects.
    fn rules(&self, chain: &str) -> Vec<InPlace> {
        let rules = self.desired.skeleton().chains.get(chain).map(|chain| chain.rules.as_slice()).unwrap_or_default();
        let mut places: Vec<InPlace> = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let mut told = told(self.desired, self.snapshot, chain, rule, None);
            let named: Vec<Text> = rule.sets().cloned().collect();
            for service in self.services_in(&named) {
                if !told.objects.contains(&service) {
                    told.objects.push(service);
                }
            }
            places.push(InPlace { table: self.table(), name: chain.into(), number: Some(index + 1), told });
        }
        places
    }

    fn services_in(&self, sets: &[Text]) -> BTreeSet<ObjectRef> {
        if sets.is_empty() {
            return BTreeSet::new();
        }
        let services = self.desired.services();
        let is_in = |key: &portolan_model::NsName| {
            self.desired.elements_of(key).iter().any(|(_, set, _)| sets.contains(&set.name()))
        };
        services.into_iter().filter(is_in).map(|key| object(ObjectKind::Service, &key)).collect()
    }

    fn place(&self, set: SetId, element: &Element, owner: Option<&Owner>) -> InPlace {
        let told = told_element(self.desired, self.snapshot, set, element, owner);
        InPlace { table: self.table(), name: set.name(), number: None, told }
    }

    fn table(&self) -> Text {
        format!("{} {TABLE}", family_word(self.desired.family())).into()
    }
}
