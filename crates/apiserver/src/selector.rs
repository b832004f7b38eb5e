//! Label and field selectors: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.

use std::collections::BTreeMap;

use crate::object::ObjectIndex;
use crate::registry::Resource;
use crate::status::{ApiError, ApiResult};
use crate::view;

#[derive(Debug, Clone, PartialEq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

/// Requirements on labels, all of which must hold. The empty one takes everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabelSelector(Vec<Requirement>);

impl LabelSelector {
    pub fn parse(text: &str) -> ApiResult<LabelSelector> {
        let terms = split_outside_brackets(text);
        let requirements = terms.into_iter().map(str::trim).filter(|term| !term.is_empty()).map(requirement);
        let parsed: Result<Vec<_>, String> = requirements.collect();
        let bad = |problem| ApiError::bad_request(format!("unable to parse requirement: {problem}"));
        parsed.map(LabelSelector).map_err(bad)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let number = |key| labels.get(key).and_then(|value| value.parse::<i64>().ok());
        match self {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
            Requirement::Greater(key, bound) => number(key).is_some_and(|value: i64| value > *bound),
            Requirement::Less(key, bound) => number(key).is_some_and(|value: i64| value < *bound),
        }
    }
}

fn split_outside_brackets(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut depth) = (0, 0);
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn requirement(term: &str) -> Result<Requirement, String> {
    if let Some(key) = term.strip_prefix('!') {
        return Ok(Requirement::Absent(label_key(key)?));
    }
    for (sign, make) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((key, value)) = term.split_once(sign) {
            let (key, values) = (label_key(key)?, vec![label_value(value)?]);
            return Ok(if make { Requirement::In(key, values) } else { Requirement::NotIn(key, values) });
        }
    }
    if let Some((key, bound)) = term.split_once('>') {
        return Ok(Requirement::Greater(label_key(key)?, number(bound)?));
    }
    if let Some((key, bound)) = term.split_once('<') {
        return Ok(Requirement::Less(label_key(key)?, number(bound)?));
    }
    set_requirement(term)
}

fn set_requirement(term: &str) -> Result<Requirement, String> {
    let Some((head, list)) = term.split_once('(') else {
        return Ok(Requirement::Exists(label_key(term)?));
    };
    let list = list.trim_end().strip_suffix(')').ok_or_else(|| format!("found '{term}', expected: ')'"))?;
    let values = list.split(',').map(label_value).collect::<Result<Vec<_>, _>>()?;
    let mut words = head.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(key), Some("in"), None) => Ok(Requirement::In(label_key(key)?, values)),
        (Some(key), Some("notin"), None) => Ok(Requirement::NotIn(label_key(key)?, values)),
        _ => Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", head.trim())),
    }
}

fn number(text: &str) -> Result<i64, String> {
    text.trim().parse().map_err(|_| format!("for 'Gt', 'Lt' operators, the value must be an integer, found '{text}'"))
}

fn label_key(text: &str) -> Result<String, String> {
    let key = text.trim();
    let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
    let fits = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if name.is_empty() || name.len() > 63 || !name.chars().all(fits) || key.contains(char::is_whitespace) {
        return Err(format!(
            "invalid label key {key:?}: name part must consist of alphanumeric characters, '-', '_' or '.'"
        ));
    }
    Ok(key.to_owned())
}

fn label_value(text: &str) -> Result<String, String> {
    let value = text.trim();
    let fits = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if value.len() > 63 || !value.chars().all(fits) {
        return Err(format!(
            "invalid label value {value:?}: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'"
        ));
    }
    Ok(value.to_owned())
}

/// Terms of a field selector: (field, value, wanted equal).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FieldSelector(Vec<(String, String, bool)>);

impl FieldSelector {
    pub fn parse(text: &str, resource: &Resource) -> ApiResult<FieldSelector> {
        let mut terms = Vec::new();
        for term in text.split(',').map(str::trim).filter(|term| !term.is_empty()) {
            let found = [("!=", false), ("==", true), ("=", true)].into_iter().find_map(|(sign, equal)| {
                term.split_once(sign).map(|(field, value)| (field.trim(), value.trim(), equal))
            });
            let Some((field, value, equal)) = found else {
                return Err(ApiError::bad_request(format!(
                    "Unable to find \"{}\" that match label selector \"\", field selector \"{text}\": invalid selector: '{text}'; can't understand '{term}'",
                    resource.qualified()
                )));
            };
            if !is_selectable(resource, field) {
                return Err(ApiError::bad_request(format!("field label not supported: {field}")));
            }
            terms.push((view::stored_field(resource, field), value.to_owned(), equal));
        }
        Ok(FieldSelector(terms))
    }

    /// Only `metadata.name=` this, if that is all that is asked: lists then read one key.
    pub fn only_name(&self) -> Option<&str> {
        match &self.0[..] {
            [(field, name, true)] if field == "metadata.name" => Some(name),
            _ => None,
        }
    }

    pub fn matches(&self, index: &ObjectIndex) -> bool {
        self.0.iter().all(|(field, value, equal)| (field_of(index, field) == value) == *equal)
    }
}

fn is_selectable(resource: &Resource, field: &str) -> bool {
    field == "metadata.name"
        || (field == "metadata.namespace" && resource.namespaced)
        || resource.fields.iter().any(|(name, _)| *name == field)
}

/// A field that is not set is the empty text, or `false` where it is a truth.
fn field_of<'a>(index: &'a ObjectIndex, field: &str) -> &'a str {
    match field {
        "metadata.name" => &index.name,
        "metadata.namespace" => &index.namespace,
        "spec.unschedulable" | "spec.hostNetwork" => lookup(index, field).unwrap_or("false"),
        _ => lookup(index, field).unwrap_or_default(),
    }
}

fn lookup<'a>(index: &'a ObjectIndex, field: &str) -> Option<&'a str> {
    index.fields.iter().find(|(name, _)| *name == field).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn label_selectors_choose_as_kubernetes_does() {
        let labels = labels(&[("app", "web"), ("tier", "front"), ("kubernetes.io/size", "7")]);
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app=web,tier=back", false),
            ("app!=web", false),
            ("zone!=a", true),
            ("app in (web, db)", true),
            ("app in (db)", false),
            ("app notin (db,cache)", true),
            ("zone notin (a)", true),
            ("app", true),
            ("zone", false),
            ("!zone", true),
            ("!app", false),
            ("kubernetes.io/size>6,kubernetes.io/size<8", true),
            ("kubernetes.io/size>7", false),
            ("app=", false),
        ] {
            let parsed = LabelSelector::parse(selector).expect(selector);
            assert_eq!(parsed.matches(&labels), expected, "{selector}");
        }
    }

    #[test]
    fn broken_label_selectors_are_refused() {
        for selector in ["app in web", "app in (web", "a b", "=x", "app=w w", "app within (a)"] {
            assert!(LabelSelector::parse(selector).is_err(), "{selector}");
        }
    }

    #[test]
    fn field_selectors_read_the_index_and_refuse_unknown_fields() {
        let pods = registry::row("pods");
        let index = ObjectIndex {
            name: "a".into(),
            namespace: "default".into(),
            fields: vec![("spec.nodeName", "node-1".into()), ("status.phase", "Running".into())],
            ..ObjectIndex::default()
        };
        for (selector, expected) in [
            ("metadata.name=a", true),
            ("metadata.name!=a", false),
            ("spec.nodeName=node-1,status.phase!=Failed", true),
            ("spec.nodeName=", false),
            ("status.podIP=", true),
            ("spec.hostNetwork=false", true),
        ] {
            assert_eq!(FieldSelector::parse(selector, pods).expect(selector).matches(&index), expected, "{selector}");
        }
        assert!(FieldSelector::parse("spec.color=red", pods).is_err());
        assert!(FieldSelector::parse("metadata.namespace=x", registry::row("nodes")).is_err());
    }
}
