//! The table of nftables mode, looked up backwards: whose is each of its elements.

use serde_json::Value;

use crate::support::{self, Said, Space, wait_for};

/// Questions of one request line.
const ASKED_AT_ONCE: usize = 48;

/// A Service of every sort of destination, with endpoints, with clients that are remembered, and with none at all.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: { name: doors }
spec:
  type: LoadBalancer
  selector: { app: web }
  externalIPs: [192.0.2.80]
  loadBalancerSourceRanges: [172.18.0.0/24]
  externalTrafficPolicy: Local
  ports: [{ name: http, port: 80 }, { name: alt, port: 8080, targetPort: 80 }]
---
apiVersion: v1
kind: Service
metadata: { name: sticky }
spec: { selector: { app: web }, sessionAffinity: ClientIP, ports: [{ name: http, port: 80 }, { name: dns, port: 53, protocol: UDP }] }
---
apiVersion: v1
kind: Service
metadata: { name: bare }
spec: { type: NodePort, ports: [{ port: 80 }] }
";

/// An element as `nft list` prints it.
struct Listed {
    set: String,
    text: String,
}

impl Listed {
    /// The Service that its comment names: `serve/web`, or one port of it, `serve/web:http`. A host port's names a Pod.
    fn service(&self) -> Option<(&str, &str)> {
        let (_, comment) = self.text.split_once(" comment \"")?;
        let (namespace, rest) = comment.split('"').next()?.split_once('/')?;
        let name = rest.split(':').next()?;
        (!self.set.starts_with("host-ports")).then_some((namespace, name))
    }
}

/// The elements of all sets and maps of a listed table.
fn listed(table: &str) -> Vec<Listed> {
    let (mut set, mut inside, mut all) = ("", false, Vec::new());
    for line in table.lines().map(str::trim) {
        if let Some(("set" | "map", rest)) = line.split_once(' ') {
            set = rest.trim_end_matches(" {");
        }
        let begun = line.strip_prefix("elements = {");
        inside |= begun.is_some();
        if !inside {
            continue;
        }
        let texts = begun.unwrap_or(line).trim_end_matches('}').split(',').map(str::trim);
        all.extend(
            texts.filter(|text| !text.is_empty()).map(|text| Listed { set: set.to_owned(), text: text.to_owned() }),
        );
        inside = !line.ends_with('}');
    }
    all
}

/// Every element on node-1 that names a Service leads back to that Service, and to its Pod if it leads to an endpoint.
pub fn each_leads_back_to_its_service(space: Space) {
    space.deployment("web", 2);
    space.apply(SERVICES);
    let pods = wait_for("its pods", 60, || {
        let ips = space.field("pods -l app=web", ".items[*].status.podIP");
        Some(ips.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).filter(|ips| ips.len() == 2)
    });
    let has_all = |table: &str| {
        let leads_to = |ip: &String| {
            ["doors:http", "doors:alt", "sticky:http", "sticky:dns"].iter().all(|port| {
                let port = format!("comment \"{}/{port}\" : {ip} . ", space.name);
                table.contains(&port)
            })
        };
        pods.iter().all(leads_to) && table.contains(&format!("\"{}/bare\"", space.name))
    };
    let table = wait_for("the Services' elements", 60, || {
        Some(space.world.at("node-1", &super::TABLE).done()).filter(|table| has_all(table))
    });
    // Other tests change their own Services all the while.
    let stays = |element: &Listed| {
        element.service().is_some_and(|(namespace, _)| ["default", "kube-system", space.name].contains(&namespace))
    };
    let elements: Vec<Listed> = listed(&table).into_iter().filter(stays).collect();
    let services = ["doors", "sticky", "bare", "kubernetes"];
    for name in services {
        let of = elements.iter().filter(|element| element.service().is_some_and(|(_, known)| known == name)).count();
        assert!(of > 1, "{name} has {of} elements: {table}");
    }
    let (mut asked, mut to_pods) = (0, 0);
    for some in elements.chunks(ASKED_AT_ONCE) {
        let answers = owners(space, some);
        assert_eq!(answers.len(), some.len());
        for (element, answer) in some.iter().zip(&answers) {
            to_pods += usize::from(leads_back(element, &answer["nodes"][0], space.name));
            asked += 1;
        }
    }
    assert!(asked == elements.len() && to_pods >= 8, "{asked} elements, {to_pods} to pods: {table}");
}

fn owners(space: Space, elements: &[Listed]) -> Vec<Value> {
    let questions = elements.iter().map(|element| format!("ip portolan {} {}", element.set, element.text));
    let words = questions.flat_map(|question| ["--rule".to_owned(), question]);
    let mut command = support::portolan();
    command.env("KUBECONFIG", space.world.lab().kubeconfig());
    command.args(["why", "--node", "node-1", "--output", "json"]).args(words);
    let said: Said = command.output().expect("portolan runs").into();
    let value: Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {}{}", said.out, said.err));
    rows(&value["answers"]).cloned().collect()
}

/// Whether a Pod of ours is behind it.
fn leads_back(element: &Listed, answer: &Value, own: &str) -> bool {
    let Listed { set, text } = element;
    let (namespace, name) = element.service().expect("chosen for it");
    assert_eq!(rows(&answer["inPlace"]).count(), 1, "{set} {text}: {answer:#}");
    let found = &answer["inPlace"][0];
    assert_eq!(found["place"], format!("ip portolan {set}"), "{text}");
    assert_eq!(found["text"], **text, "the kernel's own words");
    assert_eq!(found["sort"], "element");
    let first = &found["objects"][0];
    let told = [&first["kind"], &first["key"]["namespace"], &first["key"]["name"]];
    assert_eq!(told, ["Service", namespace, name], "{set} {text}: {found:#}");
    assert!(found["since"]["atUs"].is_i64(), "{set} {text}: {found:#}");
    let is_to_pod = namespace == own && found["meaning"]["role"] == "sendsTo";
    let is_pod = |object: &Value| object["kind"] == "Pod" && object["key"]["namespace"] == own;
    assert!(!is_to_pod || rows(&found["objects"]).any(is_pod), "{set} {text}: {found:#}");
    is_to_pod
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
