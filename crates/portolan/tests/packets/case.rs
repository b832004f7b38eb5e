//! What a case is: objects, flags, and flows with what must become of them.

use std::net::IpAddr;

use portolan_model::ProxySettings;
use serde_json::Value;

use super::ground::{self, CROWD};
use super::objects::{self, Service, To};

/// Which program carries the rules out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    IptablesNft,
    IptablesLegacy,
    Nftables,
}

impl Backend {
    /// For `--proxy-mode`.
    pub fn mode(self) -> &'static str {
        match self {
            Self::IptablesNft | Self::IptablesLegacy => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// As whom a packet arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum As {
    /// The client itself.
    Itself,
    /// Node-1.
    Node,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Now at one of these places, now at another, at each after enough packets, at this port (0: any).
    Reach(Vec<&'static str>, As),
    Refused,
    Dropped,
}

/// Places with blanks between.
pub fn reach(places: &'static str, who: As) -> Expect {
    Expect::Reach(places.split_whitespace().collect(), who)
}

/// Packets of each family and protocol from one place to one target.
#[derive(Clone, Debug)]
pub struct Flow {
    pub from: &'static str,
    pub to: To,
    /// Source addresses, IPv4 and IPv6; `None`: the kernel's choice.
    pub source: Option<[IpAddr; 2]>,
    pub is_borrowed: bool,
    /// In both iptables modes, and in nftables mode.
    pub expect: [Expect; 2],
    /// IPv4, IPv6.
    pub families: [bool; 2],
}

pub fn flow(from: &'static str, to: To, expect: Expect) -> Flow {
    Flow { from, to, source: None, is_borrowed: false, expect: [expect.clone(), expect], families: [true, true] }
}

impl Flow {
    pub fn in_nftables(mut self, expect: Expect) -> Flow {
        self.expect[1] = expect;
        self
    }

    pub fn v4(mut self) -> Flow {
        self.families = [true, false];
        self
    }

    pub fn v6(mut self) -> Flow {
        self.families = [false, true];
        self
    }

    /// From one of outside's other addresses.
    pub fn client(mut self, number: u16) -> Flow {
        assert!(CROWD.contains(&number), "outside has no such address");
        self.source = Some(ground::crowd(number));
        self
    }

    pub fn source(mut self, source: [IpAddr; 2]) -> Flow {
        self.source = Some(source);
        self
    }

    /// From an address that is not the place's; only datagrams can do without an answer.
    pub fn borrowed(mut self, source: [IpAddr; 2]) -> Flow {
        self.is_borrowed = true;
        self.source(source)
    }

    pub fn expected(&self, backend: Backend) -> &Expect {
        &self.expect[usize::from(backend == Backend::Nftables)]
    }
}

/// Pods' ranges, IPv4 and IPv6.
pub const POD_RANGES: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];

pub struct Case {
    pub name: String,
    pub services: Vec<Service>,
    /// Further objects.
    pub others: Vec<Value>,
    pub zone: Option<&'static str>,
    /// For `--cluster-cidr`.
    pub pod_ranges: String,
    pub flags: Vec<&'static str>,
    /// What the flags mean, for the oracle.
    pub settings: ProxySettings,
    pub flows: Vec<Flow>,
}

pub fn case(name: impl Into<String>) -> Case {
    Case {
        name: name.into(),
        services: Vec::new(),
        others: Vec::new(),
        zone: Some("east"),
        pod_ranges: POD_RANGES.join(","),
        flags: Vec::new(),
        settings: ProxySettings { egress_snat: false, ..ProxySettings::default() },
        flows: Vec::new(),
    }
}

impl Case {
    pub fn service(mut self, service: Service) -> Case {
        self.services.push(service);
        self
    }

    pub fn object(mut self, object: Value) -> Case {
        self.others.push(object);
        self
    }

    pub fn pod_ranges(mut self, ranges: &str) -> Case {
        self.pod_ranges = ranges.to_owned();
        self
    }

    /// All flows so far, in these families only.
    pub fn families(mut self, families: [bool; 2]) -> Case {
        self.flows.iter_mut().for_each(|flow| flow.families = families);
        self
    }

    pub fn without_zone(mut self) -> Case {
        self.zone = None;
        self
    }

    /// Flags with blanks between, and what they set.
    pub fn flags(mut self, flags: &'static str, set: impl FnOnce(&mut ProxySettings)) -> Case {
        self.flags.extend(flags.split_whitespace());
        set(&mut self.settings);
        self
    }

    pub fn flow(mut self, from: &'static str, to: To, expect: Expect) -> Case {
        self.flows.push(flow(from, to, expect));
        self
    }

    pub fn with(mut self, flow: Flow) -> Case {
        self.flows.push(flow);
        self
    }

    pub fn each(mut self, froms: &'static str, tos: &[To], expect: &Expect) -> Case {
        for from in froms.split_whitespace() {
            self.flows.extend(tos.iter().map(|to| flow(from, *to, expect.clone())));
        }
        self
    }

    /// What policy Cluster promises: pods keep their address on the way to a ClusterIP, all else comes as the node.
    pub fn usual(mut self, froms: &'static str, tos: &[To], places: &'static str) -> Case {
        for from in froms.split_whitespace() {
            let who = |to: &To| match (from, to) {
                ("node-1" | "outside", _) => As::Node,
                (_, To::ClusterIp(_)) => As::Itself,
                _ => As::Node,
            };
            self.flows.extend(tos.iter().map(|to| flow(from, *to, reach(places, who(to)))));
        }
        self
    }

    pub fn objects(&self) -> Vec<Value> {
        let services = self.services.iter().flat_map(Service::objects);
        objects::nodes(self.zone).into_iter().chain(services).chain(self.others.iter().cloned()).collect()
    }
}
