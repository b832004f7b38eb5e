//! Steps 5 and 6: NodePort, Headless, ExternalName.

use super::needs::Need;
use super::said::Link;
use super::stage::{Stage, status_of};
use super::{Step, StepError};
use crate::lab::Place;

pub(super) const NODE_PORT: Step = Step {
    number: 5,
    title: "NodePort: a port on every node",
    about: "\
A ClusterIP is for the inside of the cluster. A Service of type NodePort has one too, and in addition a port from \
30000-32767 that every node opens on its own addresses: who reaches a node reaches the Service. A node without a pod of the \
Service opens it as well, and sends requests on to a node that has one, with its own address as the source.",
    read_on: &[Link {
        term: "type: NodePort",
        url: "https://kubernetes.io/docs/concepts/services-networking/service/#type-nodeport",
    }],
    needs: &[Need::Pods],
    gives: &[],
    perform: node_port,
};

pub(super) const BY_NAME: Step = Step {
    number: 6,
    title: "Headless and ExternalName: the work is done by DNS",
    about: "\
DNS turns names into data, kept in records of several types: an A record holds an IPv4 address, a CNAME record another \
name to go to. Cluster DNS knows each Service by a name, SERVICE.NAMESPACE.svc.cluster.local; a namespace is a folder for \
objects, and ours is `default`. For two kinds of Service that name is all there is: no ClusterIP, and no rules.

A headless Service says `clusterIP: None`. DNS answers with the address of each ready pod, and the client picks one. A \
Service of type ExternalName has no pods: DNS answers that the name stands for one elsewhere, and asks for that one's \
address too, at an upstream server: one outside the cluster.",
    read_on: &[
        Link {
            term: "Headless Services",
            url: "https://kubernetes.io/docs/concepts/services-networking/service/#headless-services",
        },
        Link {
            term: "type: ExternalName",
            url: "https://kubernetes.io/docs/concepts/services-networking/service/#externalname",
        },
    ],
    needs: &[Need::Pods, Need::Service, Need::Shell],
    gives: &[],
    perform: headless_and_external,
};

fn node_port(stage: &mut Stage) -> Result<(), StepError> {
    stage.say("The file names no port, so one is chosen. In PORT(S) it stands behind the Service's own:");
    let file = stage.example("ngx-nodeport.yaml");
    stage.kubectl(&["apply", "-f", &file])?;
    stage.kubectl(&["get", "svc", "ngx-nodeport"])?;
    let port = stage.get(&["svc", "ngx-nodeport"])["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or(0);
    let claim = format!("a node port was chosen from 30000-32767: {port}");
    stage.check("node-port-chosen", &claim, (30000..=32767).contains(&port))?;
    stage.say("One pod is enough to see that the port opens on each node, with a pod or without:");
    stage.kubectl(&["scale", "deployment", "nginx-deployment", "--replicas=1"])?;
    stage.wait("one-pod-left", "one nginx pod is left", |stage| stage.nginx_pods().len() == 1)?;
    // One that is still on its way out would stand in the story among those left out.
    stage.until(|stage| {
        let slices = stage.get(&["endpointslices", "-l", "kubernetes.io/service-name=ngx-nodeport"]);
        slices["items"][0]["endpoints"].as_array().is_some_and(|endpoints| endpoints.len() == 1)
    });
    let pod = stage.an_nginx_pod(None)?;
    settled(stage, &pod.ip)?;
    let without = if pod.node == "node-1" { "node-2" } else { "node-1" };
    if stage.sabotaged() {
        stage.bypass(without, "PREROUTING")?;
    }
    through(stage, without, port, &pod.name)?;
    for node in ["node-1", "node-2"] {
        let url = format!("http://{}:{port}/?walk-5-{node}", stage.lab.node_address(node));
        let got = stage.at(&Place::Outside, &status_of(&url))?;
        let which = if node == pod.node { "which runs the pod" } else { "which runs no pod of it" };
        let claim = format!("outside reaches it on {node}'s eth0, {which}");
        stage.check(&format!("node-port-on-{node}"), &claim, got.has("200"))?;
    }
    stage.kubectl(&["scale", "deployment", "nginx-deployment", "--replicas=2"])?;
    stage.wait("two-pods-again", "two pods again", |stage| stage.nginx_pods().len() == 2)
}

/// The story of a packet that comes by the node which runs no pod of the Service.
fn through(stage: &mut Stage, without: &str, port: u64, pod: &str) -> Result<(), StepError> {
    stage.say(
        "How a node without a pod of it does that, in a packet's own story: the Service claims it by its node port, and since \
         the answer must pass this node again, it goes on with this node's address as its source (snat).",
    );
    let told = stage.trace("outside", &format!("node/{without}:{port}"), pod)?;
    let holds = told.ok && told.has_line(&[" service ", "by its node port"]) && told.has_line(&[" snat ", "yes, "]);
    stage.check("node-port-trace", "a node without a pod sends it on as its own", holds)
}

/// Waits until both nodes know no other endpoint than the pod that is left.
fn settled(stage: &mut Stage, ip: &str) -> Result<(), StepError> {
    stage.wait("rules-for-one-pod", "both nodes have rules for that pod alone", |stage| {
        ["node-1", "node-2"].iter().all(|node| {
            let saved = stage.run_at(&Place::node(node), &["iptables-save", "-t", "nat"]);
            saved.is_ok_and(|s| {
                let mut dnats = s.text.lines().filter(|l| l.contains("ngx-nodeport") && l.contains("--to-destination"));
                dnats.next().is_some_and(|l| l.contains(&format!("{ip}:80"))) && dnats.next().is_none()
            })
        })
    })
}

fn headless_and_external(stage: &mut Stage) -> Result<(), StepError> {
    stage.say(
        "A Service cannot lose the ClusterIP that it has, so the notes' Service is made anew with `clusterIP: None`.",
    );
    stage.kubectl(&["delete", "svc", "ngx-svc"])?;
    let file = stage.example("ngx-headless.yaml");
    stage.kubectl(&["apply", "-f", &file])?;
    stage.kubectl(&["get", "svc", "ngx-svc"])?;
    no_rule(stage)?;
    let pods = stage.nginx_pods();
    let name = "ngx-svc.default.svc.cluster.local";
    stage.wait("dns-has-the-pods", "DNS has both pods", |stage| {
        stage.run_kubectl(&["exec", "shell", "--", "drill", name, "A"]).is_ok_and(|o| pods.iter().all(|p| o.has(&p.ip)))
    })?;
    if stage.sabotaged() {
        stage.run_kubectl(&["delete", "svc", "ngx-svc"])?;
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    stage.say(
        "drill asks DNS and prints the whole answer. Look below ANSWER SECTION. A record is: the name, the seconds that an \
         answer may be kept, the class (always IN), the type, the data.",
    );
    let answer = stage.in_pod("shell", &["drill", name, "A"])?;
    stage.check("headless-answers-pods", "asked for the headless name, DNS answers the address of each pod", {
        pods.len() == 2 && pods.iter().all(|p| answer.has_line(&[name, "IN", "A", &p.ip]))
    })?;
    external(stage)?;
    stage.say("And the notes' ClusterIP Service again, for what follows:");
    stage.kubectl(&["delete", "svc", "ngx-svc"])?;
    let file = stage.example("ngx-svc.yaml");
    stage.kubectl(&["apply", "-f", &file]).map(|_| ())
}

fn no_rule(stage: &mut Stage) -> Result<(), StepError> {
    let node = Place::node("node-1");
    stage.wait("headless-has-no-rule", "no rule of node-1 names the headless Service", |stage| {
        stage.run_at(&node, &["iptables-save"]).is_ok_and(|saved| saved.ok && !saved.has("ngx-svc"))
    })?;
    stage.say("grep -c counts lines:");
    stage.at(&node, &["sh", "-c", "iptables-save | grep -c ngx-svc"]).map(|_| ())
}

fn external(stage: &mut Stage) -> Result<(), StepError> {
    stage.say(
        "Now two Services of type ExternalName. The upstream server that knows ylzhong.top is the host outside: in this lab \
         it stands for the internet, which no packet reaches.",
    );
    let file = stage.example("ngx-external.yaml");
    stage.kubectl(&["apply", "-f", &file])?;
    for (service, target) in [("ngx-external", "ylzhong.top."), ("ngx-external-www", "www.ylzhong.top.")] {
        let name = format!("{service}.default.svc.cluster.local");
        stage.wait("dns-has-external", &format!("DNS has {service}"), |stage| {
            stage.run_kubectl(&["exec", "shell", "--", "drill", &name, "A"]).is_ok_and(|o| o.has("CNAME"))
        })?;
        let answer = stage.drill(&name, "A")?;
        let claim = format!("{service} is a CNAME to {target}");
        stage.check("external-is-cname", &claim, answer.has_line(&["IN", "CNAME", target]))?;
        stage.check("upstream-was-asked", "and the target's address came from outside, through the upstream", {
            answer.has_line(&[target, "IN", "A", "192.168.100.100"])
        })?;
    }
    Ok(())
}
