//! What every cluster has from its first second: four namespaces and the `kubernetes` Service.
//!
//! Everything is made only if it is absent; the Service's endpoints follow the advertised address.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::body::FieldValidation;
use crate::registry::{self, Resource};
use crate::request::Target;
use crate::rest::create::create_object;
use crate::rest::update::modify;
use crate::rest::{Api, Owners, WriteOptions};
use crate::status::ApiResult;
use crate::strategy::Part;

/// How long the `kubernetes` Service may be gone: Kubernetes' own controller takes up to ten.
const LOOK_EVERY: Duration = Duration::from_secs(2);

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

pub async fn run(api: &Api, advertise: IpAddr, port: u16) -> ApiResult<()> {
    let options = WriteOptions {
        dry_run: false,
        manager: "kube-apiserver".into(),
        owners: Owners::Changed,
        validation: FieldValidation::Ignore,
        now: Timestamp::now(),
    };
    for name in NAMESPACES {
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        ensure(api, registry::row("namespaces"), "", object, &options).await?;
    }
    for object in kubernetes_service(api.ranges.service_cidrs.first(), advertise, port) {
        let resource = registry::RESOURCES.iter().find(|row| object["kind"] == row.kind);
        let resource = resource.expect("the kinds made here are served");
        ensure(api, resource, "default", object, &options).await?;
    }
    Ok(())
}

/// Makes again what `kubectl delete svc --all` took along. Looks are cheap: they read memory.
pub async fn keep(api: Arc<Api>, advertise: IpAddr, port: u16) {
    let keys =
        ["services", "endpoints", "endpointslices"].map(|plural| registry::row(plural).key("default", "kubernetes"));
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if keys.iter().all(|key| api.store.get(key).is_some()) {
            continue;
        }
        if let Err(problem) = run(&api, advertise, port).await {
            tracing::warn!(%problem, "cannot make the Service kubernetes again; it is tried once more");
        }
    }
}

/// Makes the object, or brings what an older run advertised up to date.
async fn ensure(
    api: &Api,
    resource: &'static Resource,
    namespace: &str,
    object: Value,
    options: &WriteOptions,
) -> ApiResult<()> {
    let name = crate::object::name(&object).to_owned();
    match create_object(api, resource, namespace, object.clone(), options).await {
        Ok(_) => return Ok(()),
        Err(error) if error.reason == "AlreadyExists" => {}
        Err(error) => return Err(error),
    }
    let target = Target {
        resource,
        namespace: resource.namespaced.then(|| namespace.to_owned()),
        name: Some(name),
        subresource: None,
        rest: String::new(),
    };
    let changed = ["subsets", "endpoints", "ports"];
    let renewed = |current: &Value| {
        let mut next = current.clone();
        for member in changed {
            if let Some(value) = object.get(member) {
                next[member] = value.clone();
            }
        }
        Ok(next)
    };
    modify(api, &target, Part::Main, options, renewed).await.map(drop)
}

/// The Service with the first address of the range, its Endpoints and its EndpointSlice. No endpoint
/// may be a loopback address: a server that advertises one has a Service without endpoints.
fn kubernetes_service(cidr: Option<&IpNet>, advertise: IpAddr, port: u16) -> [Value; 3] {
    let labels = json!({ "component": "apiserver", "provider": "kubernetes" });
    let first = cidr.and_then(|cidr| cidr.hosts().find(|ip| *ip != cidr.network()));
    let mut spec = json!({
        "type": "ClusterIP",
        "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": port }],
    });
    if let Some(first) = first {
        spec["clusterIP"] = first.to_string().into();
    }
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "kubernetes", "namespace": "default", "labels": labels }, "spec": spec,
    });
    let reachable = !advertise.is_loopback() && !advertise.is_unspecified();
    let subsets = json!([{ "addresses": [{ "ip": advertise }], "ports": [{ "name": "https", "port": port, "protocol": "TCP" }] }]);
    let backends = json!([{ "addresses": [advertise], "conditions": { "ready": true } }]);
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": { "name": "kubernetes", "namespace": "default", "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } },
        "subsets": if reachable { subsets } else { json!([]) },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "kubernetes", "namespace": "default", "labels": { "kubernetes.io/service-name": "kubernetes" } },
        "addressType": if advertise.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": if reachable { backends } else { json!([]) },
        "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
    });
    [service, endpoints, slice]
}
