//! Questions, as a request's query writes them.

use std::net::IpAddr;

use ipnet::IpNet;
use portolan_dns::name::Name;
use portolan_model::{NsName, ObjectKind, ObjectRef};

/// What is asked about.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Question {
    /// `object=Service/default/web`, `object=Pod/default/web-1`, `object=Node/node-1`.
    Object(ObjectRef),
    /// `rule=nat KUBE-SEP-… 2`, a line of `iptables-save` behind its table, an element or chain of nf_tables.
    Rule(String),
    /// `route=10.244.1.0/26`; an address asks for the route that leads there.
    Route(IpNet),
    /// `record=web.default.svc.cluster.local`.
    Record(Name),
}

impl Question {
    /// Reads one parameter.
    pub(super) fn parse(what: &str, value: &str) -> Result<Self, String> {
        match what {
            "object" => object(value).map(Self::Object),
            "rule" if value.trim().is_empty() => Err("rule= is empty; say nat KUBE-SVC-…".to_owned()),
            "rule" => Ok(Self::Rule(value.trim().to_owned())),
            "route" => route(value).map(Self::Route),
            "record" => Name::parse(value).map(Self::Record).map_err(|why| format!("record={value}: {why}")),
            _ => Err(format!("{what}= is no question; ask object=, rule=, route= or record=")),
        }
    }
}

fn object(value: &str) -> Result<ObjectRef, String> {
    let kind = |word: &str| [ObjectKind::Service, ObjectKind::Pod].into_iter().find(|kind| format!("{kind:?}") == word);
    let parts: Vec<&str> = value.split('/').collect();
    match parts.as_slice() {
        ["Node", name] if !name.is_empty() => Ok(ObjectRef { kind: ObjectKind::Node, key: NsName::new("", *name) }),
        [word, namespace, name] if !namespace.is_empty() && !name.is_empty() => match kind(word) {
            Some(kind) => Ok(ObjectRef { kind, key: NsName::new(*namespace, *name) }),
            None => Err(format!("object={value}: kind {word} is behind no rule; ask for a Service, a Pod or a Node")),
        },
        _ => Err(format!("object={value}: say Service/NAMESPACE/NAME, Pod/NAMESPACE/NAME or Node/NAME")),
    }
}

fn route(value: &str) -> Result<IpNet, String> {
    let net = value.parse::<IpNet>().or_else(|_| value.parse::<IpAddr>().map(IpNet::from));
    net.map(|net| net.trunc()).map_err(|_| format!("route={value}: say an address or a prefix, 10.244.1.0/26"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_cannot_be_read_says_what_can() {
        for (what, value, says) in [
            ("object", "Service/web", "say Service/NAMESPACE/NAME"),
            ("object", "Deployment/default/web", "kind Deployment is behind no rule"),
            ("rule", " ", "rule= is empty"),
            ("route", "10.244.1.0/33", "say an address or a prefix"),
            ("record", "a..b", "record=a..b"),
            ("pod", "web", "is no question"),
        ] {
            let why = Question::parse(what, value).expect_err(value);
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn a_route_is_asked_for_by_its_prefix_or_by_an_address_in_it() {
        let route = |text: &str| Question::parse("route", text).expect("a route");
        assert_eq!(route("10.244.1.7/26"), Question::Route("10.244.1.0/26".parse().expect("a prefix")));
        assert_eq!(route("10.244.1.7"), Question::Route("10.244.1.7/32".parse().expect("a prefix")));
        assert_eq!(route("fd00::1"), Question::Route("fd00::1/128".parse().expect("a prefix")));
    }
}
