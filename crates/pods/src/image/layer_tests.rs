use std::fs;
use std::io::Write;

use super::*;

enum Item<'a> {
    File(&'a str, &'a str),
    Dir(&'a str),
    Link(&'a str, &'a str),
    Hard(&'a str, &'a str),
}

fn tar_of(items: &[Item<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for item in items {
        let (path, kind, link, data) = match item {
            Item::File(path, data) => (path, tar::EntryType::Regular, "", *data),
            Item::Dir(path) => (path, tar::EntryType::Directory, "", ""),
            Item::Link(path, target) => (path, tar::EntryType::Symlink, *target, ""),
            Item::Hard(path, target) => (path, tar::EntryType::Link, *target, ""),
        };
        let mut header = tar::Header::new_gnu();
        // Written raw: the crate itself would refuse the hostile names.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data.as_bytes()).expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

/// All paths below `root`, with file contents.
fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for child in fs::read_dir(&directory).expect("readable").map(|child| child.expect("readable")) {
            let name = child.path().strip_prefix(root).expect("below").display().to_string();
            let kind = child.file_type().expect("known");
            if kind.is_dir() {
                open.push(child.path());
                found.push(format!("{name}/"));
            } else if kind.is_symlink() {
                found.push(format!("{name} -> {}", fs::read_link(child.path()).expect("link").display()));
            } else {
                found.push(format!("{name}={}", fs::read_to_string(child.path()).expect("text")));
            }
        }
    }
    found.sort();
    found
}

fn applied(layers: &[&[Item<'_>]]) -> Vec<String> {
    let root = tempfile::tempdir().expect("temp");
    for layer in layers {
        apply(&tar_of(layer)[..], root.path()).expect("applies");
    }
    tree(root.path())
}

#[test]
fn a_whiteout_removes_a_lower_file_and_a_lower_directory() {
    let lower = [Item::Dir("d"), Item::File("d/a", "1"), Item::File("f", "2"), Item::File("g", "3")];
    let upper = [Item::File(".wh.d", ""), Item::File(".wh.f", "")];
    assert_eq!(applied(&[&lower, &upper]), ["g=3"]);
}

#[test]
fn an_opaque_directory_hides_lower_content_and_keeps_its_own_in_any_order() {
    let lower = [Item::File("d/old", "1"), Item::File("d/sub/old", "1")];
    let marker_last = [Item::File("d/sub/new", "2"), Item::File("d/.wh..wh..opq", "")];
    let marker_first = [Item::File("d/.wh..wh..opq", ""), Item::File("d/sub/new", "2")];
    let expected = ["d/", "d/sub/", "d/sub/new=2"];
    assert_eq!(applied(&[&lower, &marker_last]), expected);
    assert_eq!(applied(&[&lower, &marker_first]), expected);
}

#[test]
fn a_file_replaces_a_directory_and_a_directory_a_file() {
    let lower = [Item::File("a/x", "1"), Item::File("b", "1")];
    let upper = [Item::File("a", "2"), Item::File("b/y", "2")];
    assert_eq!(applied(&[&lower, &[Item::File("a", "2"), Item::Dir("b")]]), ["a=2", "b/"]);
    let root = tempfile::tempdir().expect("temp");
    apply(&tar_of(&lower)[..], root.path()).expect("applies");
    assert!(apply(&tar_of(&upper)[..], root.path()).is_err(), "b is a file, b/y has no place");
}

#[test]
fn a_symlinked_directory_is_followed_inside_the_image_only() {
    // No machine has such a folder: code that followed the link out of the image would fail, not write there.
    let lower = [Item::Dir("ptl-t/bin"), Item::Link("bin", "/ptl-t/bin")];
    assert_eq!(
        applied(&[&lower, &[Item::File("bin/tool", "x")]]),
        ["bin -> /ptl-t/bin", "ptl-t/", "ptl-t/bin/", "ptl-t/bin/tool=x"]
    );
}

#[test]
fn a_hostile_tar_writes_nothing_outside() {
    let outside = tempfile::tempdir().expect("temp");
    let victim = outside.path().join("victim");
    fs::write(&victim, "safe").expect("written");
    let far = outside.path().display().to_string();
    let up = "../".repeat(20) + far.trim_start_matches('/');
    let cases: Vec<Vec<Item<'_>>> = vec![
        vec![Item::File("../escape", "x")],
        vec![Item::File("a/../../escape", "x")],
        vec![Item::Link("l", &far), Item::File("l/victim", "x")],
        vec![Item::Link("l", &up), Item::File("l/victim", "x")],
        vec![Item::Link("l", &far), Item::File("l/.wh.victim", "")],
        vec![Item::Link("l", &far), Item::File("l/.wh..wh..opq", "")],
        vec![Item::Hard("h", &up), Item::File("h", "x")],
        vec![Item::Link("victim", &far), Item::Hard("h", "victim/victim"), Item::File("h", "x")],
        vec![Item::File(".wh...", "")],
        vec![Item::File(".wh..", "")],
    ];
    for case in cases {
        let root = outside.path().join("root");
        fs::create_dir(&root).expect("made");
        let _ = apply(&tar_of(&case)[..], &root);
        assert_eq!(fs::read_to_string(&victim).expect("still there"), "safe");
        assert!(!outside.path().join("escape").exists());
        fs::remove_dir_all(&root).expect("removed");
    }
}

#[test]
fn gzip_zstd_and_plain_give_the_same_digest_and_tree() {
    let plain = tar_of(&[Item::File("a", "1")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).expect("in memory");
    let gzip = gzip.finish().expect("in memory");
    let (one, two) = (tempfile::tempdir().expect("temp"), tempfile::tempdir().expect("temp"));
    let first = apply(&plain[..], one.path()).expect("applies");
    let second = apply(&gzip[..], two.path()).expect("applies");
    assert_eq!(first, second);
    assert_eq!(first, digest_name(&Sha256::digest(&plain)));
    assert_eq!(tree(one.path()), tree(two.path()));
    let zstd = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
    let three = tempfile::tempdir().expect("temp");
    assert_eq!(apply(&zstd[..], three.path()).expect("applies"), first);
    assert_eq!(tree(three.path()), tree(one.path()));
}
