//! Image names: what a user writes, and the full name it stands for.
//!
//! `nginx` is `docker.io/library/nginx:latest`. Spec: the distribution project's reference grammar.

use std::fmt;

use super::ImageError;

/// A full image name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Host, with port if any: `docker.io`, `127.0.0.1:5000`.
    pub registry: String,
    /// Path at the registry: `library/nginx`.
    pub repository: String,
    /// `latest` when neither tag nor digest was written; `None` for a pure digest.
    pub tag: Option<String>,
    /// `sha256:…` when pinned.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a name as users write it.
    pub fn parse(name: &str) -> Result<Self, ImageError> {
        let bad = |reason| ImageError::Name { name: name.to_owned(), reason };
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (name, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(bad("the digest must be sha256: and 64 lower-case hexadecimal digits"));
        }
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad("the tag may hold letters, digits, '_', '.', '-', at most 128"));
        }
        let (registry, repository) = split_registry(path);
        if !is_host(&registry) {
            return Err(bad("the registry must be a host name or address, with a port if need be"));
        }
        if !repository.split('/').all(is_path_part) {
            return Err(bad("the path may hold lower-case letters, digits and separators '.', '_', '-', '/'"));
        }
        Ok(Self {
            registry,
            repository,
            tag: tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned())),
            digest: digest.map(str::to_owned),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(out, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(out, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// The first part is a host if it looks like one; `docker.io/library` is what a bare name means.
fn split_registry(path: &str) -> (String, String) {
    let host =
        path.split_once('/').filter(|(host, _)| host.contains('.') || host.contains(':') || *host == "localhost");
    let (registry, repository) = match host {
        Some(("index.docker.io", rest)) => ("docker.io", rest),
        Some((host, rest)) => (host, rest),
        None => ("docker.io", path),
    };
    if registry == "docker.io" && !repository.contains('/') {
        return (registry.to_owned(), format!("library/{repository}"));
    }
    (registry.to_owned(), repository.to_owned())
}

/// Whether it may stand for a registry: a host name or address, with a port if need be.
pub fn is_host(host: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric();
    host.bytes().next().is_some_and(|byte| word(byte) || byte == b'[')
        && host.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-' | b':' | b'[' | b']'))
}

pub(super) fn is_digest(digest: &str) -> bool {
    digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn is_path_part(part: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    edge(part.bytes().next())
        && edge(part.bytes().last())
        && part.bytes().all(|byte| edge(Some(byte)) || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_stands_for_its_full_name() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (written, full) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.25", "docker.io/library/nginx:1.25".to_owned()),
            ("a/b", "docker.io/a/b:latest".to_owned()),
            ("localhost/b", "localhost/b:latest".to_owned()),
            ("127.0.0.1:5000/b:x", "127.0.0.1:5000/b:x".to_owned()),
            ("registry.k8s.io/e2e/agnhost:2.5", "registry.k8s.io/e2e/agnhost:2.5".to_owned()),
            (&format!("nginx@{digest}"), format!("docker.io/library/nginx@{digest}")),
        ] {
            let parsed = Reference::parse(written).expect(written);
            assert_eq!(parsed.to_string(), full);
            assert_eq!(Reference::parse(&full).expect("full name parses"), parsed);
        }
    }

    #[test]
    fn a_name_against_the_grammar_is_refused() {
        for name in ["", "Nginx", "a//b", "a:", "a:b c", "a@sha256:1", "../x", "-a", "a/../b"] {
            assert!(Reference::parse(name).is_err(), "{name:?} was taken");
        }
    }
}
