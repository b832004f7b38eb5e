//! The world that is broken in many ways: a client on node-1, a server on node-2, and what a trace tells there.

use portolan_story::story::{End, Story};

use crate::support::{Said, Space, World, portolan, wait_for};

/// The namespace of all that is broken.
pub const SPACE: &str = "faults";
const PATIENCE_SECS: u64 = 60;

/// What a trace told.
#[derive(Debug)]
pub struct Told {
    pub code: Option<i32>,
    pub story: Story,
}

impl Told {
    /// Why, in one line; empty if it was delivered.
    pub fn because(&self) -> &str {
        self.story.verdict.because.as_deref().unwrap_or_default()
    }

    /// All words of the verdict.
    pub fn verdict(&self) -> String {
        let verdict = &self.story.verdict;
        let mend = verdict.mend.as_deref().unwrap_or_default();
        format!("{:?}: {}; because {}; mend: {mend}", verdict.end, verdict.says, self.because())
    }
}

/// The lab's namespace with its client and server, both Ready.
pub fn space(world: &'static World) -> Space {
    let space = world.space(SPACE);
    let label = |name: &str, app: &str, node: &str, more: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, labels: {{ app: {app} }} }}\nspec:\n  \
             nodeName: {node}\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: main\n    \
             image: \"nginx:latest\"\n    ports: [{{ containerPort: 80, name: http }}]\n{more}"
        )
    };
    let sleeps = "    command: [sleep, \"3600\"]\n";
    space.apply(&[
        label("client", "client", "node-1", sleeps),
        label("web", "web", "node-2", ""),
        label("walled", "walled", "node-2", ""),
        label("crash", "crash", "node-2", "    command: [sh, -c, \"exit 3\"]\n"),
        label("sick", "sick", "node-2", "    readinessProbe: { exec: { command: [test, -f, /tmp/well] }, periodSeconds: 1 }\n"),
        label("deaf", "client", "node-1", &format!(
            "{sleeps}  dnsPolicy: None\n  dnsConfig: {{ nameservers: [192.0.2.53], options: [{{ name: timeout, value: \"1\" }}, {{ name: attempts, value: \"1\" }}] }}\n"
        )),
    ].concat());
    ["client", "web", "walled", "deaf"].iter().for_each(|pod| space.ready(pod));
    space
}

/// A Service; `spec` in flow style.
pub fn service(name: &str, spec: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {spec}\n")
}

/// Traces in the namespace of all that is broken; arguments are split at spaces.
pub fn trace(world: &World, args: &str) -> Told {
    let said = run(world, &format!("{args} --output json --timeout 2"));
    let story = serde_json::from_str(&said.out);
    Told { code: said.code, story: story.unwrap_or_else(|e| panic!("trace {args}: {e}: {}{}", said.out, said.err)) }
}

/// The command as people call it.
pub fn run(world: &World, args: &str) -> Said {
    let mut command = portolan();
    command.env("KUBECONFIG", world.lab().kubeconfig()).args(["trace", "-n", SPACE]).args(args.split_whitespace());
    command.output().expect("portolan runs").into()
}

/// Traces until it ends so, for a reason of these words; the exit code says so too.
#[track_caller]
pub fn ends(world: &World, args: &str, end: End, because: &[&str]) -> Told {
    let mut last = String::new();
    let expected = |told: &Told| {
        let verdict = told.verdict();
        told.story.verdict.end == end && because.iter().all(|word| verdict.contains(word))
    };
    let until = std::time::Instant::now() + std::time::Duration::from_secs(PATIENCE_SECS);
    loop {
        let told = trace(world, args);
        if expected(&told) {
            let code = if end == End::Delivered && told.story.oracle.differs.is_none() { 0 } else { 1 };
            assert_eq!(told.code, Some(code), "trace {args}: {}", told.verdict());
            return told;
        }
        last.clone_from(&told.verdict());
        assert!(
            std::time::Instant::now() < until,
            "trace {args}: expected {end:?} because of {because:?}, and not\n{last}"
        );
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

#[track_caller]
pub fn delivered(world: &World, args: &str) -> Told {
    ends(world, args, End::Delivered, &[])
}

/// Runs a command of words at a place, which must succeed.
#[track_caller]
pub fn at(world: &World, place: &str, command: &str) -> String {
    world.at(place, &command.split_whitespace().collect::<Vec<_>>()).done()
}

/// The address of a pod of the namespace.
pub fn address(space: Space, pod: &str) -> String {
    space.field(&format!("pod {pod}"), ".status.podIP")
}

/// Waits until the Service has that many endpoints in its slices.
pub fn endpoints(space: Space, service: &str, count: usize) {
    wait_for(&format!("{count} endpoints of {service}"), PATIENCE_SECS, || {
        (space.endpoints(service).len() == count).then_some(())
    });
}
