//! A container's environment: image, envFrom, env, with references to fields, ConfigMaps and Secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};

/// The objects a pod refers to, by name in its namespace. A name that is missing was not found.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
}

/// Names of objects to fetch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
}

/// What the node knows of a pod beyond its object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    pub pod_ips: Vec<IpAddr>,
    pub host_ips: Vec<IpAddr>,
    pub node_name: String,
}

/// All objects the pod's containers and volumes refer to.
pub fn wanted(pod: &Pod) -> Wanted {
    let mut wanted = Wanted::default();
    let Some(spec) = &pod.spec else {
        return wanted;
    };
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for from in container.env_from.iter().flatten() {
            wanted.config_maps.extend(from.config_map_ref.iter().map(|source| source.name.clone()));
            wanted.secrets.extend(from.secret_ref.iter().map(|source| source.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
            wanted.config_maps.extend(source.config_map_key_ref.iter().map(|key| key.name.clone()));
            wanted.secrets.extend(source.secret_key_ref.iter().map(|key| key.name.clone()));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        wanted.config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        wanted.secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for source in projected {
            wanted.config_maps.extend(source.config_map.iter().map(|part| part.name.clone()));
            wanted.secrets.extend(source.secret.iter().map(|part| part.name.clone()));
        }
    }
    wanted
}

/// The environment in order, each name once. An error names the object or key that is missing.
pub fn container_env(
    pod: &Pod,
    container: &Container,
    image_env: &[String],
    objects: &Objects,
    facts: &PodFacts,
) -> Result<Vec<(String, String)>, String> {
    let mut env = Env::default();
    for entry in image_env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        env.set(name, value.to_owned());
    }
    add_env_from(&mut env, container, objects)?;
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (_, Some(source)) => match from_source(pod, source, objects, facts)? {
                Some(value) => value,
                None => continue,
            },
            (Some(value), None) => expand(value, &env.entries),
            (None, None) => String::new(),
        };
        env.set(&var.name, value);
    }
    if !env.entries.iter().any(|(name, _)| name == "PATH") {
        env.set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    Ok(env.entries)
}

#[derive(Default)]
struct Env {
    entries: Vec<(String, String)>,
}

impl Env {
    fn set(&mut self, name: &str, value: String) {
        match self.entries.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.entries.push((name.to_owned(), value)),
        }
    }
}

fn add_env_from(env: &mut Env, container: &Container, objects: &Objects) -> Result<(), String> {
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(source) = &from.config_map_ref {
            match objects.config_maps.get(&source.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        env.set(&format!("{prefix}{key}"), value.clone());
                    }
                }
                None if source.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", source.name)),
            }
        }
        if let Some(source) = &from.secret_ref {
            match objects.secrets.get(&source.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        env.set(&format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if source.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", source.name)),
            }
        }
    }
    Ok(())
}

/// `None`: an optional key that is not there.
fn from_source(
    pod: &Pod,
    source: &EnvVarSource,
    objects: &Objects,
    facts: &PodFacts,
) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        return field_value(pod, &field.field_path, facts).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let found = objects.config_maps.get(&key.name).and_then(|map| map.data.as_ref()?.get(&key.key).cloned());
        return optional(found, key.optional, || format!("couldn't find key {} in ConfigMap {}", key.key, key.name));
    }
    if let Some(key) = &source.secret_key_ref {
        let found = objects.secrets.get(&key.name).and_then(|secret| {
            let bytes = secret.data.as_ref()?.get(&key.key)?;
            Some(String::from_utf8_lossy(&bytes.0).into_owned())
        });
        return optional(found, key.optional, || format!("couldn't find key {} in Secret {}", key.key, key.name));
    }
    Err("this env source is not supported; use fieldRef, configMapKeyRef or secretKeyRef".to_owned())
}

fn optional(
    found: Option<String>,
    is_optional: Option<bool>,
    missing: impl FnOnce() -> String,
) -> Result<Option<String>, String> {
    match found {
        None if is_optional != Some(true) => Err(missing()),
        found => Ok(found),
    }
}

/// The downward API's fields.
pub fn field_value(pod: &Pod, path: &str, facts: &PodFacts) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let join = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
    let map_text = |map: &Option<BTreeMap<String, String>>| {
        let rows = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
        rows.collect::<Vec<_>>().join("\n")
    };
    let value = match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => map_text(&meta.labels),
        "metadata.annotations" => map_text(&meta.annotations),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => {
            let name = spec.and_then(|spec| spec.service_account_name.clone());
            name.unwrap_or_else(|| "default".to_owned())
        }
        "status.podIP" => first(&facts.pod_ips),
        "status.podIPs" => join(&facts.pod_ips),
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => join(&facts.host_ips),
        _ => return keyed_field(pod, path).ok_or_else(|| format!("fieldPath {path:?} is not supported")),
    };
    Ok(value)
}

/// `metadata.labels['key']`.
fn keyed_field(pod: &Pod, path: &str) -> Option<String> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    let map = match map {
        "metadata.labels" => &pod.metadata.labels,
        "metadata.annotations" => &pod.metadata.annotations,
        _ => return None,
    };
    Some(map.as_ref().and_then(|map| map.get(key).cloned()).unwrap_or_default())
}

/// Replaces `$(NAME)` by the value set before; `$$` stands for `$`, an unknown name stays as written.
pub fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
            continue;
        }
        let name = rest.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match name {
            Some((name, after)) => {
                match env.iter().find(|(known, _)| known == name) {
                    Some((_, value)) => result.push_str(value),
                    None => result.push_str(&format!("$({name})")),
                }
                rest = after;
            }
            None => result.push('$'),
        }
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(value: serde_json::Value) -> Container {
        serde_json::from_value(value).expect("a container")
    }

    #[test]
    fn env_takes_values_from_everywhere_in_order() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "web"}}, "spec": {"containers": []}
        }))
        .expect("a pod");
        let container = container(json!({"name": "c",
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "gone", "optional": true}}],
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)-$(NO)-$$(A)"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "no", "optional": true}}},
            {"name": "PATH", "value": "/mine"}
        ]}));
        let objects: Objects = Objects {
            config_maps: [("m".to_owned(), serde_json::from_value(json!({"data": {"x": "y"}})).expect("map"))].into(),
            secrets: [("s".to_owned(), serde_json::from_value(json!({"data": {"k": "c2VjcmV0"}})).expect("secret"))]
                .into(),
        };
        let facts = PodFacts { pod_ips: vec!["10.0.0.1".parse().expect("address")], ..PodFacts::default() };
        let env = container_env(&pod, &container, &["PATH=/bin".to_owned()], &objects, &facts).expect("resolves");
        let expected = [
            ("PATH", "/mine"),
            ("P_x", "y"),
            ("A", "1"),
            ("B", "1-$(NO)-$(A)"),
            ("IP", "10.0.0.1"),
            ("APP", "web"),
            ("S", "secret"),
        ];
        assert_eq!(env, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_missing_config_map_is_named() {
        let container = container(json!({"name": "c", "envFrom": [{"configMapRef": {"name": "m"}}]}));
        let error = container_env(&Pod::default(), &container, &[], &Objects::default(), &PodFacts::default());
        assert_eq!(error, Err("configmap \"m\" not found".to_owned()));
    }
}
