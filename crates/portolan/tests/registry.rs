//! Images from a registry: Debian's docker-registry on a loopback port, pushed to over plain HTTP, pulled by `portolan`.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::{Said, deb_bin, portolan, wait_for};

/// A registry with its storage in a folder of the test; ended when dropped.
struct Registry {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Registry {
    fn serve() -> Registry {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a free port").port();
        let dir = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        let config = dir.path().join("config.yml");
        let storage = dir.path().join("storage");
        let text = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: \"127.0.0.1:{port}\" }}\n",
            storage.display()
        );
        std::fs::write(&config, text).expect("written");
        let mut command = Command::new(deb_bin().join("docker-registry"));
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Registry { child: command.spawn().expect("it starts"), port, dir };
        wait_for("the registry", 10, || registry.curl(&["/v2/"]).ok().then_some(()));
        registry
    }

    /// curl at the registry; the path comes first.
    fn curl(&self, args: &[&str]) -> Said {
        let url = format!("http://127.0.0.1:{}{}", self.port, args[0]);
        let mut command = Command::new(deb_bin().join("curl"));
        command.args(["-sf", "--noproxy", "*", "-D", "-", "--max-time", "10"]).args(&args[1..]).arg(url);
        command.output().expect("curl runs").into()
    }

    fn push_blob(&self, name: &str, layout: &Path, digest: &str) {
        let begun = self.curl(&[&format!("/v2/{name}/blobs/uploads/"), "-X", "POST"]).done();
        let location =
            begun.lines().find_map(|line| line.strip_prefix("Location: ")).expect("a place to send it").trim();
        let path = location.trim_start_matches(&format!("http://127.0.0.1:{}", self.port));
        let data = format!("@{}", blob(layout, digest).display());
        self.curl(&[
            &format!("{path}&digest={digest}"),
            "-X",
            "PUT",
            "-H",
            "Content-Type: application/octet-stream",
            "--data-binary",
            &data,
        ])
        .done();
    }

    /// Pushes the only image of an OCI layout as `NAME:TAG`; returns its digest.
    fn push(&self, layout: &Path, name: &str, tag: &str) -> String {
        let index = json(&layout.join("index.json"));
        let digest = index["manifests"][0]["digest"].as_str().expect("one image").to_owned();
        let manifest = json(&blob(layout, &digest));
        let layers = manifest["layers"].as_array().expect("layers").iter();
        let digests = layers.chain([&manifest["config"]]).filter_map(|part| part["digest"].as_str());
        digests.for_each(|digest| self.push_blob(name, layout, digest));
        let data = format!("@{}", blob(layout, &digest).display());
        let kind = format!("Content-Type: {}", manifest["mediaType"].as_str().expect("a media type"));
        self.curl(&[&format!("/v2/{name}/manifests/{tag}"), "-X", "PUT", "-H", &kind, "--data-binary", &data]).done();
        digest
    }

    /// Where the registry keeps a blob.
    fn stored(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.dir.path().join(format!("storage/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }

    fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    fn insecure(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("JSON")
}

fn blob(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}

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
    let said = store.image("pull", &[&reference, "--insecure", &registry.insecure()]).done();
    assert_eq!(said, format!("{reference} {digest}\n"));
    let listed = store.image("ls", &[]).done();
    assert!(listed.lines().any(|line| line.starts_with(&reference) && line.contains(&digest[..19])), "{listed}");
    assert_eq!(store.blobs(), 3, "manifest, configuration, one layer");
    // Pulled again, nothing changes; by its digest it is the same image.
    store.image("pull", &[&reference, "--insecure", &registry.insecure()]).done();
    let by_digest = registry.reference(&format!("test/tool@{digest}"));
    assert!(store.image("pull", &[&by_digest, "--insecure", &registry.insecure()]).done().contains(&digest));
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
    let mirror = format!("docker.io={}", registry.insecure());
    store.image("pull", &["tool:1", "--mirror", &mirror, "--insecure", &registry.insecure()]).done();
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
    let said = store.image("pull", &[&reference, "--insecure", &registry.insecure()]).refused(1);
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
    let said = store.image("pull", &[&absent, "--insecure", &registry.insecure()]).refused(1);
    assert!(said.contains(&absent) && said.lines().count() == 1, "{said}");
    let reference = registry.reference("test/tool:1");
    let said = store.image("pull", &[&reference]).refused(1);
    assert!(said.contains(&reference) && said.contains("--insecure"), "{said}");
    let said = store.image("pull", &["Not A Name"]).refused(2);
    assert!(said.contains("Not A Name"), "{said}");
    assert_eq!(store.image("ls", &[]).done().lines().count(), 1, "the heading only");
}
