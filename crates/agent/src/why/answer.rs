//! Answers: what is in place, with its age and what changed it, put together between two writes of the core.

use ipnet::IpNet;
use portolan_dataplane::meaning::Meaning;
use portolan_dns::name::Name;
use portolan_dns::records::Records;
use portolan_model::{NsName, ObjectKind, ObjectRef, Route, RouteCause, RouteKind};
use portolan_story::evidence::Backend;
use portolan_story::history::{Fragment, Generation, Mark, Since, Step};
use portolan_story::why::{Because, Changed, InPlace, NodeWhy, Nothing, Sort};

use crate::core::View;
use crate::why::question::Question;
use crate::why::{objects, records, rules};

/// What questions are answered from.
pub(super) struct Asker<'a, 'v> {
    pub(super) view: &'a View<'v>,
    /// `None`: the DNS task has ended.
    pub(super) records: Option<&'a Records>,
    pub(super) backend: Backend,
    pub(super) now_us: i64,
}

/// An answer on its way.
#[derive(Default)]
pub(super) struct Found {
    pub(super) objects: Vec<ObjectRef>,
    pub(super) in_place: Vec<InPlace>,
    pub(super) nothing: Option<Nothing>,
    /// Whose changes are told.
    pub(super) fragments: Vec<Fragment>,
    /// Of Services' changes only those that concern this pod.
    pub(super) only_pod: Option<NsName>,
}

impl Asker<'_, '_> {
    /// One question's answer.
    pub(super) fn answer(&self, question: &Question) -> NodeWhy {
        let mut found = match question {
            Question::Object(object) => objects::find(self, object),
            Question::Rule(text) => self.rule(text),
            Question::Route(dst) => self.route(*dst),
            Question::Record(name) => self.record(name),
        };
        for placed in &mut found.in_place {
            placed.since = placed.since.or_else(|| self.since(placed));
        }
        if found.in_place.is_empty() && !self.view.programmed {
            let says = "this node's agent has not programmed it yet: the cluster has not been told whole".to_owned();
            found.nothing = Some(Nothing { because: Because::NotYet, says, near: Vec::new() });
        }
        let history = self.view.history;
        NodeWhy {
            node: self.view.snapshot.settings.node.clone(),
            backend: self.backend,
            now_us: self.now_us,
            started_us: history.started_us(),
            generation: history.last_number(),
            changes: self.changes(&found),
            objects: found.objects,
            nothing: found.nothing,
            in_place: found.in_place,
        }
    }

    fn rule(&self, text: &str) -> Found {
        let in_place = rules::named(self.view, text);
        let nothing = in_place.is_empty().then(|| Nothing {
            because: Because::NotOurs,
            says: format!("no rule, chain or element of this node's plan is {text:?}: it is gone, or somebody else's"),
            near: Vec::new(),
        });
        with_owners(in_place, nothing)
    }

    fn record(&self, name: &Name) -> Found {
        let Some(known) = self.records else { return Found::default() };
        let in_place = records::at(known, name);
        let says = match records::service_named(known, name) {
            Some(service) if !self.view.snapshot.services.contains_key(&service) => {
                format!("cluster DNS has no record of {name}: there is no Service {service}")
            }
            _ => format!("cluster DNS has no record of {name}"),
        };
        let nothing = in_place.is_empty().then(|| {
            let near = records::near(known, name);
            Nothing { because: Because::NotOurs, says, near }
        });
        with_owners(in_place, nothing)
    }

    /// The route to exactly `dst`, else the longest that leads to all of it.
    fn route(&self, dst: IpNet) -> Found {
        let covering = self.view.snapshot.routes.iter().filter(|(known, _)| known.contains(&dst));
        match covering.max_by_key(|(known, _)| known.prefix_len()) {
            Some((known, route)) => Found {
                objects: self.owners_of_route(route),
                in_place: vec![self.route_told(route)],
                fragments: vec![Fragment::Route(*known)],
                ..Found::default()
            },
            None => {
                let says = format!("no route of this node's agent leads to {dst}: the kernel's other routes decide");
                let nothing = Some(Nothing { because: Because::NotOurs, says, near: Vec::new() });
                Found { nothing, ..Found::default() }
            }
        }
    }

    /// A route in the words of `ip route`.
    pub(super) fn route_told(&self, route: &Route) -> InPlace {
        let is_host = route.dst.prefix_len() == route.dst.max_prefix_len();
        let dst = if is_host { route.dst.addr().to_string() } else { route.dst.to_string() };
        let text = match &route.kind {
            RouteKind::Link { link } => format!("{dst} dev {link} proto 80 scope link"),
            RouteKind::Via { gateway } => format!("{dst} via {gateway} proto bgp"),
            RouteKind::Blackhole => format!("blackhole {dst} proto 80"),
        };
        let refused = self.view.routes.is_refused(&route.dst);
        InPlace {
            sort: Sort::Route,
            place: if refused { "main, which refuses it".into() } else { "main".into() },
            number: None,
            text: text.into(),
            meaning: None,
            objects: self.owners_of_route(route),
            since: self.view.history.mark_of(&Fragment::Route(route.dst)).map(|mark| mark.written),
        }
    }

    /// The pod or Node that a route is there for; of a peer's, the Node that the peer is.
    fn owners_of_route(&self, route: &Route) -> Vec<ObjectRef> {
        match &route.cause {
            RouteCause::Object(object) => vec![object.clone()],
            RouteCause::Bgp { peer } => {
                let nodes = self.view.snapshot.nodes.iter();
                let by_peer = nodes.filter(|(_, node)| node.addresses.contains(peer));
                by_peer.map(|(name, _)| node_ref(name)).collect()
            }
        }
    }

    fn since(&self, placed: &InPlace) -> Option<Since> {
        let history = self.view.history;
        if let Some(Meaning::HostPort { pod, .. }) = &placed.meaning {
            return history.mark_of(&Fragment::Link(pod.clone())).map(|mark| mark.written);
        }
        let service = placed.objects.iter().find(|object| object.kind == ObjectKind::Service)?;
        let mark = history.mark_of(&Fragment::Service(service.key.clone()))?;
        Some(match &placed.meaning {
            Some(Meaning::SendsTo { endpoint, .. }) => mark.endpoint(*endpoint).unwrap_or(mark.written),
            Some(Meaning::Chooses { .. }) | None => mark.written,
            Some(_) => mark.shaped,
        })
    }

    /// What changed the fragments of an answer, the newest first.
    fn changes(&self, found: &Found) -> Vec<Changed> {
        let history = self.view.history;
        let of_generation = |generation: &Generation| {
            let steps = found.fragments.iter().filter_map(|fragment| Some((fragment, generation.steps.get(fragment)?)));
            let steps = steps.filter(|(_, step)| concerns(step, found.only_pod.as_ref()));
            let (number, began_us, written_us) = (generation.number, generation.began_us, generation.written_us);
            steps.map(|(fragment, step)| changed(fragment, step, (number, began_us, written_us))).collect::<Vec<_>>()
        };
        let mut all: Vec<Changed> = history.generations().flat_map(of_generation).collect();
        let oldest = history.generations().last().map_or(0, |generation| generation.number);
        let marks = found.fragments.iter().filter_map(|fragment| Some((fragment, history.mark_of(fragment)?)));
        let old = marks.filter(|(_, mark)| mark.number < oldest && concerns(&mark.step, found.only_pod.as_ref()));
        let told = |(fragment, mark): (&Fragment, &Mark)| {
            changed(fragment, &mark.step, (mark.number, mark.began_us, mark.written.at_us))
        };
        all.extend(old.map(told));
        all.sort_by_key(|change| std::cmp::Reverse(change.generation));
        all
    }
}

/// A step of a Service that brought, took or turned an endpoint of the pod; any other fragment's.
fn concerns(step: &Step, pod: Option<&NsName>) -> bool {
    let Some(pod) = pod else { return true };
    let shift = &step.shift;
    let mut notes = shift.came.iter().chain(&shift.went).chain(&shift.turned).peekable();
    let has_none = notes.peek().is_none() && !shift.reshaped;
    has_none || notes.any(|note| note.pod.as_ref() == Some(pod))
}

fn changed(fragment: &Fragment, step: &Step, (generation, began_us, written_us): (u64, i64, i64)) -> Changed {
    let what = match fragment {
        Fragment::Service(key) => format!("Service {key}"),
        Fragment::Route(dst) => format!("route {dst}"),
        Fragment::Link(pod) => format!("link of Pod {pod}"),
    };
    Changed { generation, began_us, written_us, what: what.into(), step: step.clone() }
}

/// Objects of what was found, each once, and whose changes tell of it.
fn with_owners(in_place: Vec<InPlace>, nothing: Option<Nothing>) -> Found {
    let mut objects: Vec<ObjectRef> = Vec::new();
    for object in in_place.iter().flat_map(|placed| &placed.objects) {
        if !objects.contains(object) {
            objects.push(object.clone());
        }
    }
    let services = objects.iter().filter(|object| object.kind == ObjectKind::Service);
    let fragments = services.map(|object| Fragment::Service(object.key.clone())).collect();
    Found { objects, in_place, nothing, fragments, only_pod: None }
}

pub(super) fn node_ref(name: &str) -> ObjectRef {
    ObjectRef { kind: ObjectKind::Node, key: NsName::new("", name) }
}
