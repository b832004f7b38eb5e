//! Events in the kernel's order, made by hand, and the ways that they tell of.

use portolan_kernel::nftrace::Detail;

use super::*;

const TRAP: &str = "portolan-trace-1";
const LOOPBACK: u32 = 1;

fn base(table: &str, name: &str, hook: u32, kind: &str) -> BaseChain {
    BaseChain { family: 2, table: table.into(), name: name.into(), hook, priority: 0, kind: kind.into() }
}

fn bases() -> Vec<BaseChain> {
    vec![
        base("raw", "PREROUTING", 0, "filter"),
        base("nat", "PREROUTING", 0, "nat"),
        base("nat", "OUTPUT", 3, "nat"),
        base("filter", "INPUT", 1, "filter"),
        base("filter", "FORWARD", 2, "filter"),
        base("nat", "POSTROUTING", 4, "nat"),
    ]
}

fn head(src: &str, dst: &str, iif: u32, oif: u32) -> Option<PacketHead> {
    let index = |index: u32| Some(index).filter(|index| *index > 0);
    Some(PacketHead {
        protocol: 6,
        src: src.parse().expect("an end"),
        dst: dst.parse().expect("an end"),
        iif: index(iif),
        oif: index(oif),
        detail: Detail::Tcp { sequence: 7, acknowledged: 0, flags: 2 },
        state: None,
    })
}

fn event(id: u32, table: &str, chain: &str, what: Traced, packet: Option<PacketHead>) -> Heard {
    let event = TraceEvent { id, family: 2, table: table.into(), chain: chain.into(), what, packet, mark: 0 };
    Heard { at_us: 0, event }
}

fn rule(handle: u64, verdict: TraceVerdict) -> Traced {
    Traced::Rule { handle, verdict }
}

fn jump(to: &str) -> TraceVerdict {
    TraceVerdict::Jump(to.into())
}

const ACCEPTS: Traced = Traced::Policy { accepts: true };
const CLIENT: &str = "10.244.0.2:40000";
const SERVICE: &str = "10.96.0.1:80";
const POD: &str = "10.244.1.3:8080";
const NODE: &str = "172.18.0.11:51000";

/// A pod's packet to a Service, sent on to another node and masqueraded.
fn through_a_service(id: u32) -> Vec<Heard> {
    let enter = |prefix: &str, what, packet| event(id, TRAP, prefix, what, packet);
    let e = |table: &str, chain: &str, what, packet| event(id, table, chain, what, packet);
    vec![
        enter("enter-prerouting", rule(3, TraceVerdict::Continue), head(CLIENT, SERVICE, 5, 0)),
        enter("enter-prerouting", ACCEPTS, None),
        e("raw", "PREROUTING", ACCEPTS, head(CLIENT, SERVICE, 5, 0)),
        e("nat", "PREROUTING", rule(4, jump("KUBE-SERVICES")), head(CLIENT, SERVICE, 5, 0)),
        e("nat", "KUBE-SERVICES", rule(8, jump("KUBE-SVC-A")), None),
        e("nat", "KUBE-SVC-A", rule(9, jump("KUBE-SEP-B")), None),
        e("nat", "KUBE-SEP-B", rule(10, TraceVerdict::Accept), None),
        e("filter", "FORWARD", ACCEPTS, head(CLIENT, POD, 5, 2)),
        e("nat", "POSTROUTING", rule(20, jump("KUBE-POSTROUTING")), head(CLIENT, POD, 0, 2)),
        e("nat", "KUBE-POSTROUTING", rule(21, TraceVerdict::Accept), None),
        enter("leave-postrouting", ACCEPTS, head(NODE, POD, 0, 2)),
    ]
}

fn header(src: &str, dst: &str) -> Header {
    Header { src: src.parse().expect("an end"), dst: dst.parse().expect("an end"), proto: Proto::Tcp }
}

#[test]
fn a_packet_through_a_service_is_one_way_whose_steps_say_hook_chain_and_what_was_rewritten() {
    let ways = ways(&through_a_service(7), TRAP, &bases(), LOOPBACK);
    let [way] = &ways[..] else { panic!("{ways:#?}") };
    assert_eq!((way.entered, way.left), (header(CLIENT, SERVICE), header(NODE, POD)));
    assert_eq!((way.came_by, way.went_by, &way.fate, way.asked_nat), (Some(5), Some(2), &Fate::Sent, true));
    let steps: Vec<_> = way.steps.iter().map(|s| (s.hook, s.chain.as_str(), s.handle, s.rewritten)).collect();
    let dnat = Some(header(CLIENT, POD));
    let masqueraded = Some(header(NODE, POD));
    assert_eq!(
        steps,
        [
            (Hook::Prerouting, "PREROUTING", Some(4), None),
            (Hook::Prerouting, "KUBE-SERVICES", Some(8), None),
            (Hook::Prerouting, "KUBE-SVC-A", Some(9), None),
            (Hook::Prerouting, "KUBE-SEP-B", Some(10), dnat),
            (Hook::Postrouting, "POSTROUTING", Some(20), None),
            (Hook::Postrouting, "KUBE-POSTROUTING", Some(21), masqueraded),
        ]
    );
    let sep = &way.steps[3];
    assert_eq!((sep.before.dst, sep.after), (header(CLIENT, SERVICE).dst, header(CLIENT, POD).dst));
}

#[test]
fn packets_between_each_others_events_are_told_apart_and_those_of_other_watches_are_left_out() {
    let other = |heard: Heard| {
        let mut heard = heard;
        if heard.event.table == TRAP {
            heard.event.table = "portolan-trace-2".into();
        }
        heard
    };
    let of_another = through_a_service(8).into_iter().map(other);
    let mixed: Vec<Heard> = through_a_service(7)
        .into_iter()
        .zip(of_another)
        .zip(through_a_service(9))
        .flat_map(|((a, b), c)| [a, b, c])
        .collect();
    let one = ways(&through_a_service(7), TRAP, &bases(), LOOPBACK).remove(0);
    assert_eq!(ways(&mixed, TRAP, &bases(), LOOPBACK), [one.clone(), one]);
}

#[test]
fn what_another_watch_traces_too_begins_no_way_here() {
    let seen = vec![
        event(1, TRAP, "enter-prerouting", ACCEPTS, head(CLIENT, SERVICE, 5, 0)),
        event(1, TRAP, "enter-prerouting", Traced::ChainEnd, None),
        event(1, "filter", "FORWARD", ACCEPTS, head(CLIENT, SERVICE, 5, 2)),
        event(1, TRAP, "leave-postrouting", ACCEPTS, head(CLIENT, SERVICE, 0, 2)),
    ];
    assert_eq!(ways(&seen, TRAP, &bases(), LOOPBACK), []);
}

#[test]
fn a_packet_that_a_rule_or_a_policy_ends_is_stopped_there_and_one_that_is_not_seen_again_has_vanished() {
    let begin = event(1, TRAP, "enter-prerouting", rule(3, TraceVerdict::Continue), head(CLIENT, SERVICE, 5, 0));
    let end = |what| vec![begin.clone(), event(1, "filter", "FORWARD", what, head(CLIENT, SERVICE, 5, 2))];
    let fate = |heard: &[Heard]| {
        let way = ways(heard, TRAP, &bases(), LOOPBACK).remove(0);
        (way.fate, way.steps.len(), way.went_by)
    };
    assert_eq!(fate(&end(rule(9, TraceVerdict::Drop))), (Fate::Stopped, 1, None));
    assert_eq!(fate(&end(Traced::Policy { accepts: false })), (Fate::Stopped, 1, None));
    assert_eq!(fate(&end(rule(9, TraceVerdict::Stolen))), (Fate::Stopped, 1, None));
    assert_eq!(fate(&[begin]), (Fate::Vanished, 0, None));
}

#[test]
fn the_kernels_number_of_a_packet_that_ended_may_be_another_packets_later() {
    let mut twice = through_a_service(7);
    twice.extend(through_a_service(7));
    assert_eq!(ways(&twice, TRAP, &bases(), LOOPBACK).len(), 2);
}

#[test]
fn what_a_node_sends_to_itself_is_one_way_from_its_process_to_its_process() {
    let to_itself = vec![
        event(1, TRAP, "enter-output", rule(3, TraceVerdict::Continue), head(NODE, SERVICE, 0, LOOPBACK)),
        event(1, "nat", "OUTPUT", rule(5, TraceVerdict::Accept), head(NODE, SERVICE, 0, LOOPBACK)),
        event(1, TRAP, "leave-postrouting", ACCEPTS, head(NODE, POD, 0, LOOPBACK)),
        event(2, TRAP, "enter-prerouting", rule(3, TraceVerdict::Continue), head(NODE, POD, LOOPBACK, 0)),
        event(2, "filter", "INPUT", rule(6, TraceVerdict::Accept), head(NODE, POD, LOOPBACK, 0)),
        event(2, TRAP, "leave-input", ACCEPTS, head(NODE, POD, LOOPBACK, 0)),
    ];
    let ways = ways(&to_itself, TRAP, &bases(), LOOPBACK);
    let [way] = &ways[..] else { panic!("{ways:#?}") };
    assert_eq!((way.came_by, way.went_by, &way.fate, way.steps.len()), (None, None, &Fate::Taken, 2));
    assert_eq!(way.steps[0].rewritten, Some(header(NODE, POD)));
}

#[test]
fn a_rewrite_that_no_rule_was_asked_for_is_nobodys() {
    let answer = vec![
        event(1, TRAP, "enter-prerouting", rule(4, TraceVerdict::Continue), head(POD, NODE, 2, 0)),
        event(1, "filter", "FORWARD", rule(9, TraceVerdict::Accept), head(POD, CLIENT, 2, 5)),
        event(1, TRAP, "leave-postrouting", ACCEPTS, head(SERVICE, CLIENT, 0, 5)),
    ];
    let way = ways(&answer, TRAP, &bases(), LOOPBACK).remove(0);
    assert_eq!((way.left, way.asked_nat), (header(SERVICE, CLIENT), false));
    assert_eq!(way.steps[0].rewritten, None);
}

#[test]
fn any_events_in_any_order_are_told_without_panic() {
    let whole = through_a_service(7);
    for skip in 0..whole.len() {
        for turn in 0..whole.len() {
            let mut some: Vec<Heard> = whole.iter().skip(skip).cloned().collect();
            let turn = turn.min(some.len());
            some.rotate_left(turn);
            ways(&some, TRAP, &bases(), LOOPBACK);
        }
    }
}
