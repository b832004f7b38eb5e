//! Wrong use and wrong files: all that is wrong is told, with its place and the way out, and nothing is served.

use crate::ground::Ground;
use crate::support::{portolan_says, root};

/// A block of `.` with these lines, from line 2 of the file on.
fn block(lines: &str) -> String {
    format!(". {{\n{lines}\n}}\n")
}

#[test]
fn a_wrong_corefile_is_code_2_and_each_fault_has_its_line_and_word() {
    let ground = Ground::new();
    let rows: [(&str, &[&str]); 12] = [
        ("kubernets cluster.local", &["Corefile:2: ", "kubernets"]),
        ("kubernetes cluster.local {\nttl 9000\n}", &["Corefile:3: ", "ttl", "9000", "3600"]),
        ("kubernetes cluster.local {\npods maybe\n}", &["Corefile:3: ", "pods", "maybe", "verified"]),
        ("kubernetes cluster.local {\ncolour red\n}", &["Corefile:3: ", "colour"]),
        ("forward . dns.example.org", &["Corefile:2: ", "dns.example.org", "address"]),
        ("forward .", &["Corefile:2: ", "forward"]),
        ("forward . 127.0.0.2 {\npolicy fastest\n}", &["Corefile:3: ", "policy", "fastest", "round_robin"]),
        ("bufsize many", &["Corefile:2: ", "bufsize", "many"]),
        ("acl {\npermit net 10.0.0.0/8\n}", &["Corefile:3: ", "permit", "allow"]),
        ("template IN A {\nmatch (\n}", &["Corefile:3: ", "unclosed"]),
        ("etcd example.org", &["Corefile:2: ", "etcd"]),
        ("import nowhere/Corefile", &["Corefile:2: ", "nowhere/Corefile"]),
    ];
    for (lines, words) in rows {
        ground.write("Corefile", &block(lines));
        let said = ground.portolan(&["--check", "--corefile", "Corefile"]).refused(2);
        assert!(
            said.starts_with("portolan: ") && words.iter().all(|word| said.contains(word)),
            "{lines}\n{words:?}\n{said}"
        );
    }
}

#[test]
fn all_faults_of_a_corefile_are_told_at_once() {
    let ground = Ground::new();
    ground.write("Corefile", &block("kubernets a.b\nbufsize many\nerrors\nforward . nobody"));
    let said = ground.portolan(&["--corefile", "Corefile"]).refused(2);
    for place in ["Corefile:2: ", "Corefile:3: ", "Corefile:5: "] {
        assert_eq!(said.matches(place).count(), 1, "{place}\n{said}");
    }
    assert!(!said.contains("Corefile:4: "), "{said}");
}

#[test]
fn an_imported_file_is_named_where_it_is_wrong() {
    let ground = Ground::new();
    ground.write("etc/custom/a.override", "errors\nlgo\n");
    ground.write("etc/Corefile", &block("import custom/*.override"));
    let said = ground.portolan(&["--check", "--corefile", "etc/Corefile"]).refused(2);
    assert!(said.contains("custom/a.override:2: ") && said.contains("lgo"), "{said}");
}

#[test]
fn wrong_flags_are_code_2_and_say_what_is_right() {
    let files = root().join("examples/files");
    let files = files.display();
    let rows = [
        ("dns".to_owned(), "nothing says which Services there are: give files with -f, or a cluster with --kubeconfig"),
        (format!("dns -f {files} --kubeconfig /nowhere"), "cannot be used with"),
        (format!("dns -f {files} --listen here"), "invalid value 'here' for '--listen <ADDR:PORT>'"),
        (format!("dns -f {files} --listen 127.0.0.1:99999"), "such as 127.0.0.1:10053"),
        (format!("dns -f {files} --corefile /nowhere/Corefile"), "cannot read /nowhere/Corefile"),
        (format!("dns -f {files} --corefile /nowhere --resolv-conf /etc/resolv.conf"), "cannot be used with"),
        (format!("dns -f {files} --cluster-domain a..b --check"), "a..b"),
        (format!("render dns -f {files} --corefile /nowhere/Corefile"), "cannot read /nowhere/Corefile"),
        (format!("render routes --node a -f {files} --corefile /nowhere"), "--corefile goes with `render dns` only"),
        (format!("render iptables -f {files}"), "--node"),
        (format!("dns explain web -f {files}"), "--from"),
        (format!("dns explain web -f {files} --from svc/web"), "svc/web"),
        (format!("dns explain web -f {files} --from pod/web-9"), "web-9"),
        (format!("dns explain web -f {files} --from pod/web-0 --type WEB"), "WEB"),
        (format!("dns explain we..b -f {files} --from pod/web-0"), "we..b"),
    ];
    for (args, expected) in rows {
        let said = portolan_says(&args).refused(2);
        assert!(said.contains(expected), "{args}\nexpected: {expected}\nsaid: {said}");
    }
}
