//! Packets that do not arrive: what is seen, and what the verdict says of it, as it stands.

mod names;
mod services;
mod ways;

use portolan_dataplane::meaning::{Door, Masqueraded, Meaning, TurnedAway};
use portolan_model::verdict::Outcome;
use portolan_model::{
    EndpointFact, ExternalPolicy, Fact, NsName, ObjectKind, Pod, Proto, Service, ServiceKind, ServicePortFact,
};

use super::scene::{
    NOW, Way, allowing, asked, at, evidence, facts, header, knows, no_way, objects, of, older, probed, route,
    to_node_2, to_pod, usual, web,
};
use crate::evidence::{Act, DnsQuery, DnsTold, Hook, NodeEvidence, Passage, ProbeEnd, Probed, RouteWay};
use crate::fixture::{ip, key, service};
use crate::knows::SessionNote;
use crate::objects::{Objects, ServiceNote};
use crate::story::{Asked, End, Stage, Story};
use crate::tell::tell;
use crate::text::{Style, render};

const CLIENT: &str = "10.244.0.5:37266";
const WEB: &str = "10.96.0.11:80";
const B: &str = "10.244.1.6:8080";

/// What is seen of a fault; the usual cluster unless said otherwise.
struct Fault {
    facts: Vec<Fact>,
    notes: Objects,
    asked: Asked,
    probed: Option<Probed>,
    seen: Vec<NodeEvidence>,
    sessions: Vec<SessionNote>,
    silent: Vec<(&'static str, &'static str)>,
}

impl Fault {
    /// A client's packet that ended so.
    fn of(to: &str, end: ProbeEnd, seen: Vec<NodeEvidence>) -> Self {
        Self {
            facts: usual(),
            notes: objects(),
            asked: asked("pod/client", "svc/web"),
            probed: Some(probed(CLIENT, to, end)),
            seen,
            sessions: Vec::new(),
            silent: Vec::new(),
        }
    }

    fn story(&self) -> Story {
        let mut knows = knows(&self.facts, self.notes.clone());
        if !self.sessions.is_empty() {
            knows.sessions.insert("node-1".into(), self.sessions.clone());
        }
        knows.silent.extend(self.silent.iter().map(|(node, why)| ((*node).into(), (*why).to_owned())));
        tell(self.asked.clone(), self.probed.as_ref(), &self.seen, &knows)
    }

    /// The verdict is this, to the letter; and the text says it in its first lines.
    fn says(&self, end: End, because: &str, mend: &str) -> Story {
        let story = self.story();
        let text = render(&story, Style { width: 400, ..Style::default() });
        let verdict = &story.verdict;
        assert_eq!(
            (verdict.end, verdict.because.as_deref().unwrap_or_default(), verdict.mend.as_deref().unwrap_or_default()),
            (end, because, mend),
            "{text}"
        );
        assert!(!end.is_yes() && text.starts_with(&format!("✘ {}", end.word())), "{text}");
        assert_eq!(text.lines().nth(1), Some(format!("  because  {because}").as_str()), "{text}");
        assert!(!verdict.says.is_empty() && !because.contains('\n'), "{text}");
        story
    }
}

fn tcp(from: &str, to: &str) -> crate::evidence::Header {
    header(from, to, Proto::Tcp)
}

fn refused(by: &str) -> ProbeEnd {
    ProbeEnd::Refused { by: Some(ip(by)) }
}

/// To b on node-2, as far as node-1 sees it.
fn leaves(by: crate::evidence::RouteTold) -> Passage {
    let link = by.link.clone().unwrap_or_else(|| "eth0".into());
    Way::forth("cali-client", tcp(CLIENT, WEB)).web(Door::ClusterIp, None, B).forwarded().keeps_source().sent(&link, by)
}

fn arrives() -> Way {
    Way::forth("eth0", tcp(CLIENT, B)).forwarded().keeps_source()
}

/// There and into b.
fn reaches_b() -> Vec<NodeEvidence> {
    vec![
        evidence("node-1", vec![leaves(to_node_2())]),
        evidence("node-2", vec![arrives().sent("cali-b", to_pod("b", "10.244.1.6"))]),
    ]
}

fn each_web_pod(notes: &mut Objects, change: impl Fn(&mut crate::objects::PodNote)) {
    ["a", "b"].iter().for_each(|name| change(notes.pods.get_mut(&key(name)).expect("a pod of web")));
}
