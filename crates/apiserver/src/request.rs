//! What a request asks for, read from its method, path and query.
//!
//! ```text
//!  /api/v1/namespaces/NS/pods/NAME/log?follow=true
//!   └group┘            └ns┘ └kind┘└name┘└subresource┘
//! ```

use http::Method;

use crate::registry::{self, Resource};

/// A path that was understood.
#[derive(Debug)]
pub enum Route {
    /// `/healthz`, `/livez`, `/readyz` and their parts.
    Health,
    Version,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`
    GroupVersion(String, String),
    /// `/openapi/v2`
    OpenApiOld,
    OpenApiIndex,
    /// `/openapi/v3/PATH`
    OpenApi(String),
    Object(Target),
    Unknown,
}

/// What of the cluster is meant.
#[derive(Debug, Clone)]
pub struct Target {
    pub resource: &'static Resource,
    /// None: cluster-wide, or all namespaces.
    pub namespace: Option<String>,
    /// None: the collection.
    pub name: Option<String>,
    pub subresource: Option<String>,
    /// What follows the subresource, for `proxy`.
    pub rest: String,
}

impl Target {
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    pub fn key(&self) -> String {
        self.resource.key(self.namespace(), self.name())
    }
}

pub fn route(path: &str) -> Route {
    let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(percent_decoded).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match &parts[..] {
        ["healthz" | "livez" | "readyz", ..] => Route::Health,
        ["version"] => Route::Version,
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).to_owned()),
        ["api", version] => Route::GroupVersion(String::new(), (*version).to_owned()),
        ["apis", group, version] => Route::GroupVersion((*group).to_owned(), (*version).to_owned()),
        ["openapi", "v2"] => Route::OpenApiOld,
        ["openapi", "v3"] => Route::OpenApiIndex,
        ["openapi", "v3", rest @ ..] => Route::OpenApi(rest.join("/")),
        ["api", version, rest @ ..] => object(path, "", version, rest),
        ["apis", group, version, rest @ ..] => object(path, group, version, rest),
        _ => Route::Unknown,
    }
}

fn object(path: &str, group: &str, version: &str, parts: &[&str]) -> Route {
    // `namespaces/NS/status` is a namespace's own part; `namespaces/NS/pods` lies inside it.
    let (namespace, parts) = match parts {
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, parts),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
        _ => (None, parts),
    };
    let Some(resource) = parts.first().and_then(|plural| registry::find(group, version, plural)) else {
        return Route::Unknown;
    };
    let fits = match namespace {
        Some(_) => resource.namespaced,
        None => !resource.namespaced || parts.len() == 1,
    };
    let subresource = parts.get(2).map(|name| (*name).to_owned());
    let known = subresource.as_deref().is_none_or(|name| resource.subresource(name).is_some());
    let is_proxy = subresource.as_deref() == Some("proxy");
    // An escaped slash in a name would reach into other names' storage keys.
    let names = parts.iter().copied().take(3).chain(namespace.as_deref());
    let is_plain = names.into_iter().all(|part| !part.contains('/'));
    if !fits || !known || !is_plain || (parts.len() > 3 && !is_proxy) {
        return Route::Unknown;
    }
    Route::Object(Target {
        resource,
        namespace,
        name: parts.get(1).map(|name| (*name).to_owned()),
        subresource,
        rest: if is_proxy { after_proxy(path) } else { String::new() },
    })
}

/// The path behind `/api/v1/nodes/NAME/proxy`, as it was written.
fn after_proxy(path: &str) -> String {
    format!("/{}", path.splitn(7, '/').nth(6).unwrap_or_default())
}

/// The verb as authorization names it.
pub fn verb(method: &Method, target: &Target, query: &Query) -> Option<&'static str> {
    let named = target.name.is_some();
    Some(match (method.as_str(), named) {
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) if query.is_set("watch") => "watch",
        ("GET" | "HEAD", false) => "list",
        ("POST", _) => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return None,
    })
}

/// Query parameters, decoded, in order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Query(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(decoded_pair).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A value that is there and not empty.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    pub fn is_set(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1" | ""))
    }

    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }
}

fn decoded_pair((key, value): (&str, &str)) -> (String, String) {
    let plain = |text: &str| percent_decoded(&text.replace('+', " "));
    (plain(key), plain(value))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'%').then(|| after.get(..2)).flatten();
        let byte = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What form of objects the client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Json,
    Table,
    /// `PartialObjectMetadata`: metadata alone.
    Partial,
}

/// The first acceptable form in the Accept header; `None` if the client takes nothing we speak.
pub fn accepted_form(accept: Option<&str>) -> Option<Form> {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else { return Some(Form::Json) };
    accept.split(',').find_map(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        if !matches!(media, "application/json" | "application/*" | "*/*") {
            return None;
        }
        let parameters: Vec<&str> = parts.collect();
        let said = |wanted: &str| parameters.contains(&wanted);
        match parameters.iter().find_map(|parameter| parameter.strip_prefix("as=")) {
            None => Some(Form::Json),
            Some("Table") if said("v=v1") => Some(Form::Table),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if said("v=v1") => Some(Form::Partial),
            Some(_) => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str) -> String {
        match route(path) {
            Route::Object(target) => format!(
                "{} ns={} name={} sub={} rest={}",
                target.resource.qualified(),
                target.namespace.as_deref().unwrap_or("-"),
                target.name.as_deref().unwrap_or("-"),
                target.subresource.as_deref().unwrap_or("-"),
                target.rest,
            ),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn paths_say_what_they_mean() {
        for (path, expected) in [
            ("/api/v1/pods", "pods ns=- name=- sub=- rest="),
            ("/api/v1/namespaces/a/pods", "pods ns=a name=- sub=- rest="),
            ("/api/v1/namespaces/a/pods/b/log", "pods ns=a name=b sub=log rest="),
            ("/api/v1/namespaces", "namespaces ns=- name=- sub=- rest="),
            ("/api/v1/namespaces/a", "namespaces ns=- name=a sub=- rest="),
            ("/api/v1/namespaces/a/finalize", "namespaces ns=- name=a sub=finalize rest="),
            ("/api/v1/nodes/n/proxy/portolan/v1/dns", "nodes ns=- name=n sub=proxy rest=/portolan/v1/dns"),
            ("/api/v1/nodes/proxy/proxy/a%2Fb/", "nodes ns=- name=proxy sub=proxy rest=/a%2Fb/"),
            ("/api/v1/namespaces/a%2Fb/pods/c", "Unknown"),
            ("/api/v1/namespaces/a/pods/b%2Fc", "Unknown"),
            ("/api/v1/nodes/n/proxy", "nodes ns=- name=n sub=proxy rest=/"),
            ("/apis/apps/v1/namespaces/a/deployments/d/scale", "deployments.apps ns=a name=d sub=scale rest="),
            ("/apis/apps", "Group(\"apps\")"),
            ("/api/v1", "GroupVersion(\"\", \"v1\")"),
            ("/api/v1/pods/x", "Unknown"),
            ("/api/v1/namespaces/a/nodes", "Unknown"),
            ("/api/v1/namespaces/a/pods/b/nothing", "Unknown"),
            ("/api/v1/widgets", "Unknown"),
            ("/openapi/v3/apis/apps/v1", "OpenApi(\"apis/apps/v1\")"),
            ("/openapi/v2", "OpenApiOld"),
            ("/readyz/ping", "Health"),
        ] {
            assert_eq!(told(path), expected, "{path}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&watch=1&empty=&x=%zz");
        assert_eq!(query.get("labelSelector"), Some("a=b,c in (d)"));
        assert!(query.is_set("watch"));
        assert_eq!(query.given("empty"), None);
        assert_eq!(query.get("x"), Some("%zz"));
    }

    #[test]
    fn the_first_acceptable_form_is_taken() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (accept, expected) in [
            (None, Some(Form::Json)),
            (Some(kubectl), Some(Form::Table)),
            (Some("application/vnd.kubernetes.protobuf,application/json"), Some(Form::Json)),
            (Some("application/vnd.kubernetes.protobuf"), None),
            (Some("*/*"), Some(Form::Json)),
            (Some("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"), Some(Form::Partial)),
        ] {
            assert_eq!(accepted_form(accept), expected, "{accept:?}");
        }
    }
}
