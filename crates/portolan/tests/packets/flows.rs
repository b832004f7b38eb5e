//! What is to happen to flows and to balancers when endpoints come and go under a proxy that runs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use portolan_model::Proto;
use serde_json::json;

use super::case::POD_RANGES;
use super::ground::{CROWD, NODE_1, OUTSIDE, addresses};
use super::objects::{To, service};
use super::over_time::{flags, shot, with_nodes};
use super::probe::Shot;
use super::run::Field;

/// A client that keeps its UDP socket comes to who serves now, also when for a while nobody did, and stays where it is
/// while its endpoint still serves.
pub fn datagrams_follow(field: &Field<'_>) {
    let ranges = POD_RANGES.join(",");
    let write = |endpoints: &'static str| field.write(&with_nodes(&[service(10).everywhere().endpoints(endpoints)]));
    let ways = [("a2", To::ClusterIp(10)), (OUTSIDE, To::NodePort(10)), (OUTSIDE, To::External(10))];
    let all = ways.into_iter().flat_map(|(from, to)| to.targets().map(|to| (from, to)));
    let mut talks: Vec<_> = all
        .map(|(from, to)| field.range.talk(Shot { from, source: None, is_borrowed: false, proto: Proto::Udp, to }))
        .collect();
    // Whoever sends before the rules are there must not be left where it was sent then.
    field.program(&with_nodes(&[]), &flags(&ranges));
    for talk in &mut talks {
        // What became of it is of no account: only that the kernel remembers the flow.
        let _ = field.range.say(talk, "");
    }
    write("a1");
    let _running = field.start(&flags(&ranges));
    let mut come_to = |place: &str| {
        for talk in &mut talks {
            field.wait(&format!("{talk:?} at {place}"), || {
                (field.range.say(talk, place).place() == place).then_some(())
            });
        }
    };
    come_to("a1");
    write("b1");
    come_to("b1");
    // Ending, but it serves: who is there stays there, though others go elsewhere.
    write("b1 terminating, a1");
    let probe = Shot { from: "a2", source: None, is_borrowed: false, proto: Proto::Udp, to: ways[0].1.targets()[0] };
    field.wait("new flows at the running endpoint", || (field.range.shoot(&probe).place() == "a1").then_some(()));
    come_to("b1");
    write("");
    come_to("refused");
    write("a1");
    come_to("a1");
}

/// What a balancer hears at healthCheckNodePort: whether this node has ready endpoints.
pub fn balancers_ask(field: &Field<'_>) {
    const PORT: u16 = 32010;
    let ranges = POD_RANGES.join(",");
    let asked = service(10).everywhere().external_local().spec(json!({ "healthCheckNodePort": PORT }));
    field.write(&with_nodes(&[asked.clone().endpoints("a1, a2, b1")]));
    let _running = field.start(&flags(&ranges));
    let says = |status: &str, count: usize| {
        for addr in addresses(NODE_1) {
            field.wait(&format!("{status} for {count} endpoints at {addr}"), || {
                let answer = get(field, SocketAddr::new(addr, PORT))?;
                let weight = format!("x-load-balancing-endpoint-weight: {count}");
                (answer.contains(status) && answer.to_lowercase().contains(&weight)).then_some(())
            });
        }
    };
    says("200", 2);
    field.write(&with_nodes(&[asked.endpoints("a1 terminating, b1")]));
    says("503", 0);
    // Ending ones do not count for the balancer, yet serve who comes.
    let late = shot(*CROWD.start(), Proto::Tcp, To::Balancer(10), 0);
    assert_eq!(field.range.shoot(&late).place(), "a1");
}

/// One request from outside: head and body.
fn get(field: &Field<'_>, to: SocketAddr) -> Option<String> {
    field.ground.inside(OUTSIDE, || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: node-1\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    })
}
