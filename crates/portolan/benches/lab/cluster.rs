//! The lab's API as the bench uses it: objects in, watch events with timestamps out, requests to Services.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;

use crate::Outcome;
use crate::sight::{Log, PATIENCE};

/// Everything is made in this namespace.
pub const NAMESPACE: &str = "default";

pub async fn connect(kubeconfig: &Path) -> Outcome<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// A watch in a task of its own; returns when everything there is has been told.
pub async fn follow<K>(api: Api<K>, labels: &str) -> Outcome<Arc<Log<Event<K>>>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let log = Arc::new(Log::new());
    let seen = log.clone();
    let config = watcher::Config::default().labels(labels).streaming_lists();
    let (told, whole) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut told = Some(told);
        let mut events = watcher(api, config).boxed();
        while let Some(Ok(event)) = events.next().await {
            if matches!(event, Event::InitDone) {
                told.take().map(|told| told.send(()));
            }
            seen.push(Instant::now(), event);
        }
    });
    whole.await.map_err(|_| "a watch ended before all was told")?;
    Ok(log)
}

/// The pod of an event that says how it is now.
pub fn applied<K>(event: &Event<K>) -> Option<&K> {
    match event {
        Event::Apply(object) | Event::InitApply(object) => Some(object),
        _ => None,
    }
}

pub fn is_scheduled(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

pub fn address(pod: &Pod) -> Option<Ipv4Addr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

/// The first ready address of a slice.
pub fn ready_endpoint(slice: &EndpointSlice) -> Option<Ipv4Addr> {
    let ready =
        |e: &&k8s_openapi::api::discovery::v1::Endpoint| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true));
    slice.endpoints.iter().find(ready)?.addresses.first()?.parse().ok()
}

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(1);
/// A SYN that no rule takes yet is lost; one that a rule takes is answered within a fraction of this.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// When `to`, asked over and over from the namespace, answered a request with 200 for the first time.
pub fn first_answer(netns: &OwnedFd, to: SocketAddr) -> Outcome<Instant> {
    portolan_kernel::netns::run_in(netns.as_fd(), || {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if answers(to).unwrap_or(false) {
                return Ok(Instant::now());
            }
            std::thread::sleep(PAUSE);
        }
        Err(format!("{to} did not answer within {PATIENCE:?}"))
    })?
    .map_err(Into::into)
}

fn answers(to: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&to, CONNECT_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(head.starts_with(b"HTTP/1.") && head.ends_with(b" 200"))
}
