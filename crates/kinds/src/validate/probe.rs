//! Probes and lifecycle handlers.

use serde_json::Value;

use super::check::Check;
use crate::value::{member, text};

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];

/// The probes and hooks of an ordinary container.
pub(super) fn handlers(container: &Value, path: &str, check: &mut Check) {
    for name in PROBES {
        if let Some(probe) = member(container, name) {
            let at = format!("{path}.{name}");
            handler(probe, &at, check);
            timing(probe, &at, name, check);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(hooked) = member(container, "lifecycle").and_then(|lifecycle| member(lifecycle, hook))
            && member(hooked, "sleep").is_none()
        {
            handler(hooked, &format!("{path}.lifecycle.{hook}"), check);
        }
    }
}

/// An init container that ends cannot be probed.
pub(super) fn none_for_init(container: &Value, path: &str, check: &mut Check) {
    for name in PROBES.into_iter().chain(["lifecycle"]) {
        if member(container, name).is_some() {
            check
                .forbidden(format!("{path}.{name}"), "may not be set for init containers without restartPolicy=Always");
        }
    }
}

/// Exactly one way to ask, and that one well-formed.
fn handler(probe: &Value, path: &str, check: &mut Check) {
    let mut set = HANDLERS.into_iter().filter(|name| member(probe, name).is_some());
    let Some(first) = set.next() else {
        return check.required(path, "must specify a handler type");
    };
    for extra in set {
        check.forbidden(format!("{path}.{extra}"), "may not specify more than 1 handler type");
    }
    let (at, action) = (format!("{path}.{first}"), &probe[first]);
    match first {
        "exec" => {
            if crate::value::items(action, "command").is_empty() {
                check.required(format!("{at}.command"), "");
            }
        }
        "httpGet" => {
            if text(action, "path").is_empty() {
                check.required(format!("{at}.path"), "");
            }
            check.port_or_name(member(action, "port").unwrap_or(&Value::Null), &format!("{at}.port"));
            check.one_of(action, "scheme", &at, &["HTTP", "HTTPS"]);
        }
        "tcpSocket" => check.port_or_name(member(action, "port").unwrap_or(&Value::Null), &format!("{at}.port")),
        _ => check.port(action, "port", &at),
    }
}

fn timing(probe: &Value, path: &str, name: &str, check: &mut Check) {
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        check.not_negative(probe, field, path);
    }
    let successes = probe.get("successThreshold").and_then(Value::as_i64).unwrap_or(1);
    if name != "readinessProbe" && successes > 1 {
        check.invalid(format!("{path}.successThreshold"), successes, "must be 1");
    }
}
