//! Images from a registry: Debian's docker-registry on a loopback port, pushed to over plain HTTP, pulled by `portolan`.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Stdio;

use serde_json::{Value, json};
use support::registry::{Layout, MANIFEST, Registry, blob, json, text};
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

    /// `portolan image import` with this standard input.
    fn import_from(&self, input: &[u8], args: &[&str]) -> Said {
        let mut command = portolan();
        command.args(["image", "import", "--image-store"]).arg(self.0.path()).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        // A command that refuses early does not read to the end.
        let _ = child.stdin.take().expect("piped").write_all(input);
        child.wait_with_output().expect("it ends").into()
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

/// The configuration and the one layer, uncompressed, of the tool image.
fn tool_parts(source: &Store) -> (Value, Vec<u8>) {
    let index = json(&source.0.path().join("index.json"));
    let manifest = json(&blob(source.0.path(), text(&index["manifests"][0], "digest")));
    let config = json(&blob(source.0.path(), text(&manifest["config"], "digest")));
    let layer = File::open(blob(source.0.path(), text(&manifest["layers"][0], "digest"))).expect("is there");
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(layer).read_to_end(&mut plain).expect("gzip");
    (config, plain)
}

/// A layer that adds a file and takes one away.
fn upper_layer(added: &str, gone: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in [(added.to_owned(), "here\n"), (gone.to_owned(), "")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, path, content.as_bytes()).expect("in memory");
    }
    tar.into_inner().expect("in memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).expect("in memory");
    gzip.finish().expect("in memory")
}

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

#[test]
fn of_a_list_this_machines_image_is_pulled_with_its_gzip_and_zstd_layers() {
    let (registry, source, layout) = (Registry::serve(), Store::with_tool(), Layout::new());
    let (mut config, lower) = tool_parts(&source);
    let uppers = [upper_layer("etc/one", "etc/.wh.group"), upper_layer("etc/two", "etc/.wh.one")];
    let sums: Vec<String> =
        [&lower, &uppers[0], &uppers[1]].iter().map(|tar| text(&layout.put("", tar), "digest").to_owned()).collect();
    config["rootfs"]["diff_ids"] = json!(sums);
    // The second zstd layer is of two frames, as tools that compress in parallel write them.
    let (front, back) = uppers[1].split_at(512);
    let layers = [
        layout.put(GZIP, &gzip(&lower)),
        layout.put(ZSTD, &zstd(&uppers[0])),
        layout.put(ZSTD, &[zstd(front), zstd(back)].concat()),
    ];
    let image = layout.image(&config, &layers);
    let (os, architecture) = (text(&config, "os").to_owned(), text(&config, "architecture").to_owned());
    config["architecture"] = json!("s390x");
    let far = layout.image(&config, &layers);
    layout.push(&registry, "test/list", &image);
    layout.push(&registry, "test/list", &far);
    layout.push_list(&registry, "test/list", "1", &[(&far, "linux", "s390x"), (&image, &os, &architecture)]);
    layout.push_list(&registry, "test/list", "far", &[(&far, "linux", "s390x"), (&far, "windows", "arm64")]);

    let (store, host) = (Store::new(), registry.host());
    let pull = |name: &str| store.image("pull", &[&registry.reference(name), "--insecure-registry", &host]);
    assert!(pull("test/list:1").done().contains(text(&image, "digest")));
    let trees = std::fs::read_dir(store.0.path().join("unpacked")).expect("readable").flatten();
    let etc: Vec<_> = trees.map(|tree| tree.path().join("etc")).collect();
    assert_eq!(etc.len(), 1);
    let is_there = |name: &str| etc[0].join(name).exists();
    assert_eq!(["passwd", "group", "one", "two"].map(is_there), [true, false, false, true]);

    let said = pull("test/list:far").refused(1);
    assert!(said.contains("no image for linux/") && said.contains("linux/s390x, windows/arm64"), "{said}");
    let alone = format!("test/list@{}", text(&far, "digest"));
    let said = pull(&alone).refused(1);
    assert!(said.contains("no image for linux/") && said.contains("it offers linux/s390x"), "{said}");
    assert_eq!(store.image("ls", &[]).done().lines().count(), 2, "the heading and one image");
}

#[test]
fn sizes_that_cannot_be_and_things_that_are_no_images_are_refused_and_leave_nothing() {
    let (registry, source, layout) = (Registry::serve(), Store::with_tool(), Layout::new());
    let (config, lower) = tool_parts(&source);
    let layer = layout.put(GZIP, &gzip(&lower));
    let (store, host) = (Store::new(), registry.host());
    let true_size = layer["size"].as_u64().expect("a size");
    for (size, expected) in [
        (true_size - 1, "it is longer than the"),
        (true_size + 1, "bytes; try again"),
        (1 << 62, "make room or use another --image-store"),
    ] {
        let mut lying = layer.clone();
        lying["size"] = json!(size);
        let image = layout.image(&config, &[lying]);
        layout.push(&registry, "test/size", &image);
        let name = registry.reference(&format!("test/size@{}", text(&image, "digest")));
        let said = store.image("pull", &[&name, "--insecure-registry", &host]).refused(1);
        assert!(said.contains(expected) && said.lines().count() == 1, "{size}: {said}");
        assert_eq!(store.blobs(), 0, "after size {size}");
    }
    let mut chart = layout.put("application/vnd.cncf.helm.config.v1+json", b"{}");
    chart["size"] = json!(2);
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": chart, "layers": [layer]});
    let chart = layout.put(MANIFEST, manifest.to_string().as_bytes());
    layout.push(&registry, "test/chart", &chart);
    let name = registry.reference(&format!("test/chart@{}", text(&chart, "digest")));
    let said = store.image("pull", &[&name, "--insecure-registry", &host]).refused(1);
    assert!(said.contains("not of a container image") && said.contains("helm"), "{said}");
    assert_eq!(store.blobs(), 0);
}

#[test]
fn a_closed_registry_gives_nothing_without_a_login_and_the_image_with_it() {
    let (registry, source, store) = (Registry::serve_closed(), Store::with_tool(), Store::new());
    registry.push(source.0.path(), "test/tool", "1");
    let (name, host) = (registry.reference("test/tool:1"), registry.host());
    let said = store.image("pull", &[&name, "--insecure-registry", &host]).refused(1);
    assert!(said.contains(&name) && said.contains("access denied") && said.contains("--auth-file"), "{said}");
    let file = store.0.path().join("auth.json");
    let with = |password: &str| {
        let auths = json!({"auths": {&host: {"username": "user", "password": password}}});
        std::fs::write(&file, auths.to_string()).expect("written");
        let file = file.display().to_string();
        store.image("pull", &[&name, "--insecure-registry", &host, "--auth-file", &file])
    };
    assert!(with("wrong").refused(1).contains("access denied"));
    assert!(with("word").done().contains(&name));
    std::fs::write(&file, "nonsense").expect("written");
    let file = file.display().to_string();
    assert!(store.image("pull", &[&name, "--auth-file", &file]).refused(2).contains("--auth-file"));
}

#[test]
fn progress_is_shown_on_a_terminal_and_nowhere_else() {
    let (registry, source) = (Registry::serve(), Store::with_tool());
    let digest = registry.push(source.0.path(), "test/tool", "1");
    let manifest = json(&blob(source.0.path(), &digest));
    let layer = &text(&manifest["layers"][0], "digest")["sha256:".len()..][..12];
    let (name, host) = (registry.reference("test/tool:1"), registry.host());
    let piped = Store::new().image("pull", &[&name, "--insecure-registry", &host]);
    assert_eq!((piped.code, piped.err.as_str()), (Some(0), ""));
    let store = Store::new();
    let mut command = portolan();
    command.args(["image", "pull", &name, "--insecure-registry", &host, "--image-store"]).arg(store.0.path());
    let (said, shown) = on_terminal(command);
    said.done();
    assert!(shown.contains(layer), "{shown:?}");
}

/// Runs a command whose standard error is a terminal; returns what it said and what the terminal got.
fn on_terminal(mut command: std::process::Command) -> (Said, String) {
    let (mut master, mut slave) = (0, 0);
    let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: both integers and the size outlive the call; the descriptors are owned below.
    let (master, slave) = unsafe {
        let made = libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), &size);
        assert_eq!(made, 0, "a pseudo terminal");
        (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
    };
    command.env("TERM", "xterm").stderr(slave).stdout(Stdio::piped());
    let child = command.spawn().expect("it starts");
    // Its copy of the terminal is the last: reading ends with the child.
    drop(command);
    let reader = std::thread::spawn(move || {
        let mut shown = Vec::new();
        // A terminal whose other side is closed gives EIO.
        let _ = (&master).read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    });
    let said = Said::from(child.wait_with_output().expect("it ends"));
    (said, reader.join().expect("read"))
}

#[test]
fn an_archive_comes_from_a_file_or_standard_input_and_a_bad_one_is_refused_in_one_line() {
    let (source, layout) = (Store::with_tool(), Layout::new());
    let (config, lower) = tool_parts(&source);
    let mut docker = tar::Builder::new(Vec::new());
    let listing = json!([{"Config": "c.json", "RepoTags": ["saved:2"], "Layers": ["1/layer.tar"]}]);
    let (config, listing) = (config.to_string().into_bytes(), listing.to_string().into_bytes());
    for (path, content) in [("c.json", &config), ("1/layer.tar", &lower), ("manifest.json", &listing)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        docker.append_data(&mut header, path, &content[..]).expect("in memory");
    }
    let archive = gzip(&docker.into_inner().expect("in memory"));
    let path = layout.path().join("saved.tar.gz");
    std::fs::write(&path, &archive).expect("written");
    let (store, path) = (Store::new(), path.display().to_string());
    assert!(store.image("import", &[&path]).done().starts_with("docker.io/library/saved:2 sha256:"));
    assert!(store.import_from(&archive, &["-", "--name", "piped:3"]).done().starts_with("docker.io/library/piped:3 "));
    assert_eq!(store.image("ls", &[]).done().lines().count(), 3);

    let hostile = |name: &str| {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(1);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        let mut tar = tar::Builder::new(Vec::new());
        tar.append(&header, &b"x"[..]).expect("in memory");
        tar.into_inner().expect("in memory")
    };
    let empty = Store::new();
    for (bytes, expected) in [
        (archive[..archive.len() / 2].to_vec(), "cannot read the archive standard input"),
        (hostile("../../escaped"), "the path leaves the image"),
        (hostile("fine"), "no index.json (OCI layout) and no manifest.json (docker save) in it"),
        (b"not an archive at all".repeat(100), "cannot read the archive standard input"),
        (Vec::new(), "no index.json (OCI layout) and no manifest.json (docker save) in it"),
    ] {
        let said = empty.import_from(&bytes, &["-"]).refused(2);
        assert!(said.contains(expected) && said.lines().count() == 1, "{said}");
        let left = |folder: &str| std::fs::read_dir(empty.0.path().join(folder)).expect("readable").count();
        assert_eq!(["blobs/sha256", "unpacked", "tmp"].map(left), [0, 0, 0], "after {expected}");
    }
    assert!(store.image("import", &["/nowhere.tar"]).refused(2).contains("/nowhere.tar"));
}
