//! A lab's pods run images from registries: docker-registry on loopback outside the lab, asked through the keeper.

mod support;

use std::sync::OnceLock;

use serde_json::{Value, json};
use support::registry::{Registry, blob};
use support::{Said, Space, World, portolan, wait_for};

const LAB: &str = "t-images";

/// Who the lab may ask: an open registry, which also stands for docker.io, and one that wants a login.
struct Sources {
    open: Registry,
    closed: Registry,
    /// The lab's own image store.
    store: tempfile::TempDir,
}

fn sources() -> &'static Sources {
    static SOURCES: OnceLock<Sources> = OnceLock::new();
    SOURCES.get_or_init(|| {
        // Before the lab's own, which is then called first.
        // SAFETY: the handler makes no use of thread-locals; statics live until the process has ended.
        unsafe { libc::atexit(end_sources) };
        let store = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        Sources { open: Registry::serve(), closed: Registry::serve_closed(), store }
    })
}

/// Statics are not dropped: what they hold is ended and deleted here.
extern "C" fn end_sources() {
    let sources = sources();
    sources.open.end();
    sources.closed.end();
    let _ = std::fs::remove_dir_all(sources.store.path());
}

fn world() -> &'static World {
    let sources = sources();
    support::world_with(LAB, |config| {
        config.image_store = sources.store.path().to_owned();
        config.registries = [
            ("--registry-mirror", format!("docker.io=http://{}", sources.open.host())),
            ("--insecure-registry", sources.open.host()),
            ("--insecure-registry", sources.closed.host()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
    })
}

/// An image of this machine's own, different for each `mark`, pushed under a name; returns its digest.
fn push(registry: &Registry, name: &str, tag: &str, mark: &str) -> String {
    let store = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
    let run = |args: &[&str]| -> Said {
        let mut command = portolan();
        command.args(args).arg("--image-store").arg(store.path());
        command.output().expect("it runs").into()
    };
    // The first program is what the image runs; the mark is a second one's name.
    let marked = store.path().join(mark);
    std::fs::copy("/bin/cat", &marked).expect("copied");
    let marked = marked.display().to_string();
    run(&["image", "build-from-host", "made:1", "--program", "/bin/sleep", "--program", &marked]).done();
    registry.push(store.path(), name, tag)
}

fn run(space: Space, pod: &str, node: &str, image: &str, more: &str) {
    space.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {pod} }}\n\
         spec: {{ nodeName: {node}, terminationGracePeriodSeconds: 0{more},\n  \
         containers: [{{ name: main, image: \"{image}\", args: [\"3600\"] }}] }}\n"
    ));
}

fn waiting(space: Space, pod: &str) -> Value {
    space.json(&format!("pod/{pod}"))["status"]["containerStatuses"][0]["state"]["waiting"].clone()
}

fn image_id(space: Space, pod: &str) -> String {
    space.field(&format!("pod/{pod}"), ".status.containerStatuses[0].imageID")
}

/// The events of a pod, as `Type Reason Message`.
fn events(space: Space, pod: &str) -> Vec<String> {
    let list = space.json("events");
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let own = items.into_iter().filter(|event| event["involvedObject"]["name"] == pod);
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    own.map(|event| ["type", "reason", "message"].map(|field| text(&event, field)).join(" ")).collect()
}

#[track_caller]
fn told(space: Space, pod: &str, expected: &str) {
    wait_for(expected, 30, || events(space, pod).iter().any(|event| event.contains(expected)).then_some(()));
}

/// How often a manifest was asked for.
fn asked(registry: &Registry, path: &str) -> usize {
    registry.log().lines().filter(|line| line.contains("response completed") && line.contains(path)).count()
}

#[test]
fn a_pod_runs_an_image_from_a_registry_and_a_second_node_finds_it_there() {
    let (open, space) = (&sources().open, world().space("pulled"));
    let digest = push(open, "test/tool", "1", "one");
    let image = open.reference("test/tool:1");
    run(space, "first", "node-1", &image, "");
    space.ready("first");
    assert_eq!(image_id(space, "first"), open.reference(&format!("test/tool@{digest}")));
    told(space, "first", &format!("Normal Pulling Pulling image \"{image}\""));
    told(space, "first", &format!("Normal Pulled Successfully pulled image \"{image}\" in "));
    let before = asked(open, "/v2/test/tool/manifests/1");
    assert!(before > 0, "it came from there");
    run(space, "second", "node-2", &image, "");
    space.ready("second");
    told(space, "second", &format!("Normal Pulled Container image \"{image}\" already present on machine"));
    assert_eq!(asked(open, "/v2/test/tool/manifests/1"), before, "the store is one for all nodes");
    // In use it stays; what is asked for by hand goes on being answered.
    let remove = || {
        let mut command = portolan();
        command.args(["image", "rm", &image, "--image-store"]).arg(sources().store.path());
        Said::from(command.output().expect("it runs"))
    };
    let said = remove().refused(1);
    assert!(said.contains("test/tool:1") && said.contains("running container"), "{said}");
    space.kubectl("delete pod first second --timeout=30s").done();
    // A pod is gone for the cluster a moment before its processes have let go of the image.
    wait_for("the image to be let go of", 20, || (remove().code == Some(0)).then_some(()));
}

#[test]
fn the_pull_policy_and_its_default_by_tag_hold() {
    let (open, space) = (&sources().open, world().space("policies"));
    push(open, "library/changing", "latest", "old");
    let old = push(open, "library/changing", "1", "old");
    // docker.io is the mirror: nothing else of this name can be meant.
    for (pod, image) in [("a", "changing"), ("b", "changing:1")] {
        run(space, pod, "node-1", image, "");
        space.ready(pod);
    }
    let new = push(open, "library/changing", "latest", "new");
    push(open, "library/changing", "1", "new");
    for (pod, image, expected) in [("c", "changing", &new), ("d", "changing:1", &old)] {
        run(space, pod, "node-1", image, "");
        space.ready(pod);
        let id = image_id(space, pod);
        assert!(id.ends_with(expected.as_str()), "{pod}: {id}, wanted {expected}");
    }
    space.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: { name: never }\n\
         spec: { nodeName: node-1, containers: [{ name: main, image: \"unseen:1\", imagePullPolicy: Never }] }\n",
    );
    let waiting =
        wait_for("it is refused", 30, || Some(waiting(space, "never")).filter(|w| w["reason"] == "ErrImageNeverPull"));
    assert_eq!(waiting["message"], "Container image \"unseen:1\" is not present with pull policy of Never");
    told(space, "never", "Warning ErrImageNeverPull");
    assert_eq!(asked(open, "unseen"), 0, "nobody was asked");
}

#[test]
fn a_missing_image_is_named_backed_off_from_and_taken_when_it_is_there() {
    let (open, space) = (&sources().open, world().space("missing"));
    let image = open.reference("test/later:1");
    run(space, "later", "node-2", &image, "");
    let shown = |reason: &str| wait_for(reason, 60, || Some(waiting(space, "later")).filter(|w| w["reason"] == reason));
    let error = shown("ErrImagePull");
    let message = error["message"].as_str().expect("a message").to_owned();
    assert!(message.contains(&image) && message.contains("not found"), "{message}");
    let back_off = shown("ImagePullBackOff");
    let expected = format!("Back-off pulling image \"{image}\": ErrImagePull: {message}");
    assert_eq!(back_off["message"], json!(expected));
    for event in [
        format!("Warning Failed Failed to pull image \"{image}\": {message}"),
        "Warning Failed Error: ErrImagePull".to_owned(),
        format!("Normal BackOff Back-off pulling image \"{image}\""),
        "Warning Failed Error: ImagePullBackOff".to_owned(),
    ] {
        told(space, "later", &event);
    }
    push(open, "test/later", "1", "later");
    space.kubectl("wait --for=condition=Ready pod/later --timeout=90s").done();
}

#[test]
fn who_is_not_configured_is_not_asked_and_damaged_content_is_not_run() {
    let (open, space) = (&sources().open, world().space("refused"));
    run(space, "elsewhere", "node-1", "registry.invalid/some/tool:1", "");
    let said = wait_for("it is refused", 30, || waiting(space, "elsewhere")["message"].as_str().map(str::to_owned));
    assert!(
        said.contains("registry.invalid is no registry that may be asked") && said.contains("--registry"),
        "{said}"
    );
    let digest = push(open, "test/spoiled", "1", "spoiled");
    let manifest: Value = serde_json::from_slice(&std::fs::read(open.stored(&digest)).expect("there")).expect("JSON");
    let layer = manifest["layers"][0]["digest"].as_str().expect("a layer");
    let path = open.stored(layer);
    let mut bytes = std::fs::read(&path).expect("there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("changed");
    run(space, "spoiled", "node-1", &open.reference("test/spoiled:1"), "");
    let said = wait_for("it is refused", 30, || waiting(space, "spoiled")["message"].as_str().map(str::to_owned));
    assert!(said.contains(layer), "it names the layer: {said}");
    assert!(!blob(sources().store.path(), layer).exists());
}

#[test]
fn a_closed_registry_opens_to_a_pod_with_its_secret() {
    let (closed, space) = (&sources().closed, world().space("closed"));
    push(closed, "test/tool", "1", "closed");
    let image = closed.reference("test/tool:1");
    run(space, "without", "node-1", &image, "");
    let said = wait_for("it is refused", 30, || waiting(space, "without")["message"].as_str().map(str::to_owned));
    assert!(said.contains("access denied") && said.contains("imagePullSecrets"), "{said}");
    let auths = json!({"auths": {closed.host(): {"username": "user", "password": "word"}}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"},
        "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": auths.to_string()}});
    space.apply(&secret.to_string());
    run(space, "with", "node-2", &image, ", imagePullSecrets: [{ name: login }, { name: absent }]");
    space.ready("with");
    told(space, "with", "FailedToRetrieveImagePullSecret Unable to retrieve some image pull secrets (absent)");
}
