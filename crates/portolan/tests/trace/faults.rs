//! Faults that objects make: each is named by its cause, and when it is mended the packet is delivered.

use portolan_story::story::End;

use crate::support::{Space, World};
use crate::world::{delivered, ends, service};

/// One fault.
pub struct Fault {
    /// The Service, and the question's subject.
    pub service: &'static str,
    /// Its spec, in flow style.
    pub spec: &'static str,
    pub question: &'static str,
    pub end: End,
    /// Words of the verdict that name the cause.
    pub because: &'static [&'static str],
    pub mend: Mend,
}

/// How it is mended.
pub enum Mend {
    /// By a merge patch of the Service's spec.
    Spec(&'static str),
    /// By kubectl.
    Kubectl(&'static str),
    /// By asking right.
    Ask(&'static str),
}

const ONE_PORT: &str = "ports: [{ port: 80 }]";

/// Every fault of the table that objects make.
pub fn table() -> Vec<Fault> {
    let fault = |service, spec, question, end, because, mend| Fault { service, spec, question, end, because, mend };
    vec![
        fault(
            "selector",
            "{ selector: { app: wbe }, ports: [{ port: 80 }] }",
            "pod/client svc/selector",
            End::Refused,
            &["app=wbe"],
            Mend::Spec(r#"{"selector":{"app":"web"}}"#),
        ),
        fault(
            "port",
            "{ selector: { app: web }, ports: [{ port: 80, targetPort: 8081 }] }",
            "pod/client svc/port",
            End::Refused,
            &["8081", "80"],
            Mend::Spec(r#"{"ports":[{"port":80,"targetPort":80}]}"#),
        ),
        fault(
            "named",
            "{ selector: { app: web }, ports: [{ port: 80, targetPort: web-api }] }",
            "pod/client svc/named",
            End::Refused,
            &["web-api"],
            Mend::Spec(r#"{"ports":[{"port":80,"targetPort":"http"}]}"#),
        ),
        fault(
            "sick",
            "{ selector: { app: sick }, ports: [{ port: 80 }] }",
            "pod/client svc/sick",
            End::Refused,
            &["not Ready", "readiness probe"],
            Mend::Kubectl("exec sick -- touch /tmp/well"),
        ),
        fault(
            "crash",
            "{ selector: { app: crash }, ports: [{ port: 80 }] }",
            "pod/client svc/crash",
            End::Refused,
            &["CrashLoopBackOff"],
            Mend::Spec(r#"{"selector":{"app":"web"}}"#),
        ),
        fault(
            "outer",
            "{ type: NodePort, externalTrafficPolicy: Local, selector: { app: web }, ports: [{ port: 80 }] }",
            "outside svc/outer",
            End::Dropped,
            &["Local", "node-1"],
            Mend::Spec(r#"{"externalTrafficPolicy":"Cluster"}"#),
        ),
        fault(
            "inner",
            "{ internalTrafficPolicy: Local, selector: { app: web }, ports: [{ port: 80 }] }",
            "pod/client svc/inner",
            End::Dropped,
            &["internalTrafficPolicy", "node-1"],
            Mend::Spec(r#"{"internalTrafficPolicy":"Cluster"}"#),
        ),
        fault(
            "ranged",
            "{ type: LoadBalancer, loadBalancerSourceRanges: [203.0.113.0/24], selector: { app: web }, ports: [{ port: 80 }] }",
            "outside svc/ranged",
            End::Dropped,
            &["loadBalancerSourceRanges"],
            Mend::Spec(r#"{"loadBalancerSourceRanges":null}"#),
        ),
        fault(
            "headless",
            "{ clusterIP: None, selector: { app: none }, ports: [{ port: 80 }] }",
            "pod/client headless:80",
            End::NoSuchName,
            &["headless", "app=none"],
            Mend::Spec(r#"{"selector":{"app":"web"}}"#),
        ),
        fault(
            "nowhere",
            "{ type: ExternalName, externalName: nowhere.invalid }",
            "pod/client nowhere:80",
            End::NoSuchName,
            &["nowhere.invalid"],
            Mend::Spec(r#"{"externalName":"web.faults.svc.cluster.local"}"#),
        ),
        fault(
            "web",
            "{ selector: { app: web }, ports: [{ port: 80 }] }",
            "pod/client wbe:80",
            End::NoSuchName,
            &["did you mean web"],
            Mend::Ask("pod/client web:80"),
        ),
        fault(
            "web-2",
            "{ selector: { app: web }, ports: [{ port: 80 }] }",
            "pod/client svc/web-2:81",
            End::Unanswered,
            &["81", "80"],
            Mend::Ask("pod/client svc/web-2:80"),
        ),
        fault(
            "web-3",
            "{ selector: { app: web }, ports: [{ port: 80 }] }",
            "pod/client elsewhere:80",
            End::NoSuchName,
            &["elsewhere", "another"],
            Mend::Ask("pod/client elsewhere.another:80"),
        ),
        fault(
            "door",
            "{ type: NodePort, selector: { app: web }, ports: [{ port: 80, nodePort: 31111 }] }",
            "outside node/node-1:31112",
            End::Refused,
            &["31112"],
            Mend::Ask("outside node/node-1:31111"),
        ),
        fault(
            "web-4",
            "{ selector: { app: web }, ports: [{ port: 80 }] }",
            "pod/client svc/web-4:80 --proto udp",
            End::Unanswered,
            &["TCP"],
            Mend::Ask("pod/client svc/web-4:80"),
        ),
        fault(
            "web-5",
            "{ selector: { app: web }, ports: [{ port: 80 }] }",
            "pod/deaf web-5:80",
            End::NoSuchName,
            &["192.0.2.53"],
            Mend::Ask("pod/client web-5:80"),
        ),
    ]
}

/// Breaks all, finds each cause, mends each, and sees each delivered.
pub fn all(world: &'static World, space: Space, table: &[Fault]) {
    let manifests: String = table.iter().map(|fault| service(fault.service, fault.spec)).collect();
    space.apply(&manifests);
    let another = world.space("another");
    another.apply(&format!(
        "{}---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: other, labels: {{ app: other }} }}\nspec: {{ nodeName: node-1, \
         containers: [{{ name: main, image: \"nginx:latest\" }}], terminationGracePeriodSeconds: 0 }}\n",
        service("elsewhere", &format!("{{ selector: {{ app: other }}, {ONE_PORT} }}"))
    ));
    another.ready("other");
    for fault in table {
        ends(world, fault.question, fault.end, fault.because);
    }
    for fault in table {
        match fault.mend {
            Mend::Spec(spec) => {
                let patch = format!("{{\"spec\":{spec}}}");
                space.kubectl_words(&["patch", "service", fault.service, "--type=merge", "-p", &patch]).done();
            }
            Mend::Kubectl(command) => drop(space.kubectl(command).done()),
            Mend::Ask(_) => {}
        }
        let question = if let Mend::Ask(right) = fault.mend { right } else { fault.question };
        delivered(world, question);
    }
}
