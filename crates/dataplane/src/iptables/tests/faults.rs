//! Planted faults: rules broken on purpose. The agreement test is worth something only if it finds each of them.

use portolan_model::Family;

use super::agree::disagreements;
use crate::iptables::{Chain, Desired, DnsPath, Match, Options, Probability, Rule, RuleSet, Sign, Target, names};
use crate::tests::world::{rich, snapshot};

/// Changes every rule that `is` picks; at least one must be there.
fn change(rules: &mut RuleSet, is: impl Fn(&Chain, &Rule) -> bool, how: impl Fn(&mut Rule)) {
    let mut found = 0;
    for (chain, list) in rules.iter_mut() {
        for rule in list.iter_mut().filter(|rule| is(chain, rule)) {
            how(rule);
            found += 1;
        }
    }
    assert!(found > 0, "the fault found no rule to break");
}

fn take_away(rules: &mut RuleSet, is: impl Fn(&Chain, &Rule) -> bool) {
    let before: usize = rules.values().map(Vec::len).sum();
    for (chain, list) in rules.iter_mut() {
        list.retain(|rule| !is(chain, rule));
    }
    assert!(rules.values().map(Vec::len).sum::<usize>() < before, "the fault found no rule to take away");
}

fn says(rule: &Rule, words: &str) -> bool {
    rule.to_string().contains(words)
}

fn starts(chain: &Chain, prefix: &str) -> bool {
    chain.name.starts_with(prefix)
}

/// Turns every list chain upside down, its head of masquerade included.
fn reverse(rules: &mut RuleSet, prefix: &str) {
    rules.iter_mut().filter(|(chain, _)| starts(chain, prefix)).for_each(|(_, list)| list.reverse());
}

type Fault = (&'static str, fn(&mut RuleSet));

const FAULTS: [Fault; 22] = [
    ("REJECT becomes DROP", |r| {
        change(r, |_, rule| rule.target == Some(Target::Reject), |rule| rule.target = Some(Target::Drop))
    }),
    ("DROP for want of local endpoints becomes REJECT", |r| {
        change(r, |_, rule| says(rule, "no local endpoints"), |rule| rule.target = Some(Target::Reject))
    }),
    ("external traffic is not marked", |r| take_away(r, |_, rule| says(rule, "masquerade traffic for"))),
    ("the node's own external traffic is not marked", |r| take_away(r, |_, rule| says(rule, "masquerade LOCAL"))),
    ("ClusterIP traffic from outside is not marked", |r| {
        take_away(r, |chain, rule| starts(chain, "KUBE-SVC-") && rule.jumps_to() == Some(names::MARK_MASQ))
    }),
    ("pods are marked, others not", |r| {
        change(
            r,
            |chain, rule| starts(chain, "KUBE-SVC-") && says(rule, "! -s"),
            |rule| {
                for condition in &mut rule.matches {
                    if let Match::Src(sign, _) = condition {
                        *sign = Sign::Is;
                    }
                }
            },
        )
    }),
    ("hairpins are lost", |r| {
        take_away(r, |chain, rule| starts(chain, "KUBE-SEP-") && rule.jumps_to() == Some(names::MARK_MASQ))
    }),
    ("lists are upside down", |r| reverse(r, "KUBE-SVC-")),
    ("endpoints are chosen before anything is marked", |r| reverse(r, "KUBE-EXT-")),
    ("a wrong probability", |r| {
        change(
            r,
            |_, rule| says(rule, "--probability 0.5"),
            |rule| {
                for condition in &mut rule.matches {
                    if let Match::Random(probability) = condition {
                        *probability = Probability::one_in(3);
                    }
                }
            },
        )
    }),
    ("the last endpoint has a probability too", |r| {
        change(
            r,
            |chain, rule| starts(chain, "KUBE-SVC-") && starts_endpoint(rule) && !says(rule, "statistic"),
            |rule| rule.matches.push(Match::Random(Probability::one_in(2))),
        )
    }),
    ("the first endpoint is never chosen", |r| {
        take_away(r, |chain, rule| starts(chain, "KUBE-SVC-") && says(rule, "-m statistic"))
    }),
    ("a wrong port at the endpoint", |r| {
        change(
            r,
            |_, rule| matches!(rule.target, Some(Target::Dnat(_))),
            |rule| {
                if let Some(Target::Dnat(to)) = &mut rule.target {
                    to.set_port(80);
                }
            },
        )
    }),
    ("node ports are not asked", |r| take_away(r, |_, rule| rule.jumps_to() == Some(names::NODE_PORTS))),
    ("the hook of forwarded packets is gone", |r| {
        take_away(r, |chain, rule| &*chain.name == "FORWARD" && rule.jumps_to() == Some(names::SERVICES))
    }),
    ("the hook of the node's own packets is gone", |r| {
        take_away(r, |chain, rule| *chain == Chain::nat("OUTPUT") && rule.jumps_to() == Some(names::SERVICES))
    }),
    ("source ranges are not enforced", |r| take_away(r, |chain, _| &*chain.name == names::PROXY_FIREWALL)),
    ("pods do not take the short cut", |r| take_away(r, |_, rule| says(rule, "pod traffic for"))),
    ("marked packets return before MASQUERADE", |r| {
        change(
            r,
            |chain, rule| &*chain.name == names::POSTROUTING && says(rule, "! --mark"),
            |rule| {
                rule.matches = vec![Match::Marked(Sign::Is, 0x4000)];
            },
        )
    }),
    ("all pod traffic is masqueraded", |r| {
        change(
            r,
            |chain, _| &*chain.name == names::EGRESS,
            |rule| {
                rule.matches.retain(|condition| !matches!(condition, Match::Dst(..)));
            },
        )
    }),
    ("a client is remembered by another endpoint's list", |r| {
        change(
            r,
            |_, rule| says(rule, "--rcheck"),
            |rule| {
                for condition in &mut rule.matches {
                    if let Match::Remembered { list, .. } = condition {
                        *list = "KUBE-SEP-NOBODY".into();
                    }
                }
            },
        )
    }),
    ("an affinity chain is gone from its list", |r| take_away(r, |_, rule| says(rule, "--rcheck"))),
];

fn starts_endpoint(rule: &Rule) -> bool {
    rule.jumps_to().is_some_and(|chain| chain.starts_with("KUBE-SEP-"))
}

#[test]
fn every_planted_fault_is_found_in_both_families() {
    let snapshot = snapshot(&rich());
    for family in Family::BOTH {
        let desired = Desired::of(family, Options { dns: DnsPath::ThisNode, ..Options::default() }, &snapshot);
        for (fault, plant) in FAULTS {
            let mut rules = desired.with_hooks();
            plant(&mut rules);
            assert!(disagreements(&snapshot, &desired, &rules).next().is_some(), "{family:?}: nobody noticed: {fault}");
        }
    }
}
