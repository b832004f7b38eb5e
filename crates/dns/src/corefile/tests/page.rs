//! The page for users shows the table that the reader asks, and the reader does what the table says.

use super::super::support::{Support, TABLE, markdown};
use super::super::*;
use super::told;

#[test]
fn the_page_shows_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/dns-corefile.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let (text, shown) = page.split_once("<!-- table -->\n").expect("the page marks the table");
    if std::env::var_os("PORTOLAN_BLESS").is_some() {
        std::fs::write(path, format!("{text}<!-- table -->\n{}", markdown())).expect("the page can be written");
        return;
    }
    assert_eq!(shown, markdown(), "docs/dns-corefile.md differs from corefile/support.rs; PORTOLAN_BLESS=1 writes it");
}

#[test]
fn the_reader_does_what_the_table_says() {
    for row in TABLE {
        let found = read_with_notes(&format!(". {{\n{}\n}}\n", row.plugin), &Sources::none());
        let text = match &found {
            Ok((_, notes)) => told(notes),
            Err(problems) => told(problems),
        };
        match row.support {
            Support::Refused => {
                assert!(
                    found.is_err() && text.contains("is a plugin of CoreDNS that this DNS does not have"),
                    "{text}"
                );
            }
            Support::NoEffect => {
                assert!(found.is_ok() && text.contains("has no effect here"), "{}: {text}", row.plugin)
            }
            // Alone it may miss its arguments, but it is known.
            Support::Full | Support::Partly => {
                assert!(!text.contains("unknown plugin") && !text.contains("does not have"), "{}: {text}", row.plugin);
            }
        }
        let is_told = !matches!(row.support, Support::Partly) || !row.note.is_empty();
        assert!(is_told, "{} is there in part: which?", row.plugin);
    }
}

#[test]
fn the_table_is_sorted_and_names_each_plugin_once() {
    assert!(TABLE.windows(2).all(|pair| pair[0].plugin < pair[1].plugin));
}
