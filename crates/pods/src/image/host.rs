//! Packs programs of this machine as a real OCI image: `image build-from-host`.
//!
//! ```text
//! programs ─ elf::closure ─► files ─► one gzip layer + config + manifest ─► Store::adopt (as any image)
//! ```
//!
//! Same input, same bytes out: entries sorted, no times, no owners but root.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use super::documents::{
    ConfigFile, Descriptor, MEDIA_CONFIG, MEDIA_LAYER_GZIP, MEDIA_MANIFEST, Manifest, RootFs, host_platform,
};
use super::elf;
use super::layer::digest_name;
use super::store::Store;
use super::{Image, ImageConfig, ImageError, Reference};

/// What to pack. Paths in the image are absolute.
#[derive(Clone, Debug, Default)]
pub struct HostImage {
    /// Image name, as `nginx:latest`.
    pub name: String,
    /// Programs to take with all they need, at the same path in the image; looked up below `root` first.
    pub programs: Vec<PathBuf>,
    /// A folder that `dpkg -x` filled; programs, configuration and libraries there win over the host's.
    pub root: Option<PathBuf>,
    /// Files and folders to copy: from this machine → path in the image.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// Files given by their content.
    pub texts: Vec<(PathBuf, String)>,
    /// Symlinks: path in the image → target.
    pub symlinks: Vec<(PathBuf, PathBuf)>,
    /// Empty folders.
    pub dirs: Vec<PathBuf>,
    /// Lines of /etc/passwd besides root's: `nginx:x:101:101::/:/sbin/nologin`.
    pub users: Vec<String>,
    /// Lines of /etc/group besides root's.
    pub groups: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`; PATH is set if missing.
    pub env: Vec<String>,
    /// As `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// As `SIGQUIT`; `None` means SIGTERM.
    pub stop_signal: Option<String>,
}

/// One entry of the layer.
#[derive(Debug)]
enum Node {
    Dir,
    Copy(PathBuf, u32),
    Text(String),
    Symlink(PathBuf),
}

impl Store {
    /// Packs `spec`, names it, unpacks it.
    pub fn build_from_host(&self, spec: &HostImage) -> Result<Image, ImageError> {
        let reference = Reference::parse(&spec.name)?;
        let _writing = self.writing()?;
        let tar = write_tar(&collect(spec)?)?;
        let diff_id = digest_name(&Sha256::digest(&tar));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&tar).map_err(ImageError::io("compress", "layer"))?;
        let layer = gzip.finish().map_err(ImageError::io("compress", "layer"))?;
        let (layer_digest, layer_size) = self.put(&layer)?;
        let (config_digest, config_size) = self.put_document(&config_of(spec, diff_id))?;
        let describe = |media_type: &str, digest, size| Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            ..Descriptor::default()
        };
        let (digest, size) = self.put_document(&Manifest {
            schema_version: 2,
            media_type: MEDIA_MANIFEST.to_owned(),
            config: describe(MEDIA_CONFIG, config_digest, config_size),
            layers: vec![describe(MEDIA_LAYER_GZIP, layer_digest, layer_size)],
        })?;
        self.adopt(&reference, &digest, size)
    }
}

fn config_of(spec: &HostImage, diff_id: String) -> ConfigFile {
    let platform = host_platform();
    let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let mut env = spec.env.clone();
    if !env.iter().any(|entry| entry.starts_with("PATH=")) {
        env.insert(0, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    ConfigFile {
        architecture: platform.architecture,
        os: platform.os,
        config: Some(ImageConfig {
            env: Some(env),
            entrypoint: list(&spec.entrypoint),
            cmd: list(&spec.cmd),
            working_dir: Some("/".to_owned()),
            exposed_ports: (!spec.exposed_ports.is_empty()).then(|| {
                let empty = || serde_json::Value::Object(serde_json::Map::new());
                spec.exposed_ports.iter().map(|port| (port.clone(), empty())).collect()
            }),
            stop_signal: spec.stop_signal.clone(),
            user: None,
        }),
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![diff_id] },
    }
}

/// All entries by path relative to the root.
fn collect(spec: &HostImage) -> Result<BTreeMap<PathBuf, Node>, ImageError> {
    let mut tree = BTreeMap::new();
    for folder in ["bin", "sbin", "lib", "lib64"] {
        tree.insert(PathBuf::from(folder), Node::Symlink(Path::new("usr").join(folder)));
        tree.insert(Path::new("usr").join(folder), Node::Dir);
    }
    for folder in ["etc", "proc", "sys", "dev", "run", "tmp", "root", "var/log"] {
        tree.insert(PathBuf::from(folder), Node::Dir);
    }
    let passwd: Vec<&str> =
        ["root:x:0:0:root:/root:/bin/sh"].into_iter().chain(spec.users.iter().map(String::as_str)).collect();
    let group: Vec<&str> = ["root:x:0:"].into_iter().chain(spec.groups.iter().map(String::as_str)).collect();
    tree.insert("etc/passwd".into(), Node::Text(passwd.join("\n") + "\n"));
    tree.insert("etc/group".into(), Node::Text(group.join("\n") + "\n"));

    let mut sources = Vec::new();
    for program in &spec.programs {
        let source = elf::locate(spec.root.as_deref(), program).ok_or_else(|| ImageError::Pack {
            program: program.clone(),
            reason: "no such file in the given folder or on this machine".to_owned(),
        })?;
        add_file(&mut tree, program, &source)?;
        sources.push(source);
    }
    for (place, source) in elf::closure(&sources, spec.root.as_deref())? {
        add_file(&mut tree, &place, &source)?;
    }
    for (source, place) in &spec.files {
        add_tree(&mut tree, place, source)?;
    }
    for dir in &spec.dirs {
        tree.entry(image_path(dir)).or_insert(Node::Dir);
    }
    for (place, text) in &spec.texts {
        tree.insert(image_path(place), Node::Text(text.clone()));
    }
    for (place, target) in &spec.symlinks {
        tree.insert(image_path(place), Node::Symlink(target.clone()));
    }
    Ok(tree)
}

fn add_tree(tree: &mut BTreeMap<PathBuf, Node>, place: &Path, source: &Path) -> Result<(), ImageError> {
    let kind = fs::symlink_metadata(source).map_err(ImageError::io("read", source))?;
    if kind.is_symlink() {
        let target = fs::read_link(source).map_err(ImageError::io("read", source))?;
        tree.insert(image_path(place), Node::Symlink(target));
        return Ok(());
    }
    if !kind.is_dir() {
        return add_file(tree, place, source);
    }
    tree.insert(image_path(place), Node::Dir);
    let listing = fs::read_dir(source).map_err(ImageError::io("list", source))?;
    for child in listing {
        let child = child.map_err(ImageError::io("list", source))?;
        add_tree(tree, &place.join(child.file_name()), &child.path())?;
    }
    Ok(())
}

fn add_file(tree: &mut BTreeMap<PathBuf, Node>, place: &Path, source: &Path) -> Result<(), ImageError> {
    let meta = fs::metadata(source).map_err(ImageError::io("read", source))?;
    let node = Node::Copy(source.to_path_buf(), meta.permissions().mode() & 0o755);
    tree.insert(image_path(place), node);
    Ok(())
}

/// Relative to the root, and below `usr` where the root has only a link.
fn image_path(place: &Path) -> PathBuf {
    let relative = place.strip_prefix("/").unwrap_or(place);
    let merged = ["bin", "sbin", "lib", "lib64"].iter().any(|folder| relative.starts_with(folder));
    if merged { Path::new("usr").join(relative) } else { relative.to_path_buf() }
}

fn write_tar(tree: &BTreeMap<PathBuf, Node>) -> Result<Vec<u8>, ImageError> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, node) in tree {
        let failed = ImageError::io("pack", path);
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        let added = match node {
            Node::Dir => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(if path == Path::new("tmp") { 0o1777 } else { 0o755 });
                builder.append_data(&mut header, path, &[][..])
            }
            Node::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                builder.append_link(&mut header, path, target)
            }
            Node::Text(text) => {
                header.set_mode(0o644);
                header.set_size(text.len() as u64);
                builder.append_data(&mut header, path, text.as_bytes())
            }
            Node::Copy(source, mode) => {
                let bytes = fs::read(source).map_err(ImageError::io("read", source))?;
                header.set_mode(*mode | 0o444);
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, path, &bytes[..])
            }
        };
        added.map_err(failed)?;
    }
    builder.into_inner().map_err(ImageError::io("pack", "layer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str) -> HostImage {
        HostImage {
            name: name.to_owned(),
            programs: ["/bin/sh", "/bin/cat"].map(PathBuf::from).into(),
            cmd: vec!["/bin/sh".to_owned()],
            ..HostImage::default()
        }
    }

    #[test]
    fn the_same_programs_give_the_same_digest_in_two_stores() {
        let (one, two) = (tempfile::tempdir().expect("temp"), tempfile::tempdir().expect("temp"));
        let digest = |dir: &Path| {
            let store = Store::open(dir).expect("opens");
            store.build_from_host(&shell("shell:1")).expect("builds").digest
        };
        assert_eq!(digest(one.path()), digest(two.path()));
    }

    #[test]
    fn a_built_image_is_found_listed_and_removed() {
        let dir = tempfile::tempdir().expect("temp");
        let store = Store::open(dir.path()).expect("opens");
        let built = store.build_from_host(&shell("shell:1")).expect("builds");
        let found = Store::open(dir.path()).expect("opens again").find("shell:1").expect("is there");
        assert_eq!((&found.digest, &found.id), (&built.digest, &built.id));
        assert!(found.rootfs.join("usr/bin/sh").is_file());
        assert!(found.rootfs.join("bin/cat").is_file(), "by way of bin -> usr/bin");
        assert_eq!(store.list().expect("lists")[0].reference, "docker.io/library/shell:1");
        store.remove("shell:1").expect("removes");
        assert!(store.find("shell:1").is_none());
        assert!(!found.rootfs.exists(), "nothing unpacked remains");
        assert_eq!(fs::read_dir(dir.path().join("blobs/sha256")).expect("lists").count(), 0);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().expect("temp");
        let store = Store::open(dir.path()).expect("opens");
        let mut spec = shell("shell:1");
        spec.programs.push("/bin/no-such-program".into());
        let error = store.build_from_host(&spec).expect_err("refused").to_string();
        assert!(error.contains("/bin/no-such-program"), "{error}");
    }

    #[test]
    fn a_damaged_layer_is_refused_and_leaves_no_half_image() {
        let dir = tempfile::tempdir().expect("temp");
        let store = Store::open(dir.path()).expect("opens");
        let built = store.build_from_host(&shell("shell:1")).expect("builds");
        fs::remove_dir_all(&built.rootfs).expect("forget the unpacked tree");
        let manifest: Manifest = store.document(&built.digest, "manifest").expect("reads");
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&[0; 1024]).expect("in memory");
        let other = gzip.finish().expect("in memory");
        fs::write(store.blob(&manifest.layers[0].digest), other).expect("damaged");
        assert!(store.find("shell:1").is_none());
        assert_eq!(fs::read_dir(dir.path().join("unpacked")).expect("lists").count(), 0);
    }
}
