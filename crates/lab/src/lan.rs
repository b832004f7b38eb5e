//! Cuts in the lab's LAN: between which hosts no frame passes. Decides only; init writes them to the bridge.
//!
//! ```text
//!  lan-node-1 ──┤ lan0 ├── lan-node-2      cut node-1 node-2: neither way
//!               └──────┴── lan-apiserver   the others hear both
//! ```
//!
//! A cut is between two names, not two cables: a node that is stopped and started is still cut.

use std::collections::BTreeSet;

use crate::control::Place;
use crate::error::LabError;
use crate::topology::{API_SERVER, OUTSIDE, node_name, port_of};

/// Name of the table of cuts in init's network namespace.
pub(crate) const TABLE: &str = "portolan-lan";

/// The pairs that are cut, each in the order of its names.
#[derive(Debug, Default)]
pub(crate) struct Cuts(BTreeSet<(String, String)>);

impl Cuts {
    /// As shown to users.
    pub fn pairs(&self) -> Vec<(String, String)> {
        self.0.iter().cloned().collect()
    }

    /// Names of the bridge's ports for each pair.
    pub fn ports(&self) -> Vec<(String, String)> {
        self.0.iter().map(|(a, b)| (port_of(a), port_of(b))).collect()
    }

    pub fn with(&self, a: &str, b: &str) -> Result<Cuts, LabError> {
        let mut more = self.0.clone();
        if more.insert(pair(a, b)) {
            return Ok(Cuts(more));
        }
        Err(LabError::Refused(format!("{a} and {b} are cut already; `portolan lan heal {a} {b}` mends it")))
    }

    pub fn without(&self, a: &str, b: &str) -> Result<Cuts, LabError> {
        let mut fewer = self.0.clone();
        if fewer.remove(&pair(a, b)) {
            return Ok(Cuts(fewer));
        }
        Err(LabError::Refused(format!("{a} and {b} are not cut; `portolan status` shows what is")))
    }
}

fn pair(a: &str, b: &str) -> (String, String) {
    let (first, second) = if a <= b { (a, b) } else { (b, a) };
    (first.to_owned(), second.to_owned())
}

/// The name on the LAN of a place in a lab of that many nodes.
pub(crate) fn host_of(place: &Place, nodes: usize) -> Result<String, LabError> {
    match place {
        Place::Outside => Ok(OUTSIDE.to_owned()),
        Place::ApiServer => Ok(API_SERVER.to_owned()),
        Place::Node(number) if (1..=nodes).contains(number) => Ok(node_name(*number)),
        Place::Node(_) => Err(no_node(place, nodes)),
        Place::Init | Place::Pod { .. } => Err(LabError::NoSuchPlace {
            place: format!("{place} on the LAN"),
            hint: format!("say {}, outside or apiserver", names(nodes)),
        }),
    }
}

/// The two ends of a cut.
pub(crate) fn ends(a: &Place, b: &Place, nodes: usize) -> Result<(String, String), LabError> {
    let (a, b) = (host_of(a, nodes)?, host_of(b, nodes)?);
    if a == b {
        return Err(LabError::OneEnd { name: a });
    }
    Ok((a, b))
}

/// The number of a node of that name in a lab of that many.
pub(crate) fn node_number(name: &str, nodes: usize) -> Result<usize, LabError> {
    let found = (1..=nodes).find(|number| node_name(*number) == name);
    found.ok_or_else(|| LabError::NoSuchPlace { place: format!("node {name}"), hint: format!("say {}", names(nodes)) })
}

fn no_node(place: &Place, nodes: usize) -> LabError {
    LabError::NoSuchPlace { place: place.to_string(), hint: format!("say {}, outside or apiserver", names(nodes)) }
}

/// `node-1`, or `node-1 to node-3`.
fn names(nodes: usize) -> String {
    if nodes == 1 { node_name(1) } else { format!("{} to {}", node_name(1), node_name(nodes)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error<T>(result: Result<T, LabError>) -> String {
        result.err().expect("refused").to_string()
    }

    #[test]
    fn a_cut_has_no_direction_and_is_mended_once() {
        let cuts = Cuts::default().with("node-2", "node-1").unwrap().with("node-1", "apiserver").unwrap();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(cuts.pairs(), [pair("apiserver", "node-1"), pair("node-1", "node-2")]);
        assert_eq!(cuts.ports()[1], pair("lan-node-1", "lan-node-2"));
        assert!(error(cuts.with("node-1", "node-2")).contains("lan heal node-1 node-2"));
        let cuts = cuts.without("node-1", "node-2").unwrap();
        assert_eq!(cuts.pairs().len(), 1);
        assert!(error(cuts.without("node-2", "node-1")).contains("are not cut"));
    }

    #[test]
    fn ends_are_two_hosts_of_this_lab() {
        assert_eq!(ends(&Place::Node(2), &Place::Outside, 2).unwrap(), ("node-2".into(), "outside".into()));
        assert!(
            error(ends(&Place::Node(1), &Place::Node(3), 2)).contains("no node-3 in this lab; say node-1 to node-2")
        );
        assert!(error(ends(&Place::Node(1), &Place::Node(1), 2)).contains("node-1 twice"));
        let pod = Place::Pod { namespace: "default".into(), name: "web".into() };
        assert!(error(ends(&pod, &Place::Node(1), 1)).contains("pod/default/web on the LAN"));
    }

    #[test]
    fn a_node_is_found_by_its_name() {
        assert_eq!(node_number("node-2", 2).unwrap(), 2);
        for name in ["node-3", "node-0", "node-02", "outside", ""] {
            assert!(error(node_number(name, 2)).contains("say node-1 to node-2"), "{name}");
        }
    }
}
