//! Label selectors: which labels they take.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

pub type Labels = BTreeMap<String, String>;

/// A Service's selector: every pair must be there.
pub fn pairs_match(pairs: &Labels, labels: Option<&Labels>) -> bool {
    pairs.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// A workload's selector. One without any requirement takes nothing here: a workload that owns
/// every pod of its namespace is never meant.
pub fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let pairs = selector.match_labels.as_ref();
    let expressions = selector.match_expressions.as_deref().unwrap_or_default();
    if pairs.is_none_or(BTreeMap::is_empty) && expressions.is_empty() {
        return false;
    }
    pairs.is_none_or(|pairs| pairs_match(pairs, labels)) && expressions.iter().all(|one| requirement(one, labels))
}

fn requirement(one: &LabelSelectorRequirement, labels: Option<&Labels>) -> bool {
    let value = labels.and_then(|labels| labels.get(&one.key));
    let values = one.values.as_deref().unwrap_or_default();
    match one.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(selector: serde_json::Value, labels: &[(&str, &str)], want: bool) {
        let parsed: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
        let labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        assert_eq!(matches(&parsed, Some(&labels)), want, "{selector}");
    }

    #[test]
    fn selectors_take_what_kubernetes_says() {
        let web = [("app", "web"), ("tier", "front")];
        check(json!({"matchLabels": {"app": "web"}}), &web, true);
        check(json!({"matchLabels": {"app": "db"}}), &web, false);
        check(json!({}), &web, false);
        let expression = |operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": "tier", "operator": operator, "values": values}]});
        check(expression("In", &["front", "back"]), &web, true);
        check(expression("NotIn", &["front"]), &web, false);
        check(expression("NotIn", &["front"]), &[], true);
        check(expression("Exists", &[]), &web, true);
        check(expression("DoesNotExist", &[]), &web, false);
        check(expression("Near", &[]), &web, false);
    }
}
