//! A kernel in memory that is as strict as the real one: it takes steps and holds a table.

use std::collections::BTreeMap;

use portolan_model::{Family, Text};

use crate::nftables::Transaction;
use crate::nftables::lang::{Chain, Set, Statement, Step, Table};
use crate::nftables::names::TABLE;

/// One table, or none.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    pub family: Family,
    pub table: Option<Table>,
}

impl Kernel {
    pub fn new(family: Family) -> Self {
        Self { family, table: None }
    }

    /// What a dump says: a table that is not there has nothing in it.
    pub fn dump(&self) -> Table {
        self.table.clone().unwrap_or_else(|| empty(self.family))
    }

    /// Takes all steps or panics at the one that a kernel would refuse.
    pub fn apply(&mut self, transaction: &Transaction) {
        for step in transaction.steps() {
            self.step(step);
        }
        if let Some(table) = &self.table {
            holds_together(table);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::AddTable => {
                self.table.get_or_insert_with(|| empty(self.family));
                return;
            }
            Step::DeleteTable => {
                self.table = None;
                return;
            }
            _ => {}
        }
        let table = self.table.as_mut().unwrap_or_else(|| panic!("no table for {step:?}"));
        match step {
            Step::AddTable | Step::DeleteTable => {}
            Step::AddChain(name, base) => {
                let chain = Chain { base: *base, rules: Vec::new() };
                assert!(table.chains.insert(name.clone(), chain).is_none(), "chain {name} is there");
            }
            Step::FlushChain(name) => chain(table, name).rules.clear(),
            Step::DeleteChain(name) => {
                let gone = table.chains.remove(name).unwrap_or_else(|| panic!("no chain {name}"));
                assert!(gone.rules.is_empty(), "chain {name} has rules");
                assert!(names(table).all(|used| used != *name), "chain {name} is in use");
            }
            Step::AddRule(name, rule) => {
                chain(table, name).rules.push(rule.clone());
                holds_together(table);
            }
            Step::AddSet(name, shape) => {
                let set = Set { shape: shape.clone(), elements: BTreeMap::new() };
                assert!(table.sets.insert(name.clone(), set).is_none(), "set {name} is there");
            }
            Step::DeleteSet(name) => {
                assert!(table.sets.remove(name).is_some(), "no set {name}");
                assert!(names(table).all(|used| used != *name), "set {name} is in use");
            }
            Step::AddElements(name, elements) => {
                let set = table.sets.get_mut(name).unwrap_or_else(|| panic!("no set {name}"));
                for it in elements {
                    assert_eq!(it.data.is_some(), set.shape.data.is_some(), "data in {name}");
                    let old = set.elements.insert(it.key, (it.data, it.comment.clone()));
                    assert_eq!(old, None, "{:?} is in {name}", it.key);
                }
            }
            Step::DeleteElements(name, keys) => {
                let set = table.sets.get_mut(name).unwrap_or_else(|| panic!("no set {name}"));
                for key in keys {
                    assert!(set.elements.remove(key).is_some(), "{key:?} is not in {name}");
                }
            }
        }
    }
}

fn empty(family: Family) -> Table {
    Table { family, name: TABLE.into(), chains: BTreeMap::new(), sets: BTreeMap::new() }
}

fn chain<'a>(table: &'a mut Table, name: &Text) -> &'a mut Chain {
    table.chains.get_mut(name).unwrap_or_else(|| panic!("no chain {name}"))
}

/// Every name that rules use is there.
fn holds_together(table: &Table) {
    for name in names(table) {
        assert!(table.chains.contains_key(&name) || table.sets.contains_key(&name), "a rule names {name}: not there");
    }
}

/// Names of sets and chains in rules.
fn names(table: &Table) -> impl Iterator<Item = Text> {
    let statements = table.chains.values().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.statements);
    statements.filter_map(|statement| match statement {
        Statement::In(_, _, name)
        | Statement::PriorityFrom(_, name)
        | Statement::DnatFrom(_, name)
        | Statement::Jump(name)
        | Statement::Goto(name)
        | Statement::Update { map: name, .. } => Some(name.clone()),
        _ => None,
    })
}
