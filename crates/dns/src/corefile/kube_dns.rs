//! kube-dns's ConfigMap, which some clusters still have: its `stubDomains` and `upstreamNameservers` as a Corefile.

use std::collections::BTreeMap;

use super::words::socket;

/// The Corefile of a cluster whose zone is `zone`, with kube-dns's settings; each an empty text or JSON as kube-dns has it:
/// `{"acme.local": ["1.2.3.4"]}` and `["8.8.8.8", "8.8.4.4:53"]`.
///
/// # Errors
/// What in the settings is no such JSON, or no address.
pub fn corefile(zone: &str, stub_domains: &str, upstream_nameservers: &str) -> Result<String, String> {
    let stubs: BTreeMap<String, Vec<String>> =
        setting("stubDomains", stub_domains, "{\"acme.local\": [\"10.0.0.1\"]}")?;
    let upstreams: Vec<String> = setting("upstreamNameservers", upstream_nameservers, "[\"10.0.0.1\"]")?;
    let to = match upstreams.is_empty() {
        true => "/etc/resolv.conf".to_owned(),
        false => servers("upstreamNameservers", &upstreams)?,
    };
    let mut out = format!(
        ".:53 {{\n    errors\n    health {{\n        lameduck 5s\n    }}\n    ready\n    \
         kubernetes {zone} in-addr.arpa ip6.arpa {{\n        pods insecure\n        \
         fallthrough in-addr.arpa ip6.arpa\n        ttl 30\n    }}\n    prometheus :9153\n    forward . {to}\n    \
         cache 30\n    loop\n    reload\n    loadbalance\n}}\n"
    );
    for (domain, to) in stubs {
        let to = servers(&domain, &to)?;
        out += &format!("{domain}:53 {{\n    errors\n    cache 30\n    loop\n    forward . {to}\n}}\n");
    }
    Ok(out)
}

fn setting<T: serde::de::DeserializeOwned + Default>(name: &str, text: &str, example: &str) -> Result<T, String> {
    match text.trim() {
        "" => Ok(T::default()),
        text => serde_json::from_str(text).map_err(|error| format!("{name}: {error}; it is written as {example}")),
    }
}

fn servers(of: &str, servers: &[String]) -> Result<String, String> {
    if servers.is_empty() {
        return Err(format!("{of}: there is no server; write addresses"));
    }
    match servers.iter().find(|server| socket(server, 53).is_none()) {
        Some(server) => Err(format!("{of}: \"{server}\" is no IP address; write addresses, with or without a port")),
        None => Ok(servers.join(" ")),
    }
}
