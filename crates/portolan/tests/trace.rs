//! The table of faults: each world is broken in one way, `portolan trace` names the cause in its verdict and ends with 1;
//! mended, the packet is delivered. In iptables mode.

mod support;

#[path = "trace/faults.rs"]
mod faults;
#[path = "trace/kernel.rs"]
mod kernel;
#[path = "trace/live.rs"]
mod live;
#[path = "trace/world.rs"]
mod world;

#[test]
fn every_fault_of_the_table_is_named_by_its_cause() {
    let lab = support::world_with("trace", |config| {
        config.balancer_pools = vec!["172.18.0.192/28".parse().expect("a prefix")];
    });
    let space = world::space(lab);
    kernel::begin(space);
    world::endpoints(space, "open", 1);
    live::follows(lab, space);
    live::waits_in_vain(lab);
    faults::all(lab, space, &faults::table());
    kernel::foreign_drop(lab, space);
    kernel::foreign_reject(lab, space);
    kernel::bypassed(lab, space, "PREROUTING", "pod/client");
    kernel::bypassed(lab, space, "OUTPUT", "node/node-1");
    kernel::stale_entry(lab, space);
    kernel::blackhole(lab, space);
    kernel::pod_gone(lab, space);
    kernel::walled_in(lab, space);
    kernel::cut(lab);
    wrong_use(lab);
}

/// What cannot be asked is said in one line, and what is not there is named.
fn wrong_use(lab: &support::World) {
    for (args, words) in [
        ("pod/cleint svc/web", "no Pod faults/cleint; did you mean faults/client"),
        ("pod/client svc/wbe", "no Service faults/wbe; did you mean faults/web"),
        ("pod/client svc/web:htp", "has no tcp port"),
        ("client svc/web", "FROM \"client\""),
        ("pod/client web:http:80", "TO \"web:http:80\""),
        ("any svc/web", "FROM any"),
        ("node/node-9 svc/web", "no Node node-9"),
        ("pod/client svc/web --count 0", "--count"),
        ("pod/client svc/web --proto sctp", "--proto"),
        ("pod/client svc/web --live --source-port 4000", "--source-port"),
        ("pod/client svc/web --name none --kubeconfig x", "--kubeconfig"),
    ] {
        let said = world::run(lab, args).refused(2);
        assert!(said.contains(words), "trace {args}: {said}");
    }
    let said = support::portolan_says("trace pod/a svc/b --name t-none").refused(1);
    assert!(said.contains("t-none"), "{said}");
}
