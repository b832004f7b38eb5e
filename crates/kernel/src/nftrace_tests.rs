//! Events made by hand, cut anywhere. What a kernel really tells is tested with the trap.

use super::*;

fn event(kind: u32) -> Vec<u8> {
    let mut verdict = Vec::new();
    nfnl::append_attribute(&mut verdict, VERDICT_CODE, &(-3i32).to_be_bytes());
    nfnl::append_attribute(&mut verdict, VERDICT_CHAIN, b"KUBE-SERVICES\0");
    let mut network = vec![0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6, 0, 0];
    network.extend([10, 244, 0, 2, 10, 96, 0, 1]);
    let transport = [0x9c, 0x40, 0, 80, 0, 0, 0, 7, 0, 0, 0, 9, 0x50, 0x02, 0, 0, 0, 0, 0, 0];
    let mut attributes = Vec::new();
    nfnl::append_attribute(&mut attributes, KIND, &kind.to_be_bytes());
    nfnl::append_attribute(&mut attributes, ID, &1u32.to_ne_bytes());
    nfnl::append_attribute(&mut attributes, TABLE, b"nat\0");
    nfnl::append_attribute(&mut attributes, CHAIN, b"PREROUTING\0");
    nfnl::append_attribute(&mut attributes, HANDLE, &5u64.to_be_bytes());
    nfnl::append_nested(&mut attributes, VERDICT, &verdict);
    nfnl::append_attribute(&mut attributes, POLICY, &1u32.to_be_bytes());
    nfnl::append_attribute(&mut attributes, IN_INDEX, &3u32.to_be_bytes());
    nfnl::append_attribute(&mut attributes, NETWORK_HEADER, &network);
    nfnl::append_attribute(&mut attributes, TRANSPORT_HEADER, &transport);
    nfnl::append_attribute(&mut attributes, CT_STATE, &8u32.to_be_bytes());
    let mut bytes = Vec::new();
    nfnl::append(&mut bytes, TRACE, 0, 0, 2, &attributes);
    bytes
}

#[test]
fn a_rules_event_is_read_with_headers_links_and_verdict() {
    let events: Vec<TraceEvent> = parse(&event(OF_RULE)).collect();
    let head = PacketHead {
        protocol: 6,
        src: "10.244.0.2:40000".parse().unwrap(),
        dst: "10.96.0.1:80".parse().unwrap(),
        iif: Some(3),
        oif: None,
        detail: Detail::Tcp { sequence: 7, acknowledged: 9, flags: 2 },
        state: Some(CtSeen::New),
    };
    let what = Traced::Rule { handle: 5, verdict: TraceVerdict::Jump("KUBE-SERVICES".into()) };
    let (id, table, chain) = (1u32.to_be(), "nat".into(), "PREROUTING".into());
    assert_eq!(events, [TraceEvent { id, family: 2, table, chain, what, packet: Some(head), mark: 0 }]);
    let policy = parse(&event(OF_POLICY)).next().unwrap();
    assert_eq!(policy.what, Traced::Policy { accepts: true });
}

#[test]
fn events_cut_or_broken_anywhere_are_read_without_panic() {
    let whole = event(OF_RULE);
    for end in 0..=whole.len() {
        for length in [end as u32, 20, u32::MAX] {
            let mut cut = whole[..end].to_vec();
            if end >= 4 {
                cut[..4].copy_from_slice(&length.to_ne_bytes());
            }
            parse(&cut).for_each(drop);
        }
    }
    for at in 16..whole.len() {
        for value in [0, 1, 4, 0x45, 0x65, 0xff] {
            let mut broken = whole.clone();
            broken[at] = value;
            parse(&broken).for_each(drop);
        }
    }
}
