//! Steps 5 and 6: NodePort, Headless, ExternalName.

use super::StepError;
use super::stage::{Stage, status_of};
use crate::lab::Place;

pub(super) fn node_port(stage: &mut Stage) -> Result<(), StepError> {
    let file = stage.example("ngx-nodeport.yaml");
    stage.kubectl(&["apply", "-f", &file])?;
    stage.kubectl(&["get", "svc", "ngx-nodeport"])?;
    let port = stage.get(&["svc", "ngx-nodeport"])["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or(0);
    stage.check(&format!("a node port was chosen from 30000-32767: {port}"), (30000..=32767).contains(&port))?;
    stage.say("One pod is enough to see that the port opens on each node, with a pod or without:");
    stage.kubectl(&["scale", "deployment", "nginx-deployment", "--replicas=1"])?;
    stage.wait("one nginx pod is left", |stage| stage.nginx_pods().len() == 1)?;
    let pod = stage.nginx_pods().remove(0);
    let with = pod.node.clone();
    let without = if with == "node-1" { "node-2" } else { "node-1" };
    settled(stage, &pod.ip)?;
    if stage.sabotaged() {
        stage.run_at(&Place::node(without), &["iptables", "-w", "-t", "nat", "-F", "KUBE-NODEPORTS"])?;
    }
    for node in [with.as_str(), without] {
        let url = format!("http://{}:{port}/?walk-5-{node}", stage.lab.node_address(node));
        let got = stage.at(&Place::Outside, &status_of(&url))?;
        let which = if node == with { "which runs the pod" } else { "which runs no pod of it" };
        stage.check(&format!("outside reaches it on {node}'s eth0, {which}"), got.has("200"))?;
    }
    stage.kubectl(&["scale", "deployment", "nginx-deployment", "--replicas=2"])?;
    stage.wait("two pods again", |stage| stage.nginx_pods().len() == 2)
}

/// Waits until both nodes know no other endpoint than the pod that is left.
fn settled(stage: &mut Stage, ip: &str) -> Result<(), StepError> {
    stage.wait("both nodes have rules for that pod alone", |stage| {
        ["node-1", "node-2"].iter().all(|node| {
            let saved = stage.run_at(&Place::node(node), &["iptables-save", "-t", "nat"]);
            saved.is_ok_and(|s| {
                let mut dnats = s.text.lines().filter(|l| l.contains("ngx-nodeport") && l.contains("--to-destination"));
                dnats.next().is_some_and(|l| l.contains(&format!("{ip}:80"))) && dnats.next().is_none()
            })
        })
    })
}

pub(super) fn headless_and_external(stage: &mut Stage) -> Result<(), StepError> {
    stage.say("A ClusterIP cannot be taken from a Service that has one, so the notes' Service is made anew with clusterIP: None.");
    stage.kubectl(&["delete", "svc", "ngx-svc"])?;
    let file = stage.example("ngx-headless.yaml");
    stage.kubectl(&["apply", "-f", &file])?;
    stage.kubectl(&["get", "svc", "ngx-svc"])?;
    let node = Place::node("node-1");
    stage.wait("iptables-save | grep ngx-svc prints nothing: no rule is made for it", |stage| {
        stage.run_at(&node, &["iptables-save"]).is_ok_and(|saved| saved.ok && !saved.has("ngx-svc"))
    })?;
    let pods = stage.nginx_pods();
    let name = "ngx-svc.default.svc.cluster.local";
    stage.wait("DNS has both pods", |stage| {
        stage.run_kubectl(&["exec", "shell", "--", "drill", name, "A"]).is_ok_and(|o| pods.iter().all(|p| o.has(&p.ip)))
    })?;
    if stage.sabotaged() {
        stage.run_kubectl(&["delete", "svc", "ngx-svc"])?;
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    let answer = stage.in_pod("shell", &["drill", name, "A"])?;
    stage.check("asked for the headless name, DNS answers the address of each pod", {
        pods.len() == 2 && pods.iter().all(|p| answer.has_line(&[name, "IN", "A", &p.ip]))
    })?;
    external(stage)?;
    stage.say("And the notes' ClusterIP Service again, for what follows:");
    stage.kubectl(&["delete", "svc", "ngx-svc"])?;
    let file = stage.example("ngx-svc.yaml");
    stage.kubectl(&["apply", "-f", &file]).map(|_| ())
}

fn external(stage: &mut Stage) -> Result<(), StepError> {
    let file = stage.example("ngx-external.yaml");
    stage.kubectl(&["apply", "-f", &file])?;
    for (service, target) in [("ngx-external", "ylzhong.top."), ("ngx-external-www", "www.ylzhong.top.")] {
        let name = format!("{service}.default.svc.cluster.local");
        stage.wait(&format!("DNS has {service}"), |stage| {
            stage.run_kubectl(&["exec", "shell", "--", "drill", &name, "A"]).is_ok_and(|o| o.has("CNAME"))
        })?;
        let answer = stage.in_pod("shell", &["drill", &name, "A"])?;
        stage.check(&format!("{service} is a CNAME to {target}"), answer.has_line(&["IN", "CNAME", target]))?;
        stage.check("and the target's address came from outside, through the upstream", {
            answer.has_line(&[target, "IN", "A", "192.168.100.100"])
        })?;
    }
    Ok(())
}
