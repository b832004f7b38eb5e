//! Images from a registry: Debian's docker-registry on a loopback port, pushed to over plain HTTP, pulled by `portolan`.

mod support;

use support::registry::{Registry, blob, json};
use support::{Said, portolan};

/// An image store of the test's own.
struct Store(tempfile::TempDir);

impl Store {
    fn new() -> Store {
        Store(tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder"))
    }

    /// `portolan image VERB --image-store …`
    fn image(&self, verb: &str, args: &[&str]) -> Said {
        let mut command = portolan();
        command.args(["image", verb, "--image-store"]).arg(self.0.path()).args(args);
        command.output().expect("it runs").into()
    }

    /// The layout of a store that has one small image, of a program of this machine.
    fn with_tool() -> Store {
        let store = Store::new();
        store.image("build-from-host", &["tool:1", "--program", "/bin/cat"]).done();
        store
    }

    fn blobs(&self) -> usize {
        std::fs::read_dir(self.0.path().join("blobs/sha256")).map_or(0, Iterator::count)
    }
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back_the_same() {
    let (registry, source) = (Registry::serve(), Store::with_tool());
    let digest = registry.push(source.0.path(), "test/tool", "1");
    let (store, reference) = (Store::new(), registry.reference("test/tool:1"));
    let said = store.image("pull", &[&reference, "--insecure", &registry.host()]).done();
    assert_eq!(said, format!("{reference} {digest}\n"));
    let listed = store.image("ls", &[]).done();
    assert!(listed.lines().any(|line| line.starts_with(&reference) && line.contains(&digest[..19])), "{listed}");
    assert_eq!(store.blobs(), 3, "manifest, configuration, one layer");
    // Pulled again, nothing changes; by its digest it is the same image.
    store.image("pull", &[&reference, "--insecure", &registry.host()]).done();
    let by_digest = registry.reference(&format!("test/tool@{digest}"));
    assert!(store.image("pull", &[&by_digest, "--insecure", &registry.host()]).done().contains(&digest));
    assert_eq!(store.blobs(), 3);
    for name in [&reference, &by_digest] {
        store.image("rm", &[name]).done();
    }
    assert_eq!(store.image("ls", &[]).done().lines().count(), 1, "the heading only");
    assert!(store.image("rm", &[&reference]).refused(1).contains(&reference));
}

#[test]
fn a_mirror_is_asked_in_place_of_the_registry_that_the_name_means() {
    let (registry, source) = (Registry::serve(), Store::with_tool());
    registry.push(source.0.path(), "library/tool", "1");
    let store = Store::new();
    let mirror = format!("docker.io={}", registry.host());
    store.image("pull", &["tool:1", "--mirror", &mirror, "--insecure", &registry.host()]).done();
    assert!(store.image("ls", &[]).done().contains("tool:1"));
}

#[test]
fn content_that_is_not_what_its_digest_says_is_refused_and_not_kept() {
    let (registry, source) = (Registry::serve(), Store::with_tool());
    let digest = registry.push(source.0.path(), "test/tool", "1");
    let layer = json(&blob(source.0.path(), &digest))["layers"][0]["digest"].as_str().expect("a layer").to_owned();
    let path = registry.stored(&layer);
    let mut bytes = std::fs::read(&path).expect("the registry has it");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("changed");
    let (store, reference) = (Store::new(), registry.reference("test/tool:1"));
    let said = store.image("pull", &[&reference, "--insecure", &registry.host()]).refused(1);
    assert!(said.contains(&layer) && said.lines().count() == 1, "it names the layer: {said}");
    assert_eq!(store.image("ls", &[]).done().lines().count(), 1, "the heading only");
    let kept = blob(store.0.path(), &layer);
    assert!(!kept.exists(), "{} must not be there", kept.display());
    let left = std::fs::read_dir(store.0.path().join("tmp")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "nothing half-made");
}

#[test]
fn what_is_not_there_is_named_and_so_is_a_registry_that_speaks_no_tls() {
    let (registry, source) = (Registry::serve(), Store::with_tool());
    registry.push(source.0.path(), "test/tool", "1");
    let store = Store::new();
    let absent = registry.reference("test/tool:2");
    let said = store.image("pull", &[&absent, "--insecure", &registry.host()]).refused(1);
    assert!(said.contains(&absent) && said.lines().count() == 1, "{said}");
    let reference = registry.reference("test/tool:1");
    let said = store.image("pull", &[&reference]).refused(1);
    assert!(said.contains(&reference) && said.contains("--insecure"), "{said}");
    let said = store.image("pull", &["Not A Name"]).refused(2);
    assert!(said.contains("Not A Name"), "{said}");
    assert_eq!(store.image("ls", &[]).done().lines().count(), 1, "the heading only");
}
