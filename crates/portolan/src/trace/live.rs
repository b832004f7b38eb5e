//! Live: connections of others, put together again from what each node saw of them. Pure.
//!
//! ```text
//!  node-1  client:1 → web:80 ⇒ client:1 → pod:8080 ──┐   one flow: a packet leaves one node as it enters the next,
//!  node-2                      client:1 → pod:8080 ◄─┘   and an answer is the reverse of what left
//! ```

use portolan_story::evidence::{Direction, Fate, Header, NodeEvidence, Passage};

/// What each node saw, by connection, in the order in which the connections began on the first node that saw them.
pub fn by_connection(evidence: &[NodeEvidence]) -> Vec<Vec<NodeEvidence>> {
    let passages: Vec<(usize, &Passage)> =
        evidence.iter().enumerate().flat_map(|(node, told)| told.passages.iter().map(move |p| (node, p))).collect();
    let mut group: Vec<usize> = (0..passages.len()).collect();
    for a in 0..passages.len() {
        for b in 0..a {
            if group[a] != group[b] && belong_together(passages[a], passages[b]) {
                let (from, to) = (group[a].max(group[b]), group[a].min(group[b]));
                group.iter_mut().filter(|g| **g == from).for_each(|g| *g = to);
            }
        }
    }
    let mut order: Vec<usize> = group.clone();
    order.sort_unstable();
    order.dedup();
    order.into_iter().map(|wanted| of_group(evidence, &passages, &group, wanted)).collect()
}

fn of_group(
    evidence: &[NodeEvidence],
    passages: &[(usize, &Passage)],
    group: &[usize],
    wanted: usize,
) -> Vec<NodeEvidence> {
    let of_node = |node: usize| {
        let mine = passages.iter().zip(group).filter(|((of, _), g)| *of == node && **g == wanted);
        mine.map(|((_, passage), _)| (*passage).clone()).collect::<Vec<_>>()
    };
    let told = evidence.iter().enumerate().map(|(node, told)| NodeEvidence { passages: of_node(node), ..told.clone() });
    told.filter(|told| !told.passages.is_empty()).collect()
}

fn belong_together((node_a, a): (usize, &Passage), (node_b, b): (usize, &Passage)) -> bool {
    match (a.direction, b.direction) {
        (Direction::Forth, Direction::Back) => answers(b, a),
        (Direction::Back, Direction::Forth) => answers(a, b),
        _ if node_a == node_b => a.entered == b.entered,
        _ => out(a) == b.entered || out(b) == a.entered,
    }
}

/// As a packet left its node. No hook sees the last rewriting of a source: the conntrack entry tells it.
pub fn out(passage: &Passage) -> Header {
    let is_through = matches!(passage.fate, Fate::Sent | Fate::Taken);
    let Some(flow) = passage.flow.as_ref().filter(|_| is_through) else { return passage.left };
    match passage.direction {
        Direction::Forth => reversed(flow.reply),
        Direction::Back => reversed(flow.original),
    }
}

/// An answer enters a node as the reverse of what left it, or leaves it as the reverse of what entered.
fn answers(back: &Passage, forth: &Passage) -> bool {
    reversed(back.entered) == out(forth) || reversed(out(back)) == forth.entered
}

fn reversed(header: Header) -> Header {
    Header { src: header.dst, dst: header.src, proto: header.proto }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_model::Proto;
    use portolan_story::evidence::{Backend, FlowEntry, Source};

    fn header(src: &str, dst: &str) -> Header {
        let address = |text: &str| text.parse().expect("an address");
        Header { src: address(src), dst: address(dst), proto: Proto::Tcp }
    }

    fn passage(direction: Direction, entered: Header, left: Header) -> Passage {
        Passage {
            direction,
            entered,
            left,
            came_by: None,
            went_by: None,
            at_us: 0,
            steps: Vec::new(),
            fate: Fate::Sent,
            flow: None,
            route: None,
            allowed: Vec::new(),
        }
    }

    fn node(name: &str, passages: Vec<Passage>) -> NodeEvidence {
        NodeEvidence { node: name.into(), source: Source::Kernel, backend: Backend::Iptables, passages, lost: false }
    }

    #[test]
    fn two_connections_seen_by_two_nodes_at_once_are_told_apart() {
        use Direction::{Back, Forth};
        let (web, near, far) = ("10.96.0.5:80", "10.244.0.2:80", "10.244.1.2:80");
        let (one, two) = ("10.244.0.9:1001", "10.244.0.9:1002");
        let seen = [
            node(
                "node-1",
                vec![
                    passage(Forth, header(one, web), header(one, far)),
                    passage(Forth, header(two, web), header(two, near)),
                    passage(Back, header(near, two), header(web, two)),
                    passage(Back, header(far, one), header(web, one)),
                ],
            ),
            node(
                "node-2",
                vec![
                    passage(Forth, header(one, far), header(one, far)),
                    passage(Back, header(far, one), header(far, one)),
                ],
            ),
        ];
        let flows = by_connection(&seen);
        let shape = |flow: &Vec<NodeEvidence>| {
            flow.iter().map(|n| format!("{}:{}", n.node, n.passages.len())).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(flows.iter().map(shape).collect::<Vec<_>>(), ["node-1:2 node-2:2", "node-1:2"]);
        assert_eq!(flows[1][0].passages[0].left, header(two, near));
        assert!(by_connection(&[]).is_empty());
    }

    #[test]
    fn a_source_that_only_conntrack_shows_as_rewritten_is_known_on_the_next_node() {
        let (there, web) = (header("172.18.0.1:9", "172.18.0.11:30080"), "10.244.1.2:80");
        let mut first = passage(Direction::Forth, there, header("172.18.0.1:9", web));
        let reply = header(web, "172.18.0.11:7777");
        first.flow = Some(FlowEntry { original: there, reply, id: 1, timeout_secs: 9, answered: false, older: false });
        let then = passage(Direction::Forth, reversed(reply), reversed(reply));
        let seen = [node("node-1", vec![first.clone()]), node("node-2", vec![then.clone()])];
        assert_eq!(by_connection(&seen).len(), 1);
        first.fate = Fate::Stopped;
        let seen = [node("node-1", vec![first]), node("node-2", vec![then])];
        assert_eq!(by_connection(&seen).len(), 2, "a packet that was stopped went nowhere");
    }

    #[test]
    fn an_answer_that_was_masqueraded_on_the_way_there_finds_its_connection() {
        use Direction::{Back, Forth};
        let seen = [node(
            "node-1",
            vec![
                passage(Forth, header("172.18.0.1:9", "172.18.0.11:30080"), header("172.18.0.11:9", "10.244.1.2:80")),
                passage(Back, header("10.244.1.2:80", "172.18.0.11:9"), header("172.18.0.11:30080", "172.18.0.1:9")),
            ],
        )];
        assert_eq!(by_connection(&seen).len(), 1);
    }
}
