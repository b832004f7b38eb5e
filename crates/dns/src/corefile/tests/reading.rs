//! Words, heads, snippets, imports and variables.

use super::super::config::*;
use super::super::*;
use super::{block, name, problems, told, whole};

fn zones(text: &str) -> Vec<String> {
    block(text).zones.iter().map(ToString::to_string).collect()
}

#[test]
fn heads_are_zones_with_ports_and_networks_their_reverse_zones() {
    let rows: &[(&str, &[&str], u16)] = &[
        (". {\n}", &["."], 53),
        (".:5353 {\n}", &["."], 5353),
        (":5353 {\n}", &["."], 5353),
        ("dns://Example.ORG:54 {\n}", &["example.org."], 54),
        ("example.org example.net {\n}", &["example.org.", "example.net."], 53),
        ("example.org,\nexample.net {\n}", &["example.org.", "example.net."], 53),
        ("example.org, example.net {\n}", &["example.org.", "example.net."], 53),
        ("10.0.0.0/24 {\n}", &["0.0.10.in-addr.arpa."], 53),
        ("10.0.0.0/8:54 {\n}", &["10.in-addr.arpa."], 54),
        ("10.1.2.3/15 {\n}", &["0.10.in-addr.arpa.", "1.10.in-addr.arpa."], 53),
        ("2001:db8::/32 {\n}", &["8.b.d.0.1.0.0.2.ip6.arpa."], 53),
        ("fd00::/8:54 {\n}", &["d.f.ip6.arpa."], 54),
        ("fd00::/7 {\n}", &["c.f.ip6.arpa.", "d.f.ip6.arpa."], 53),
    ];
    for (text, wanted, port) in rows {
        assert_eq!(zones(text), *wanted, "{text}");
        assert_eq!(block(text).port, *port, "{text}");
    }
    assert_eq!(
        zones("10.0.0.0/17 {\n}").len(),
        128,
        "a block that ends in an octet is one zone for each of its values"
    );
}

#[test]
fn a_block_with_two_ports_is_two_blocks_of_the_same() {
    let corefile = whole("example.org:53 example.org:54 {\n  loop\n}");
    let ports: Vec<(u16, bool)> = corefile.blocks.iter().map(|block| (block.port, block.detects_loops)).collect();
    assert_eq!(ports, [(53, true), (54, true)]);
}

#[test]
fn a_file_that_is_one_block_needs_no_braces() {
    let block = block("example.org\nloop\nforward . 10.0.0.1\n");
    assert!(block.detects_loops && block.forwards.len() == 1, "{block:?}");
}

#[test]
fn comments_quotes_and_line_ends_are_as_corednss() {
    let text = "# first\r\n.:53 { # here\r\n  log . \"{type} # no \\\"comment\\\"\r\nsecond \\d\"\r\n  loop#none\r\n}";
    let block = block(text);
    assert_eq!(block.logs[0].format, "{type} # no \"comment\"\r\nsecond \\d");
    assert!(block.detects_loops);
    let after = problems("\n. {\n  log . \"{a}\nb\"\n  foo\n}");
    assert!(after.starts_with("Corefile:5: unknown plugin `foo`"), "lines go on behind a quote over several: {after}");
}

#[test]
fn snippets_take_arguments_and_stand_where_they_are_imported() {
    let corefile = whole(
        "(common) {\n  errors\n  forward {args[0]} {args[1]} {\n    import quick\n  }\n}\n(quick) {\n  max_fails 0\n}\n\
         . {\n  import common . 10.0.0.1\n  loop\n}\nexample.org {\n  import common example.org 10.0.0.2\n}",
    );
    let forwards: Vec<&ForwardConfig> = corefile.blocks.iter().map(|block| &block.forwards[0]).collect();
    assert_eq!(forwards[0].to, [Target::Plain("10.0.0.1:53".parse().unwrap())]);
    assert_eq!((&forwards[1].from, forwards[1].max_fails), (&name("example.org"), 0));
    assert!(corefile.blocks[0].detects_loops && corefile.blocks[1].errors.is_some());
}

#[test]
fn imported_files_stand_in_place_and_a_pattern_may_mean_none() {
    let files = |name: &str| match name {
        "custom/*.override" => {
            Some(vec![("custom/a.override".into(), "log\n".into()), ("custom/b.override".into(), "any".into())])
        }
        "custom/*.server" => Some(vec![("custom/x.server".into(), "example.org:53 {\n  loop\n}".into())]),
        _ => None,
    };
    let sources = Sources { files: &files, variables: &|_| None };
    let text = ".:53 {\n  import custom/*.override\n  loop\n  import none/*.override\n}\nimport custom/*.server\n";
    let (corefile, notes) = read_with_notes(text, &sources).expect("right");
    assert_eq!(corefile.blocks.len(), 2);
    assert!(corefile.blocks[0].any && corefile.blocks[0].logs.len() == 1 && corefile.blocks[0].detects_loops);
    assert_eq!(corefile.blocks[1].place, Place { file: "custom/x.server".into(), line: 1 });
    assert!(told(&notes).contains("Corefile:4: no file fits `import none/*.override`\n"), "{}", told(&notes));

    let broken = |name: &str| (name == "a").then(|| vec![("a".to_owned(), "loop\nfoo".to_owned())]);
    let sources = Sources { files: &broken, variables: &|_| None };
    let found = read(". {\n  import a\n  import b\n}", &sources).expect_err("`foo`, and no file `b`");
    assert!(told(&found).contains("a:2: unknown plugin `foo`"), "{}", told(&found));
    assert!(told(&found).contains("Corefile:3: cannot import `b`"), "{}", told(&found));
}

#[test]
fn imports_that_go_round_end_with_a_problem() {
    let found = problems("(a) {\n  import b\n  import b\n}\n(b) {\n  import a\n  import a\n}\n. {\n  import a\n}");
    assert!(found.contains("does it import itself?"), "{found}");
    let files = |_: &str| Some(vec![("x".to_owned(), "import x\nimport x\n".to_owned())]);
    let sources = Sources { files: &files, variables: &|_| None };
    let found = read(". {\n  import x\n}", &sources).expect_err("x imports itself");
    assert!(told(&found).contains("16 deep"), "{}", told(&found));
}

#[test]
fn variables_are_replaced_in_words_and_heads() {
    let variables = |name: &str| match name {
        "ZONE" => Some("example.org".to_owned()),
        "DNS" => Some("10.0.0.7".to_owned()),
        _ => None,
    };
    let sources = Sources { files: &|_| None, variables: &variables };
    let text = "{$ZONE}:{$PORT:54} {\n  forward . {%DNS%} {$OTHER:10.0.0.8}:5{$NONE}3\n}";
    let (corefile, notes) = read_with_notes(text, &sources).expect("right");
    let block = &corefile.blocks[0];
    assert_eq!((&block.zones[0], block.port), (&name("example.org"), 54));
    let to: Vec<Target> = ["10.0.0.7:53", "10.0.0.8:53"].map(|addr| Target::Plain(addr.parse().unwrap())).to_vec();
    assert_eq!(block.forwards[0].to, to);
    assert_eq!(told(&notes), "Corefile:2: the variable NONE is not set; nothing stands in its place\n");
}

#[test]
fn durations_are_gos() {
    for (text, millis) in
        [("5s", 5000), ("1h30m", 5_400_000), ("0", 0), ("1.5s", 1500), ("300ms", 300), ("1m0.5s", 60_500)]
    {
        let block = block(&format!(". {{\n  health {{\n    lameduck {text}\n  }}\n}}"));
        assert_eq!(block.health.unwrap().lameduck.as_millis(), millis, "{text}");
    }
    for text in ["5", "s", "-5s", "5 s", "5x", "1e3s", "99999999999h", ""] {
        let found = problems(&format!(". {{\n  health {{\n    lameduck \"{text}\"\n  }}\n}}"));
        assert!(found.starts_with("Corefile:3: `lameduck "), "{text}: {found}");
    }
}
