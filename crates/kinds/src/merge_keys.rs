//! Which lists a strategic merge patch merges, and by which key: facts of the Kubernetes types.
//!
//! A list that is not here is replaced as a whole. Source: the `patchStrategy` and
//! `patchMergeKey` tags of the Kubernetes API types.

/// How a strategic merge patch treats a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListStrategy {
    /// The patch's list takes the place of the old one.
    Replace,
    /// Elements are objects, matched by this member.
    MergeBy(&'static str),
    /// Elements are scalars, joined without doubles.
    MergeSet,
}

/// Type, field, strategy; sorted by nothing, there are few.
const ROWS: &[(&str, &str, ListStrategy)] = {
    use ListStrategy::{MergeBy, MergeSet};
    &[
        ("ObjectMeta", "ownerReferences", MergeBy("uid")),
        ("ObjectMeta", "finalizers", MergeSet),
        ("PodSpec", "volumes", MergeBy("name")),
        ("PodSpec", "initContainers", MergeBy("name")),
        ("PodSpec", "containers", MergeBy("name")),
        ("PodSpec", "ephemeralContainers", MergeBy("name")),
        ("PodSpec", "imagePullSecrets", MergeBy("name")),
        ("PodSpec", "hostAliases", MergeBy("ip")),
        ("PodSpec", "topologySpreadConstraints", MergeBy("topologyKey")),
        ("PodSpec", "schedulingGates", MergeBy("name")),
        ("PodSpec", "resourceClaims", MergeBy("name")),
        ("Container", "ports", MergeBy("containerPort")),
        ("Container", "env", MergeBy("name")),
        ("Container", "volumeMounts", MergeBy("mountPath")),
        ("Container", "volumeDevices", MergeBy("devicePath")),
        ("EphemeralContainer", "ports", MergeBy("containerPort")),
        ("EphemeralContainer", "env", MergeBy("name")),
        ("EphemeralContainer", "volumeMounts", MergeBy("mountPath")),
        ("EphemeralContainer", "volumeDevices", MergeBy("devicePath")),
        ("PodStatus", "conditions", MergeBy("type")),
        ("PodStatus", "podIPs", MergeBy("ip")),
        ("PodStatus", "hostIPs", MergeBy("ip")),
        ("PodStatus", "resourceClaimStatuses", MergeBy("name")),
        ("ServiceSpec", "ports", MergeBy("port")),
        ("ServiceStatus", "conditions", MergeBy("type")),
        ("ServiceAccount", "secrets", MergeBy("name")),
        ("NodeSpec", "podCIDRs", MergeSet),
        ("NodeStatus", "conditions", MergeBy("type")),
        ("NodeStatus", "addresses", MergeBy("type")),
        ("NamespaceStatus", "conditions", MergeBy("type")),
        ("DeploymentStatus", "conditions", MergeBy("type")),
        ("ReplicaSetStatus", "conditions", MergeBy("type")),
    ]
};

/// The strategy of a list: `list_strategy("PodSpec", "containers")`.
pub fn list_strategy(type_name: &str, field: &str) -> ListStrategy {
    ROWS.iter()
        .find(|(ty, name, _)| *ty == type_name && *name == field)
        .map_or(ListStrategy::Replace, |(_, _, strategy)| *strategy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated::types::TYPES;
    use crate::schema::{Shape, type_at};

    #[test]
    fn every_row_names_a_list_of_a_known_type_and_a_key_of_its_elements() {
        for (type_name, field, strategy) in ROWS {
            let ty = TYPES.iter().find(|ty| ty.short_name() == *type_name).expect(type_name);
            let shape = ty.field(field).unwrap_or_else(|| panic!("{type_name}.{field}")).shape;
            match (shape, strategy) {
                (Shape::List(Shape::Object(index)), ListStrategy::MergeBy(key)) => {
                    assert!(type_at(*index).field(key).is_some(), "{type_name}.{field} by {key}");
                }
                (Shape::List(Shape::String), ListStrategy::MergeSet) => {}
                other => panic!("{type_name}.{field}: {other:?}"),
            }
        }
    }
}
