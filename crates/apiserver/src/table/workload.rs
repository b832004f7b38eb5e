//! Deployments and ReplicaSets.

use serde_json::Value;

use super::{Printer, age, count, integer, items, name, narrow, wide};
use crate::object::text;
use crate::strategy::scale::selector_text;

pub const DEPLOYMENT: Printer = Printer {
    columns: &[
        narrow("Name"),
        narrow("Ready"),
        count("Up-to-date"),
        count("Available"),
        narrow("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |deployment, now| {
        let (ready, wanted) = (integer(deployment, "/status/readyReplicas"), integer(deployment, "/spec/replicas"));
        let mut cells = vec![
            name(deployment),
            format!("{ready}/{wanted}").into(),
            integer(deployment, "/status/updatedReplicas").into(),
            integer(deployment, "/status/availableReplicas").into(),
            age(deployment, now),
        ];
        cells.extend(template(deployment));
        cells
    },
};

pub const REPLICA_SET: Printer = Printer {
    columns: &[
        narrow("Name"),
        count("Desired"),
        count("Current"),
        count("Ready"),
        narrow("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |set, now| {
        let mut cells = vec![
            name(set),
            integer(set, "/spec/replicas").into(),
            integer(set, "/status/replicas").into(),
            integer(set, "/status/readyReplicas").into(),
            age(set, now),
        ];
        cells.extend(template(set));
        cells
    },
};

/// Containers, images and selector of what is made from a template.
fn template(object: &Value) -> [Value; 3] {
    let joined = |member: &str| {
        let containers = items(object, "/spec/template/spec/containers");
        containers.map(|container| text(container, member)).collect::<Vec<_>>().join(",")
    };
    [joined("/name").into(), joined("/image").into(), selector_text(object.pointer("/spec/selector")).into()]
}
