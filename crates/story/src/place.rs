//! Places: FROM and TO of a question, as people write them.
//!
//! ```text
//!  FROM   pod/NAME  pod/NS/NAME  NS/NAME  node/NAME  outside
//!  TO     svc/NAME[:PORT]  svc/NS/NAME[:PORT]  pod/…[:PORT]  node/NAME:PORT  outside:PORT
//!         ADDR:PORT  [V6]:PORT  NAME[:PORT]          PORT: a number, or a name that the Service or Pod gives it
//! ```
//!
//! A bare NAME is a DNS name, typed as a program in FROM would. This file knows no cluster; [`find`] does.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use portolan_model::{NsName, Text};

pub mod find;

#[cfg(test)]
mod tests;

/// Who sends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sender {
    /// A pod; one on its node's network sends as the node.
    Pod(NsName),
    /// A process of a node.
    Node(Text),
    /// A host on the nodes' LAN that is no node.
    Outside,
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Goal {
    /// A Service; `None`: its only port.
    Service(NsName, Option<Port>),
    /// A pod; `None`: the first port that it declares.
    Pod(NsName, Option<Port>),
    /// A node's own address.
    Node(Text, u16),
    /// The host outside.
    Outside(u16),
    /// An address.
    Address(SocketAddr),
    /// A DNS name as typed; `None`: the only port of the Service that it is of.
    Name(String, Option<Port>),
}

/// A port as written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// 1..=65535.
    Number(u16),
    /// A name that a Service or a Pod gives to a port: at most 15 letters, digits and `-`, one letter among them.
    Name(Text),
}

/// What is written is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// FROM.
    #[error("FROM {text:?}: {why}; say pod/NAME, pod/NAMESPACE/NAME, node/NAME or outside")]
    Sender {
        /// As written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// TO.
    #[error(
        "TO {text:?}: {why}; say svc/NAME[:PORT], pod/NAME[:PORT] (either with NAMESPACE/ before NAME), node/NAME:PORT, \
         ADDRESS:PORT, [IPV6]:PORT, outside:PORT or a DNS name[:PORT]"
    )]
    Goal {
        /// As written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Sender {
    /// Reads FROM; a pod that names no namespace is in `namespace`.
    ///
    /// # Errors
    /// It is none of the forms.
    pub fn parse(text: &str, namespace: &str) -> Result<Self, NoPlace> {
        let parts: Vec<&str> = text.split('/').collect();
        let read = match parts.as_slice() {
            ["outside"] => Ok(Self::Outside),
            [kind, rest @ ..] if is_pod(kind) && !rest.is_empty() => key(rest, namespace).map(Self::Pod),
            [kind, name] if is_node(kind) => object_name("a node", name).map(Self::Node),
            [kind, _] | [kind, _, _] if is_service(kind) => Err("a Service sends nothing".to_owned()),
            [_, _] => key(&parts, namespace).map(Self::Pod),
            [""] => Err("it is empty".to_owned()),
            [_] => Err("it does not say whether it is a pod or a node".to_owned()),
            _ => Err("there is no such form".to_owned()),
        };
        read.map_err(|why| NoPlace::Sender { text: text.to_owned(), why })
    }
}

impl Goal {
    /// Reads TO; a Service or pod that names no namespace is in `namespace`.
    ///
    /// # Errors
    /// It is none of the forms.
    pub fn parse(text: &str, namespace: &str) -> Result<Self, NoPlace> {
        read_goal(text, namespace).map_err(|why| NoPlace::Goal { text: text.to_owned(), why })
    }
}

fn read_goal(text: &str, namespace: &str) -> Result<Goal, String> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return match addr.port() {
            0 => Err("port 0 is none; ports are 1 to 65535".to_owned()),
            _ => Ok(Goal::Address(addr)),
        };
    }
    if let Ok(addr) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        let example = if addr.is_ipv6() { format!("[{addr}]:80") } else { format!("{addr}:80") };
        return Err(format!("an address needs a port, such as {example}"));
    }
    let (place, port) = match text.split_once(':') {
        Some((place, port)) => (place, Some(read_port(port)?)),
        None => (text, None),
    };
    let parts: Vec<&str> = place.split('/').collect();
    match parts.as_slice() {
        ["outside"] => number(port, "outside").map(Goal::Outside),
        [kind, rest @ ..] if is_service(kind) && !rest.is_empty() => {
            key(rest, namespace).map(|key| Goal::Service(key, port))
        }
        [kind, rest @ ..] if is_pod(kind) && !rest.is_empty() => key(rest, namespace).map(|key| Goal::Pod(key, port)),
        [kind, name] if is_node(kind) => {
            Ok(Goal::Node(object_name("a node", name)?, number(port, &format!("node/{name}"))?))
        }
        [name] => dns_name(name).map(|name| Goal::Name(name, port)),
        [_, _] => Err(format!("it does not say what {place} is")),
        _ => Err("there is no such form".to_owned()),
    }
}

fn is_pod(kind: &str) -> bool {
    matches!(kind, "pod" | "po")
}

fn is_node(kind: &str) -> bool {
    matches!(kind, "node" | "no")
}

fn is_service(kind: &str) -> bool {
    matches!(kind, "svc" | "service")
}

/// `NAME` or `NS/NAME`.
fn key(parts: &[&str], namespace: &str) -> Result<NsName, String> {
    match parts {
        [name] => Ok(NsName::new(namespace, object_name("a name", name)?)),
        [namespace, name] => Ok(NsName::new(object_name("a namespace", namespace)?, object_name("a name", name)?)),
        _ => Err("there are too many slashes".to_owned()),
    }
}

/// A DNS subdomain, as Kubernetes names objects: RFC 1123.
fn object_name(what: &str, text: &str) -> Result<Text, String> {
    let fits = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty() && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    match text.len() <= 253 && text.split('.').all(fits) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not {what} that Kubernetes allows (a-z, 0-9, - and .)")),
    }
}

/// A name as a resolver takes it: labels of up to 63 bytes, 253 in all, a dot at the end or none.
fn dns_name(text: &str) -> Result<String, String> {
    let fits = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len()) && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let bare = text.strip_suffix('.').unwrap_or(text);
    match () {
        () if text.is_empty() => Err("it is empty".to_owned()),
        () if bare.len() <= 253 && bare.split('.').all(fits) => Ok(text.to_owned()),
        () => Err(format!("{text:?} is no DNS name")),
    }
}

fn read_port(text: &str) -> Result<Port, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        let number = text.parse::<u16>().ok().filter(|number| *number != 0);
        return number.map(Port::Number).ok_or_else(|| format!("port {text} is none; ports are 1 to 65535"));
    }
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits =
        (1..=15).contains(&text.len()) && text.chars().all(inner) && text.contains(|c: char| c.is_ascii_lowercase());
    match fits {
        true => Ok(Port::Name(text.into())),
        false => Err(format!("{text:?} is neither a port number nor a port's name")),
    }
}

/// The number that nodes and hosts need: nothing else could say it.
fn number(port: Option<Port>, place: &str) -> Result<u16, String> {
    match port {
        Some(Port::Number(number)) => Ok(number),
        Some(Port::Name(name)) => Err(format!("{name:?} is no number, and {place} has no named ports")),
        None => Err(format!("the port is missing, as in {place}:80")),
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => write!(f, "pod/{key}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Outside => f.write_str("outside"),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = match self {
            Self::Service(key, port) => {
                write!(f, "svc/{key}")?;
                port
            }
            Self::Pod(key, port) => {
                write!(f, "pod/{key}")?;
                port
            }
            Self::Name(name, port) => {
                f.write_str(name)?;
                port
            }
            Self::Node(name, port) => return write!(f, "node/{name}:{port}"),
            Self::Outside(port) => return write!(f, "outside:{port}"),
            Self::Address(addr) => return write!(f, "{addr}"),
        };
        port.as_ref().map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}
