//! The edge: performs writes against the API server and brings back what it answered.
//!
//! Plain requests with JSON bodies; nothing is decided here but the order of a guard and its write.

use http::{Method, Request};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Client;
use serde_json::{Value, json};

use crate::object::{Id, Kind, Object, to_value};
use crate::plan::{Action, Alive, Deletion, Note};

/// What a write led to.
#[derive(Debug)]
pub enum Outcome {
    /// The object as the server has it now.
    Changed(Object),
    Removed {
        id: Id,
        uid: String,
    },
    /// Done, and the server did not show the object.
    Done,
    /// Not done: what would forbid it is alive.
    Spared,
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{method} {path}: {source}")]
    Request { method: Method, path: String, source: Box<kube::Error> },
    #[error("cannot build the request {method} {path}: {source}")]
    Build { method: Method, path: String, source: http::Error },
    #[error("the server's answer to {path} is not a {kind}: {source}")]
    Answer { path: String, kind: &'static str, source: serde_json::Error },
    #[error("namespace {namespace} still holds {plural}; it is emptied again")]
    NotEmpty { namespace: String, plural: &'static str },
}

impl WriteError {
    fn code(&self) -> Option<u16> {
        match self {
            WriteError::Request { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }

    /// What we knew was old, or what we wanted is there: news is on its way.
    pub fn is_expected(&self) -> bool {
        matches!(self.code(), Some(404 | 409)) || matches!(self, WriteError::NotEmpty { .. })
    }

    fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// What a user is told in an Event: the server's own words.
    pub fn message(&self) -> String {
        match self {
            WriteError::Request { source, .. } => match &**source {
                kube::Error::Api(status) => status.message.clone(),
                other => other.to_string(),
            },
            other => other.to_string(),
        }
    }
}

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";

pub async fn perform(client: &Client, action: Action) -> Result<Outcome, WriteError> {
    match action {
        Action::Create(object) => {
            let path = collection(object.kind(), &object.id().namespace);
            write(client, object.kind(), Method::POST, path, object.to_json()).await
        }
        Action::Replace(object) => {
            let path = path(&object.id());
            write(client, object.kind(), Method::PUT, path, object.to_json()).await
        }
        Action::ReplaceStatus(object) => {
            let path = format!("{}/status", path(&object.id()));
            write(client, object.kind(), Method::PUT, path, object.to_json()).await
        }
        Action::Patch { id, body } => write(client, id.kind, Method::PATCH, path(&id), body).await,
        Action::Bind { pod, uid, node } => bind(client, &pod, &uid, &node).await,
        Action::Delete(deletion) => delete(client, deletion).await,
        Action::Finalize(object) => finalize(client, object).await,
    }
}

async fn write(client: &Client, kind: Kind, method: Method, path: String, body: Value) -> Result<Outcome, WriteError> {
    let answer = send(client, method, &path, Some(body)).await?;
    parse(kind, &path, answer).map(Outcome::Changed)
}

async fn bind(client: &Client, pod: &Id, uid: &str, node: &str) -> Result<Outcome, WriteError> {
    let body = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let path = format!("{}/binding", path(pod));
    send(client, Method::POST, &path, Some(body)).await?;
    Ok(Outcome::Done)
}

async fn delete(client: &Client, deletion: Deletion) -> Result<Outcome, WriteError> {
    for alive in &deletion.unless_alive {
        if is_alive(client, alive).await? {
            return Ok(Outcome::Spared);
        }
    }
    let Deletion { id, uid, .. } = deletion;
    let mut body = json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": uid},
    });
    if let Some(secs) = deletion.grace_secs {
        body["gracePeriodSeconds"] = secs.into();
    }
    if let Some(policy) = deletion.propagation {
        body["propagationPolicy"] = policy.into();
    }
    let path = path(&id);
    let answer = match send(client, Method::DELETE, &path, Some(body)).await {
        Err(error) if error.is_not_found() => return Ok(Outcome::Removed { id, uid }),
        answer => answer?,
    };
    if answer["kind"] == "Status" {
        return Ok(Outcome::Removed { id, uid }); // one that stays is answered with itself
    }
    let object = parse(id.kind, &path, answer)?;
    Ok(match stays(object.meta()) {
        true => Outcome::Changed(object),
        false => Outcome::Removed { id, uid },
    })
}

/// Whether an object that a deletion returned is still there: it has finalizers or time to end.
fn stays(meta: &ObjectMeta) -> bool {
    let has_finalizers = meta.finalizers.as_ref().is_some_and(|all| !all.is_empty());
    let has_time = meta.deletion_grace_period_seconds.unwrap_or(0) > 0;
    meta.deletion_timestamp.is_some() && (has_finalizers || has_time)
}

async fn is_alive(client: &Client, alive: &Alive) -> Result<bool, WriteError> {
    match send(client, Method::GET, &path(&alive.id), None).await {
        Ok(answer) => Ok(match &alive.uid {
            Some(uid) => answer["metadata"]["uid"] == uid.as_str(),
            None => true,
        }),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The server is asked for what is left: our watches may lag behind.
async fn finalize(client: &Client, namespace: Object) -> Result<Outcome, WriteError> {
    let name = namespace.id().name;
    for kind in Kind::ALL {
        let info = kind.info();
        if !info.is_namespaced {
            continue;
        }
        let list = format!("{}?limit=1", collection(kind, &name));
        let answer = send(client, Method::GET, &list, None).await?;
        if answer["items"].as_array().is_some_and(|items| !items.is_empty()) {
            return Err(WriteError::NotEmpty { namespace: name, plural: info.plural });
        }
    }
    let path = format!("{}/finalize", path(&namespace.id()));
    send(client, Method::PUT, &path, Some(namespace.to_json())).await?;
    Ok(Outcome::Done)
}

async fn send(client: &Client, method: Method, path: &str, body: Option<Value>) -> Result<Value, WriteError> {
    let content_type = match method {
        Method::PATCH => MERGE_PATCH,
        _ => JSON,
    };
    let bytes = body.map(|body| body.to_string().into_bytes());
    let request = Request::builder()
        .method(method.clone())
        .uri(path)
        .header(http::header::CONTENT_TYPE, content_type)
        .header(http::header::ACCEPT, JSON)
        .body(bytes.unwrap_or_default());
    let request =
        request.map_err(|source| WriteError::Build { method: method.clone(), path: path.to_owned(), source })?;
    let answer = client.request::<Value>(request).await;
    answer.map_err(|source| WriteError::Request { method, path: path.to_owned(), source: Box::new(source) })
}

fn parse(kind: Kind, path: &str, answer: Value) -> Result<Object, WriteError> {
    Object::parse(kind, answer).map_err(|source| WriteError::Answer {
        path: path.to_owned(),
        kind: kind.info().kind,
        source,
    })
}

fn collection(kind: Kind, namespace: &str) -> String {
    let info = kind.info();
    let root = match info.group {
        "" => format!("/api/{}", info.version),
        group => format!("/apis/{group}/{}", info.version),
    };
    match info.is_namespaced {
        true => format!("{root}/namespaces/{namespace}/{}", info.plural),
        false => format!("{root}/{}", info.plural),
    }
}

fn path(id: &Id) -> String {
    format!("{}/{}", collection(id.kind, &id.namespace), id.name)
}

/// Writes an Event. One about an object without a namespace goes to `default`.
pub async fn tell(client: &Client, note: Note, now: Timestamp) -> Result<(), WriteError> {
    let event = event(note, now);
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let path = collection(Kind::Event, &namespace);
    send(client, Method::POST, &path, Some(to_value(&event))).await?;
    Ok(())
}

fn event(note: Note, now: Timestamp) -> Event {
    let namespace = match note.on.namespace.as_str() {
        "" => "default".to_owned(),
        namespace => namespace.to_owned(),
    };
    let kind = if note.is_warning { "Warning" } else { "Normal" };
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", note.on.name, now.as_nanosecond())),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(note.on.kind.api_version()),
            kind: Some(note.on.kind.info().kind.to_owned()),
            name: Some(note.on.name.clone()),
            namespace: some(note.on.namespace),
            uid: some(note.on_uid),
            resource_version: some(note.on_revision),
            field_path: None,
        },
        reason: Some(note.reason.to_owned()),
        message: Some(note.message),
        type_: Some(kind.to_owned()),
        source: Some(EventSource { component: Some(note.component.to_owned()), host: None }),
        reporting_component: Some(note.component.to_owned()),
        reporting_instance: Some(String::new()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}
