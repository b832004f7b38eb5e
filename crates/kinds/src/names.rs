//! The rules for names, with Kubernetes' own messages.
//!
//! Each function returns what is wrong with a name, an empty list if nothing is.
//! Sources: RFC 1123 §2.1, RFC 1035 §2.3.1, RFC 6335 §5.1; messages as users know them from
//! Kubernetes.

/// Longest DNS label, in bytes.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain, in bytes.
pub const SUBDOMAIN_MAX: usize = 253;

const DNS1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED_NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const QUALIFIED_NAME_PREFIX: &str = " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn is_lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Whether all bytes pass `inner`, and the first and last also `outer`.
fn is_framed(text: &str, outer: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => outer(*first) && outer(*last) && bytes.iter().all(|b| inner(*b)),
        _ => false,
    }
}

fn is_label(text: &str) -> bool {
    is_framed(text, is_lower_alnum, |b| is_lower_alnum(b) || b == b'-')
}

/// Name of a Namespace, a container, a Service's port.
pub fn dns1123_label(name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if name.len() > LABEL_MAX {
        wrong.push(too_long(LABEL_MAX));
    }
    if !is_label(name) {
        // A dotted name is told about its dots, as Kubernetes does.
        let is_dotted = name.contains('.') && dns1123_subdomain(name).is_empty();
        wrong.push(if is_dotted { "must not contain dots" } else { DNS1123_LABEL }.to_owned());
    }
    wrong
}

/// Name of most objects.
pub fn dns1123_subdomain(name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if name.len() > SUBDOMAIN_MAX {
        wrong.push(too_long(SUBDOMAIN_MAX));
    }
    if !name.split('.').all(is_label) {
        wrong.push(DNS1123_SUBDOMAIN.to_owned());
    }
    wrong
}

/// Name of an Event: whatever may stand in a URL's path.
pub fn path_segment(name: &str) -> Vec<String> {
    if matches!(name, "." | "..") {
        return vec![format!("may not be '{name}'")];
    }
    let barred = ["/", "%"].into_iter().filter(|barred| name.contains(barred));
    barred.map(|barred| format!("may not contain '{barred}'")).collect()
}

/// Name of a Service.
pub fn dns1035_label(name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if name.len() > LABEL_MAX {
        wrong.push(too_long(LABEL_MAX));
    }
    if !is_label(name) || !name.as_bytes().first().is_some_and(u8::is_ascii_lowercase) {
        wrong.push(DNS1035_LABEL.to_owned());
    }
    wrong
}

fn is_name_part(text: &str) -> bool {
    is_framed(text, |b| b.is_ascii_alphanumeric(), |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Value of a label; may be empty.
pub fn label_value(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > LABEL_MAX {
        wrong.push(too_long(LABEL_MAX));
    }
    if !value.is_empty() && !is_name_part(value) {
        wrong.push(LABEL_VALUE.to_owned());
    }
    wrong
}

/// Key of a label, an annotation, a taint: `name` or `prefix/name`.
pub fn qualified_name(key: &str) -> Vec<String> {
    let parts: Vec<&str> = key.split('/').collect();
    let (prefix, name) = match parts.as_slice() {
        [name] => (None, *name),
        [prefix, name] => (Some(*prefix), *name),
        _ => {
            return vec![format!("a qualified name {QUALIFIED_NAME}{QUALIFIED_NAME_PREFIX}")];
        }
    };
    let mut wrong = Vec::new();
    match prefix {
        None => {}
        Some("") => wrong.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => wrong.extend(dns1123_subdomain(prefix).into_iter().map(|w| format!("prefix part {w}"))),
    }
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        wrong.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_name_part(name) {
        wrong.push(format!("name part {QUALIFIED_NAME}"));
    }
    wrong
}

/// Name of a container's port, or of a Service's target port: an IANA service name.
pub fn port_name(name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if name.len() > 15 {
        wrong.push("must be no more than 15 bytes".to_owned());
    }
    if !name.bytes().all(|b| is_lower_alnum(b) || b == b'-') || name.is_empty() {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        wrong.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".to_owned());
    }
    wrong
}

/// Number of a port.
pub fn port_number(port: i64) -> Vec<String> {
    match (1..=65535).contains(&port) {
        true => Vec::new(),
        false => vec!["must be between 1 and 65535, inclusive".to_owned()],
    }
}

/// Key of a ConfigMap or Secret.
pub fn config_key(key: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if key.len() > SUBDOMAIN_MAX {
        wrong.push(too_long(SUBDOMAIN_MAX));
    }
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        wrong.push(CONFIG_KEY.to_owned());
    }
    match key {
        "." => wrong.push("must not be '.'".to_owned()),
        ".." => wrong.push("must not be '..'".to_owned()),
        _ if key.starts_with("..") => wrong.push("must not start with '..'".to_owned()),
        _ => {}
    }
    wrong
}

/// Name of an environment variable.
pub fn env_name(name: &str) -> Vec<String> {
    let is_valid = !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    if is_valid { Vec::new() } else { vec![ENV_NAME.to_owned()] }
}

/// A `generateName` as the validators see it: its trailing dash may be followed by a suffix.
pub fn mask_trailing_dash(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(stem) if !stem.is_empty() => format!("{stem}a"),
        _ => prefix.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_by_their_rule() {
        type Rule = fn(&str) -> Vec<String>;
        let long = "a".repeat(64);
        let rows: &[(&str, Rule, &[&str], &[&str])] = &[
            ("label", dns1123_label, &["a", "1", "a-b", "0-0"], &["", "-a", "a-", "A", "a_b", "a.b", &long]),
            ("subdomain", dns1123_subdomain, &["a", "a.b", "1.a-b"], &["", ".a", "a.", "a..b", "A.b", "a.-b"]),
            ("1035", dns1035_label, &["a", "a1", "a-1"], &["", "1a", "-a", "a-", "a.b", "A"]),
            ("value", label_value, &["", "A", "1.2_3-a"], &["-", "a-", "a b", "é", &long]),
            ("key", qualified_name, &["app", "a.b/C_d", "A"], &["", "/a", "a/", "a/b/c", "A.b/c", "a b"]),
            ("port", port_name, &["http", "h-1", "a"], &["", "80", "-a", "a-", "a--b", "HTTP", "sixteen-letters-"]),
            ("config", config_key, &["a.b", ".a", "A_B"], &["", ".", "..", "..a", "a/b"]),
            ("env", env_name, &["A", "a.b-c", "1", "a b"], &["", "a=b", "é"]),
        ];
        for (rule, check, good, bad) in rows {
            for name in *good {
                assert!(check(name).is_empty(), "{rule}: {name:?} is good: {:?}", check(name));
            }
            for name in *bad {
                assert!(!check(name).is_empty(), "{rule}: {name:?} is bad");
            }
        }
    }

    #[test]
    fn the_message_for_a_bad_name_is_kubernetes_own() {
        assert_eq!(
            dns1123_subdomain("Foo_Bar"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
    }

    #[test]
    fn a_generated_prefix_may_end_in_a_dash() {
        assert_eq!(dns1123_label(&mask_trailing_dash("web-")), Vec::<String>::new());
        assert!(!dns1123_label(&mask_trailing_dash("-")).is_empty());
    }
}
