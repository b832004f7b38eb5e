//! Asking: every node's agent at once, through the API server.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::Client;
use portolan_model::{NsName, ObjectKind, Text};
use portolan_story::place::find;
use portolan_story::why::{Answer, NodeWhy, PodSeen, SCHEMA, Silent, Why};

use super::question::Question;
use crate::failure::Failure;
use crate::gather::{Gathered, agents};

/// A node that takes longer counts as one that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions of one request: their names and lines must fit a request line.
const AT_ONCE: usize = 32;

/// What all nodes say, or those in `only`.
pub async fn ask(client: &Client, cluster: &Gathered, questions: &[Question], only: &[String]) -> Result<Why, Failure> {
    for question in questions {
        question.check(&cluster.facts).map_err(Failure::no)?;
    }
    let nodes = nodes(cluster, only)?;
    let mut answers: Vec<Answer> =
        questions.iter().map(|question| Answer { asked: question.to_string(), nodes: Vec::new() }).collect();
    let mut silent: Vec<Silent> = Vec::new();
    for (some, answers) in questions.chunks(AT_ONCE).zip(answers.chunks_mut(AT_ONCE)) {
        let parameters: Vec<String> = some.iter().map(Question::parameter).collect();
        let path = format!("why?{}", parameters.join("&"));
        for (node, said) in agents::ask_all::<Vec<NodeWhy>>(client, &nodes, &path, PATIENCE).await {
            match said {
                Ok(said) => answers.iter_mut().zip(said).for_each(|(answer, said)| answer.nodes.push(said)),
                Err(_) if silent.iter().any(|known| known.node == node) => {}
                Err(why) => silent.push(Silent { node, why: why.to_string() }),
            }
        }
    }
    if silent.len() == nodes.len() {
        let why =
            silent.first().map_or("the cluster has no nodes".to_owned(), |one| format!("{}: {}", one.node, one.why));
        return Err(Failure::no(format!("no node answers: {why}")));
    }
    let pods = pods(cluster, &answers);
    Ok(Why { schema: SCHEMA.into(), answers, pods, silent })
}

fn nodes(cluster: &Gathered, only: &[String]) -> Result<Vec<Text>, Failure> {
    let all = &cluster.facts.nodes;
    match only.iter().find(|name| !all.contains_key(name.as_str())) {
        Some(name) => Err(Failure::no(find::unknown("Node", name, all.keys().map(ToString::to_string)))),
        None if only.is_empty() => Ok(all.keys().cloned().collect()),
        None => Ok(only.iter().map(|name| name.as_str().into()).collect()),
    }
}

/// Pods that answers speak of, by their objects and by endpoints that came, went or turned.
fn pods(cluster: &Gathered, answers: &[Answer]) -> Vec<PodSeen> {
    let mut named: BTreeSet<NsName> = BTreeSet::new();
    for node in answers.iter().flat_map(|answer| &answer.nodes) {
        let placed = node.in_place.iter().flat_map(|placed| &placed.objects);
        let objects = placed.chain(&node.objects).filter(|object| object.kind == ObjectKind::Pod);
        named.extend(objects.map(|object| object.key.clone()));
        let shifts = node.changes.iter().map(|change| &change.step.shift);
        let notes = shifts.flat_map(|shift| shift.came.iter().chain(&shift.went).chain(&shift.turned));
        named.extend(notes.filter_map(|note| note.pod.clone()));
    }
    let seen = |pod: NsName| {
        let note = cluster.notes.pods.get(&pod)?;
        let node = cluster.facts.pods.get(&pod).and_then(|fact| fact.node.clone());
        Some(PodSeen { node, ready: note.ready, ready_since_us: note.ready_since.map(|secs| secs * 1_000_000), pod })
    };
    named.into_iter().filter_map(seen).collect()
}
