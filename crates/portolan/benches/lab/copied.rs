//! A copy of one Service's chains under names of our own: what `iptables-restore` costs without an agent.
//!
//! The text has the shape of what an agent writes when one endpoint takes another's place: the Service's chain anew, the
//! new endpoint's chain, and the old endpoint's chain removed.

use std::net::Ipv4Addr;

use crate::Outcome;

const SERVICE: &str = "BENCH-SVC";
const STAYS: &str = "BENCH-SEP-STAYS";
/// Stands in the copied rules for the chain and the address of the endpoint that changes.
const CHAIN: &str = "{chain}";
const ADDRESS: &str = "{address}";

/// The copied rules, and which number the changing endpoint has now.
pub struct CopiedChains {
    service: Vec<String>,
    staying: Vec<String>,
    changing: Vec<String>,
    number: u16,
}

impl CopiedChains {
    /// From what `iptables-save` printed: the chains of the Service that has the endpoints `changes` and `stays`.
    pub fn of(saved: &str, changes: Ipv4Addr, stays: Ipv4Addr) -> Outcome<Self> {
        let changing = chain_with(saved, &format!(" --to-destination {changes}:80"))?;
        let staying = chain_with(saved, &format!(" --to-destination {stays}:80"))?;
        let service = chain_with(saved, &format!(" -j {changing}"))?;
        let renamed = |chain: &str| -> Vec<String> {
            let rules = saved.lines().filter(|line| line.starts_with(&format!("-A {chain} ")));
            let rename = |line: &str| {
                let line = line.replace(service, SERVICE).replace(staying, STAYS).replace(changing, CHAIN);
                line.replace(&changes.to_string(), ADDRESS)
            };
            rules.map(rename).collect()
        };
        Ok(Self { service: renamed(service), staying: renamed(staying), changing: renamed(changing), number: 0 })
    }

    /// Writes all chains.
    pub fn first(&self) -> String {
        let declared = [SERVICE, STAYS, &self.chain()].map(|chain| format!(":{chain} - [0:0]\n")).concat();
        format!("*nat\n{declared}{}{}COMMIT\n", self.rules(&self.staying), self.rules_that_change())
    }

    /// The next endpoint in place of the last one, and its address.
    pub fn next(&mut self) -> (Ipv4Addr, String) {
        let old = self.chain();
        self.number += 1;
        let declared = [SERVICE, &self.chain(), &old].map(|chain| format!(":{chain} - [0:0]\n")).concat();
        (self.address(), format!("*nat\n{declared}{}-X {old}\nCOMMIT\n", self.rules_that_change()))
    }

    /// Removes all that was written.
    pub fn removal(&self) -> String {
        let chains = [SERVICE, STAYS, &self.chain()];
        let declared = chains.map(|chain| format!(":{chain} - [0:0]\n")).concat();
        let removed = chains.map(|chain| format!("-X {chain}\n")).concat();
        format!("*nat\n{declared}{removed}COMMIT\n")
    }

    fn rules_that_change(&self) -> String {
        self.rules(&self.service) + &self.rules(&self.changing)
    }

    fn rules(&self, lines: &[String]) -> String {
        let line =
            |line: &String| line.replace(CHAIN, &self.chain()).replace(ADDRESS, &self.address().to_string()) + "\n";
        lines.iter().map(line).collect()
    }

    /// As long as a real one's name.
    fn chain(&self) -> String {
        format!("BENCH-SEP-{:015}", self.number)
    }

    /// Outside the pods' range, where no Service has an endpoint.
    fn address(&self) -> Ipv4Addr {
        let [high, low] = self.number.to_be_bytes();
        Ipv4Addr::new(10, 245, high, low)
    }
}

/// The chain that has a rule ending so.
fn chain_with<'a>(saved: &'a str, end: &str) -> Outcome<&'a str> {
    let line = saved.lines().find(|line| line.ends_with(end));
    line.and_then(|line| line.split(' ').nth(1)).ok_or_else(|| format!("no rule ends with `{end}`").into())
}
