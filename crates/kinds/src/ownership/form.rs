//! What of a type can be owned apart: members, entries, elements; and what is one piece.
//!
//! Source: the `listType`, `listMapKey`, `mapType` and `structType` marks of the Kubernetes API types.

use serde_json::{Map, Value};

use crate::schema::{Shape, Type, type_at};

/// How a value is taken apart.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// Owned as one: scalars and what is marked atomic.
    Whole,
    Struct(&'static Type),
    /// Entries of this shape, each owned apart.
    Map(Shape),
    /// Elements of this shape, told apart by these members.
    Keyed(&'static [&'static str], Shape),
    /// Scalars, each owned apart.
    Set,
}

/// Structs that are owned as one.
const WHOLE_TYPES: &[&str] = &[
    "ConfigMapKeySelector",
    "EndpointAddress",
    "EndpointPort",
    "LabelSelector",
    "LocalObjectReference",
    "NodeSelector",
    "NodeSelectorTerm",
    "ObjectFieldSelector",
    "ObjectReference",
    "OwnerReference",
    "ResourceFieldSelector",
    "SecretKeySelector",
    "TypedLocalObjectReference",
];

/// Maps that are owned as one.
const WHOLE_MAPS: &[(&str, &str)] = &[("PodSpec", "nodeSelector"), ("ServiceSpec", "selector")];

const SETS: &[(&str, &str)] = &[("NodeSpec", "podCIDRs"), ("ObjectMeta", "finalizers")];

/// Lists of elements with keys; every other list is owned as one.
const KEYED: &[(&str, &str, &[&str])] = &[
    ("ObjectMeta", "ownerReferences", &["uid"]),
    ("PodSpec", "containers", &["name"]),
    ("PodSpec", "ephemeralContainers", &["name"]),
    ("PodSpec", "hostAliases", &["ip"]),
    ("PodSpec", "imagePullSecrets", &["name"]),
    ("PodSpec", "initContainers", &["name"]),
    ("PodSpec", "resourceClaims", &["name"]),
    ("PodSpec", "schedulingGates", &["name"]),
    ("PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("PodSpec", "volumes", &["name"]),
    ("Container", "env", &["name"]),
    ("Container", "ports", &["containerPort", "protocol"]),
    ("Container", "volumeDevices", &["devicePath"]),
    ("Container", "volumeMounts", &["mountPath"]),
    ("EphemeralContainer", "env", &["name"]),
    ("EphemeralContainer", "ports", &["containerPort", "protocol"]),
    ("EphemeralContainer", "volumeDevices", &["devicePath"]),
    ("EphemeralContainer", "volumeMounts", &["mountPath"]),
    ("ResourceRequirements", "claims", &["name"]),
    ("ContainerStatus", "volumeMounts", &["mountPath"]),
    ("PodStatus", "conditions", &["type"]),
    ("PodStatus", "podIPs", &["ip"]),
    ("PodStatus", "resourceClaimStatuses", &["name"]),
    ("ServiceSpec", "ports", &["port", "protocol"]),
    ("ServiceStatus", "conditions", &["type"]),
    ("ServiceAccount", "secrets", &["name"]),
    ("NodeStatus", "addresses", &["type"]),
    ("NodeStatus", "conditions", &["type"]),
    ("NamespaceStatus", "conditions", &["type"]),
    ("DeploymentStatus", "conditions", &["type"]),
    ("ReplicaSetStatus", "conditions", &["type"]),
];

/// A key that an element leaves out has its default.
const KEY_DEFAULTS: &[(&str, &str)] = &[("protocol", "TCP")];

impl Form {
    /// A member of a struct; one that the type does not know is owned as one.
    pub fn of_member(ty: &'static Type, name: &str) -> Form {
        let Some(field) = ty.field(name) else { return Form::Whole };
        let owner = ty.short_name();
        let is_row = |rows: &[(&str, &str)]| rows.contains(&(owner, name));
        match field.shape {
            Shape::Map(_) if is_row(WHOLE_MAPS) => Form::Whole,
            Shape::List(_) if is_row(SETS) => Form::Set,
            Shape::List(element) => {
                let row = KEYED.iter().find(|(of, list, _)| (*of, *list) == (owner, name));
                row.map_or(Form::Whole, |(_, _, keys)| Form::Keyed(keys, *element))
            }
            shape => Form::of_shape(shape),
        }
    }

    /// An entry or an element.
    pub fn of_shape(shape: Shape) -> Form {
        match shape {
            Shape::Object(index) => Form::of_type(type_at(index)),
            Shape::Map(entry) => Form::Map(*entry),
            _ => Form::Whole,
        }
    }

    pub fn of_type(ty: &'static Type) -> Form {
        match WHOLE_TYPES.contains(&ty.short_name()) {
            true => Form::Whole,
            false => Form::Struct(ty),
        }
    }

    /// The form of what a struct or map holds under a name.
    pub fn under(self, name: &str) -> Form {
        match self {
            Form::Struct(ty) => Form::of_member(ty, name),
            Form::Map(shape) | Form::Keyed(_, shape) => Form::of_shape(shape),
            Form::Whole | Form::Set => Form::Whole,
        }
    }

    /// The step to an element of a list; `None` if it lacks a key, named by the error.
    pub fn step_to(self, element: &Value) -> Result<String, &'static str> {
        match self {
            Form::Keyed(keys, _) => {
                let mut named = Map::new();
                for key in keys {
                    let default = KEY_DEFAULTS.iter().find(|(name, _)| name == key);
                    let value = element.get(*key).filter(|value| !value.is_null()).cloned();
                    let value = value.or_else(|| default.map(|(_, value)| Value::from(*value))).ok_or(*key)?;
                    named.insert((*key).to_owned(), value);
                }
                Ok(format!("k:{}", Value::Object(named)))
            }
            _ => Ok(format!("v:{element}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated::types::TYPES;

    fn shape(owner: &str, name: &str) -> Shape {
        let ty = TYPES.iter().find(|ty| ty.short_name() == owner).unwrap_or_else(|| panic!("no type {owner}"));
        ty.field(name).unwrap_or_else(|| panic!("no field {owner}.{name}")).shape
    }

    #[test]
    fn every_row_names_a_field_of_its_shape() {
        for (owner, name, keys) in KEYED {
            let Shape::List(Shape::Object(index)) = shape(owner, name) else { panic!("{owner}.{name}") };
            assert!(keys.iter().all(|key| type_at(*index).field(key).is_some()), "{owner}.{name}");
            assert!(keys.is_sorted(), "{owner}.{name}: keys are compared as text");
        }
        assert!(SETS.iter().all(|(owner, name)| matches!(shape(owner, name), Shape::List(Shape::String))));
        assert!(WHOLE_MAPS.iter().all(|(owner, name)| matches!(shape(owner, name), Shape::Map(_))));
        assert!(WHOLE_TYPES.iter().all(|name| TYPES.iter().any(|ty| ty.short_name() == *name)));
    }

    #[test]
    fn a_list_that_a_strategic_patch_merges_is_keyed_here_too() {
        use crate::merge_keys::{ListStrategy, list_strategy};
        for (owner, name, keys) in KEYED {
            if let ListStrategy::MergeBy(key) = list_strategy(owner, name) {
                assert!(keys.contains(&key), "{owner}.{name}: {key}");
            }
        }
    }
}
