//! Clean-up: everything of ours out of the kernel, when another mode has taken over or nobody shall.
//!
//! Chains of others stay, and so does `KUBE-FIREWALL`, which the kubelet shares.

use crate::iptables::names;
use crate::iptables::parse::Saved;
use crate::iptables::render::is_built_in;
use crate::iptables::rule::{Chain, Rule, Table, Target};

/// The canary of iptables-legacy, kube-proxy's and ours.
const CANARY: &str = "KUBE-PROXY-CANARY";

/// The input of `iptables-restore --noflush` that takes our chains and the jumps to them out of `saved`; empty if there
/// are none.
pub fn cleanup(saved: &Saved) -> String {
    Table::ALL.into_iter().map(|table| of_table(saved, table)).collect()
}

fn of_table(saved: &Saved, table: Table) -> String {
    let goes = |name: &str| (names::is_ours(name) && name != names::FIREWALL) || name == CANARY;
    let chains = || saved.chains.iter().filter(|(chain, _)| chain.table == table);
    let ours: Vec<&Chain> = chains().map(|(chain, _)| chain).filter(|chain| goes(&chain.name)).collect();
    let is_jump = |rule: &&Rule| matches!(&rule.target, Some(Target::Jump(to)) if goes(to));
    let built_in = chains().filter(|(chain, _)| is_built_in(&chain.name));
    let hooks: Vec<String> = built_in
        .flat_map(|(chain, rules)| rules.iter().filter(is_jump).map(|rule| format!("-D {} {rule}\n", chain.name)))
        .collect();
    if ours.is_empty() && hooks.is_empty() {
        return String::new();
    }
    let declared = ours.iter().map(|chain| format!(":{} - [0:0]\n", chain.name));
    let removed = ours.iter().map(|chain| format!("-X {}\n", chain.name));
    let lines: String = declared.chain(hooks).chain(removed).collect();
    format!("*{}\n{lines}COMMIT\n", table.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::parse::parse;

    #[test]
    fn what_is_ours_goes_and_what_is_not_stays() {
        let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n:DOCKER - [0:0]\n\
                     -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
                     -A PREROUTING -j DOCKER\n-A KUBE-SERVICES -j KUBE-SVC-A\nCOMMIT\n\
                     *filter\n:INPUT ACCEPT [0:0]\n:KUBE-FIREWALL - [0:0]\n-A INPUT -j KUBE-FIREWALL\nCOMMIT\n";
        let expected = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n\
                        -D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
                        -X KUBE-SERVICES\n-X KUBE-SVC-A\nCOMMIT\n";
        assert_eq!(cleanup(&parse(saved).expect("a dump")), expected);
        assert_eq!(cleanup(&parse("*nat\n:DOCKER - [0:0]\nCOMMIT\n").expect("a dump")), "");
    }
}
