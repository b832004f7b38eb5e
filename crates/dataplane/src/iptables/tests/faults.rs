//! Planted faults: rules broken on purpose. The agreement test is worth something only if it finds each of them.

use portolan_model::Family;

use super::agree::disagreements;
use crate::iptables::{
    Chain, Desired, DnsPath, Match, Options, Probability, Rule, RuleSet, Sign, Target, Where, names,
};
use crate::tests::world::{all_settings, snapshot_with, whole};

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

/// Faults that show only under a setting or in one family.
const UNDER_SETTINGS: [(&str, &[Family], Fault); 18] = [
    (
        "bridge",
        &Family::BOTH,
        ("whatever comes in by a link is a pod's", |r| {
            change(
                r,
                |_, rule| rule.matches.iter().any(|m| matches!(m, Match::In(..))),
                |rule| {
                    rule.matches.iter_mut().for_each(|m| {
                        if let Match::In(_, link) = m {
                            *link = "+".into()
                        }
                    })
                },
            )
        }),
    ),
    (
        "bridge",
        &Family::BOTH,
        ("pods are marked, others not", |r| {
            change(
                r,
                |chain, rule| starts(chain, "KUBE-SVC-") && says(rule, "! -i br0"),
                |rule| {
                    rule.matches.iter_mut().for_each(|m| {
                        if let Match::In(sign, _) = m {
                            *sign = Sign::Is
                        }
                    })
                },
            )
        }),
    ),
    (
        "link prefix",
        &Family::BOTH,
        ("the prefix is taken for a whole name", |r| {
            change(
                r,
                |_, rule| says(rule, "-i veth+"),
                |rule| {
                    rule.matches.iter_mut().for_each(|m| {
                        if let Match::In(_, link) = m {
                            *link = "veth".into()
                        }
                    })
                },
            )
        }),
    ),
    (
        "node range",
        &Family::BOTH,
        ("the short cut of pods asks for no source", |r| {
            change(
                r,
                |_, rule| says(rule, "pod traffic for"),
                |rule| rule.matches.retain(|m| !matches!(m, Match::Src(..))),
            )
        }),
    ),
    (
        "node range",
        &Family::BOTH,
        ("all pods' range stands for the node's", |r| {
            change(
                r,
                |_, rule| says(rule, "! -s"),
                |rule| {
                    rule.matches.iter_mut().for_each(|m| {
                        if let Match::Src(Sign::Not, at) = m {
                            *at = Where::Net(
                                at.net()
                                    .supernet()
                                    .and_then(|net| net.supernet())
                                    .and_then(|net| net.supernet())
                                    .unwrap_or(at.net()),
                            )
                        }
                    })
                },
            )
        }),
    ),
    ("no detector", &Family::BOTH, ("ClusterIP traffic is marked all the same", |r| mark_heads(r))),
    (
        "masquerade all",
        &Family::BOTH,
        ("pods are spared", |r| {
            take_away(r, |chain, rule| starts(chain, "KUBE-SVC-") && rule.jumps_to() == Some(names::MARK_MASQ))
        }),
    ),
    (
        "node ports on a list",
        &Family::BOTH,
        ("node ports answer everywhere", |r| {
            change(r, |_, rule| rule.jumps_to() == Some(names::NODE_PORTS), |rule| rule.matches = vec![Match::DstLocal])
        }),
    ),
    (
        "node ports on primary",
        &Family::BOTH,
        ("node ports answer nowhere", |r| take_away(r, |_, rule| rule.jumps_to() == Some(names::NODE_PORTS))),
    ),
    (
        "node ports on a list with loopback",
        &[Family::V4],
        ("loopback is left out of the list", |r| {
            take_away(r, |_, rule| rule.jumps_to() == Some(names::NODE_PORTS) && says(rule, "127.0.0.1"))
        }),
    ),
    (
        "no localhost node ports",
        &Family::BOTH,
        ("node ports answer on loopback", |r| {
            change(r, |_, rule| rule.jumps_to() == Some(names::NODE_PORTS), |rule| rule.matches = vec![Match::DstLocal])
        }),
    ),
    (
        "default",
        &[Family::V4],
        ("loopback is open to strangers", |r| take_away(r, |chain, _| &*chain.name == names::FIREWALL)),
    ),
    (
        "no egress SNAT",
        &Family::BOTH,
        ("what leaves is masqueraded all the same", |r| {
            let everything = Rule::new().does(Target::Masquerade { random_fully: true });
            r.get_mut(&Chain::nat(names::EGRESS)).expect("always there").push(everything);
        }),
    ),
    (
        "for another proxy",
        &Family::BOTH,
        ("its Service goes without rules", |r| take_away(r, |_, rule| says(rule, "default/svc-15"))),
    ),
    (
        "default",
        &Family::BOTH,
        ("a pod that reaches itself by a host port sees itself", |r| {
            take_away(r, |chain, rule| starts(chain, "CNI-DN-") && rule.jumps_to() == Some(names::HOST_PORTS_MARK))
        }),
    ),
    (
        "default",
        &[Family::V4],
        ("a host port of one address answers on all", |r| {
            change(
                r,
                |chain, rule| starts(chain, "CNI-DN-") && says(rule, "-d 172.18.0.11"),
                |rule| rule.matches.retain(|m| !matches!(m, Match::Dst(..))),
            )
        }),
    ),
    (
        "default",
        &Family::BOTH,
        ("host ports go before Services", |r| change_order(r, |rule| rule.jumps_to() == Some(names::HOST_PORTS))),
    ),
    (
        "default",
        &Family::BOTH,
        ("another has the destination that two claim", |r| {
            let of_svc_12 = |rules: &[Rule]| rules.iter().any(|rule| says(rule, "svc-12:http external destinations"));
            let thief = r.iter().find(|(_, rules)| of_svc_12(rules)).map(|(chain, _)| chain.name.clone());
            let thief = thief.expect("it has an entry of its own");
            change(
                r,
                |_, rule| says(rule, "svc-1:http external IP"),
                |rule| rule.target = Some(Target::Jump(thief.clone())),
            )
        }),
    ),
];

/// Puts the rules that `is` picks first in their chains.
fn change_order(rules: &mut RuleSet, is: impl Fn(&Rule) -> bool) {
    for list in rules.values_mut() {
        list.sort_by_key(|rule| !is(rule));
    }
}

/// Marks whatever comes to a list.
fn mark_heads(rules: &mut RuleSet) {
    let lists = rules.iter_mut().filter(|(chain, _)| starts(chain, "KUBE-SVC-"));
    lists.for_each(|(_, list)| list.insert(0, Rule::new().jump(names::MARK_MASQ)));
}

fn is_noticed(setting: &str, family: Family, plant: fn(&mut RuleSet)) -> bool {
    let proxy = all_settings().into_iter().find(|(name, _)| *name == setting).expect("a setting of the list").1;
    let snapshot = snapshot_with(&proxy, &whole());
    let desired = Desired::of(family, Options { dns: DnsPath::ThisNode, ..Options::default() }, &snapshot);
    let mut rules = desired.with_hooks();
    plant(&mut rules);
    disagreements(&snapshot, &desired, &rules).next().is_some()
}

#[test]
fn every_planted_fault_is_found_in_both_families() {
    for family in Family::BOTH {
        for (fault, plant) in FAULTS {
            assert!(is_noticed("default", family, plant), "{family:?}: nobody noticed: {fault}");
        }
    }
}

#[test]
fn every_fault_that_shows_under_a_setting_is_found() {
    for (setting, families, (fault, plant)) in UNDER_SETTINGS {
        for family in families {
            assert!(is_noticed(setting, *family, plant), "{setting}, {family:?}: nobody noticed: {fault}");
        }
    }
}
