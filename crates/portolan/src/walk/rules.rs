//! Step 4: the notes' own commands, then packets as nginx's access log sees them.

use super::StepError;
use super::cluster::programmed;
use super::stage::{PodSeen, Stage, status_of};
use crate::lab::Place;

pub(super) fn rules(stage: &mut Stage) -> Result<(), StepError> {
    let chains = read_rules(stage)?;
    render_agrees(stage)?;
    let file = stage.example("shell.yaml");
    stage.kubectl(&["apply", "-f", &file])?;
    stage.wait("a pod to ask from runs on node-1", |stage| stage.ready_pods("app=shell").len() == 1)?;
    if stage.sabotaged() {
        stage.run_at(&Place::node("node-1"), &["iptables", "-w", "-t", "nat", "-F", "KUBE-POSTROUTING"])?;
    }
    from_a_pod(stage)?;
    from_the_node(stage, &chains)?;
    from_outside(stage)
}

/// The chain of the Service, found by reading down from KUBE-SERVICES.
fn read_rules(stage: &mut Stage) -> Result<String, StepError> {
    let node = Place::node("node-1");
    let table = |stage: &Stage, chain: &str| stage.at(&node, &["iptables", "-w", "-t", "nat", "-nL", chain]);
    let services = table(stage, "KUBE-SERVICES")?;
    let comment = "/* default/ngx-svc:http cluster IP */";
    stage.check(
        "KUBE-SERVICES sends the Service's port 80 to its chain",
        services.has_line(&["KUBE-SVC-", "dpt:80", comment]),
    )?;
    let line = services.text.lines().find(|l| l.contains(comment) && l.starts_with("KUBE-SVC-")).unwrap_or_default();
    let service = line.split_whitespace().next().unwrap_or_default().to_owned();
    let jumps = table(stage, &service)?;
    stage.check("its chain has two jumps, the first taken with probability one half", {
        let endpoints: Vec<&str> = jumps.text.lines().filter(|l| l.starts_with("KUBE-SEP-")).collect();
        endpoints.len() == 2
            && endpoints[0].contains("probability 0.50000000000")
            && !endpoints[1].contains("probability")
    })?;
    let pods = stage.nginx_pods();
    let names: Vec<String> =
        jumps.text.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect();
    for endpoint in names.iter().filter(|n| n.starts_with("KUBE-SEP-")) {
        let dnat = table(stage, endpoint)?;
        stage.check(&format!("{endpoint} rewrites the destination to a pod"), {
            pods.iter().any(|p| dnat.has_line(&["DNAT", &format!("to:{}:80", p.ip)]))
        })?;
    }
    let mark = table(stage, "KUBE-MARK-MASQ")?;
    stage.check("KUBE-MARK-MASQ sets the mark 0x4000", mark.has("MARK or 0x4000"))?;
    let postrouting = table(stage, "KUBE-POSTROUTING")?;
    stage.check("KUBE-POSTROUTING masquerades what is marked", postrouting.has("MASQUERADE"))?;
    Ok(service)
}

/// What `render` says from the cluster's objects alone is what the kernel holds.
fn render_agrees(stage: &mut Stage) -> Result<(), StepError> {
    let objects = stage.lab.scratch("cluster.json");
    let listed = stage.run_kubectl(&["get", "namespaces,nodes,services,endpointslices", "-A", "-o", "json"])?;
    std::fs::write(&objects, &listed.text)
        .map_err(|e| StepError::Run(format!("cannot write {}: {e}", objects.display())))?;
    let saved = stage.lab.scratch("node-1.rules");
    let kernel = stage.run_at(&Place::node("node-1"), &["iptables-save"])?;
    std::fs::write(&saved, &kernel.text)
        .map_err(|e| StepError::Run(format!("cannot write {}: {e}", saved.display())))?;
    stage.say("kubectl get namespaces,nodes,services,endpointslices -A -o json > cluster.json; iptables-save > node-1.rules, on node-1");
    let (objects, saved) = (objects.to_string_lossy(), saved.to_string_lossy());
    let compared = stage.portolan(&["render", "iptables", "--node", "node-1", "-f", &objects, "--compare", &saved])?;
    stage.check("what render says and what iptables-save prints are the same rules", compared.ok)
}

fn from_a_pod(stage: &mut Stage) -> Result<(), StepError> {
    let shell = stage.ready_pods("app=shell").remove(0);
    let url = format!("http://{}/?walk-4-pod", stage.cluster_ip("ngx-svc"));
    let got = stage.in_pod("shell", &status_of(&url))?;
    stage.check("a pod's request is answered", got.has("200"))?;
    let seen = seen_from(stage, "walk-4-pod")?;
    stage.check(&format!("nginx saw the pod's own address, {}", shell.ip), seen == shell.ip)
}

fn from_the_node(stage: &mut Stage, service: &str) -> Result<(), StepError> {
    let node = Place::node("node-1");
    let count = |stage: &Stage, chain: &str, parts: &[&str]| -> Result<u64, StepError> {
        let listed = stage.at(&node, &["iptables", "-w", "-t", "nat", "-nvxL", chain])?;
        let line = listed.text.lines().find(|l| parts.iter().all(|p| l.contains(p))).unwrap_or_default().to_owned();
        Ok(line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0))
    };
    let not_pods = ["KUBE-MARK-MASQ", "!10.244.0.0/16"];
    let marked = count(stage, service, &not_pods)?;
    let masqueraded = count(stage, "KUBE-POSTROUTING", &["MASQUERADE"])?;
    let url = format!("http://{}/?walk-4-node", stage.cluster_ip("ngx-svc"));
    let got = stage.at(&node, &status_of(&url))?;
    stage.check("a request from node-1 itself is answered", got.has("200"))?;
    let marked_after = count(stage, service, &not_pods)?;
    let masqueraded_after = count(stage, "KUBE-POSTROUTING", &["MASQUERADE"])?;
    stage.check("it counts on the Service chain's `! -s 10.244.0.0/16` rule", marked_after > marked)?;
    stage.check("and on MASQUERADE", masqueraded_after > masqueraded)
}

fn from_outside(stage: &mut Stage) -> Result<(), StepError> {
    let pods = stage.nginx_pods();
    let Some(far) = pods.iter().find(|p| p.node == "node-2").cloned() else {
        return stage.check("one nginx pod runs on node-2", false);
    };
    programmed(stage, "node-1", &[format!("{}:80", far.ip)])?;
    let cluster_ip = stage.cluster_ip("ngx-svc");
    stage.at(&Place::Outside, &["ip", "route", "get", &cluster_ip])?;
    let url = format!("http://{cluster_ip}/?walk-4-outside");
    stage.at(&Place::Outside, &status_of(&url))?;
    let node_ip = stage.lab.node_address("node-1");
    let reached = ask_until_far(stage, &far, &url)?;
    stage.say(&format!("nginx on {}: {reached}", far.name));
    stage.check(
        &format!("the pod on node-2 saw node-1's address, {node_ip}"),
        reached.starts_with(&format!("{node_ip} ")),
    )?;
    let tracked = stage.at(&Place::node("node-1"), &["conntrack", "-L", "-p", "tcp", "--orig-dst", &cluster_ip])?;
    let outside = stage.lab.outside_address();
    stage.check("conntrack on node-1 keeps both tuples: that is why the answer comes back the same way", {
        tracked.has_line(&[&format!("src={outside} dst={cluster_ip}"), &format!("src={} dst={node_ip}", far.ip)])
    })
}

/// Asks from outside until the pod on node-2 was the one picked; the line of its log.
fn ask_until_far(stage: &Stage, far: &PodSeen, url: &str) -> Result<String, StepError> {
    for _ in 0..40 {
        stage.fetch(&Place::Outside, url);
        if let Some(line) = stage.log(&far.name).into_iter().find(|l| l.contains("walk-4-outside")) {
            return Ok(line);
        }
    }
    Err(StepError::Claim(format!("not so: one of 40 requests from outside reaches {} on node-2", far.name)))
}

/// The client address in the access log line that carries `tag`.
fn seen_from(stage: &mut Stage, tag: &str) -> Result<String, StepError> {
    let find = |stage: &Stage| {
        let pods = stage.nginx_pods();
        pods.iter().flat_map(|p| stage.log(&p.name)).find(|line| line.contains(tag))
    };
    stage.wait("the request is in nginx's access log", |stage| find(stage).is_some())?;
    let line = find(stage).unwrap_or_default();
    stage.say(&line);
    Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
}
