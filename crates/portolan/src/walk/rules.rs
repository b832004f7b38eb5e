//! Step 4: the notes' own commands, then packets as nginx's access log sees them.

use super::cluster::programmed;
use super::needs::Need;
use super::said::{Link, Shown};
use super::stage::{PodSeen, Stage, status_of};
use super::{Step, StepError};
use crate::lab::Place;

pub(super) const RULES: Step = Step {
    number: 4,
    title: "The rules that carry a packet, and its source address",
    about: "\
How does the ClusterIP, an address that no interface has, lead to a pod? The kernel has tables of rules for packets. Rules stand in \
chains: a packet goes down a chain until a rule matches it and says what comes next, its target: another chain, or a change \
to the packet. The service proxy writes its chains into the table nat, which changes addresses; iptables lists them.

DNAT changes a packet's destination, SNAT its source; MASQUERADE is SNAT to the address of the node's own interface. \
Only the first packet of a connection goes through the table nat. The kernel's connection tracking (conntrack) remembers \
what was decided, does the same to all later packets, and the reverse to the answers.",
    read_on: &[
        Link { term: "Virtual IPs", url: "https://kubernetes.io/docs/reference/networking/virtual-ips/" },
        Link { term: "Using Source IP", url: "https://kubernetes.io/docs/tutorials/services/source-ip/" },
    ],
    needs: &[Need::Pods, Need::Service],
    gives: &[Need::Shell],
    perform: rules,
};

fn rules(stage: &mut Stage) -> Result<(), StepError> {
    let chains = read_rules(stage)?;
    render_agrees(stage)?;
    stage.say(
        "Now packets. Whom does nginx take for the client? Each line of its access log begins with an address. The first to \
         ask is a pod, `shell`, made for it on node-1:",
    );
    let file = stage.example("shell.yaml");
    stage.kubectl(&["apply", "-f", &file])?;
    stage
        .wait("shell-pod-runs", "a pod to ask from runs on node-1", |stage| stage.ready_pods("app=shell").len() == 1)?;
    if stage.sabotaged() {
        stage.bypass("node-1", "POSTROUTING")?;
    }
    from_a_pod(stage)?;
    from_the_node(stage, &chains)?;
    from_outside(stage)
}

fn table(stage: &Stage, chain: &str) -> Result<super::stage::Output, StepError> {
    stage.at(&Place::node("node-1"), &["iptables", "-w", "-t", "nat", "-nL", chain])
}

/// The chain of the Service, found by reading down from KUBE-SERVICES.
fn read_rules(stage: &mut Stage) -> Result<String, StepError> {
    stage.say(
        "Packets to Services begin in KUBE-SERVICES, which has a rule for each port of each Service. Look for the one with \
         ngx-svc in its comment: a packet to the ClusterIP with destination port 80 (dpt:80) goes on in a chain of its own. (-t names the table, -nL lists with numbers; prot 6 is TCP, 17 is UDP.)",
    );
    let services = table(stage, "KUBE-SERVICES")?;
    let comment = "/* default/ngx-svc:http cluster IP */";
    stage.check(
        "service-has-a-chain",
        "KUBE-SERVICES sends the Service's port 80 to its chain",
        services.has_line(&["KUBE-SVC-", "dpt:80", comment]),
    )?;
    let line = services.text.lines().find(|l| l.contains(comment) && l.starts_with("KUBE-SVC-")).unwrap_or_default();
    let service = line.split_whitespace().next().unwrap_or_default().to_owned();
    stage.say(
        "That chain picks an endpoint. Rules are tried in order, so of two endpoints the first is taken with probability \
         0.5 and the last takes what is left. (Of three: 1/3, then 1/2 of the rest, then the rest.) The rule above them is \
         about who asks; more on it below.",
    );
    // In step 3 an nginx was killed: its endpoint is in the rules again once it is Ready.
    let chain = ["iptables", "-w", "-t", "nat", "-nL", &service];
    stage.until(|stage| {
        let seen = stage.run_at(&Place::node("node-1"), &chain);
        seen.is_ok_and(|seen| seen.text.matches("KUBE-SEP-").count() == 2)
    });
    let jumps = table(stage, &service)?;
    stage.check("endpoint-by-chance", "its chain has two jumps, the first taken with probability one half", {
        let endpoints: Vec<&str> = jumps.text.lines().filter(|l| l.starts_with("KUBE-SEP-")).collect();
        endpoints.len() == 2
            && endpoints[0].contains("probability 0.50000000000")
            && !endpoints[1].contains("probability")
    })?;
    stage.say(
        "Each endpoint has a chain too, and here it happens: DNAT writes the pod's address and port over the ClusterIP's. \
         (The rule above it is for a pod that reaches itself through its Service.)",
    );
    let pods = stage.nginx_pods();
    for endpoint in
        jumps.text.lines().filter_map(|l| l.split_whitespace().next()).filter(|n| n.starts_with("KUBE-SEP-"))
    {
        let dnat = table(stage, endpoint)?;
        let claim = format!("{endpoint} rewrites the destination to a pod");
        let to_a_pod = pods.iter().any(|p| dnat.has_line(&["DNAT", &format!("to:{}:80", p.ip)]));
        stage.check("endpoint-is-dnat", &claim, to_a_pod)?;
    }
    masquerade(stage)?;
    Ok(service)
}

fn masquerade(stage: &mut Stage) -> Result<(), StepError> {
    stage.say(
        "Chains named MARK-MASQ change no address. They set a mark, a number that the packet carries while it is in this \
         node, and which says: masquerade this one on its way out.",
    );
    let mark = table(stage, "KUBE-MARK-MASQ")?;
    stage.check("mark-is-set", "KUBE-MARK-MASQ sets the mark 0x4000", mark.has("MARK or 0x4000"))?;
    stage.say("On the way out, what is not marked returns. From the rest the mark is taken, and MASQUERADE puts in the node as the sender:");
    let postrouting = table(stage, "KUBE-POSTROUTING")?;
    stage.check("marked-is-masqueraded", "KUBE-POSTROUTING masquerades what is marked", postrouting.has("MASQUERADE"))
}

/// What `render` says from the cluster's objects alone is what the kernel holds.
fn render_agrees(stage: &mut Stage) -> Result<(), StepError> {
    stage.say(
        "All this follows from the objects in the API. `portolan render` works the rules out from those alone, without a \
         cluster, and can compare them with what the kernel of node-1 holds:",
    );
    // Cluster DNS is a Service too: the other node's is in the rules once that answers.
    let dns = format!("--to-destination {}:53", stage.lab.node_address("node-2"));
    stage.until(|stage| {
        stage.run_at(&Place::node("node-1"), &["iptables-save", "-t", "nat"]).is_ok_and(|saved| saved.has(&dns))
    });
    let list = ["get", "namespaces,nodes,services,endpointslices", "-A", "-o", "json"];
    let listed = stage.run_kubectl(&list)?;
    let objects = stage.keep("here", &[&["kubectl"], &list[..]].concat(), &listed, "cluster.json")?;
    let kernel = stage.run_at(&Place::node("node-1"), &["iptables-save"])?;
    let saved = stage.keep("node-1", &["iptables-save"], &kernel, "node-1.rules")?;
    let compared = stage.render_compare("node-1", &objects, &saved)?;
    stage.check("render-agrees", "what render says and what iptables-save prints are the same rules", compared.ok)
}

fn from_a_pod(stage: &mut Stage) -> Result<(), StepError> {
    let shell = stage.ready_pods("app=shell").remove(0);
    let url = format!("http://{}/?walk-4-pod", stage.cluster_ip("ngx-svc"));
    stage.say("curl prints the status of the answer (200: success).");
    let got = stage.in_pod("shell", &status_of(&url))?;
    stage.check("pod-answered", "a pod's request is answered", got.has("200"))?;
    let find = |stage: &Stage| {
        let logs = stage.nginx_pods().into_iter().map(|p| (stage.log(&p.name), p));
        logs.into_iter().find(|(lines, _)| lines.iter().any(|l| l.contains("walk-4-pod"))).map(|(_, pod)| pod)
    };
    stage.wait("pod-is-logged", "the request is in nginx's access log", |stage| find(stage).is_some())?;
    let Some(pod) = find(stage) else {
        return Err(StepError::Run("the pod whose log had the request is gone".to_owned()));
    };
    let wanted = |line: &str| line.contains("walk-4-pod");
    let log = stage.kubectl_lines(&["logs", &pod.name], Shown::First(&wanted))?;
    let line = log.text.lines().find(|line| wanted(line)).unwrap_or_default();
    stage.check("pod-keeps-its-address", &format!("nginx saw the pod's own address, {}", shell.ip), {
        line.split_whitespace().next() == Some(shell.ip.as_str())
    })?;
    stage.say("The packet's own story says so too. Look at snat, the change of the source:");
    let far = stage.an_nginx_pod(Some("node-2"))?;
    let told = stage.trace("pod/shell", "svc/ngx-svc", &far.name)?;
    let kept = told.ok && told.has_line(&[" snat ", "no: the sender is a pod"]);
    stage.check("trace-keeps-the-source", "no rule changed the source of a pod's packet", kept)
}

fn from_the_node(stage: &mut Stage, service: &str) -> Result<(), StepError> {
    stage.say(
        "Next, the node itself asks. Its address is not in 10.244.0.0/16, the range of all pods, so the rule \
         `!10.244.0.0/16` (source is no pod) marks the packet. Rules count what they match: pkts in front of \
         KUBE-MARK-MASQ, and of MASQUERADE, before and after one request:",
    );
    let node = Place::node("node-1");
    let not_pods = ["KUBE-MARK-MASQ", "!10.244.0.0/16"];
    let marked = count(stage, service, &not_pods)?;
    let masqueraded = count(stage, "KUBE-POSTROUTING", &["MASQUERADE"])?;
    let url = format!("http://{}/?walk-4-node", stage.cluster_ip("ngx-svc"));
    let got = stage.at(&node, &status_of(&url))?;
    stage.check("node-answered", "a request from node-1 itself is answered", got.has("200"))?;
    let marked_after = count(stage, service, &not_pods)?;
    let masqueraded_after = count(stage, "KUBE-POSTROUTING", &["MASQUERADE"])?;
    stage.check(
        "node-is-marked",
        "it counts on the Service chain's `! -s 10.244.0.0/16` rule",
        marked_after > marked,
    )?;
    stage.check("node-is-masqueraded", "and on MASQUERADE", masqueraded_after > masqueraded)?;
    stage.say("In such a packet's story, snat says yes, and why. The address stays node-1's; the port is a new one:");
    let far = stage.an_nginx_pod(Some("node-2"))?;
    let told = stage.trace("node/node-1", "svc/ngx-svc", &far.name)?;
    let done = told.ok && told.has_line(&[" snat ", "yes, ", "the sender is no pod"]);
    stage.check("trace-masquerades", "a packet of the node itself is masqueraded since its sender is no pod", done)
}

/// Packets that the rule of `chain` with all of `parts` has matched.
fn count(stage: &Stage, chain: &str, parts: &[&str]) -> Result<u64, StepError> {
    let matches = |line: &str| parts.iter().all(|part| line.contains(part));
    let shown = |line: &str| matches(line) || line.contains("pkts");
    let argv = ["iptables", "-w", "-t", "nat", "-nvxL", chain];
    let listed = stage.at_lines(&Place::node("node-1"), &argv, Shown::Lines(&shown))?;
    let line = listed.text.lines().find(|line| matches(line)).unwrap_or_default();
    Ok(line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

fn from_outside(stage: &mut Stage) -> Result<(), StepError> {
    let far = stage.an_nginx_pod(Some("node-2"))?;
    programmed(stage, "node-1", &[format!("{}:80", far.ip)])?;
    let cluster_ip = stage.cluster_ip("ngx-svc");
    stage.say(
        "Last, the host outside, which in this lab has a route to ClusterIPs through node-1. It asks until the pod on node-2 was the one picked:",
    );
    stage.at(&Place::Outside, &["ip", "route", "get", &cluster_ip])?;
    let url = format!("http://{cluster_ip}/?walk-4-outside");
    stage.at(&Place::Outside, &status_of(&url))?;
    ask_until_far(stage, &far, &url)?;
    let wanted = |line: &str| line.contains("walk-4-outside");
    let log = stage.kubectl_lines(&["logs", &far.name], Shown::First(&wanted))?;
    let node_ip = stage.lab.node_address("node-1");
    stage.check(
        "outside-comes-as-the-node",
        &format!("the pod on node-2 saw node-1's address, {node_ip}"),
        log.text.lines().any(|line| wanted(line) && line.starts_with(&format!("{node_ip} "))),
    )?;
    tracked(stage, &far, &cluster_ip, &node_ip)
}

fn tracked(stage: &mut Stage, far: &PodSeen, cluster_ip: &str, node_ip: &str) -> Result<(), StepError> {
    stage.say(
        "Why as node-1? Otherwise node-2 would send the answer straight to outside, from a pod's address that outside never \
         asked. So it goes to node-1, which alone knows how to change it back. An entry of conntrack shows both: first \
         src and dst as outside sent them, then as they stand in the answer that comes from the pod.",
    );
    let outside = stage.lab.outside_address();
    let (sent, answer) = (format!("src={outside} dst={cluster_ip}"), format!("src={} dst={node_ip}", far.ip));
    let wanted = |line: &str| line.contains(&sent) && line.contains(&answer);
    let argv = ["conntrack", "-L", "-p", "tcp", "--orig-src", &outside, "--orig-dst", cluster_ip];
    let entries = stage.at_lines(&Place::node("node-1"), &argv, Shown::First(&wanted))?;
    let claim = "conntrack on node-1 keeps both, so the answer comes back the same way";
    stage.check("conntrack-keeps-both", claim, entries.text.lines().any(wanted))?;
    stage.say("And the whole way of such a packet, with the line back:");
    let told = stage.trace("outside", &format!("{cluster_ip}:80"), &far.name)?;
    let back = told.ok && told.has_line(&[" snat ", "yes, "]) && told.has_line(&["↩ back", "by node-1's conntrack"]);
    stage.check("trace-comes-back", "its source becomes node-1's address, and conntrack there undoes all of it", back)
}

/// Asks from outside until the pod on node-2 was the one picked.
fn ask_until_far(stage: &mut Stage, far: &PodSeen, url: &str) -> Result<(), StepError> {
    let picked = (0..40).any(|_| {
        stage.fetch(&Place::Outside, url);
        stage.log(&far.name).iter().any(|line| line.contains("walk-4-outside"))
    });
    stage.check("outside-reaches-node-2", &format!("one of its requests reached {}", far.name), picked)
}
