//! A closer look at nf_tables of everybody: base chains with their hooks, and the rules of one chain in order.
//!
//! Spec: `nf_tables.h` (`NFTA_CHAIN_*`, `NFTA_RULE_*`); of a comment, what nft and iptables-nft write as user data.

use crate::nfnl::{self, Attributes};
use crate::nft::{GET_CHAIN, GET_RULE, Nft, NftError};

/// `NFTA_CHAIN_*`, `NFTA_HOOK_*`.
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
/// `NFTA_RULE_*`.
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_USERDATA: u16 = 7;
/// `NFTNL_UDATA_RULE_COMMENT`.
const COMMENT: u8 = 0;

/// A chain that the kernel calls itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// `NFPROTO_*`: 1 inet, 2 ip, 10 ip6.
    pub family: u8,
    pub table: String,
    pub name: String,
    /// `NF_INET_*`: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: u32,
    /// Lower is earlier.
    pub priority: i32,
    /// `filter`, `nat`, `route`.
    pub kind: String,
}

/// A rule where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSeen {
    pub handle: u64,
    /// As `nft list` prints it behind `comment`; iptables-nft writes its own elsewhere.
    pub comment: Option<String>,
}

impl Nft {
    /// Every base chain of every family.
    pub fn base_chains(&mut self) -> Result<Vec<BaseChain>, NftError> {
        let messages = self.ask_until_whole(GET_CHAIN, 0, &[], "the chains")?;
        Ok(messages.iter().flat_map(|bytes| nfnl::messages(bytes)).filter_map(base_chain_of).collect())
    }

    /// The rules of a chain in their order; empty if there is no such chain. `family` is an `NFPROTO_*` number.
    pub fn rules_of(&mut self, family: u8, table: &str, chain: &str) -> Result<Vec<RuleSeen>, NftError> {
        let mut named = Vec::new();
        nfnl::append_attribute(&mut named, RULE_TABLE, &with_zero(table));
        nfnl::append_attribute(&mut named, RULE_CHAIN, &with_zero(chain));
        let messages = self.ask_until_whole(GET_RULE, family, &named, chain)?;
        Ok(messages.iter().flat_map(|bytes| nfnl::messages(bytes)).filter_map(|m| rule_of(m, chain)).collect())
    }
}

fn with_zero(text: &str) -> Vec<u8> {
    text.bytes().chain([0]).collect()
}

fn base_chain_of(message: nfnl::Message<'_>) -> Option<BaseChain> {
    let (mut table, mut name, mut kind, mut hook) = (String::new(), String::new(), String::new(), None);
    for (attribute, value) in message.attributes() {
        match attribute {
            CHAIN_TABLE => table = nfnl::text(value),
            CHAIN_NAME => name = nfnl::text(value),
            CHAIN_TYPE => kind = nfnl::text(value),
            CHAIN_HOOK => hook = Some(value),
            _ => {}
        }
    }
    let find = |wanted| Attributes(hook?).find(|(kind, _)| *kind == wanted).map(|(_, value)| nfnl::number(value));
    let (number, priority) = (find(HOOK_NUMBER)?, find(HOOK_PRIORITY)?.cast_signed());
    Some(BaseChain { family: message.family(), table, name, hook: number, priority, kind })
}

/// A kernel that does not select by chain tells of all of them.
fn rule_of(message: nfnl::Message<'_>, chain: &str) -> Option<RuleSeen> {
    let find = |wanted| message.attributes().find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if nfnl::text(find(RULE_CHAIN)?) != chain {
        return None;
    }
    let handle = find(RULE_HANDLE)?.try_into().ok().map(u64::from_be_bytes)?;
    Some(RuleSeen { handle, comment: find(RULE_USERDATA).and_then(comment_of) })
}

/// User data: type, length, value, one after another.
fn comment_of(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return Some(nfnl::text(value));
        }
        data = &rest[value.len()..];
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::netns;
    use crate::trap::{Trap, Watched};

    #[test]
    fn base_chains_and_rules_of_a_table_are_seen_in_their_order() {
        let made = netns::create().unwrap();
        let (chains, rules) = netns::run_in(made.as_fd(), || {
            let _trap = Trap::arm("ptl-t-look", &Watched::Sequence(7)).unwrap();
            let mut nft = Nft::open().unwrap();
            (nft.base_chains().unwrap(), nft.rules_of(2, "ptl-t-look", "enter-output").unwrap())
        })
        .unwrap();
        let of_ip = chains.iter().filter(|chain| chain.family == 2 && chain.table == "ptl-t-look");
        let mut seen: Vec<_> = of_ip.map(|chain| (chain.hook, chain.priority, chain.kind.as_str())).collect();
        seen.sort_unstable();
        assert_eq!(seen, [(0, -350, "filter"), (1, 1000, "filter"), (3, -350, "filter"), (4, 1000, "filter")]);
        assert!(rules.len() == 2 && rules[0].handle < rules[1].handle, "{rules:?}");
    }

    #[test]
    fn user_data_cut_anywhere_gives_no_comment_and_no_panic() {
        let data = [1, 2, 7, 7, 0, 4, b'w', b'e', b'b', 0];
        assert_eq!(comment_of(&data).as_deref(), Some("web"));
        for end in 0..data.len() {
            assert_eq!(comment_of(&data[..end]), None, "{end}");
        }
    }
}
