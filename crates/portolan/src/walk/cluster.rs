//! Steps 1 to 3: a Deployment, a Service, and what heals itself.

use super::StepError;
use super::stage::{PodSeen, Stage};
use crate::lab::Place;

/// Requests sent to see that both pods are reached: all of 30 going to one pod happens once in 2^29 walks.
const REQUESTS: usize = 30;

pub(super) fn deployment(stage: &mut Stage) -> Result<(), StepError> {
    stage.say("The notes write `apiVersion: v1` for a Deployment. kubectl knows it as apps/v1; portolan apply says so and goes on.");
    let notes = stage.example("notes-deployment.yaml");
    let applied = stage.portolan(&["apply", "-f", &notes])?;
    stage.check("the notes' own file is taken, with a warning that names apps/v1", {
        applied.ok && applied.has("apps/v1") && applied.has("deployment.apps/nginx-deployment created")
    })?;
    let fixed = stage.example("deployment.yaml");
    let applied = stage.kubectl(&["apply", "-f", &fixed])?;
    stage
        .check("with apps/v1, kubectl apply takes it", applied.ok && applied.has("deployment.apps/nginx-deployment"))?;
    let rollout = stage.kubectl(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"])?;
    stage.check("the rollout ends", rollout.ok)?;
    if stage.sabotaged() {
        stage.run_kubectl(&["delete", "deployment", "nginx-deployment", "--cascade=background"])?;
        stage.run_kubectl(&["wait", "--for=delete", "pod", "-l", "app=nginx", "--timeout=20s"])?;
    }
    stage.wait("two nginx pods run, each with an address of its own", |stage| {
        let pods = stage.nginx_pods();
        pods.len() == 2 && pods[0].ip != pods[1].ip
    })?;
    stage.kubectl(&["get", "deployments,pods", "-o", "wide"])?;
    let pod = stage.nginx_pods().remove(0);
    let version = stage.kubectl(&["exec", &pod.name, "--", "nginx", "-v"])?;
    stage.check("it is real nginx that runs in them", version.has("nginx version: nginx/"))
}

pub(super) fn service(stage: &mut Stage) -> Result<(), StepError> {
    let file = stage.example("ngx-svc.yaml");
    stage.kubectl(&["apply", "-f", &file])?;
    stage.wait("both pods are endpoints of the Service", |stage| endpoints(stage).len() == 2)?;
    let cluster_ip = stage.cluster_ip("ngx-svc");
    let listed = stage.kubectl(&["get", "svc", "ngx-svc"])?;
    stage.check(
        "kubectl get svc shows a ClusterIP and port 80",
        listed.has_line(&["ngx-svc", "ClusterIP", &cluster_ip, "80/TCP"]),
    )?;
    let described = stage.kubectl(&["describe", "svc", "ngx-svc"])?;
    let pods = stage.nginx_pods();
    let targets: Vec<String> = pods.iter().map(|p| format!("{}:80", p.ip)).collect();
    let parts: Vec<&str> = ["Endpoints:"].into_iter().chain(targets.iter().map(String::as_str)).collect();
    stage.check("kubectl describe svc shows Endpoints: a:80,b:80", described.has_line(&parts))?;
    programmed(stage, "node-1", &targets)?;
    if stage.sabotaged() {
        stage.run_at(&Place::node("node-1"), &["iptables", "-w", "-t", "nat", "-F", "KUBE-SERVICES"])?;
    }
    both_answer(stage, &pods, &cluster_ip, "walk-2")
}

/// Waits until node `node` DNATs to each of `targets`: the change has reached its rules.
pub(super) fn programmed(stage: &mut Stage, node: &str, targets: &[String]) -> Result<(), StepError> {
    let place = Place::node(node);
    stage.wait(&format!("{node} has a rule for each endpoint"), |stage| {
        let saved = stage.run_at(&place, &["iptables-save", "-t", "nat"]);
        saved.is_ok_and(|saved| targets.iter().all(|t| saved.has(&format!("--to-destination {t}"))))
    })
}

fn both_answer(stage: &mut Stage, pods: &[PodSeen], cluster_ip: &str, tag: &str) -> Result<(), StepError> {
    let node = Place::node("node-1");
    let url = format!("http://{cluster_ip}/?{tag}");
    stage.at(
        &node,
        &["curl", "-s", "--max-time", "3", "-o", "/dev/null", "-w", "%{http_code} from %{remote_ip}\\n", &url],
    )?;
    // The first that gets no answer settles it.
    let answered = (0..REQUESTS).take_while(|_| stage.fetch(&node, &url).is_some()).count();
    stage.check(&format!("{REQUESTS} requests to the ClusterIP, {REQUESTS} answers"), answered == REQUESTS)?;
    for pod in pods {
        let seen = |stage: &Stage| stage.log(&pod.name).iter().filter(|line| line.contains(tag)).count();
        stage.wait(&format!("pod {} ({}, {}) answered some of them", pod.name, pod.ip, pod.node), |stage| {
            seen(stage) > 0
        })?;
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

pub(super) fn healing(stage: &mut Stage) -> Result<(), StepError> {
    let before = stage.nginx_pods();
    let victim = before[0].clone();
    stage.kubectl(&["delete", "pod", &victim.name])?;
    stage.wait("another pod has come, with a name and an address of its own", |stage| {
        let now = stage.nginx_pods();
        now.len() == 2 && now.iter().all(|p| p.name != victim.name && p.ip != victim.ip)
    })?;
    stage.kubectl(&["get", "pods", "-l", "app=nginx", "-o", "wide"])?;
    let after = stage.nginx_pods();
    let addresses: Vec<String> = after.iter().map(|p| p.ip.clone()).collect();
    stage.wait("the endpoints follow", |stage| {
        let mut listed = endpoints(stage);
        listed.sort();
        let mut wanted = addresses.clone();
        wanted.sort();
        listed == wanted
    })?;
    let targets: Vec<String> = addresses.iter().map(|ip| format!("{ip}:80")).collect();
    programmed(stage, "node-1", &targets)?;
    stage.wait("and the rule for the pod that went is gone", |stage| {
        let saved = stage.run_at(&Place::node("node-1"), &["iptables-save", "-t", "nat"]);
        saved.is_ok_and(|saved| !saved.has(&format!("--to-destination {}:80", victim.ip)))
    })?;
    if stage.sabotaged() {
        stage.run_at(&Place::node("node-1"), &["iptables", "-w", "-t", "nat", "-F", "KUBE-SERVICES"])?;
    }
    let cluster_ip = stage.cluster_ip("ngx-svc");
    both_answer(stage, &after, &cluster_ip, "walk-3")?;
    killed(stage, &after[0])
}

/// nginx killed with -9: the node sees the process, whose network namespace holds the pod's address.
fn killed(stage: &mut Stage, pod: &PodSeen) -> Result<(), StepError> {
    stage
        .say("Now nginx itself is killed, from the node, as nobody inside a PID namespace can kill its first process.");
    let script = format!(
        "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^nginx: master' && \
         grep -q '|-- {}$' $p/net/fib_trie && kill -9 ${{p#/proc/}} && echo \"killed nginx, process ${{p#/proc/}}\"; done",
        pod.ip
    );
    stage.at(&Place::node(&pod.node), &["sh", "-c", &script])?;
    stage.wait("same pod, same address, restart count 1", |stage| {
        stage.nginx_pods().iter().any(|p| p.name == pod.name && p.ip == pod.ip && p.restarts == 1)
    })?;
    stage.kubectl(&["get", "pods", "-l", "app=nginx", "-o", "wide"]).map(|_| ())
}
