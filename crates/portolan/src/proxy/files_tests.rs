use std::fs;

use super::*;

/// One Service with this ClusterIP.
fn service(ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: web, namespace: default }}\n\
         spec: {{ clusterIP: {ip}, ports: [{{ port: 80 }}] }}\n"
    )
}

/// A folder whose file `a` has the Service at .1 and `b`, which counts, has it at .2.
fn two_words() -> (tempfile::TempDir, Files, Vec<Input>) {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("a.yaml"), service("10.96.0.1")).expect("written");
    fs::write(dir.path().join("b.yaml"), service("10.96.0.2")).expect("written");
    let (files, inputs) = Files::open(&[dir.path().to_owned()], "node-1").expect("they parse");
    (dir, files, inputs)
}

/// What is said of Services: their address, or that they are gone.
fn said(inputs: &[Input]) -> Vec<String> {
    let of_service = |input: &Input| match input {
        Input::Cluster(Event::Value(Object::Service(service)), _) => {
            Some(service.spec.as_ref()?.cluster_ip.clone().unwrap_or_default())
        }
        Input::Cluster(Event::Gone(Object::Service(service)), _) => {
            Some(format!("{} is gone", service.metadata.name.as_deref().unwrap_or_default()))
        }
        _ => None,
    };
    inputs.iter().filter_map(of_service).collect()
}

fn look(files: &mut Files) -> Vec<String> {
    said(&files.look(SystemTime::now()).0)
}

#[test]
fn the_later_files_word_counts_and_the_earlier_ones_when_that_ends() {
    let (dir, mut files, first) = two_words();
    assert_eq!(said(&first), ["10.96.0.2"]);
    assert_eq!(look(&mut files), [""; 0], "nothing changed");
    fs::remove_file(dir.path().join("b.yaml")).expect("removed");
    assert_eq!(look(&mut files), ["10.96.0.1"]);
    fs::remove_file(dir.path().join("a.yaml")).expect("removed");
    assert_eq!(look(&mut files), ["web is gone"]);
}

#[test]
fn a_word_whose_file_is_broken_is_told_once_it_is_mended() {
    let (dir, mut files, _) = two_words();
    let a = dir.path().join("a.yaml");
    fs::write(&a, "kind: [").expect("written");
    let (inputs, problems) = files.look(SystemTime::now());
    assert_eq!((said(&inputs), problems.len()), (Vec::new(), 1));
    fs::remove_file(dir.path().join("b.yaml")).expect("removed");
    assert_eq!(look(&mut files), [""; 0], "what was told last stays");
    fs::write(&a, service("10.96.0.1")).expect("written");
    assert_eq!(look(&mut files), ["10.96.0.1"]);
}
