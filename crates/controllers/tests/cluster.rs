//! The controllers against the real API server on loopback: a Deployment becomes pods on nodes that
//! the test plays, slices follow what the test reports, and a restart of the server changes nothing.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use http::{Method, Request};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use portolan_apiserver::pki::Pki;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

async fn serve(dir: &Path, pki: &Pki, listener: TcpListener) -> portolan_apiserver::Server {
    let config = portolan_apiserver::Config {
        listeners: vec![listener],
        data_dir: dir.to_owned(),
        pki: pki.server_files(),
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        node_port_range: 30000..=32767,
        cluster_domain: "cluster.local".to_owned(),
        advertise: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    portolan_apiserver::serve(config).await.expect("the server starts")
}

async fn client(pki: &Pki, address: SocketAddr) -> Client {
    let user = pki.client("admin", &["system:masters"]).unwrap();
    let text = pki.kubeconfig(&format!("https://{address}"), &user);
    let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    Client::try_from(config).unwrap()
}

/// What a user and the agents do, in plain requests.
struct Hands {
    client: Client,
}

impl Hands {
    async fn send(&self, method: Method, path: &str, body: Value) -> Result<Value, kube::Error> {
        let kind = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", kind).body(body).unwrap();
        self.client.request(request).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.send(Method::POST, path, body).await.expect(path)
    }

    async fn patch(&self, path: &str, body: Value) -> Value {
        self.send(Method::PATCH, path, body).await.expect(path)
    }

    async fn get(&self, path: &str) -> Value {
        self.send(Method::GET, path, Value::Null).await.unwrap_or(Value::Null)
    }

    async fn items(&self, path: &str) -> Vec<Value> {
        let list = self.get(path).await;
        list["items"].as_array().cloned().unwrap_or_default()
    }

    async fn node(&self, name: &str) {
        let body = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        });
        self.post("/api/v1/nodes", body).await;
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
        self.patch(&format!("/api/v1/nodes/{name}/status"), status).await;
    }

    async fn pods(&self) -> Vec<Value> {
        self.items("/api/v1/namespaces/default/pods").await
    }

    /// Placed pods that are not on their way out.
    async fn placed(&self) -> Vec<Value> {
        let mut pods = self.pods().await;
        pods.retain(|pod| pod["spec"]["nodeName"].is_string() && pod["metadata"]["deletionTimestamp"].is_null());
        pods
    }

    async fn report_running(&self, pod: &Value, address: &str) {
        let name = text(&pod["metadata"]["name"]);
        let status = json!({"status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2024-05-01T12:00:00Z"}],
        }});
        self.patch(&format!("/api/v1/namespaces/default/pods/{name}/status"), status).await;
    }

    /// Addresses of ready endpoints in the slices of a Service.
    async fn ready(&self, service: &str) -> BTreeSet<String> {
        let path = format!(
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3D{service}"
        );
        let slices = self.items(&path).await;
        let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
        let ready = endpoints.filter(|one| one["conditions"]["ready"] == true);
        ready.map(|one| text(&one["addresses"][0])).collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Asks until the answer is there; says how long that took.
async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) -> Duration {
    let start = Instant::now();
    while !ask().await {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 4,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "nginx", "ports": [{"name": "http", "containerPort": 80}]}]},
            },
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_becomes_placed_pods_and_slices_follow_them_over_a_server_restart() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let pki = portolan_apiserver::pki::ensure(&dir.path().join("pki"), &names).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let again = listener.try_clone().unwrap();
    let data = dir.path().join("data");
    let server = serve(&data, &pki, listener).await;
    let hands = Hands { client: client(&pki, address).await };
    let config = portolan_controllers::Config::default();
    let controllers = portolan_controllers::run(hands.client.clone(), config);
    let controllers = tokio::spawn(controllers);

    let hands = &hands;
    hands.node("n1").await;
    hands.node("n2").await;
    hands.post("/apis/apps/v1/namespaces/default/deployments", deployment()).await;
    hands.post("/api/v1/namespaces/default/services", service()).await;
    let took = until("four placed pods", || async { hands.placed().await.len() == 4 }).await;
    println!("deployment to four placed pods: {took:?}");
    let pods = hands.placed().await;
    let on = |node: &str| pods.iter().filter(|pod| pod["spec"]["nodeName"] == node).count();
    assert_eq!((on("n1"), on("n2")), (2, 2));
    until("blocks", || async {
        let blocks = hands.items("/api/v1/nodes").await;
        let blocks: BTreeSet<String> = blocks.iter().map(|node| text(&node["spec"]["podCIDR"])).collect();
        blocks == BTreeSet::from(["10.244.0.0/26".to_owned(), "10.244.0.64/26".to_owned()])
    })
    .await;

    for (number, pod) in pods.iter().enumerate() {
        hands.report_running(pod, &format!("10.244.0.{}", number + 2)).await;
    }
    let took = until("four ready endpoints", || async { hands.ready("web").await.len() == 4 }).await;
    println!("last pod ready to slice: {took:?}");
    until("deployment available", || async {
        let deployment = hands.get("/apis/apps/v1/namespaces/default/deployments/web").await;
        deployment["status"]["availableReplicas"] == 4
    })
    .await;

    let victim = text(&pods[0]["metadata"]["name"]);
    let path = format!("/api/v1/namespaces/default/pods/{victim}");
    hands.send(Method::DELETE, &path, Value::Null).await.unwrap();
    let is_replaced = || async { hands.placed().await.len() == 4 && hands.ready("web").await.len() == 3 };
    let took = until("a replacement", is_replaced).await;
    println!("pod deleted to replacement placed: {took:?}");

    let dns = hands.get("/api/v1/namespaces/kube-system/services/kube-dns").await;
    assert_eq!(dns["spec"]["clusterIP"], "10.96.0.10");
    until("Events", || async {
        let events = hands.items("/api/v1/namespaces/default/events").await;
        let reasons: BTreeSet<String> = events.iter().map(|event| text(&event["reason"])).collect();
        ["ScalingReplicaSet", "SuccessfulCreate", "Scheduled"].iter().all(|one| reasons.contains(*one))
    })
    .await;

    server.shutdown();
    server.stopped().await;
    let _server = serve(&data, &pki, again).await;
    let scale = json!({"spec": {"replicas": 6}});
    until("the server is back", || async { !hands.pods().await.is_empty() }).await;
    hands.patch("/apis/apps/v1/namespaces/default/deployments/web", scale).await;
    let took = until("six placed pods", || async { hands.placed().await.len() == 6 }).await;
    println!("scaled after a restart of the server: {took:?}");

    hands
        .post("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gone"}}))
        .await;
    until("its account", || async { !hands.items("/api/v1/namespaces/gone/serviceaccounts").await.is_empty() }).await;
    hands
        .post(
            "/api/v1/namespaces/gone/configmaps",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}),
        )
        .await;
    hands.send(Method::DELETE, "/api/v1/namespaces/gone", Value::Null).await.unwrap();
    until("the namespace is gone", || async { hands.get("/api/v1/namespaces/gone").await.is_null() }).await;

    hands.send(Method::DELETE, "/apis/apps/v1/namespaces/default/deployments/web", Value::Null).await.unwrap();
    until("all pods are on their way out", || async { hands.placed().await.is_empty() }).await;
    until("its set is gone", || async { hands.items("/apis/apps/v1/namespaces/default/replicasets").await.is_empty() })
        .await;
    controllers.abort();
}
