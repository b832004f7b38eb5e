//! Wrong use and wrong files: all that is wrong is told, with its place and the way out, and nothing is served.

use crate::ground::Ground;
use crate::support::{Said, portolan, portolan_says, root};

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
        assert!(said.lines().all(|line| line.starts_with("portolan: Corefile:")), "a line a fault, no more: {said}");
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
fn a_fault_is_told_with_the_files_own_name_and_what_gives_nothing_is_noted() {
    let ground = Ground::new();
    ground.write("etc/my.conf", &block("bufsize many"));
    let said = ground.portolan(&["--check", "--corefile", "etc/my.conf"]).refused(2);
    assert!(said.starts_with("portolan: etc/my.conf:2: ") && said.lines().count() == 1, "{said}");
    ground.write("etc/empty.conf", "# nothing\n");
    ground.write("etc/full.conf", "nameserver 127.0.0.2\n");
    let [empty, full, nowhere] = ["empty", "full", "nowhere"].map(|name| ground.path(&format!("etc/{name}.conf")));
    let (empty, full, nowhere) = (empty.display(), full.display(), nowhere.display());
    let forwards = format!("forward a.b {empty}\nforward c.d {nowhere}\nforward . {full}");
    ground.write("etc/my.conf", &block(&format!("{forwards}\nhosts no-hosts\nkubernetes cluster.local{{$NO_SUCH}}")));
    let said = ground.portolan(&["--check", "--corefile", "etc/my.conf"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
    let notes: Vec<&str> = said.err.lines().collect();
    for words in [
        "Note: cannot read etc/no-hosts: No such file",
        &format!(
            "Note: {empty} names no server: what is not the cluster's is SERVFAIL; write a line nameserver ADDRESS"
        ),
        &format!("Note: cannot read {nowhere}: No such file"),
        "Note: etc/my.conf:6: the variable NO_SUCH is not set",
    ] {
        assert!(notes.iter().any(|note| note.starts_with(words)), "{words}\n{notes:#?}");
    }
    assert_eq!(notes.len(), 4, "{notes:#?}");
}

#[test]
fn an_address_that_is_not_ours_and_one_that_is_taken_have_different_ways_out() {
    let ground = Ground::new();
    let said = ground.portolan(&["--listen", "192.0.2.1:53"]).refused(3);
    assert!(said.contains("192.0.2.1:53") && said.contains("choose an address that `ip addr` shows"), "{said}");
    let _taken = ground.inside(|| std::net::TcpListener::bind("127.0.0.1:53").expect("the namespace is ours"));
    let said = ground.portolan(&["--listen", "127.0.0.1:53"]).refused(3);
    assert!(said.contains("127.0.0.1:53") && said.contains("stop the other DNS server there"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_kubeconfig_that_is_wrong_is_told_of_in_one_line() {
    let ground = Ground::new();
    for (text, words) in [
        (Some("no: [\n"), "failed to parse kubeconfig YAML"),
        (Some("apiVersion: v1\nkind: Config\n"), "kubeconfig"),
        (None, "cannot read kubeconfig nowhere: No such file"),
    ] {
        let file = text.map_or("nowhere", |text| {
            ground.write("kubeconfig", text);
            "kubeconfig"
        });
        let said = ground.alone(&["--kubeconfig", file, "--check"]).refused(2);
        assert!(said.contains(words) && said.lines().count() == 1, "{words}\n{said}");
    }
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
        (format!("render iptables -f {files}"), "--node is missing"),
        (format!("dns -f {files} --cluster-domain . --check"), "say one such as cluster.local"),
        (format!("dns -f {files} --threads many"), "0 is one for each core"),
        (format!("dns -f {files} --threads 4000000"), "say a number up to 1024"),
        (format!("dns explain web -f {files}"), "--from"),
        (format!("dns explain web -f {files} --from svc/web"), "svc/web"),
        (format!("dns explain web -f {files} --from pod/web-9"), "web-9"),
        (format!("dns explain web -f {files} --from pod/web-0 --type WEB"), "WEB"),
        (format!("dns explain we..b -f {files} --from pod/web-0"), "we..b"),
    ];
    portolan_says(&format!("render dns -f {files}")).done();
    let said = Said::from(portolan().args(["dns", "explain", "", "--from", "pod/web-0"]).output().expect("it runs"));
    assert!(said.refused(2).contains("NAME is empty"));
    for (args, expected) in rows {
        let said = portolan_says(&args).refused(2);
        assert!(said.contains(expected), "{args}\nexpected: {expected}\nsaid: {said}");
    }
}
