//! Wrong use and wrong files: what is wrong is told, with the way out, and nothing is served.

use crate::support::{portolan_says, root};

#[test]
fn wrong_flags_are_code_2_and_say_what_is_right() {
    let files = root().join("examples/files");
    let files = files.display();
    let rows = [
        ("dns".to_owned(), "nothing says which Services there are: give files with -f, or a cluster with --kubeconfig"),
        (format!("dns -f {files} --kubeconfig /nowhere"), "cannot be used with"),
        (format!("dns -f {files} --listen here"), "invalid value 'here' for '--listen <ADDR:PORT>'"),
        (format!("dns -f {files} --listen 127.0.0.1:99999"), "such as 127.0.0.1:10053"),
        (format!("dns -f {files} --cluster-domain a..b --check"), "a..b"),
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
