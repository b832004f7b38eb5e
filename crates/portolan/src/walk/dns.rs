//! Step 7: cluster DNS as a pod sees it, and the node's own resolv.conf.

use std::time::{Duration, Instant};

use super::needs::Need;
use super::said::Link;
use super::stage::Stage;
use super::{Step, StepError};
use crate::lab::Place;

pub(super) const DNS: Step = Step {
    number: 7,
    title: "Cluster DNS, and the node's own resolv.conf",
    about: "\
A program finds the DNS server to ask in /etc/resolv.conf. For each pod the node's agent writes that file, and it names \
10.96.0.10: the ClusterIP of the Service kube-dns. In most clusters that Service leads to pods of CoreDNS. Here the agent of \
each node answers by itself, so a question does not leave its node; kubectl shows the agents as pods.",
    read_on: &[
        Link {
            term: "DNS for Services and Pods",
            url: "https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/",
        },
        Link {
            term: "Customizing DNS Service",
            url: "https://kubernetes.io/docs/tasks/administer-cluster/dns-custom-nameservers/",
        },
    ],
    needs: &[Need::Pods, Need::Service, Need::Shell],
    gives: &[],
    perform: dns,
};

const DNS_IP: &str = "10.96.0.10";
/// Writes the notes' servers into /etc/resolv.conf. The addresses are the lab's host outside.
const NOTES_SERVERS: &str = "printf 'nameserver %s\\n' 114.114.114.114 8.8.8.8 >/etc/resolv.conf";
/// How soon queries must go to new upstreams.
const SOON: Duration = Duration::from_secs(5);

fn dns(stage: &mut Stage) -> Result<(), StepError> {
    servers(stage)?;
    stage.say(
        "The file in a pod. `search` holds endings to try for short names, so ngx-svc finds \
         ngx-svc.default.svc.cluster.local; `ndots:5` has them tried first for each name with fewer than five dots.",
    );
    let resolv = stage.in_pod("shell", &["cat", "/etc/resolv.conf"])?;
    stage.check("pods-resolv-conf", "a pod asks 10.96.0.10, and searches its own namespace first", {
        resolv.has(&format!("nameserver {DNS_IP}"))
            && resolv.has("search default.svc.cluster.local svc.cluster.local cluster.local")
            && resolv.has("options ndots:5")
    })?;
    let cluster_ip = stage.cluster_ip("ngx-svc");
    stage.wait("dns-has-the-service", "DNS has the Service", |stage| {
        let asked = stage.run_kubectl(&["exec", "shell", "--", "drill", "ngx-svc.default.svc.cluster.local", "A"]);
        asked.is_ok_and(|o| o.has(&cluster_ip))
    })?;
    if stage.sabotaged() {
        for node in ["node-1", "node-2"] {
            stage.run_at(&Place::node(node), &["ip", "addr", "del", "10.96.0.10/32", "dev", "lo"])?;
        }
    }
    records(stage, &cluster_ip)?;
    new_upstreams(stage)
}

fn servers(stage: &mut Stage) -> Result<(), StepError> {
    stage.say("-n names a namespace; the cluster's own objects are in kube-system. IP is the node's own address, as the agents are programs of the node:");
    let pods = stage.kubectl(&["-n", "kube-system", "get", "pods", "-o", "wide", "-l", "k8s-app=kube-dns"])?;
    for node in ["node-1", "node-2"] {
        let address = stage.lab.node_address(node);
        let stands = pods.has_line(&[&format!("portolan-{node}"), "Running", &address]);
        stage.check(&format!("dns-on-{node}"), &format!("a DNS pod stands on {node}"), stands)?;
    }
    let service = stage.kubectl(&["-n", "kube-system", "get", "svc", "kube-dns"])?;
    let listed = service.has_line(&["kube-dns", "ClusterIP", DNS_IP, "53/UDP"]);
    stage.check("kube-dns-service", "its Service is kube-dns, 10.96.0.10", listed)
}

fn records(stage: &mut Stage, cluster_ip: &str) -> Result<(), StepError> {
    let name = "ngx-svc.default.svc.cluster.local";
    stage.say("A Service has three kinds of record. A: the name leads to the ClusterIP.");
    let a = stage.drill(name, "A")?;
    stage.check("a-record", "A: the Service's ClusterIP", a.has_line(&[name, "IN", "A", cluster_ip]))?;
    stage.say("SRV, for a port that has a name: the third number is the port, behind it stands the host.");
    let srv = stage.drill(&format!("_http._tcp.{name}"), "SRV")?;
    stage.check("srv-record", "SRV: the port named http is 80", srv.has_line(&["IN", "SRV", " 80 ", name]))?;
    stage.say("PTR, the way back: the address, written backwards below in-addr.arpa, leads to the name.");
    let reversed: Vec<&str> = cluster_ip.split('.').rev().collect();
    let ptr = stage.drill(&format!("{}.in-addr.arpa", reversed.join(".")), "PTR")?;
    stage.check("ptr-record", "PTR: from the ClusterIP back to the name", ptr.has_line(&["IN", "PTR", name]))?;
    stage.say("A pod's name is its address with dashes:");
    let pod = stage.an_nginx_pod(None)?;
    let dashed = format!("{}.default.pod.cluster.local", pod.ip.replace('.', "-"));
    let record = stage.drill(&dashed, "A")?;
    stage.check("pod-record", "a pod's own record", record.has_line(&[&dashed, "IN", "A", &pod.ip]))?;
    absent(stage, name)
}

fn absent(stage: &mut Stage, name: &str) -> Result<(), StepError> {
    stage.say("There are two ways to say no. NXDOMAIN in rcode, the answer's status: there is no such name. The SOA record that comes with it says whose answer that is, and how long it may be kept.");
    let absent = stage.drill("nobody.default.svc.cluster.local", "A")?;
    stage.check("nxdomain", "a name that is not there: NXDOMAIN", absent.has("rcode: NXDOMAIN"))?;
    stage.say(
        "The other is called NODATA: the name is there, but has no record of that type. AAAA would be an IPv6 address.",
    );
    let other_type = stage.drill(name, "AAAA")?;
    stage.check("nodata", "a name that is there, of another type: no error and no answer", {
        other_type.has("rcode: NOERROR") && other_type.has("ANSWER: 0")
    })
}

fn new_upstreams(stage: &mut Stage) -> Result<(), StepError> {
    stage.say(
        "Names that are not the cluster's go to the servers in the node's own /etc/resolv.conf. It gets the notes' two; in \
         this lab both are addresses of the host outside. The agent follows the file:",
    );
    let node = Place::node("node-1");
    let agent = stage.lab.agent_pid("node-1");
    stage.at(&node, &["sh", "-c", NOTES_SERVERS])?;
    stage.at(&node, &["cat", "/etc/resolv.conf"])?;
    match asked_upstream(stage)? {
        Some(line) => {
            stage.show_log("The DNS server on outside logs which address of its own was asked", &line);
            stage.check("new-upstreams-asked", "within 5 s queries go there, as its log shows", true)?;
        }
        None => stage.check("new-upstreams-asked", "within 5 s queries go there, as outside's log shows", false)?,
    }
    let same = agent.is_some() && agent == stage.lab.agent_pid("node-1");
    stage.check("nothing-restarted", "and nothing was restarted", same)
}

/// Asks for names from outside until one of the new servers logs it; that line, or `None` if it is not soon.
fn asked_upstream(stage: &Stage) -> Result<Option<String>, StepError> {
    let until = Instant::now() + SOON;
    for asked in 1.. {
        let name = format!("walk-{asked}.ylzhong.top");
        stage.run_kubectl(&["exec", "shell", "--", "drill", &name, "A"])?;
        let log = stage.lab.upstream_log();
        let new = |line: &&str| line.contains("114.114.114.114") || line.contains("8.8.8.8");
        if let Some(line) = log.lines().filter(|line| line.contains(&name)).find(new) {
            return Ok(Some(line.to_owned()));
        }
        if Instant::now() > until {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(None)
}
