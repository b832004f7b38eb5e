//! Text: what is written reads back the same, and the kernel's spelling equals ours.

use portolan_model::Family;

use crate::iptables::parse::{ParseError, canonical, changes};
use crate::iptables::render::{full, program, restore};
use crate::iptables::{
    Chain, Change, Desired, DnsPath, Match, Options, Probability, Repair, Rule, Saved, Sign, Table, Target, compare,
    hooks, names, parse,
};
use crate::tests::world::{snapshot, whole};

fn desired(family: Family) -> Desired {
    Desired::of(family, Options { dns: DnsPath::ThisNode, ..Options::default() }, &snapshot(&whole()))
}

fn rule(line: &str) -> Rule {
    let saved = parse(&format!("*nat\n-A X {line}\nCOMMIT\n")).expect("a whole table");
    saved.rules(&Chain::nat("X")).expect("the chain of the rule")[0].clone()
}

#[test]
fn all_that_is_written_reads_back_the_same() {
    for family in Family::BOTH {
        let rules = desired(family).with_hooks();
        let saved = parse(&full(&rules)).expect("our own text");
        assert_eq!(compare(&rules, &saved.chains), vec![]);
        for (chain, list) in &rules {
            let read: Vec<Rule> = saved.chains[chain].iter().map(canonical).collect();
            assert_eq!(read, list.iter().map(canonical).collect::<Vec<_>>(), "{}", chain.name);
        }
    }
}

#[test]
fn the_kernels_spelling_is_ours() {
    let pairs = [
        (
            "-m comment --comment a/b:c -m tcp -p tcp --dport 80 -j ACCEPT",
            "-p tcp -m comment --comment \"a/b:c\" -m tcp --dport 80 -j ACCEPT",
        ),
        (
            "-m comment --comment \"a/b cluster IP\" -m tcp -p tcp -d 10.96.0.1 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ",
            "! -s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -m comment --comment \"a/b cluster IP\" -m tcp --dport 80 -j KUBE-MARK-MASQ",
        ),
        ("-j MARK --or-mark 0x4000", "-j MARK --set-xmark 0x4000/0x4000"),
        ("-j MARK --xor-mark 0x00004000", "-j MARK --set-xmark 0x4000/0x0"),
        ("-m mark ! --mark 0x00004000/0x00004000 -j RETURN", "-m mark ! --mark 0x4000/0x4000 -j RETURN"),
        (
            "-m statistic --mode random --probability 0.3333333333 -j A",
            "-m statistic --mode random --probability 0.33333333349 -j A",
        ),
        (
            "-m recent --name L --rcheck --seconds 10800 --reap -j L",
            "-m recent --rcheck --seconds 10800 --reap --name L --mask 255.255.255.255 --rsource -j L",
        ),
        (
            "-m recent --name L --set -m tcp -p tcp -j DNAT --to-destination [fd00::1]:80",
            "-p tcp -m recent --set --name L --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff --rsource -m tcp -j DNAT --to-destination [fd00::1]:80",
        ),
        (
            "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
            "-m conntrack ! --ctstate ESTABLISHED,RELATED,DNAT -j DROP",
        ),
        ("-j REJECT", "-j REJECT --reject-with icmp-port-unreachable"),
        ("-j REJECT", "-j REJECT --reject-with icmp6-port-unreachable"),
        (
            "-m tcp -p tcp -d 10.96.0.1 --dport 80 ! -i veth+ -j A",
            "! -i veth+ -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j A",
        ),
        ("-m tcp -p tcp -m multiport --destination-ports 80,81 -j A", "-p tcp -m tcp -m multiport --dports 80,81 -j A"),
        ("! -d ::1/128 -j A", "! -d ::1/128 -j A"),
        ("-j CT --notrack", "-j NOTRACK"),
    ];
    for (ours, kernels) in pairs {
        assert_eq!(canonical(&rule(ours)), canonical(&rule(kernels)), "{ours}");
    }
}

#[test]
fn every_probability_is_the_kernels_to_the_bit() {
    for n in 2..5000 {
        let ours = Probability::one_in(n);
        let printed = format!("{:.11}", ours.kernel_units() as f64 / 2_147_483_648.0);
        let back = Probability::parse(&printed).expect("a fraction");
        assert_eq!(back.kernel_units(), ours.kernel_units(), "1 in {n}");
    }
    assert_eq!(
        Match::Random(Probability::one_in(3)).to_string(),
        "-m statistic --mode random --probability 0.3333333333"
    );
}

#[test]
fn foreign_words_are_kept_and_never_taken_for_ours() {
    let foreign =
        rule("-i eth0 -p icmp -m limit --limit 5/min --limit-burst 7 -s 10.0.0.1 -j LOG --log-prefix \"a b\"");
    assert_eq!(foreign.matches.iter().filter(|m| matches!(m, Match::Other(_))).count(), 4, "{foreign:?}");
    assert_eq!(foreign.matches[0], Match::In(Sign::Is, "eth0".into()));
    assert_eq!(foreign.target, Some(Target::Other("LOG --log-prefix a b".into())));
    assert_ne!(canonical(&rule("-i eth0 -j DROP")), canonical(&rule("-j DROP")));
    assert_ne!(canonical(&rule("! -s 10.0.0.1 -j DROP")), canonical(&rule("-s 10.0.0.1 -j DROP")));
}

#[test]
fn counters_comments_and_unknown_tables_are_passed_over() {
    let text = "# made by hand\n*security\n:INPUT ACCEPT [0:0]\n-A INPUT -j DROP\nCOMMIT\n*nat\n:X - [1:2]\n[3:4] -A X -j RETURN\nCOMMIT\n";
    let saved = parse(text).expect("a dump");
    assert_eq!(saved.chains.len(), 1);
    assert_eq!(saved.rules(&Chain::nat("X")), Some(&[Rule::new().does(Target::Return)][..]));
}

#[test]
fn a_broken_dump_is_refused_with_its_line() {
    let outside = ParseError::OutsideTable { line: 1, text: "-A X -j DROP".into() };
    assert_eq!(parse("-A X -j DROP\n"), Err(outside));
    let open = parse("*nat\n-A X -m comment --comment \"a\n").expect_err("an open quote");
    assert_eq!(
        open.to_string(),
        "line 2 of the rule dump, \"-A X -m comment --comment \\\"a\", has a quote that does not end"
    );
}

#[test]
fn a_comment_with_quotes_survives() {
    let odd = Rule::commented("say \"a\\b\"").jump("X");
    assert_eq!(rule(&odd.to_string()), odd);
}

#[test]
fn a_restore_names_filter_before_nat_and_lists_chains_before_rules() {
    let text = restore(&desired(Family::V4).all());
    let tables: Vec<&str> = text.lines().filter(|line| line.starts_with('*')).collect();
    assert_eq!(tables, ["*filter", "*nat", "*raw"]);
    for part in text.split("COMMIT\n") {
        let last_chain = part.lines().collect::<Vec<_>>().iter().rposition(|line| line.starts_with(":"));
        let first_rule = part.lines().position(|line| line.starts_with("-A"));
        assert!(last_chain.zip(first_rule).is_none_or(|(chain, rule)| chain < rule), "{part}");
    }
    assert_eq!(restore(&[]), "");
}

#[test]
fn a_removed_chain_is_flushed_and_then_deleted_and_the_last_change_of_a_chain_counts() {
    let chain = Chain::nat("KUBE-SVC-X");
    let set = Change::Set { chain: chain.clone(), rules: vec![Rule::new().jump("KUBE-SEP-Y")] };
    let text = restore(&[set, Change::Remove { chain }]);
    assert_eq!(text, "*nat\n:KUBE-SVC-X - [0:0]\n-X KUBE-SVC-X\nCOMMIT\n");
}

#[test]
fn a_bare_kernel_is_repaired_to_the_full_text_and_then_needs_nothing() {
    for family in Family::BOTH {
        let desired = desired(family);
        let repair = Repair::of(&desired, &Saved::default());
        let saved = parse(&repair.render()).expect("our own text");
        assert_eq!(saved.chains.len(), desired.with_hooks().len());
        let in_order = |chain: &Chain| saved.chains[chain].iter().map(canonical).collect::<Vec<_>>();
        for (chain, rules) in desired.with_hooks() {
            assert_eq!(in_order(&chain), rules.iter().map(canonical).collect::<Vec<_>>(), "{}", chain.name);
        }
        assert!(Repair::of(&desired, &saved).is_empty());
    }
}

#[test]
fn what_another_hand_changed_is_repaired_and_nothing_else_is_touched() {
    let desired = desired(Family::V4);
    let mut saved = Saved { chains: desired.with_hooks() };
    saved.chains.insert(Chain::nat("KUBE-SVC-STALE"), vec![]);
    saved.chains.insert(Chain::filter("DOCKER-USER"), vec![Rule::new().does(Target::Return)]);
    saved.chains.insert(Chain::filter("KUBE-KUBELET-CANARY"), vec![]);
    saved.chains.get_mut(&Chain::nat(names::MARK_MASQ)).expect("planned").clear();
    saved.chains.get_mut(&Chain::filter("FORWARD")).expect("hooked").remove(0);
    let repair = Repair::of(&desired, &saved);
    let written: Vec<&str> = repair.changes.iter().map(|change| &*change.chain().name).collect();
    assert_eq!(written, [names::MARK_MASQ, "KUBE-SVC-STALE"]);
    assert_eq!(repair.hooks.len(), 1);
    assert_eq!(changes(&desired.chains(), &saved), repair.changes);
}

#[test]
fn a_chain_in_another_order_is_a_difference_that_says_so() {
    let desired = desired(Family::V4);
    let mut found = desired.chains();
    found.get_mut(&Chain::nat(names::POSTROUTING)).expect("planned").reverse();
    found.get_mut(&Chain::nat(names::MARK_MASQ)).expect("planned")[0] = Rule::new().does(Target::Drop);
    let said: Vec<String> = compare(&desired.chains(), &found).iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "nat: chain KUBE-MARK-MASQ differs\n  planned: -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n  found:   -A KUBE-MARK-MASQ -j DROP",
            "nat: chain KUBE-POSTROUTING differs",
        ]
    );
}

#[test]
fn hooks_stand_in_the_order_that_prepending_gives() {
    let hooks = hooks::wanted(&desired(Family::V4));
    let text = program(&[], &hooks);
    let saved = parse(&text).expect("our own text");
    let forward = saved.rules(&Chain { table: Table::Filter, name: "FORWARD".into() }).expect("hooked");
    let to: Vec<&str> = forward.iter().filter_map(Rule::jumps_to).collect();
    let prerouting = saved.rules(&Chain::nat("PREROUTING")).expect("hooked");
    let order: Vec<&str> = prerouting.iter().filter_map(Rule::jumps_to).collect();
    assert_eq!(order, [names::SERVICES, names::HOST_PORTS], "Services go before host ports");
    assert_eq!(to, [names::PROXY_FIREWALL, names::FORWARD, names::SERVICES, names::EXTERNAL_SERVICES]);
    let new = "-m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES";
    assert!(text.contains(&format!("-I FORWARD 1 {new}\n")), "{text}");
    assert!(hooks.iter().all(|hook| hook.rule.matches.iter().all(|m| !matches!(m, Match::State(Sign::Not, _)))));
}
