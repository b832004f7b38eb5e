//! The flags that say which registries may be asked, and how.
//!
//! Plain HTTP is for those that are named so, wherever they are: a registry on loopback is no exception, so that one
//! rule holds for all.

use clap::Args;
use portolan_pods::image::reference::is_host;
use portolan_pods::image::{ANY_REGISTRY, PullOptions};

/// Where to look instead, and who speaks no TLS.
#[derive(Args, Clone, Debug, Default)]
pub struct SourceArgs {
    /// Ask another host for a registry's images, as docker.io=https://mirror.example; http:// is plain HTTP; repeats
    #[arg(long = "registry-mirror", alias = "mirror", value_name = "REGISTRY=URL", value_parser = parse_mirror)]
    mirrors: Vec<Mirror>,
    /// Talk plain HTTP to this registry, as 127.0.0.1:5000; repeats
    #[arg(long = "insecure-registry", alias = "insecure", value_name = "HOST[:PORT]", value_parser = parse_host)]
    insecure: Vec<String>,
}

/// Which registries pods' images may be asked of.
#[derive(Args, Clone, Debug, Default)]
pub struct RegistryArgs {
    /// Pull the images of pods from this registry, as docker.io, or from any; repeats. Without a --registry…, pods run
    /// only what is in the store
    #[arg(long = "registry", value_name = "HOST[:PORT]|any", value_parser = parse_registry)]
    registries: Vec<String>,
    #[command(flatten)]
    sources: SourceArgs,
}

/// Another host for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mirror {
    registry: String,
    host: String,
    is_plain: bool,
}

impl SourceArgs {
    pub fn options(&self) -> PullOptions {
        let plain = self.mirrors.iter().filter(|mirror| mirror.is_plain).map(|mirror| mirror.host.clone());
        PullOptions {
            mirrors: self.mirrors.iter().map(|m| (m.registry.clone(), m.host.clone())).collect(),
            registries: Vec::new(),
            insecure: self.insecure.iter().cloned().chain(plain).collect(),
        }
    }
}

impl RegistryArgs {
    pub fn options(&self) -> PullOptions {
        PullOptions { registries: self.registries.clone(), ..self.sources.options() }
    }

    /// The same as a command line.
    pub fn flags(&self) -> Vec<String> {
        let registries = self.registries.iter().map(|name| ("--registry", name.clone()));
        let mirrors = self.sources.mirrors.iter().map(|mirror| {
            let scheme = if mirror.is_plain { "http" } else { "https" };
            ("--registry-mirror", format!("{}={scheme}://{}", mirror.registry, mirror.host))
        });
        let insecure = self.sources.insecure.iter().map(|host| ("--insecure-registry", host.clone()));
        registries.chain(mirrors).chain(insecure).flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }
}

fn parse_registry(text: &str) -> Result<String, String> {
    if text == ANY_REGISTRY { Ok(text.to_owned()) } else { parse_host(text) }
}

fn parse_host(text: &str) -> Result<String, String> {
    if is_host(text) { Ok(text.to_owned()) } else { Err("write HOST or HOST:PORT, such as 127.0.0.1:5000".to_owned()) }
}

/// Reads `docker.io=https://mirror.example`.
fn parse_mirror(text: &str) -> Result<Mirror, String> {
    let parts = text.split_once('=').map(|(registry, url)| {
        let plain = url.strip_prefix("http://");
        let host = plain.or_else(|| url.strip_prefix("https://")).unwrap_or(url).trim_end_matches('/');
        Mirror { registry: registry.to_owned(), host: host.to_owned(), is_plain: plain.is_some() }
    });
    let fits = |mirror: &Mirror| is_host(&mirror.registry) && is_host(&mirror.host);
    parts
        .filter(fits)
        .ok_or_else(|| "write REGISTRY=[http[s]://]HOST[:PORT], such as docker.io=https://mirror.example".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_a_registry_and_a_host_with_or_without_a_scheme() {
        let mirror = |host: &str, is_plain| Mirror { registry: "docker.io".into(), host: host.into(), is_plain };
        for (text, expected) in [
            ("docker.io=m:5000", mirror("m:5000", false)),
            ("docker.io=https://m/", mirror("m", false)),
            ("docker.io=http://127.0.0.1:5000", mirror("127.0.0.1:5000", true)),
        ] {
            assert_eq!(parse_mirror(text), Ok(expected), "{text}");
        }
        for text in ["docker.io", "=m", "docker.io=", "docker.io=https://m/path", "docker.io=ftp://m", "a b=m"] {
            assert!(parse_mirror(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn flags_say_the_same_again() {
        let mirror = parse_mirror("docker.io=http://m:1").expect("a mirror");
        let sources = SourceArgs { mirrors: vec![mirror], insecure: vec!["r:2".into()] };
        let args = RegistryArgs { registries: vec!["any".into()], sources };
        let line = args.flags().join(" ");
        assert_eq!(line, "--registry any --registry-mirror docker.io=http://m:1 --insecure-registry r:2");
        assert_eq!(args.options().insecure, ["r:2", "m:1"]);
        assert!(RegistryArgs::default().flags().is_empty());
    }
}
