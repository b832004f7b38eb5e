//! The nftables writer over a kernel in memory that refuses what it is told to.

use std::sync::Mutex;

use portolan_kernel::nft::Refused;
use portolan_model::{
    EndpointFact, Fact, Facts, NsName, Proto, Service, ServicePortFact, Settings, Slice, SlicePort, resolve,
};

use super::*;

/// Takes batches; refuses those with a message that holds these bytes, and names the step.
#[derive(Clone, Default)]
struct FakeTables(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    batches: usize,
    refuses: Option<&'static str>,
}

impl Tables for FakeTables {
    fn transact(&mut self, batch: &[u8]) -> Result<(), NftError> {
        let mut state = self.0.lock().expect("no panics");
        state.batches += usize::from(!batch.is_empty());
        let Some(refused) = state.refuses else { return Ok(()) };
        let mut rest = batch;
        while rest.len() >= 16 {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let sequence = u32::from_ne_bytes([rest[8], rest[9], rest[10], rest[11]]);
            if rest[..length].windows(refused.len()).any(|window| window == refused.as_bytes()) {
                let refused = Refused { step: Some(sequence as usize - 1), errno: libc::EINVAL, words: String::new() };
                return Err(NftError::Refused(refused));
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        Ok(())
    }

    fn dump(&mut self, _: ToolFamily, _: &str) -> Result<Vec<Vec<u8>>, NftError> {
        Ok(Vec::new())
    }

    fn elements(&mut self, _: ToolFamily, _: &str, _: &str) -> Result<Vec<Vec<u8>>, NftError> {
        Ok(Vec::new())
    }
}

fn facts() -> Facts {
    let mut facts = Facts::default();
    for (last, name) in [(20, "good"), (21, "bad"), (22, "fine")] {
        let key = NsName::new("default", name);
        let port = ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: 0 };
        let service = Service {
            cluster_ips: vec![std::net::Ipv4Addr::new(10, 96, 0, last).into()],
            ports: vec![port],
            ..Service::default()
        };
        let endpoint = EndpointFact::ready_at(std::net::Ipv4Addr::new(10, 244, 0, last).into());
        let ports = vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 8080 }];
        let slice = Slice { service: key.clone(), family: Family::V4, ports, endpoints: vec![endpoint] };
        facts.apply(Fact::Service(key.clone(), Some(service)));
        facts.apply(Fact::Slice(key, Some(slice)));
    }
    facts
}

fn snapshot() -> Snapshot {
    let settings = Settings {
        node: "node-1".into(),
        cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a prefix")],
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a prefix")],
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        proxy: Default::default(),
    };
    let facts = facts();
    resolve(&facts, &Snapshot::empty(Arc::new(settings)), &facts.all()).0
}

fn writer(tables: &FakeTables) -> NftWriter {
    NftWriter::new(Family::V4, Options::default(), Box::new(tables.clone()), Arc::default(), Arc::default())
}

#[test]
fn a_refused_step_is_blamed_on_its_service() {
    let tables = FakeTables::default();
    tables.0.lock().expect("no panics").refuses = Some("default/bad");
    let snapshot = snapshot();
    let mut writer = writer(&tables);
    match writer.update(&snapshot, &Delta::all(&snapshot)) {
        Err(WriteError::Culprit { service, .. }) => assert_eq!(service, NsName::new("default", "bad")),
        other => panic!("{other:?}"),
    }
    let mut without = snapshot.clone();
    without.services.remove(&NsName::new("default", "bad"));
    let services = [NsName::new("default", "bad")].into();
    let wrote = writer.update(&without, &Delta { services, ..Delta::default() });
    assert_eq!(wrote, Ok(Wrote::Compared), "the others go in, over a kernel that is read anew");
}

#[test]
fn nothing_changed_is_no_transaction() {
    let tables = FakeTables::default();
    let snapshot = snapshot();
    let mut writer = writer(&tables);
    assert_eq!(writer.update(&snapshot, &Delta::all(&snapshot)), Ok(Wrote::Compared));
    let batches = tables.0.lock().expect("no panics").batches;
    assert!(batches > 0);
    assert_eq!(writer.update(&snapshot, &Delta::all(&snapshot)), Ok(Wrote::Changes));
    assert_eq!(tables.0.lock().expect("no panics").batches, batches);
}
