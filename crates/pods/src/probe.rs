//! Probes: one HTTP request, one TCP connection, one command. From the node's own network, as kubelet does.
//!
//! When to probe and what a result means is `lifecycle`'s.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

/// A network probe's target, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Http { address: SocketAddr, path: String, host: Option<String>, headers: Vec<(String, String)> },
    Tcp { address: SocketAddr },
    Exec { command: Vec<String> },
}

/// What to ask; an error says what in the probe cannot be.
pub fn target(probe: &Probe, container: &Container, pod_ip: Option<IpAddr>) -> Result<Target, String> {
    if let Some(exec) = &probe.exec {
        return Ok(Target::Exec { command: exec.command.clone().unwrap_or_default() });
    }
    let address = |host: &Option<String>, port: &IntOrString| -> Result<SocketAddr, String> {
        let ip = match host.as_deref().filter(|host| !host.is_empty()) {
            Some(host) => host.parse().map_err(|_| format!("probe host {host:?} is not an IP address"))?,
            None => pod_ip.ok_or("the pod has no address yet")?,
        };
        Ok(SocketAddr::new(ip, port_number(port, container)?))
    };
    if let Some(http) = &probe.http_get {
        return http_target(http, address(&http.host, &http.port)?);
    }
    if let Some(tcp) = &probe.tcp_socket {
        return Ok(Target::Tcp { address: address(&tcp.host, &tcp.port)? });
    }
    Err("grpc probes are not supported; use httpGet, tcpSocket or exec".to_owned())
}

fn http_target(http: &HTTPGetAction, address: SocketAddr) -> Result<Target, String> {
    if http.scheme.as_deref() == Some("HTTPS") {
        return Err("HTTPS probes are not supported; use HTTP, tcpSocket or exec".to_owned());
    }
    let mut headers: Vec<(String, String)> =
        http.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone())).collect();
    let host = headers.iter().position(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = host.map(|at| headers.remove(at).1);
    let path = http.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    Ok(Target::Http { address, path, host, headers })
}

fn port_number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).map_err(|_| format!("port {number} is out of range")),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|known| known.name.as_ref() == Some(name))
            .and_then(|known| u16::try_from(known.container_port).ok())
            .ok_or_else(|| format!("container {} has no port named {name:?}", container.name)),
    }
}

/// Asks over the network; the error is what the event says. `Exec` is the caller's.
pub async fn ask(target: &Target, timeout: Duration) -> Result<(), String> {
    let asked = async {
        match target {
            Target::Tcp { address } => connect(*address).await.map(|_| ()),
            Target::Http { address, path, host, headers } => get(*address, path, host.as_deref(), headers).await,
            Target::Exec { .. } => Err("a command is not asked over the network".to_owned()),
        }
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", timeout.as_secs())),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("dial tcp {address}: {error}"))
}

async fn get(address: SocketAddr, path: &str, host: Option<&str>, headers: &[(String, String)]) -> Result<(), String> {
    let stream = TokioIo::new(connect(address).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
        .await
        .map_err(|error| format!("http://{address}{path}: {error}"))?;
    let connection = tokio::spawn(connection);
    let mut request = http::Request::get(path)
        .header("host", host.map_or_else(|| address.to_string(), str::to_owned))
        .header("user-agent", "kube-probe/1.33")
        .header("connection", "close");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| format!("bad probe: {error}"))?;
    let response = sender.send_request(request).await.map_err(|error| format!("http://{address}{path}: {error}"));
    connection.abort();
    let code = response?.status().as_u16();
    if (200..400).contains(&code) { Ok(()) } else { Err(format!("HTTP probe failed with statuscode: {code}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[test]
    fn a_probe_finds_its_port_by_name_and_the_pod_by_address() {
        let container: Container =
            serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 80}]}))
                .expect("container");
        let probe: Probe = serde_json::from_value(json!({"httpGet": {"path": "ok", "port": "web"}})).expect("probe");
        let ip = Some("10.0.0.1".parse().expect("address"));
        let expected = Target::Http {
            address: "10.0.0.1:80".parse().expect("address"),
            path: "/ok".to_owned(),
            host: None,
            headers: Vec::new(),
        };
        assert_eq!(target(&probe, &container, ip), Ok(expected));
        let probe: Probe = serde_json::from_value(json!({"tcpSocket": {"port": "nope"}})).expect("probe");
        assert!(target(&probe, &container, ip).is_err());
    }

    #[tokio::test]
    async fn http_succeeds_from_200_to_399_only() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            for code in ["200 OK", "399 Odd", "404 No", "500 Oh"] {
                let (mut stream, _) = listener.accept().await.expect("accepts");
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let reply = format!("HTTP/1.1 {code}\r\ncontent-length: 0\r\n\r\n");
                let _ = stream.write_all(reply.as_bytes()).await;
            }
        });
        let http = Target::Http { address, path: "/".into(), host: None, headers: Vec::new() };
        for expected in [true, true, false, false] {
            assert_eq!(ask(&http, Duration::from_secs(5)).await.is_ok(), expected);
        }
    }

    #[tokio::test]
    async fn tcp_fails_where_nobody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        assert_eq!(ask(&Target::Tcp { address }, Duration::from_secs(5)).await, Ok(()));
        drop(listener);
        assert!(ask(&Target::Tcp { address }, Duration::from_secs(5)).await.is_err());
    }
}
