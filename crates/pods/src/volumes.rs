//! A pod's volumes as folders and files on the node, and the binds that put them into a container.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, KeyToPath, Pod, Volume};

use crate::env::{Objects, PodFacts, expand, field_value};
use crate::spec::Bind;

const DEFAULT_MODE: i32 = 0o644;

/// Makes all volumes of `pod` below `dir`; name → place on the node. An error names volume and reason.
pub fn prepare(
    dir: &Path,
    pod: &Pod,
    objects: &Objects,
    facts: &PodFacts,
) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut places = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let place = dir.join(&volume.name);
        let made = make(&place, volume, pod, objects, facts);
        let place = made.map_err(|reason| format!("volume {:?}: {reason}", volume.name))?;
        places.insert(volume.name.clone(), place);
    }
    Ok(places)
}

/// The binds of one container; subPath and subPathExpr are followed.
pub fn binds(
    container: &Container,
    places: &BTreeMap<String, PathBuf>,
    env: &[(String, String)],
) -> Result<Vec<Bind>, String> {
    let mut binds = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let place = places
            .get(&mount.name)
            .ok_or_else(|| format!("volumeMount {:?} names no volume of the pod", mount.name))?;
        let below = match (&mount.sub_path_expr, &mount.sub_path) {
            (Some(expression), _) => expand(expression, env),
            (None, Some(path)) => path.clone(),
            (None, None) => String::new(),
        };
        binds.push(Bind {
            source: sub_path(place, &below)?,
            destination: mount.mount_path.clone(),
            read_only: mount.read_only == Some(true),
        });
    }
    Ok(binds)
}

fn sub_path(place: &Path, below: &str) -> Result<PathBuf, String> {
    if below.is_empty() {
        return Ok(place.to_path_buf());
    }
    if below.starts_with('/') || Path::new(below).components().any(|part| part.as_os_str() == "..") {
        return Err(format!("subPath {below:?} must be relative and without '..'"));
    }
    let path = place.join(below);
    if !path.exists() {
        fs::create_dir_all(&path).map_err(|error| format!("cannot create subPath {below:?}: {error}"))?;
    }
    let real = path.canonicalize().map_err(|error| format!("subPath {below:?}: {error}"))?;
    let root = place.canonicalize().map_err(|error| format!("subPath {below:?}: {error}"))?;
    if real.starts_with(root) { Ok(real) } else { Err(format!("subPath {below:?} leads out of the volume")) }
}

fn make(place: &Path, volume: &Volume, pod: &Pod, objects: &Objects, facts: &PodFacts) -> Result<PathBuf, String> {
    let text = |error: io::Error| format!("cannot write {}: {error}", place.display());
    if let Some(host) = &volume.host_path {
        return host_path(&host.path, host.type_.as_deref().unwrap_or_default());
    }
    if volume.empty_dir.is_some() {
        fs::create_dir_all(place).map_err(text)?;
        fs::set_permissions(place, fs::Permissions::from_mode(0o777)).map_err(text)?;
        return Ok(place.to_path_buf());
    }
    let files = files_of(volume, pod, objects, facts)?;
    let _ = fs::remove_dir_all(place);
    fs::create_dir_all(place).map_err(text)?;
    for (path, (bytes, mode)) in files {
        let file = place.join(&path);
        if Path::new(&path).components().any(|part| part.as_os_str() == "..") || path.starts_with('/') {
            return Err(format!("path {path:?} must be relative and without '..'"));
        }
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(text)?;
        }
        fs::write(&file, bytes).map_err(text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).map_err(text)?;
    }
    Ok(place.to_path_buf())
}

fn host_path(path: &str, kind: &str) -> Result<PathBuf, String> {
    let place = PathBuf::from(path);
    let created = match kind {
        "DirectoryOrCreate" => fs::create_dir_all(&place),
        "FileOrCreate" => fs::File::options().create(true).append(true).open(&place).map(|_| ()),
        _ => Ok(()),
    };
    created.map_err(|error| format!("hostPath {path}: {error}"))?;
    let fits = match kind {
        "Directory" | "DirectoryOrCreate" => place.is_dir(),
        "File" | "FileOrCreate" => place.is_file(),
        _ => place.exists(),
    };
    if fits { Ok(place) } else { Err(format!("hostPath {path} is not there or no {kind}")) }
}

type Files = BTreeMap<String, (Vec<u8>, u32)>;

fn files_of(volume: &Volume, pod: &Pod, objects: &Objects, facts: &PodFacts) -> Result<Files, String> {
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode;
        return add_config_map(&mut files, &source.name, source.items.as_deref(), mode, source.optional, objects)
            .map(|()| files);
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        return add_secret(&mut files, name, source.items.as_deref(), source.default_mode, source.optional, objects)
            .map(|()| files);
    }
    if let Some(source) = &volume.downward_api {
        return add_fields(&mut files, source.items.as_deref(), source.default_mode, pod, facts).map(|()| files);
    }
    let Some(projected) = &volume.projected else {
        return Err(
            "this kind of volume is not supported; use emptyDir, hostPath, configMap, secret, downwardAPI or projected"
                .to_owned(),
        );
    };
    for part in projected.sources.iter().flatten() {
        let mode = projected.default_mode;
        if let Some(source) = &part.config_map {
            add_config_map(&mut files, &source.name, source.items.as_deref(), mode, source.optional, objects)?;
        }
        if let Some(source) = &part.secret {
            add_secret(&mut files, &source.name, source.items.as_deref(), mode, source.optional, objects)?;
        }
        if let Some(source) = &part.downward_api {
            add_fields(&mut files, source.items.as_deref(), mode, pod, facts)?;
        }
    }
    Ok(files)
}

fn add_config_map(
    files: &mut Files,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: Option<i32>,
    optional: Option<bool>,
    objects: &Objects,
) -> Result<(), String> {
    let Some(map) = objects.config_maps.get(name) else {
        return missing(optional, || format!("configmap {name:?} not found"));
    };
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    add_keys(files, text.chain(binary).collect(), items, mode, optional)
}

fn add_secret(
    files: &mut Files,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: Option<i32>,
    optional: Option<bool>,
    objects: &Objects,
) -> Result<(), String> {
    let Some(secret) = objects.secrets.get(name) else {
        return missing(optional, || format!("secret {name:?} not found"));
    };
    let data = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    add_keys(files, data.collect(), items, mode, optional)
}

fn missing(optional: Option<bool>, message: impl FnOnce() -> String) -> Result<(), String> {
    if optional == Some(true) { Ok(()) } else { Err(message()) }
}

/// All keys under their own name, or the chosen ones under theirs.
fn add_keys(
    files: &mut Files,
    data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: Option<i32>,
    optional: Option<bool>,
) -> Result<(), String> {
    let bits = |own: Option<i32>| own.or(mode).unwrap_or(DEFAULT_MODE) as u32 & 0o777;
    let Some(items) = items else {
        files.extend(data.into_iter().map(|(key, bytes)| (key, (bytes, bits(None)))));
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                files.insert(item.path.clone(), (bytes.clone(), bits(item.mode)));
            }
            None => missing(optional, || format!("references non-existent key: {}", item.key))?,
        }
    }
    Ok(())
}

fn add_fields(
    files: &mut Files,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: Option<i32>,
    pod: &Pod,
    facts: &PodFacts,
) -> Result<(), String> {
    for item in items.into_iter().flatten() {
        let Some(field) = &item.field_ref else {
            return Err(format!("downwardAPI item {:?}: only fieldRef is supported", item.path));
        };
        let value = field_value(pod, &field.field_path, facts)?;
        let bits = item.mode.or(mode).unwrap_or(DEFAULT_MODE) as u32 & 0o777;
        files.insert(item.path.clone(), (value.into_bytes(), bits));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn objects() -> Objects {
        Objects {
            config_maps: [(
                "m".to_owned(),
                serde_json::from_value(json!({"data": {"a": "1", "b": "2"}})).expect("map"),
            )]
            .into(),
            secrets: [("s".to_owned(), serde_json::from_value(json!({"data": {"k": "c2VjcmV0"}})).expect("secret"))]
                .into(),
        }
    }

    fn made(volume: serde_json::Value) -> Result<Vec<String>, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"app": "web"}}, "spec": {"containers": [], "volumes": [volume]}
        }))
        .expect("a pod");
        let dir = tempfile::tempdir().expect("temp");
        let places = prepare(dir.path(), &pod, &objects(), &PodFacts::default())?;
        let root = places.values().next().expect("one volume");
        let mut rows = Vec::new();
        let mut open = vec![root.clone()];
        while let Some(folder) = open.pop() {
            for child in fs::read_dir(&folder).expect("lists").map(|child| child.expect("lists")) {
                if child.path().is_dir() {
                    open.push(child.path());
                    continue;
                }
                let mode = child.metadata().expect("there").permissions().mode() & 0o777;
                let name = child.path().strip_prefix(root).expect("below").display().to_string();
                rows.push(format!("{name} {mode:o} {}", fs::read_to_string(child.path()).expect("text")));
            }
        }
        rows.sort();
        Ok(rows)
    }

    #[test]
    fn each_kind_of_volume_holds_its_files() {
        let rows = |list: &[&str]| Ok(list.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>());
        let key_to_path =
            json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "a", "path": "x/y", "mode": 256}]}});
        let projected = json!({"name": "v", "projected": {"sources": [
            {"configMap": {"name": "m", "items": [{"key": "a", "path": "a"}]}}, {"secret": {"name": "s"}},
            {"downwardAPI": {"items": [{"path": "app", "fieldRef": {"fieldPath": "metadata.labels['app']"}}]}}]}});
        for (volume, expected) in [
            (json!({"name": "v", "emptyDir": {}}), rows(&[])),
            (json!({"name": "v", "configMap": {"name": "m"}}), rows(&["a 644 1", "b 644 2"])),
            (key_to_path, rows(&["x/y 400 1"])),
            (json!({"name": "v", "secret": {"secretName": "s", "defaultMode": 384}}), rows(&["k 600 secret"])),
            (json!({"name": "v", "configMap": {"name": "no", "optional": true}}), rows(&[])),
            (projected, rows(&["a 644 1", "app 644 web", "k 644 secret"])),
            (
                json!({"name": "v", "configMap": {"name": "no"}}),
                Err("volume \"v\": configmap \"no\" not found".to_owned()),
            ),
        ] {
            assert_eq!(made(volume), expected);
        }
    }

    #[test]
    fn a_sub_path_does_not_leave_its_volume() {
        let dir = tempfile::tempdir().expect("temp");
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).expect("linked");
        assert!(sub_path(dir.path(), "in/side").is_ok());
        for bad in ["../x", "/etc", "out", "out/passwd"] {
            assert!(sub_path(dir.path(), bad).is_err(), "{bad}");
        }
    }
}
