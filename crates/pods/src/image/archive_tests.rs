use super::*;
use crate::image::HostImage;

fn built(store: &Store) -> Image {
    let spec = HostImage { name: "cat:1".to_owned(), programs: vec!["/bin/cat".into()], ..HostImage::default() };
    store.build_from_host(&spec).expect("builds")
}

#[test]
fn an_exported_image_is_imported_with_its_name_and_digest() {
    let (one, two) = (tempfile::tempdir().expect("temp"), tempfile::tempdir().expect("temp"));
    let store = Store::open(one.path()).expect("opens");
    let image = built(&store);
    let tar = one.path().join("out.tar");
    store.export("cat:1", &tar).expect("exports");
    let other = Store::open(two.path()).expect("opens");
    let taken = other.import(&tar, None).expect("imports");
    assert_eq!((&taken[0].digest, &taken[0].reference), (&image.digest, &image.reference));
    other.import(&tar, Some("kitten")).expect("imports under another name");
    assert!(other.find("kitten:latest").is_some());
}

#[test]
fn what_docker_save_writes_is_imported() {
    let dir = tempfile::tempdir().expect("temp");
    let store = Store::open(dir.path()).expect("opens");
    let image = built(&store);
    let manifest: Manifest = store.document(&image.digest, "manifest").expect("reads");
    let tar_path = dir.path().join("save.tar");
    let mut tar = tar::Builder::new(File::create(&tar_path).expect("created"));
    tar.append_path_with_name(store.blob(&manifest.config.digest), "c.json").expect("added");
    tar.append_path_with_name(store.blob(&manifest.layers[0].digest), "1/layer.tar").expect("added");
    let listing = br#"[{"Config":"c.json","RepoTags":["saved:2"],"Layers":["1/layer.tar"]}]"#;
    let mut header = tar::Header::new_gnu();
    header.set_size(listing.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, "manifest.json", &listing[..]).expect("added");
    tar.finish().expect("written");
    store.import(&tar_path, None).expect("imports");
    assert_eq!(store.find("saved:2").expect("is there").id, image.id);
}

#[test]
fn a_tampered_blob_is_refused() {
    let (one, two) = (tempfile::tempdir().expect("temp"), tempfile::tempdir().expect("temp"));
    let store = Store::open(one.path()).expect("opens");
    let image = built(&store);
    let manifest: Manifest = store.document(&image.digest, "manifest").expect("reads");
    let tar = one.path().join("out.tar");
    fs::write(store.blob(&manifest.config.digest), "{}").expect("tampered");
    store.export("cat:1", &tar).expect("exports what is there");
    let error = Store::open(two.path()).expect("opens").import(&tar, None).expect_err("refused");
    assert!(matches!(error, ImageError::Digest { .. }), "{error}");
}

/// What the store holds: names, blobs, trees, and files on their way.
fn content(store: &Store) -> (usize, usize, usize, usize) {
    let count = |folder: &str| fs::read_dir(store.dir().join(folder)).expect("readable").count();
    (store.list().expect("lists").len(), count("blobs/sha256"), count("unpacked"), count("tmp"))
}

fn exported(dir: &Path) -> Vec<u8> {
    let store = Store::open(&dir.join("origin")).expect("opens");
    built(&store);
    let tar = dir.join("out.tar");
    store.export("cat:1", &tar).expect("exports");
    fs::read(&tar).expect("reads")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).expect("in memory");
    gzip.finish().expect("in memory")
}

#[test]
fn an_archive_that_breaks_off_leaves_nothing_half_made() {
    let dir = tempfile::tempdir().expect("temp");
    let plain = exported(dir.path());
    let packed = gzip(&plain);
    let store = Store::open(&dir.path().join("store")).expect("opens");
    for archive in [&plain, &packed] {
        for part in [1, 400, 1000] {
            let length = archive.len() * part / 1024;
            let broken = store.import_stream(&archive[..length], Path::new("-"), None);
            assert!(broken.is_err(), "{part}/1024 of it were taken");
            assert_eq!(content(&store), (0, 0, 0, 0), "after {part}/1024 of it");
        }
    }
    store.import_stream(&packed[..], Path::new("-"), None).expect("the whole one is taken");
    assert_eq!(content(&store), (1, 3, 1, 0));
}

#[test]
fn of_several_images_none_is_taken_if_one_is_bad() {
    let dir = tempfile::tempdir().expect("temp");
    let store = Store::open(&dir.path().join("origin")).expect("opens");
    let image = built(&store);
    let layout = dir.path().join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).expect("made");
    for blob in fs::read_dir(store.dir().join("blobs/sha256")).expect("readable").flatten() {
        fs::copy(blob.path(), layout.join("blobs/sha256").join(blob.file_name())).expect("copied");
    }
    let index = |second: &str| {
        let entry = |name: &str, digest: &str| {
            serde_json::json!({"mediaType": MEDIA_MANIFEST, "digest": digest, "size": 1,
                               "annotations": {ANNOTATION_REF: name}})
        };
        let index = serde_json::json!({"schemaVersion": 2,
            "manifests": [entry("good:1", &image.digest), entry("other:1", second)]});
        fs::write(layout.join("index.json"), index.to_string()).expect("written");
    };
    let other = Store::open(&dir.path().join("store")).expect("opens");
    index(&format!("sha256:{}", "0".repeat(64)));
    other.import(&layout, None).expect_err("the second is not there");
    assert_eq!(content(&other), (0, 0, 0, 0));
    index("sha256:../../../../etc/passwd");
    let error = other.import(&layout, None).expect_err("no digest").to_string();
    assert!(error.contains("is no digest"), "{error}");
    index(&image.digest);
    let error = other.import(&layout, Some("one:1")).expect_err("which one?").to_string();
    assert!(error.contains("2 images"), "{error}");
    assert_eq!(other.import(&layout, None).expect("both are good").len(), 2);
}

#[test]
fn an_archive_for_other_machines_names_them() {
    let dir = tempfile::tempdir().expect("temp");
    let layout = dir.path();
    fs::create_dir_all(layout.join("blobs/sha256")).expect("made");
    let platform = |os: &str, architecture: &str| {
        serde_json::json!({"digest": format!("sha256:{}", "1".repeat(64)), "size": 1,
                           "platform": {"os": os, "architecture": architecture}})
    };
    let list = serde_json::json!({"schemaVersion": 2, "manifests": [
        platform("linux", "s390x"), platform("windows", "amd64"), platform("unknown", "unknown")]});
    let store = Store::open(&dir.path().join("store")).expect("opens");
    let (digest, _) = store.put_document(&list).expect("put");
    fs::rename(store.blob(&digest), layout.join("blobs").join(digest.replace(':', "/"))).expect("moved");
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": MEDIA_INDEX, "digest": digest,
        "size": 1, "annotations": {ANNOTATION_REF: "far:1"}}]});
    fs::write(layout.join("index.json"), index.to_string()).expect("written");
    let error = store.import(layout, None).expect_err("nothing for this machine").to_string();
    assert!(error.starts_with("far:1: no image for linux/"), "{error}");
    assert!(error.ends_with("it offers linux/s390x, windows/amd64"), "{error}");
}

#[test]
fn an_image_in_use_is_not_removed_and_its_second_name_is() {
    let dir = tempfile::tempdir().expect("temp");
    let store = Store::open(dir.path()).expect("opens");
    let image = built(&store);
    store.adopt(&Reference::parse("tom:1").expect("a name"), &image.digest, 1).expect("named");
    let used = crate::image::InUse::mark(&image.rootfs).expect("is there");
    store.remove("tom:1").expect("cat:1 stays");
    let error = store.remove("cat:1").expect_err("it is used").to_string();
    assert!(error.contains("cat:1") && error.contains("running container"), "{error}");
    assert!(store.find("cat:1").is_some());
    // Named anew, the old tree stays as long as it is used.
    let other = HostImage { name: "cat:1".to_owned(), programs: vec!["/bin/ls".into()], ..HostImage::default() };
    store.build_from_host(&other).expect("builds");
    store.collect().expect("collects");
    assert!(image.rootfs.exists());
    drop(used);
    store.remove("cat:1").expect("nobody uses it");
    assert_eq!(content(&store), (0, 0, 0, 0));
}

#[test]
fn while_somebody_writes_nothing_is_collected() {
    let dir = tempfile::tempdir().expect("temp");
    let store = Store::open(dir.path()).expect("opens");
    let writing = store.writing().expect("begins");
    store.put(b"not named yet").expect("put");
    store.collect().expect("is left for the next time");
    assert_eq!(content(&store), (0, 1, 0, 0));
    drop(writing);
    store.collect().expect("collects");
    assert_eq!(content(&store), (0, 0, 0, 0));
}
