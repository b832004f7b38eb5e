//! What holds for every question, whatever the rules.

use proptest::prelude::*;

use super::super::hosts::Hosts;
use super::super::rewrite::{Forwarded, Rewrites};
use super::super::template::Templates;
use super::super::{Zones, local};
use super::{asked, block, ip};
use crate::build::{Reply, Rr};
use crate::master;
use crate::name::{Name, labels};
use crate::rdata::{Rdata, Rtype};
use crate::wire::Rcode;

/// Names of any bytes, whole wire length.
fn names() -> impl Strategy<Value = Name> {
    let label = prop_oneof![
        3 => prop::sample::select(vec!["a", "b", "x", "example", "org", "svc", "localhost", "arpa", "in-addr"]).prop_map(|label| label.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..64),
    ];
    prop::collection::vec(label, 0..6).prop_filter_map("not over 255 bytes", |labels| {
        let mut wire: Vec<u8> =
            labels.iter().flat_map(|label| [&[label.len() as u8], label.as_slice()].concat()).collect();
        wire.push(0);
        Name::from_wire(&wire)
    })
}

const RULES: &str = "rewrite continue name regex ^(.*)\\.a\\.(.*)$ {1}.b.{2} answer auto
rewrite continue name suffix .org .example answer auto
rewrite continue name substring x y
rewrite continue name prefix b c
rewrite continue ttl suffix . 10-20
rewrite name example.org a.org
template IN A example {
  match \"^(?P<first>[^.]*)\\.\"
  answer \"{{ .Name }} 60 IN TXT {{ .Group.first }}\"
  answer \"{{ .Name }} 60 IN CNAME {{ .Group.first }}.org\"
  fallthrough
}
hosts /x org {
  10.0.0.1 a.org *.x.org
}";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn names_print_and_read_back_as_the_same(name in names()) {
        prop_assert_eq!(master::name(&name.to_string()), Some(name));
    }

    #[test]
    fn every_question_gets_a_word_and_the_clients_owner_back(name in names()) {
        let block = block(".", RULES);
        let rewrites = Rewrites::prepare(&block.rewrites).expect("rules");
        if let Forwarded::Asked(asked) = rewrites.forward(&name, Rtype::A) {
            let mut reply = Reply::new(Rcode::NOERROR);
            reply.answers = vec![Rr::internet(&asked.name, Rtype::A, 5, std::borrow::Cow::Owned(Rdata::addr(ip("10.0.0.1"))))];
            asked.back(&mut reply);
            prop_assert_eq!(reply.answers.len(), 1);
            // Names grow and shrink, yet what leaves is always a name.
            prop_assert!(Name::from_wire(reply.answers[0].owner.as_wire()).is_some());
        }
        let templates = Templates::prepare(&block.templates, &block.zones).expect("templates");
        let hosts = Hosts::prepare(block.hosts.as_ref().expect("hosts"), &block.zones, None);
        let text = name.to_string();
        for rtype in ["A", "AAAA", "PTR", "TXT", "ANY"] {
            asked(&text, rtype, |query| (templates.say(query, ip("10.0.0.1")), hosts.say(query), local::say(query)));
        }
    }

    #[test]
    fn the_nearest_zone_holds_a_name(name in names(), zones in prop::collection::vec(names(), 0..6)) {
        let lower = |name: &Name| -> Vec<Vec<u8>> { labels(name.as_wire()).map(<[u8]>::to_ascii_lowercase).collect() };
        let slow = zones.iter().filter(|zone| lower(&name).ends_with(&lower(zone))).map(|zone| lower(zone).len()).max();
        let fast = Zones::of(&zones, &[]).of_name(name.as_wire()).map(|zone| lower(zone).len());
        prop_assert_eq!(fast, slow);
    }

    #[test]
    fn no_text_ends_the_reader_of_records(text in "\\PC{0,60}", kind in prop::sample::select(vec!["A", "MX", "TXT", "SOA", "HTTPS", "CAA", "SRV", "TYPE9"])) {
        let _ = master::record(&text);
        if let Ok(record) = master::record(&format!("a. 60 IN {kind} {text}")) {
            prop_assert!(record.ttl_secs == 60 || text.contains(' '));
        }
    }
}
