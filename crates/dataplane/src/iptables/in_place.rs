//! In place: from an object to the rules it caused, and from a rule's name back to its objects. What `portolan why` asks.

use portolan_model::{ObjectKind, ObjectRef, Snapshot};

use crate::causes::services_of_pod;
use crate::iptables::meaning::{read_line, told};
use crate::iptables::names;
use crate::iptables::parse::canonical;
use crate::iptables::plan::Desired;
use crate::iptables::rule::{Chain, Rule, Table};
use crate::meaning::InPlace;

/// Every rule that `object` caused: of a Service its chains and its rules in chains that all share, of a Pod those that
/// lead to it. Other kinds have none.
pub fn in_place(desired: &Desired, snapshot: &Snapshot, object: &ObjectRef) -> Vec<InPlace> {
    let view = View { desired, snapshot };
    match object.kind {
        ObjectKind::Service => view.of_service(object),
        ObjectKind::Pod => view.of_pod(object),
        _ => Vec::new(),
    }
}

/// The rules that `text` names, with what they are there for: `nat KUBE-SEP-…` (a chain), `nat KUBE-SEP-… 2` (its second
/// rule), or a line of `iptables-save`, `-A KUBE-SEP-… …`. Without a table all are asked. Empty: nothing of ours has that
/// name.
pub fn owner_of(desired: &Desired, snapshot: &Snapshot, text: &str) -> Vec<InPlace> {
    let view = View { desired, snapshot };
    let text = text.trim();
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    match Table::parse(first) {
        Some(table) => view.named(&[table], rest.trim()),
        None => view.named(&Table::ALL, text),
    }
}

struct View<'a> {
    desired: &'a Desired,
    snapshot: &'a Snapshot,
}

impl View<'_> {
    fn of_service(&self, object: &ObjectRef) -> Vec<InPlace> {
        let shared = self.desired.shared_rules(&object.key);
        let shared = shared.into_iter().map(|(chain, index, rule)| self.place(&chain, index, rule));
        let own = self.desired.own_chains(&object.key).flat_map(|(chain, rules)| self.chain(chain, rules));
        let dns = [Table::Raw, Table::Filter].map(|table| Chain { table, name: names::DNS.into() });
        let dns = dns.iter().flat_map(|chain| self.chain(chain, &self.desired.rules(chain).unwrap_or_default()));
        shared.chain(own).chain(dns.filter(|place| place.told.objects.contains(object))).collect()
    }

    fn of_pod(&self, object: &ObjectRef) -> Vec<InPlace> {
        let services = services_of_pod(self.snapshot, &object.key);
        let services = services.map(|key| ObjectRef { kind: ObjectKind::Service, key: key.clone() });
        let by_service = services.flat_map(|service| self.of_service(&service));
        let host_ports = self.desired.host_port_chains().iter().flat_map(|(chain, rules)| self.chain(chain, rules));
        by_service.chain(host_ports).filter(|place| place.told.objects.contains(object)).collect()
    }

    fn named(&self, tables: &[Table], text: &str) -> Vec<InPlace> {
        if text.starts_with("-A ") {
            return tables.iter().flat_map(|table| self.line(*table, text)).collect();
        }
        let (name, number) = match text.split_once(' ') {
            None => (text, None),
            Some((name, number)) => match number.trim().parse() {
                Ok(number) => (name, Some(number)),
                Err(_) => return Vec::new(),
            },
        };
        let chains = tables.iter().map(|table| Chain { table: *table, name: name.into() });
        let all = chains.flat_map(|chain| self.chain(&chain, &self.desired.rules(&chain).unwrap_or_default()));
        all.filter(|place| number.is_none() || place.number == number).collect()
    }

    fn line(&self, table: Table, line: &str) -> Option<InPlace> {
        let (chain, rule) = read_line(table, line)?;
        let rules = self.desired.rules(&chain)?;
        let index = rules.iter().position(|planned| canonical(planned) == canonical(&rule))?;
        Some(self.place(&chain, index, &rules[index]))
    }

    fn chain(&self, chain: &Chain, rules: &[Rule]) -> Vec<InPlace> {
        rules.iter().enumerate().map(|(index, rule)| self.place(chain, index, rule)).collect()
    }

    fn place(&self, chain: &Chain, index: usize, rule: &Rule) -> InPlace {
        let told = told(self.desired, self.snapshot, chain, rule, None);
        InPlace { table: chain.table.name().into(), name: chain.name.clone(), number: Some(index + 1), told }
    }
}
