//! Debian's docker-registry as a test's own, on a loopback port that no other process can have.
//!
//! ```text
//!  curl, portolan ─► listener of the test (127.0.0.1:PORT, bound once, never let go) ─► unix socket ─► docker-registry
//! ```
//!
//! A port that is found free and then given away by number may be another's by the time it is bound; a listener that
//! is held from the start is not.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::{Said, deb_bin, wait_for};

/// The password is `word`; bcrypt, with its lowest cost but one.
const HTPASSWD: &str = "user:$2b$05$abcdefghijklmnopqrstuuQDoL5Sa/TtfS/XN4AY/jgq.HBbO1BTu\n";

/// A registry with its storage in a folder of the test; ended when dropped.
pub struct Registry {
    child: Mutex<Child>,
    port: u16,
    dir: tempfile::TempDir,
    connections: Arc<AtomicU64>,
}

impl Registry {
    /// One that anybody may ask.
    pub fn serve() -> Registry {
        Registry::start("")
    }

    /// One that wants the login `user`, `word`.
    pub fn serve_closed() -> Registry {
        Registry::start("auth: { htpasswd: { realm: test, path: htpasswd } }\n")
    }

    fn start(more: &str) -> Registry {
        let dir = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        let (config, socket) = (dir.path().join("config.yml"), dir.path().join("socket"));
        let text = format!(
            "version: 0.1\nlog: {{ level: info }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\n\
             http: {{ net: unix, addr: {} }}\n{more}",
            dir.path().join("storage").display(),
            socket.display()
        );
        std::fs::write(&config, text).expect("written");
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let mut command = Command::new(deb_bin().join("docker-registry"));
        std::fs::write(dir.path().join("htpasswd"), HTPASSWD).expect("written");
        command.arg("serve").arg(&config).current_dir(dir.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a copy")).stderr(log);
        let child = command.spawn().expect("it starts");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let connections = Arc::new(AtomicU64::new(0));
        let registry = Registry { child: Mutex::new(child), port, dir, connections: connections.clone() };
        wait_for("the registry's socket", 30, || UnixStream::connect(&socket).ok());
        std::thread::spawn(move || forward(&listener, &socket, &connections));
        registry.curl(&["/v2/"]).done();
        registry
    }

    /// curl at the registry; the path comes first.
    pub fn curl(&self, args: &[&str]) -> Said {
        let url = format!("http://{}{}", self.host(), args[0]);
        let mut command = Command::new(deb_bin().join("curl"));
        command
            .args(["-sSf", "--noproxy", "*", "-D", "-", "--max-time", "60", "-u", "user:word"])
            .args(&args[1..])
            .arg(url);
        let mut said = Said::from(command.output().expect("curl runs"));
        if !said.ok() {
            said.err += &format!("--- what the registry said:\n{}", self.log());
        }
        said
    }

    /// Sends a blob and returns nothing: its digest is its name.
    pub fn push_blob(&self, name: &str, file: &Path, digest: &str) {
        let begun = self.curl(&[&format!("/v2/{name}/blobs/uploads/"), "-X", "POST"]).done();
        let location =
            begun.lines().find_map(|line| line.strip_prefix("Location: ")).expect("a place to send it").trim();
        let path = location.trim_start_matches(&format!("http://{}", self.host()));
        let data = format!("@{}", file.display());
        let kind = "Content-Type: application/octet-stream";
        self.curl(&[&format!("{path}&digest={digest}"), "-X", "PUT", "-H", kind, "--data-binary", &data]).done();
    }

    /// Sends a manifest, or a list of them, under a tag or its digest.
    pub fn push_manifest(&self, name: &str, tag: &str, file: &Path, media_type: &str) {
        let (data, kind) = (format!("@{}", file.display()), format!("Content-Type: {media_type}"));
        self.curl(&[&format!("/v2/{name}/manifests/{tag}"), "-X", "PUT", "-H", &kind, "--data-binary", &data]).done();
    }

    /// Pushes the only image of an OCI layout as `NAME:TAG`; returns its digest.
    pub fn push(&self, layout: &Path, name: &str, tag: &str) -> String {
        let index = json(&layout.join("index.json"));
        let digest = index["manifests"][0]["digest"].as_str().expect("one image").to_owned();
        let manifest = json(&blob(layout, &digest));
        let layers = manifest["layers"].as_array().expect("layers").iter();
        let digests = layers.chain([&manifest["config"]]).filter_map(|part| part["digest"].as_str());
        digests.for_each(|digest| self.push_blob(name, &blob(layout, digest), digest));
        let media_type = manifest["mediaType"].as_str().expect("a media type");
        self.push_manifest(name, tag, &blob(layout, &digest), media_type);
        digest
    }

    /// Where the registry keeps a blob.
    pub fn stored(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.dir.path().join(format!("storage/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A name at this registry.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// How many connections came so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Ends it and deletes its folder; a static registry is not dropped.
    pub fn end(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
        let _ = std::fs::remove_dir_all(self.dir.path());
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.end();
    }
}

fn forward(listener: &TcpListener, socket: &Path, connections: &AtomicU64) {
    for stream in listener.incoming().flatten() {
        connections.fetch_add(1, Ordering::SeqCst);
        // After the registry's end there is nobody to pass bytes to.
        let Ok(registry) = UnixStream::connect(socket) else { return };
        std::thread::spawn(move || pass(&stream, &registry));
    }
}

/// Both ways until both ends have said all.
fn pass(client: &TcpStream, registry: &UnixStream) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A peer that went away ends its direction.
            let _ = io::copy(&mut { client }, &mut { registry });
            let _ = registry.shutdown(Shutdown::Write);
        });
        let _ = io::copy(&mut { registry }, &mut { client });
        let _ = client.shutdown(Shutdown::Both);
    });
}

/// A JSON file.
pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("JSON")
}

/// A blob of an OCI layout.
pub fn blob(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}

/// An OCI layout written by hand: blobs in a folder, to be pushed or imported.
pub struct Layout {
    dir: tempfile::TempDir,
}

impl Layout {
    pub fn new() -> Layout {
        let dir = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        std::fs::create_dir_all(dir.path().join("blobs/sha256")).expect("made");
        Layout { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Stores bytes; returns their descriptor.
    pub fn put(&self, media_type: &str, bytes: &[u8]) -> Value {
        let file = self.dir.path().join("blob");
        std::fs::write(&file, bytes).expect("written");
        let summed = Command::new("sha256sum").arg(&file).output().expect("sha256sum runs");
        let digest = format!("sha256:{}", &String::from_utf8_lossy(&summed.stdout)[..64]);
        std::fs::rename(&file, blob(self.path(), &digest)).expect("moved");
        serde_json::json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// A manifest of these layers, with the configuration of another image changed by `change`.
    pub fn image(&self, config: &Value, layers: &[Value]) -> Value {
        let config = self.put(CONFIG, config.to_string().as_bytes());
        let manifest =
            serde_json::json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.put(MANIFEST, manifest.to_string().as_bytes())
    }

    /// Pushes an image of this layout, by its digest.
    pub fn push(&self, registry: &Registry, name: &str, image: &Value) {
        let digest = text(image, "digest");
        let manifest = json(&blob(self.path(), digest));
        let layers = manifest["layers"].as_array().expect("layers").iter();
        for part in layers.chain([&manifest["config"]]) {
            let digest = text(part, "digest");
            registry.push_blob(name, &blob(self.path(), digest), digest);
        }
        registry.push_manifest(name, digest, &blob(self.path(), digest), MANIFEST);
    }

    /// Pushes a list of images under a tag; each comes with its operating system and architecture.
    pub fn push_list(&self, registry: &Registry, name: &str, tag: &str, images: &[(&Value, &str, &str)]) {
        let entry = |(image, os, architecture): &(&Value, &str, &str)| {
            let mut entry = (*image).clone();
            entry["platform"] = serde_json::json!({"os": os, "architecture": architecture});
            entry
        };
        let manifests: Vec<Value> = images.iter().map(entry).collect();
        let list = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let list = self.put(INDEX, list.to_string().as_bytes());
        registry.push_manifest(name, tag, &blob(self.path(), text(&list, "digest")), INDEX);
    }
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A text of a JSON object that has it.
#[track_caller]
pub fn text<'value>(value: &'value Value, field: &str) -> &'value str {
    value[field].as_str().unwrap_or_else(|| panic!("{value} has no text {field}"))
}
