//! Repair and chunks: whatever the kernel holds becomes what was planned, a right kernel is let be, and a start in portions
//! leaves whole Services behind each.

use std::collections::BTreeSet;

use portolan_model::{Delta, Fact, Facts, Family, NsName, Proto, Service, Snapshot, resolve};
use proptest::prelude::*;

use super::kernel::Kernel;
use crate::nftables::lang::{Chain, Key, Rule, Statement, Step};
use crate::nftables::names::{LAYOUT, SetId};
use crate::nftables::parse::{Place, Read, Unread};
use crate::nftables::{Desired, Options, Repair, Transaction};
use crate::tests::any_world::{any_settings, any_whole_world, any_world};
use crate::tests::world::{empty, endpoint, ip, name, own_node, port, slice, snapshot, snapshot_with, whole};

/// A kernel after one world became another, step by step.
fn moved(family: Family, worlds: &[Vec<Fact>]) -> (Kernel, Snapshot) {
    let (mut facts, mut snapshot) = (Facts::default(), empty());
    let mut desired = Desired::new(family, Options::default());
    let mut kernel = Kernel::new(family);
    for world in worlds {
        for portion in world.chunks(3) {
            let touched = facts.apply_all(portion.iter().cloned());
            let (next, delta) = resolve(&facts, &snapshot, &touched);
            snapshot = next;
            kernel.apply(&desired.update(&snapshot, &delta).transaction);
        }
    }
    (kernel, snapshot)
}

fn start_over(kernel: &Kernel, snapshot: &Snapshot) -> (Desired, Repair) {
    let mut desired = Desired::of(kernel.family, Options::default(), snapshot);
    desired.adopt(&kernel.dump());
    let repair = Repair::of(&desired, &kernel.dump());
    (desired, repair)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_start_over_a_right_kernel_writes_nothing(worlds in proptest::collection::vec(any_world(), 1..4)) {
        for family in Family::BOTH {
            let (kernel, snapshot) = moved(family, &worlds);
            let (_, repair) = start_over(&kernel, &snapshot);
            prop_assert_eq!(repair, Repair::default());
        }
    }

    #[test]
    fn any_kernel_becomes_what_is_planned(
        before in any_whole_world(),
        after in any_whole_world(),
        proxy in any_settings(),
    ) {
        for family in Family::BOTH {
            let (mut kernel, _) = moved(family, std::slice::from_ref(&before));
            let (desired, repair) = start_over(&kernel, &snapshot_with(&proxy, &after));
            kernel.apply(&repair.transaction);
            prop_assert_eq!(kernel.dump(), desired.table());
        }
    }

    #[test]
    fn any_start_in_portions_ends_as_in_one(facts in any_whole_world(), most in 1usize..40) {
        let snapshot = snapshot(&facts);
        let mut desired = Desired::new(Family::V4, Options::default());
        let changes = desired.update(&snapshot, &Delta::all(&snapshot));
        let mut kernel = Kernel::new(Family::V4);
        for chunk in changes.transaction.in_chunks(most) {
            kernel.apply(&chunk);
        }
        prop_assert_eq!(kernel.dump(), desired.table());
    }

    #[test]
    fn a_cold_start_planned_in_portions_leaves_a_kernel_that_is_right(facts in any_whole_world(), most in 1usize..40) {
        let snapshot = snapshot(&facts);
        for family in Family::BOTH {
            let mut kernel = Kernel::new(family);
            let mut desired = Desired::new(family, Options::default());
            let sent: Result<(), ()> = desired.start(&snapshot, most, |changes| {
                kernel.apply(&changes.transaction);
                Ok(())
            });
            prop_assert_eq!(sent, Ok(()));
            prop_assert_eq!(kernel.dump(), desired.table());
            let (_, repair) = start_over(&kernel, &snapshot);
            prop_assert_eq!(repair, Repair::default());
            let mut refused = Desired::new(family, Options::default());
            let mut asked = 0;
            let sent = refused.start(&snapshot, most, |_| {
                asked += 1;
                Err("refused")
            });
            prop_assert_eq!((sent, asked), (Err("refused"), 1));
            prop_assert_eq!(refused.table(), desired.table());
        }
    }
}

/// The kernel of the whole world with something done to it by another hand, and what the repair does about it.
fn mend(family: Family, meddle: impl Fn(&mut Kernel)) -> Transaction {
    let snapshot = snapshot(&whole());
    let (mut kernel, _) = moved(family, &[whole()]);
    meddle(&mut kernel);
    let (desired, repair) = start_over(&kernel, &snapshot);
    kernel.apply(&repair.transaction);
    assert_eq!(kernel.dump(), desired.table());
    repair.transaction
}

fn with_table(kernel: &mut Kernel) -> &mut crate::nftables::lang::Table {
    kernel.table.as_mut().expect("it was programmed")
}

#[test]
fn what_another_hand_did_is_undone_and_nothing_else() {
    for family in Family::BOTH {
        let lost = mend(family, |kernel| {
            with_table(kernel).sets.get_mut("hairpin").expect("a set").elements.pop_first();
        });
        assert!(matches!(lost.steps(), [Step::AddElements(set, list)] if &**set == "hairpin" && list.len() == 1));
        let stray = mend(family, |kernel| {
            let set = with_table(kernel).sets.get_mut("no-endpoints").expect("a set");
            set.elements.insert(Key::Dest(ip("10.96.0.99"), Proto::Tcp, 1), (None, None));
        });
        assert!(matches!(stray.steps(), [Step::DeleteElements(set, _)] if &**set == "no-endpoints"));
        let rule = mend(family, |kernel| {
            let chain = with_table(kernel).chains.get_mut("nat-output").expect("a chain");
            chain.rules.insert(0, Rule::new(vec![Statement::Drop]));
        });
        assert!(matches!(rule.steps(), [Step::FlushChain(name), Step::AddRule(..)] if &**name == "nat-output"));
        let chain = mend(family, |kernel| {
            let table = with_table(kernel);
            let jump = Rule::new(vec![Statement::Jump("theirs".into())]);
            table.chains.get_mut("external").expect("a chain").rules.push(jump);
            table.chains.insert("theirs".into(), Chain { base: None, rules: vec![Rule::new(vec![Statement::Drop])] });
            table.sets.insert("theirs too".into(), table.sets["hairpin"].clone());
        });
        assert_eq!(chain.element_count(), 0);
        let flushed = mend(family, |kernel| kernel.table = None);
        assert_eq!(flushed.steps()[..2], [Step::DeleteTable, Step::AddTable]);
    }
}

#[test]
fn a_table_laid_out_in_another_way_is_made_anew() {
    let anew =
        |meddle: &dyn Fn(&mut Kernel)| mend(Family::V4, meddle).steps()[..2] == [Step::DeleteTable, Step::AddTable];
    assert!(anew(&|kernel| {
        with_table(kernel).sets.remove(LAYOUT);
    }));
    assert!(anew(&|kernel| {
        with_table(kernel).sets.get_mut("guarded").expect("a set").shape = SetId::Hairpin.shape();
    }));
    assert!(anew(&|kernel| {
        let chain = with_table(kernel).chains.get_mut("nat-output").expect("a chain");
        chain.base.as_mut().expect("a base chain").priority = 0;
    }));
}

#[test]
fn what_nobody_could_read_goes() {
    let (kernel, snapshot) = moved(Family::V4, &[whole()]);
    let (desired, _) = start_over(&kernel, &snapshot);
    let over = |place| {
        let unread = vec![Unread { place, why: "a word of another hand".to_owned() }];
        Repair::of(&desired, &Read { table: kernel.dump(), unread }.to_compare()).transaction
    };
    assert!(matches!(over(Place::Rule("nat-output".into(), 1)).steps(), [Step::FlushChain(_), Step::AddRule(..)]));
    let stranger = over(Place::Rule("theirs".into(), 0));
    assert!(matches!(stranger.steps(), [Step::FlushChain(_), Step::DeleteChain(_)]), "{:?}", stranger.steps());
    assert!(matches!(over(Place::Set("theirs".into())).steps(), [Step::DeleteSet(_)]));
    assert_eq!(over(Place::Element("guarded".into())).steps()[0], Step::DeleteTable);
}

#[test]
fn a_start_in_portions_begins_with_dns_and_the_api_server_and_never_halves_a_service() {
    let mut facts = vec![own_node()];
    let mut add = |key: NsName, last: usize| {
        let service = Service {
            cluster_ips: vec![ip(&format!("10.96.0.{last}"))],
            ports: vec![port("http", Proto::Tcp, 80, 0), port("more", Proto::Tcp, 81, 0)],
            ..Service::default()
        };
        let pods = (0..5).map(|pod| endpoint(&format!("10.244.{last}.{pod}"), "node-2")).collect();
        facts.extend([Fact::Service(key.clone(), Some(service)), slice(&key, Family::V4, pods)]);
    };
    (20..80).for_each(|index| add(name(index), index));
    add(NsName::new("kube-system", "kube-dns"), 10);
    add(NsName::new("default", "kubernetes"), 1);
    let snapshot = snapshot(&facts);
    for most in 90..105 {
        let changes = Desired::new(Family::V4, Options::default()).update(&snapshot, &Delta::all(&snapshot));
        let whole = changes.transaction.element_count();
        let chunks = changes.in_chunks(most);
        assert!(chunks.len() >= whole / most, "{} chunks of {whole}", chunks.len());
        assert_eq!(chunks.iter().map(Transaction::element_count).sum::<usize>(), whole);
        whole_services(&chunks, most);
        let first = owners(&chunks[0]);
        assert!(first.contains(&NsName::new("kube-system", "kube-dns")));
        assert!(first.contains(&NsName::new("default", "kubernetes")));
        let mut rest = chunks[1..].iter().flat_map(Transaction::steps);
        assert!(rest.all(|step| matches!(step, Step::AddElements(..))));
    }
}

fn owners(chunk: &Transaction) -> BTreeSet<NsName> {
    (0..chunk.steps().len()).filter_map(|step| chunk.owner(step)).map(|owner| owner.service.clone()).collect()
}

fn whole_services(chunks: &[Transaction], most: usize) {
    for (index, chunk) in chunks.iter().enumerate() {
        assert!(chunk.element_count() <= most);
        let mut others = chunks[index + 1..].iter();
        assert!(others.all(|other| owners(other).is_disjoint(&owners(chunk))), "a Service in two chunks of {most}");
    }
}
