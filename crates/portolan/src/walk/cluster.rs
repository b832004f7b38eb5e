//! Steps 1 to 3: a Deployment, a Service, and what heals itself.

use super::needs::Need;
use super::said::{Link, Shown};
use super::stage::{PodSeen, Stage};
use super::{Step, StepError};
use crate::lab::Place;

/// Requests sent to see that both pods are reached: all of 30 going to one pod happens once in 2^29 walks.
const REQUESTS: usize = 30;

pub(super) const DEPLOYMENT: Step = Step {
    number: 1,
    title: "A Deployment of nginx: two pods run",
    about: "\
A pod is the smallest thing that Kubernetes runs: one or more containers that share one network address. A container is \
a program with its own view of the machine, started from an image, the package of its files. Pods are seldom made by \
hand: a Deployment says how many replicas of a pod there shall be. Here: two of nginx, a web server.

You hand it to the API server, which keeps all objects of the cluster: what is wanted, and what is. Controllers watch \
the API and work until both agree. The Deployment's makes a ReplicaSet, the ReplicaSet's makes the pods, the scheduler \
picks a node for each, and the agent on that node (elsewhere: the kubelet) starts it.",
    read_on: &[
        Link { term: "Deployments", url: "https://kubernetes.io/docs/concepts/workloads/controllers/deployment/" },
        Link { term: "Pods", url: "https://kubernetes.io/docs/concepts/workloads/pods/" },
    ],
    needs: &[],
    gives: &[Need::Pods],
    perform: deployment,
};

pub(super) const SERVICE: Step = Step {
    number: 2,
    title: "A Service gives them one address",
    about: "\
Pods come and go, and their addresses with them, so nobody should have to know them. A Service gives a set of pods one \
name and one address, the ClusterIP, which stay. Which pods? Those whose labels (key=value pairs that an object carries) \
match the Service's selector: here app=nginx, which the Deployment writes on each of its pods.

The addresses behind a Service are its endpoints. A controller keeps the list of those that are ready, in objects named \
EndpointSlices. On each node the service proxy (elsewhere: kube-proxy) turns the list into rules of the kernel. Nothing \
else stands behind a ClusterIP: no interface has it and no program listens on it.",
    read_on: &[
        Link { term: "Service", url: "https://kubernetes.io/docs/concepts/services-networking/service/" },
        Link { term: "EndpointSlices", url: "https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/" },
    ],
    needs: &[Need::Pods],
    gives: &[Need::Service],
    perform: service,
};

pub(super) const HEALING: Step = Step {
    number: 3,
    title: "A pod dies, another comes; requests go on",
    about: "\
There are two kinds of death. A pod that is deleted does not come back. But now there is one pod less than the ReplicaSet \
wants, so it makes another, with another name and another address; the endpoints follow, and with them the rules on every \
node. A container that ends inside a pod is started again there by the node's agent: same pod, same address, and the \
restart count goes up by one. The ClusterIP stays what it was both times.",
    read_on: &[
        Link { term: "Pod Lifecycle", url: "https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/" },
        Link { term: "ReplicaSet", url: "https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/" },
    ],
    needs: &[Need::Pods, Need::Service],
    gives: &[],
    perform: healing,
};

fn deployment(stage: &mut Stage) -> Result<(), StepError> {
    manifests(stage)?;
    stage.say("rollout status waits until as many pods as wanted are available:");
    let rollout = stage.kubectl(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"])?;
    stage.check("rollout-ends", "the rollout ends", rollout.ok)?;
    if stage.sabotaged() {
        stage.run_kubectl(&["delete", "deployment", "nginx-deployment", "--cascade=background"])?;
        stage.run_kubectl(&["wait", "--for=delete", "pod", "-l", "app=nginx", "--timeout=20s"])?;
    }
    stage.wait("two-pods-run", "two nginx pods run, each with an address of its own", |stage| {
        let pods = stage.nginx_pods();
        pods.len() == 2 && pods[0].ip != pods[1].ip
    })?;
    stage.say(
        "READY 2/2: two pods of two are. Below, look at IP and NODE: each pod has an address, and they are on different \
         nodes. A pod's name is the Deployment's, then a hash of the pod template (the ReplicaSet's name), then its own.",
    );
    stage.kubectl(&["get", "deployments"])?;
    stage.kubectl(&["get", "pods", "-o", "wide"])?;
    let pod = stage.an_nginx_pod(None)?;
    stage.say("exec runs a command inside a pod's container:");
    let version = stage.kubectl(&["exec", &pod.name, "--", "nginx", "-v"])?;
    stage.check("real-nginx", "it is real nginx that runs in them", version.has("nginx version: nginx/"))
}

fn manifests(stage: &mut Stage) -> Result<(), StepError> {
    stage.say(
        "The notes' file says `apiVersion: v1`. That is the core group of the API, with Pods and Services; Deployments are \
         in the group apps, so apps/v1 is right, and kubectl refuses v1. portolan apply takes the file, with a warning:",
    );
    let notes = stage.example("notes-deployment.yaml");
    let applied = stage.portolan(&["apply", "-f", &notes])?;
    stage.check("notes-manifest-taken", "the notes' own file is taken, with a warning that names apps/v1", {
        applied.ok && applied.has("apps/v1") && applied.has("deployment.apps/nginx-deployment created")
    })?;
    stage.say(
        "apply makes the objects that a file describes, or changes in them what differs. The same Deployment with apps/v1 \
         differs in nothing:",
    );
    let fixed = stage.example("deployment.yaml");
    let applied = stage.kubectl(&["apply", "-f", &fixed])?;
    let taken = applied.ok && applied.has("deployment.apps/nginx-deployment");
    stage.check("manifest-taken", "with apps/v1, kubectl apply takes it", taken)
}

fn service(stage: &mut Stage) -> Result<(), StepError> {
    let file = stage.example("ngx-svc.yaml");
    stage.say("The notes' Service: selector app=nginx, and one port, 80, with the name http.");
    stage.kubectl(&["apply", "-f", &file])?;
    stage.wait("endpoints-listed", "both pods are endpoints of the Service", |stage| endpoints(stage).len() == 2)?;
    let cluster_ip = stage.cluster_ip("ngx-svc");
    stage.say("CLUSTER-IP was chosen from 10.96.0.0/12, a range that the cluster keeps for Services:");
    let listed = stage.kubectl(&["get", "svc", "ngx-svc"])?;
    stage.check(
        "cluster-ip-shown",
        "kubectl get svc shows a ClusterIP and port 80",
        listed.has_line(&["ngx-svc", "ClusterIP", &cluster_ip, "80/TCP"]),
    )?;
    stage.say("Look at Endpoints: the two pods' addresses. Port is the Service's own, TargetPort the pods'; both are 80 here. Namespace is the folder that the object is in; without another word it is `default`.");
    let described = stage.kubectl(&["describe", "svc", "ngx-svc"])?;
    let pods = stage.nginx_pods();
    let targets: Vec<String> = pods.iter().map(|p| format!("{}:80", p.ip)).collect();
    let parts: Vec<&str> = ["Endpoints:"].into_iter().chain(targets.iter().map(String::as_str)).collect();
    stage.check("endpoints-shown", "kubectl describe svc shows Endpoints: a:80,b:80", described.has_line(&parts))?;
    programmed(stage, "node-1", &targets)?;
    if stage.sabotaged() {
        stage.bypass("node-1", "OUTPUT")?;
    }
    stage.say(
        "Now a request to the ClusterIP, sent from node-1. 200 is HTTP's status for success. curl never hears of the pods: to it the ClusterIP answers.",
    );
    ask_once(stage, &cluster_ip, "walk-2")?;
    traced(stage)?;
    stage.say("Which pod answers is chance, anew for each connection. So, many requests, and a look at each pod's access log:");
    both_answer(stage, &pods, &cluster_ip, "walk-2")
}

/// The story of a packet like curl's, to the pod on the other node.
fn traced(stage: &mut Stage) -> Result<(), StepError> {
    let far = stage.an_nginx_pod(Some("node-2"))?;
    stage.say(
        "How did that come to a pod? `portolan trace` sends one packet of the same kind, has each node's kernel tell what became of \
         it, and puts that into the words of Kubernetes, here of one that went to the pod on node-2. service: a Service claims \
         it; dnat: the pod's address takes the place of the ClusterIP; route: the way to node-2; back: in the answer the \
         ClusterIP is put in again. Steps 4 and 8 say more of each; in brackets are chains of rules, which step 4 reads.",
    );
    let told = stage.trace("node/node-1", "svc/ngx-svc", &far.name)?;
    let arrives = told.ok && told.has_line(&["✔ delivered", "→ ngx-svc →", &format!("{} on node-2", far.name)]);
    stage.check("trace-arrives", "by the Service to the pod on node-2, and its answer back", arrives)
}

/// Waits until node `node` DNATs to each of `targets`: the change has reached its rules.
pub(super) fn programmed(stage: &mut Stage, node: &str, targets: &[String]) -> Result<(), StepError> {
    stage.wait("rules-for-endpoints", &format!("{node} has a rule for each endpoint"), |stage| {
        has_rules_for(stage, node, targets)
    })
}

/// Does `node` DNAT to each of `targets`, written ADDRESS:PORT?
pub(super) fn has_rules_for(stage: &Stage, node: &str, targets: &[String]) -> bool {
    let saved = stage.run_at(&Place::node(node), &["iptables-save", "-t", "nat"]);
    saved.is_ok_and(|saved| targets.iter().all(|t| saved.has_line(&["ngx-svc", &format!("--to-destination {t}")])))
}

fn ask_once(stage: &mut Stage, cluster_ip: &str, tag: &str) -> Result<(), StepError> {
    let url = format!("http://{cluster_ip}/?{tag}");
    let format = "%{http_code} from %{remote_ip}\\n";
    stage.at(&Place::node("node-1"), &["curl", "-s", "-m", "3", "-o", "/dev/null", "-w", format, &url]).map(|_| ())
}

fn both_answer(stage: &mut Stage, pods: &[PodSeen], cluster_ip: &str, tag: &str) -> Result<(), StepError> {
    let node = Place::node("node-1");
    let url = format!("http://{cluster_ip}/?{tag}");
    // The first that gets no answer settles it.
    let answered = (0..REQUESTS).take_while(|_| stage.fetch(&node, &url).is_some()).count();
    let claim = format!("{REQUESTS} requests to the ClusterIP, {REQUESTS} answers");
    stage.check("all-requests-answered", &claim, answered == REQUESTS)?;
    for pod in pods {
        let claim = format!("{} on {} answered some of them", pod.name, pod.node);
        stage.wait("each-pod-answered", &claim, |stage| stage.log(&pod.name).iter().any(|line| line.contains(tag)))?;
    }
    Ok(())
}

/// The addresses that the Service's Endpoints object lists.
fn endpoints(stage: &Stage) -> Vec<String> {
    let object = stage.get(&["endpoints", "ngx-svc"]);
    let subsets = object["subsets"].as_array().into_iter().flatten();
    let addresses = subsets.flat_map(|s| s["addresses"].as_array().into_iter().flatten());
    addresses.filter_map(|a| a["ip"].as_str().map(str::to_owned)).collect()
}

fn healing(stage: &mut Stage) -> Result<(), StepError> {
    let victim = stage.an_nginx_pod(Some("node-1"))?;
    stage.say("First, the pod on node-1 is deleted:");
    stage.kubectl(&["delete", "pod", &victim.name])?;
    stage.wait("another-pod-comes", "another pod has come, with a name and an address of its own", |stage| {
        let now = stage.nginx_pods();
        now.len() == 2 && now.iter().all(|p| p.name != victim.name && p.ip != victim.ip)
    })?;
    stage.say("AGE tells which one is new (-l app=nginx: only objects with that label):");
    stage.kubectl(&["get", "pods", "-l", "app=nginx", "-o", "wide"])?;
    let after = stage.nginx_pods();
    followed(stage, &victim, &after)?;
    if stage.sabotaged() {
        stage.bypass("node-1", "OUTPUT")?;
    }
    let cluster_ip = stage.cluster_ip("ngx-svc");
    stage.say("The ClusterIP is the same as before:");
    ask_once(stage, &cluster_ip, "walk-3")?;
    stage.say("And again both pods answer:");
    both_answer(stage, &after, &cluster_ip, "walk-3")?;
    let newest = after.iter().find(|pod| pod.node == "node-1").unwrap_or(&after[0]).clone();
    killed(stage, &newest)
}

/// The endpoints and the rules know the pods that are, and no longer the one that was.
fn followed(stage: &mut Stage, victim: &PodSeen, after: &[PodSeen]) -> Result<(), StepError> {
    let mut addresses: Vec<String> = after.iter().map(|p| p.ip.clone()).collect();
    addresses.sort();
    stage.wait("endpoints-follow", "the endpoints follow", |stage| {
        let mut listed = endpoints(stage);
        listed.sort();
        listed == addresses
    })?;
    let targets: Vec<String> = addresses.iter().map(|ip| format!("{ip}:80")).collect();
    programmed(stage, "node-1", &targets)?;
    stage.wait("old-rule-gone", "and the rule for the pod that went is gone", |stage| {
        let saved = stage.run_at(&Place::node("node-1"), &["iptables-save", "-t", "nat"]);
        saved.is_ok_and(|saved| saved.ok && !saved.has(&format!("--to-destination {}:80", victim.ip)))
    })
}

/// nginx killed with -9: the node sees the process, whose network namespace holds the pod's address.
fn killed(stage: &mut Stage, pod: &PodSeen) -> Result<(), StepError> {
    let node = Place::node(&pod.node);
    let process = stage.run_at(&node, &["sh", "-c", &master_of(&pod.ip)])?.text.trim().to_owned();
    if process.parse::<u32>().is_err() {
        return Err(StepError::Run(format!("no nginx process of {} is seen on {}: {process}", pod.name, pod.node)));
    }
    stage
        .say(&format!("Then the other kind. nginx in {} is a process of its node; kill -9 ends it at once:", pod.name));
    stage.at(&node, &["kill", "-9", &process])?;
    stage.wait("container-restarts", "same pod, same address, restart count 1", |stage| {
        stage.nginx_pods().iter().any(|p| p.name == pod.name && p.ip == pod.ip && p.restarts == 1)
    })?;
    stage.say("RESTARTS says so:");
    let wanted = |line: &str| line.starts_with("NAME") || line.starts_with(&pod.name);
    stage.kubectl_lines(&["get", "pods", "-l", "app=nginx", "-o", "wide"], Shown::Lines(&wanted)).map(|_| ())
}

/// A shell's words that print the process of the nginx whose network has this address.
fn master_of(ip: &str) -> String {
    format!(
        "for p in /proc/[0-9]*; do {{ tr '\\0' ' ' <$p/cmdline | grep -q '^nginx: master' && \
         grep -q '|-- {ip}$' $p/net/fib_trie && echo ${{p#/proc/}}; }} 2>/dev/null; done"
    )
}
