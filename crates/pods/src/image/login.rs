//! Logins at registries, from Secrets of the type `kubernetes.io/dockerconfigjson`.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// A user name and password for one registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// As images name it: `docker.io`, `registry.example:5000`.
    pub registry: String,
    pub user: String,
    pub password: String,
}

/// Without the password: it must not get into logs.
impl fmt::Debug for Login {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Login").field("registry", &self.registry).field("user", &self.user).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    /// base64 of `user:password`; used if there is no `username`.
    #[serde(default)]
    auth: String,
}

/// The logins of a `.dockerconfigjson`; an error says what is wrong with it.
pub fn logins_of(docker_config: &[u8]) -> Result<Vec<Login>, String> {
    let config: DockerConfig =
        serde_json::from_slice(docker_config).map_err(|error| format!("not a Docker configuration: {error}"))?;
    let login = |(key, auth): (String, Auth)| {
        let is_coded = auth.username.is_empty();
        let (user, password) = if is_coded { decoded(&key, &auth.auth)? } else { (auth.username, auth.password) };
        Ok(Login { registry: registry_of(&key), user, password })
    };
    config.auths.into_iter().map(login).collect()
}

fn decoded(key: &str, auth: &str) -> Result<(String, String), String> {
    let bytes = STANDARD.decode(auth.trim()).map_err(|error| format!("auths[{key:?}].auth: not base64: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("auths[{key:?}].auth: not text"))?;
    let (user, password) = text.split_once(':').ok_or_else(|| format!("auths[{key:?}].auth: no user:password"))?;
    Ok((user.to_owned(), password.to_owned()))
}

/// Keys may be URLs; Docker Hub's is `https://index.docker.io/v1/`.
fn registry_of(key: &str) -> String {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://");
    match bare.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_login_are_read_and_hosts_are_named_as_images_name_them() {
        let text = br#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "bWU6c2VjOnJldA=="},
            "http://registry.example:5000": {"username": "you", "password": "word"}}}"#;
        let logins = logins_of(text).expect("reads");
        let rows: Vec<_> = logins.iter().map(|l| (l.registry.as_str(), l.user.as_str(), l.password.as_str())).collect();
        assert_eq!(rows, [("registry.example:5000", "you", "word"), ("docker.io", "me", "sec:ret")]);
    }

    #[test]
    fn what_is_no_docker_configuration_is_named() {
        for (text, word) in [
            ("nonsense", "Docker configuration"),
            (r#"{"auths": {"a": {"auth": "?"}}}"#, "base64"),
            (r#"{"auths": {"a": {"auth": "bWU="}}}"#, "user:password"),
        ] {
            let error = logins_of(text.as_bytes()).expect_err("refused");
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_login_shown_for_debugging_has_no_password() {
        let login = Login { registry: "r".into(), user: "u".into(), password: "hush".into() };
        assert!(!format!("{login:?}").contains("hush"));
    }
}
