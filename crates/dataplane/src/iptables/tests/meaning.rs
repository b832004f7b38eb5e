//! Meaning: every rule says what it is there for, and whose it is.

use portolan_model::{Family, Snapshot};

use crate::iptables::meaning::{told, told_line};
use crate::iptables::{Desired, DnsPath, Options, names, saved};
use crate::meaning::Meaning;
use crate::tests::world::{all_settings, snapshot_with, whole};

/// Rules of ours that no packet's way depends on: they unset the mark, or only count what falls through.
fn is_plumbing(chain: &str, text: &str) -> bool {
    (chain == names::POSTROUTING && text == "-j MARK --set-xmark 0x4000/0x0")
        || text.starts_with("-m comment --comment \"other traffic to ")
}

/// Rules whose meaning is a fallback, and lines that are not told as they were said.
fn wrongly_told(desired: &Desired, snapshot: &Snapshot) -> Vec<String> {
    let mut wrong = Vec::new();
    for (chain, rules) in desired.with_hooks() {
        assert_eq!(desired.rules(&chain).as_ref(), Some(&rules), "{}", chain.name);
        for rule in &rules {
            let told = told(desired, snapshot, &chain, rule);
            let fits = match told.meaning {
                Meaning::Foreign => false,
                Meaning::Plumbing => is_plumbing(&chain.name, &told.text),
                _ => true,
            };
            let line = format!("-A {} {}", chain.name, saved::line(desired.family(), rule));
            let again = told_line(desired, snapshot, chain.table, &line);
            if !fits || again != Some((chain.clone(), told.clone())) {
                wrong.push(format!("{line}\n  told {told:?}\n  from its line {again:?}"));
            }
        }
    }
    wrong
}

#[test]
fn every_rule_of_every_chain_has_a_meaning_and_is_told_the_same_from_the_kernels_line() {
    for (setting, proxy) in all_settings() {
        let snapshot = snapshot_with(&proxy, &whole());
        for family in Family::BOTH {
            let options = Options { dns: DnsPath::ThisNode, ..Options::default() };
            let desired = Desired::of(family, options.clone(), &snapshot);
            assert_eq!(wrongly_told(&desired, &snapshot).join("\n"), "", "{setting}");
            let bare = Desired::of(family, Options { comment_limit: 0, ..options }, &snapshot);
            assert_eq!(wrongly_told(&bare, &snapshot).join("\n"), "", "{setting}, without comments of endpoints");
        }
    }
}
