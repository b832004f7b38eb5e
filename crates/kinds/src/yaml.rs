//! YAML and JSON files, read as kubectl reads them.
//!
//! kubectl's YAML is 1.1: `yes` and `on` are booleans, `0644` is octal, `<<` merges. JSON goes to
//! a JSON parser. Nesting, aliases and size are bounded, so that a small hostile file cannot grow
//! large. This room does not know what the documents mean; see `manifest`.

use serde_json::Value;
use thiserror::Error;

/// Largest file taken, in bytes.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Deepest nesting. A level costs the parser about 20 KB of stack in an unoptimised build, and a
/// server's threads have 2 MB; Kubernetes' own kinds nest less than 20 deep.
const MAX_DEPTH: usize = 40;
/// Most documents, and most values, of one file: what fits its bytes in honest manifests (kubectl takes any number).
const MAX_DOCUMENTS: usize = 1_000_000;
const MAX_VALUES: usize = 4_000_000;
/// Most parser events that aliases may repeat in one file.
const MAX_REPLAYED_EVENTS: usize = 100_000;

/// Why a file could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum YamlError {
    #[error("file of {bytes} bytes is too large, the limit is {MAX_BYTES}")]
    TooLarge { bytes: usize },
    #[error("file is not UTF-8 text: invalid byte at offset {offset}")]
    NotText { offset: usize },
    #[error("error parsing JSON: {message}")]
    Json { message: String },
    /// `message` begins with the line if the parser knew it.
    #[error("error converting YAML to JSON: yaml: {message}")]
    Yaml { message: String },
}

/// All documents of a file, in order; empty ones are left out.
pub fn documents(input: &[u8]) -> Result<Vec<Value>, YamlError> {
    if input.len() > MAX_BYTES {
        return Err(YamlError::TooLarge { bytes: input.len() });
    }
    let text = std::str::from_utf8(input).map_err(|e| YamlError::NotText { offset: e.valid_up_to() })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.trim_start().starts_with(['{', '[']) {
        return yaml(text);
    }
    // A file that begins with a brace is JSON, or else YAML in flow style.
    json(text).or_else(|complaint| yaml(text).map_err(|_| complaint))
}

fn json(text: &str) -> Result<Vec<Value>, YamlError> {
    serde_json::Deserializer::from_str(text)
        .into_iter::<Value>()
        .collect::<Result<_, _>>()
        .map_err(|e| YamlError::Json { message: e.to_string() })
}

fn yaml(text: &str) -> Result<Vec<Value>, YamlError> {
    serde_saphyr::from_multiple_with_options::<Value>(text, options())
        .map_err(|e| YamlError::Yaml { message: describe(&e) })
}

fn options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    options.legacy_octal_numbers = true;
    options.with_snippet = false;
    options.alias_limits.max_total_replayed_events = MAX_REPLAYED_EVENTS;
    if let Some(budget) = &mut options.budget {
        budget.max_depth = MAX_DEPTH;
        budget.flow_nesting_limit = MAX_DEPTH;
        budget.max_documents = MAX_DOCUMENTS;
        budget.max_nodes = MAX_VALUES;
        budget.max_events = 2 * MAX_VALUES;
    }
    options
}

/// `line 3: what is wrong`, on one line.
fn describe(error: &serde_saphyr::Error) -> String {
    let message = error.without_snippet().to_string();
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match error.location() {
        Some(place) if place.line() > 0 => format!("line {}: {message}", place.line()),
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn one(text: &str) -> Value {
        let mut all = documents(text.as_bytes()).expect("it parses");
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    #[test]
    fn scalars_are_what_kubectl_takes_them_for() {
        let rows = [
            ("yes", json!(true)),
            ("on", json!(true)),
            ("No", json!(false)),
            ("y", json!(true)),
            ("off", json!(false)),
            ("0644", json!(420)),
            ("0x1F", json!(31)),
            ("80", json!(80)),
            ("-1", json!(-1)),
            ("1.5", json!(1.5)),
            ("\"80\"", json!("80")),
            ("'yes'", json!("yes")),
            ("25%", json!("25%")),
            ("100m", json!("100m")),
            ("10.96.0.10", json!("10.96.0.10")),
            ("2026-11-22", json!("2026-11-22")),
            ("~", json!(null)),
            ("null", json!(null)),
        ];
        for (text, expected) in rows {
            assert_eq!(one(&format!("key: {text}")), json!({ "key": expected }), "{text}");
        }
    }

    #[test]
    fn merge_keys_are_merged() {
        let text = "base: &b {cpu: 1}\nuse:\n  <<: *b\n  memory: 2\n";
        assert_eq!(one(text)["use"], json!({ "cpu": 1, "memory": 2 }));
    }

    #[test]
    fn a_duplicate_key_is_an_error_with_its_line() {
        let error = documents(b"a: 1\nb: 2\na: 3\n").expect_err("duplicate");
        assert!(error.to_string().contains("line 3"), "{error}");
    }

    #[test]
    fn several_documents_are_read_and_empty_ones_skipped() {
        let text = "---\n# nothing\n---\na: 1\n---\n---\nb: 2\n...\n";
        assert_eq!(documents(text.as_bytes()), Ok(vec![json!({ "a": 1 }), json!({ "b": 2 })]));
        assert_eq!(documents(b""), Ok(vec![]));
    }

    #[test]
    fn json_is_read_as_json_and_flow_style_as_yaml() {
        assert_eq!(one("{\"mode\": 644}"), json!({ "mode": 644 }));
        assert_eq!(documents(b"{\"a\":1}\n{\"b\":2}").map(|d| d.len()), Ok(2));
        assert_eq!(one("{a: yes}"), json!({ "a": true }));
        assert!(matches!(documents(b"{\"a\": "), Err(YamlError::Json { .. })));
    }

    #[test]
    fn keys_that_look_like_numbers_are_strings() {
        assert_eq!(one("data:\n  1: one\n"), json!({ "data": { "1": "one" } }));
    }

    #[test]
    fn bad_indentation_names_its_line() {
        let error = documents(b"a:\n  b: 1\n c: 2\n").expect_err("bad indentation");
        assert!(error.to_string().starts_with("error converting YAML to JSON: yaml: line "), "{error}");
        assert!(!error.to_string().contains('\n'));
    }

    #[test]
    fn a_file_of_many_documents_is_read_whole() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: { name: a }\nspec: { ports: [{ port: 80 }] }\n---\n"
            .repeat(20_000);
        assert_eq!(documents(text.as_bytes()).map(|all| all.len()), Ok(20_000));
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
        for (name, previous) in ('b'..='j').zip('a'..) {
            let aliases = vec![format!("*{previous}"); 10].join(",");
            text += &format!("{name}: &{name} [{aliases}]\n");
        }
        assert!(documents(text.as_bytes()).is_err());
    }

    #[test]
    fn deep_nesting_is_refused() {
        let block: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        for text in
            ["{\"a\":".repeat(100_000), block, "[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000)]
        {
            assert!(documents(text.as_bytes()).is_err(), "{}", &text[..20]);
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_refused() {
        assert_eq!(documents(b"a: \xff"), Err(YamlError::NotText { offset: 3 }));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = documents(&bytes);
        }

        #[test]
        fn arbitrary_yaml_like_text_never_panics(text in "[-a-c:&*<> \\[\\]{}!|'\"#%,\n0x?]{0,80}") {
            let _ = documents(text.as_bytes());
        }
    }
}
