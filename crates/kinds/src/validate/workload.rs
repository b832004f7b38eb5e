//! Deployment, ReplicaSet, Scale: replicas, selector, template, strategy.

use serde_json::Value;

use super::check::{Check, at, is_empty_selector, selector_form, selects};
use super::pod;
use crate::value::{member, text};

pub(super) fn deployment(object: &Value, check: &mut Check) {
    let spec = at(object, "spec");
    common(spec, check);
    strategy(at(spec, "strategy"), check);
    check.not_negative(spec, "revisionHistoryLimit", "spec");
    check.not_negative(spec, "progressDeadlineSeconds", "spec");
    let number = |key: &str| spec.get(key).and_then(Value::as_i64);
    if let Some(deadline) = number("progressDeadlineSeconds")
        && deadline <= number("minReadySeconds").unwrap_or(0)
        && deadline >= 0
    {
        check.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds");
    }
}

pub(super) fn replica_set(object: &Value, check: &mut Check) {
    common(at(object, "spec"), check);
}

pub(super) fn scale(object: &Value, check: &mut Check) {
    check.not_negative(at(object, "spec"), "replicas", "spec");
}

fn common(spec: &Value, check: &mut Check) {
    check.not_negative(spec, "replicas", "spec");
    check.not_negative(spec, "minReadySeconds", "spec");
    let template = at(spec, "template");
    let labels = template.pointer("/metadata/labels").cloned().unwrap_or_default();
    match member(spec, "selector") {
        None => check.required("spec.selector", ""),
        Some(selector) => {
            selector_form(check, selector, "spec.selector");
            if is_empty_selector(selector) {
                check.invalid("spec.selector", selector.clone(), "empty selector is invalid for deployment");
            } else if !selects(selector, &labels) {
                let detail = "`selector` does not match template `labels`";
                check.invalid("spec.template.metadata.labels", labels, detail);
            }
        }
    }
    self::template(template, check);
}

fn template(template: &Value, check: &mut Check) {
    let metadata = at(template, "metadata");
    check.labels(metadata, "labels", "spec.template.metadata");
    let pod = at(template, "spec");
    self::pod::spec(pod, "spec.template.spec", check);
    let policy = text(pod, "restartPolicy");
    if matches!(policy, "OnFailure" | "Never") {
        check.not_supported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
    if member(pod, "activeDeadlineSeconds").is_some() {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        check.forbidden("spec.template.spec.activeDeadlineSeconds", detail);
    }
}

fn strategy(strategy: &Value, check: &mut Check) {
    check.one_of(strategy, "type", "spec.strategy", &["Recreate", "RollingUpdate"]);
    let rolling = member(strategy, "rollingUpdate");
    match (text(strategy, "type"), rolling) {
        ("Recreate", Some(_)) => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            check.forbidden("spec.strategy.rollingUpdate", detail);
        }
        ("RollingUpdate", None) => {
            check.required("spec.strategy.rollingUpdate", "this should be defaulted and never be nil");
        }
        ("RollingUpdate", Some(rolling)) => rolling_update(rolling, check),
        _ => {}
    }
}

fn rolling_update(rolling: &Value, check: &mut Check) {
    let mut amounts = Vec::new();
    for field in ["maxUnavailable", "maxSurge"] {
        let path = format!("spec.strategy.rollingUpdate.{field}");
        let value = at(rolling, field);
        amounts.push(amount_or_percent(value, &path, check));
        if field == "maxUnavailable" && value.as_str().is_some_and(|_| amounts[0].is_some_and(|percent| percent > 100))
        {
            check.invalid(path, value.clone(), "must not be greater than 100%");
        }
    }
    if amounts == [Some(0), Some(0)] {
        let value = at(rolling, "maxUnavailable").clone();
        check.invalid("spec.strategy.rollingUpdate.maxUnavailable", value, "may not be 0 when `maxSurge` is 0");
    }
}

/// The number of `3` or of `25%`; `None` if it is neither.
fn amount_or_percent(value: &Value, path: &str, check: &mut Check) -> Option<i64> {
    let Some(text) = value.as_str() else {
        let number = value.as_i64();
        if number.is_some_and(|number| number < 0) {
            check.invalid(path, value.clone(), "must be greater than or equal to 0");
        }
        return number;
    };
    let digits =
        text.strip_suffix('%').filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    let percent = digits.and_then(|digits| digits.parse().ok());
    if percent.is_none() {
        let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
        check.invalid(path, text, detail);
    }
    percent
}

pub(super) fn update(old: &Value, new: &Value, check: &mut Check) {
    check.immutable(old, new, "/spec/selector");
}
