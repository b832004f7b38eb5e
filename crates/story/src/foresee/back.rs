//! Back: the answer's way, by what conntrack kept of the packet's own. No rule of a nat table is asked.

use std::net::IpAddr;

use portolan_model::Text;

use super::roads::{self, Road};
use super::{Landing, MOST_HOPS, Trail, Walk, flow, reversed};
use crate::evidence::{Direction, Fate, Header, Passage};
use crate::story::End;

/// An answer on its way.
struct Answer {
    node: Text,
    came_by: Option<Text>,
    header: Header,
}

impl Walk<'_> {
    /// Sends the answer, and adds its passages to the trail.
    pub(super) fn answer(&self, trail: &mut Trail, landing: &Landing) -> End {
        let Some((_, last)) = trail.passages.last() else { return End::Unanswered };
        let header = reversed(last.left);
        let Some((node, came_by)) = self.answers_from(trail, landing, header.dst.ip()) else { return End::Unanswered };
        let mut answer = Answer { node, came_by, header };
        for _ in 0..MOST_HOPS {
            match self.back_through(trail, &answer) {
                Step::Arrived => return End::Delivered,
                Step::Lost => return End::Unanswered,
                Step::On(next) => answer = next,
            }
        }
        End::Unanswered
    }

    /// The node that first sees the answer, and how it comes there. From outside of all it can come to addresses of nodes
    /// only: nobody out there has a route to pods.
    fn answers_from(&self, trail: &Trail, landing: &Landing, to: IpAddr) -> Option<(Text, Option<Text>)> {
        let (node, last) = trail.passages.last()?;
        match landing {
            Landing::Pod { .. } => Some((node.clone(), last.went_by.clone())),
            Landing::Node { .. } => Some((node.clone(), None)),
            Landing::Outside(_) | Landing::Away(_) => {
                let back = self.world.node_at(to).cloned().or_else(|| roads::from_outside(self.world, to))?;
                Some((back, Some(self.world.cluster().lan_link.clone())))
            }
            Landing::Stopped { .. } | Landing::Nowhere { .. } => None,
        }
    }

    fn back_through(&self, trail: &mut Trail, answer: &Answer) -> Step {
        let Answer { node, came_by, header } = answer;
        let Some(view) = self.world.view(node) else { return Step::Lost };
        let of_flow = |(at, passage): &&(Text, Passage)| {
            passage.direction == Direction::Forth && at == node && reversed(passage.left) == *header
        };
        let known = trail.passages.iter().rposition(|entry| of_flow(&entry));
        let forth = known.map(|at| trail.passages[at].1.clone());
        let left = forth.as_ref().map_or(*header, |forth| reversed(forth.entered));
        let mut passage = Passage {
            direction: Direction::Back,
            entered: *header,
            left,
            came_by: came_by.clone(),
            went_by: None,
            at_us: 0,
            steps: Vec::new(),
            fate: Fate::Sent,
            flow: forth.as_ref().filter(|forth| forth.flow.is_some()).map(|forth| flow(forth.entered, forth.left)),
            route: None,
            allowed: Vec::new(),
        };
        let is_first = known == Some(0);
        let sender_link = forth.as_ref().filter(|_| is_first).map(|forth| forth.came_by.clone());
        let (next, went_by, fate) = match sender_link {
            Some(None) => (Step::Arrived, None, Fate::Taken),
            Some(Some(link)) => (Step::Arrived, Some(link), Fate::Sent),
            None => self.road_back(node, left, left == reversed(trail.passages[0].1.entered), &mut passage),
        };
        passage = Passage { went_by, fate, ..passage };
        if is_first {
            passage.route = Some(roads::from_node(self.world, node, view, left.dst.ip()).1);
        }
        trail.passages.push((node.clone(), passage));
        next
    }

    fn road_back(
        &self,
        node: &Text,
        left: Header,
        is_as_sent: bool,
        passage: &mut Passage,
    ) -> (Step, Option<Text>, Fate) {
        let Some(view) = self.world.view(node) else { return (Step::Lost, None, Fate::Vanished) };
        let (road, route) = roads::from_node(self.world, node, view, left.dst.ip());
        passage.route = Some(route);
        let lan = self.world.cluster().lan_link.clone();
        match road {
            Road::Node(next) => {
                let on = Answer { node: next, came_by: Some(lan.clone()), header: left };
                (Step::On(on), Some(lan), Fate::Sent)
            }
            Road::Here => (Step::Lost, None, Fate::Taken),
            Road::Nowhere => (Step::Lost, None, Fate::Vanished),
            Road::Pod { link, .. } => (Step::Lost, Some(link), Fate::Sent),
            // A node beside the one that it came by may answer for it, where nothing was rewritten.
            Road::Outside | Road::Away if is_as_sent => (Step::Arrived, Some(lan), Fate::Sent),
            Road::Outside | Road::Away | Road::Nobody => (Step::Lost, Some(lan), Fate::Sent),
        }
    }
}

/// What became of an answer at a node.
enum Step {
    /// The sender has it, with the addresses that it waits for.
    Arrived,
    /// It went elsewhere, or came with addresses that the sender does not know.
    Lost,
    /// To the next node.
    On(Answer),
}
