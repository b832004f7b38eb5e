//! What the pod loop writes to the cluster: pod status, the end of a deletion, events.

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Event, EventSource, ObjectReference, Pod, PodStatus, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use portolan_pods::{PodApi, PodIdent};
use serde_json::json;
use tracing::{debug, warn};

/// The cluster as the pod loop sees it.
pub(crate) struct ClusterPodApi {
    pub(crate) client: Client,
    pub(crate) node: String,
}

impl PodApi for ClusterPodApi {
    fn patch_status(&self, pod: &PodIdent, status: PodStatus) -> BoxFuture<'_, Result<(), String>> {
        let (api, name, uid) = (self.pods(pod), pod.name.clone(), pod.uid.clone());
        async move {
            let patch = json!({ "metadata": { "uid": uid }, "status": status });
            match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => Ok(()),
                Err(error) if is_status(&error, &[404, 409]) => {
                    let _: () = debug!(pod = name, %error, "the pod is another or gone");
                    Ok(())
                }
                Err(error) => Err(format!("cannot write the status of pod {name}: {error}")),
            }
        }
        .boxed()
    }

    fn finalize_delete(&self, pod: &PodIdent) -> BoxFuture<'_, Result<(), String>> {
        let (api, name, uid) = (self.pods(pod), pod.name.clone(), pod.uid.clone());
        async move {
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
                ..DeleteParams::default()
            };
            match api.delete(&name, &params).await {
                Ok(_) => Ok(()),
                Err(error) if is_status(&error, &[404, 409]) => Ok(()),
                Err(error) => Err(format!("cannot finish the deletion of pod {name}: {error}")),
            }
        }
        .boxed()
    }

    fn event(&self, pod: &PodIdent, type_: &str, reason: &str, message: &str) -> BoxFuture<'_, ()> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &pod.namespace);
        let (pod, event) = (pod.clone(), event(pod, &self.node, type_, reason, message));
        async move {
            if let Err(error) = api.create(&PostParams::default(), &event).await {
                warn!(pod = %pod, %error, "an event was not taken");
            }
        }
        .boxed()
    }

    fn config_map(&self, namespace: &str, name: &str) -> BoxFuture<'_, Result<Option<ConfigMap>, String>> {
        let (api, name) = (Api::<ConfigMap>::namespaced(self.client.clone(), namespace), name.to_owned());
        async move { api.get_opt(&name).await.map_err(|e| format!("cannot read configmap {name}: {e}")) }.boxed()
    }

    fn secret(&self, namespace: &str, name: &str) -> BoxFuture<'_, Result<Option<Secret>, String>> {
        let (api, name) = (Api::<Secret>::namespaced(self.client.clone(), namespace), name.to_owned());
        async move { api.get_opt(&name).await.map_err(|e| format!("cannot read secret {name}: {e}")) }.boxed()
    }
}

impl ClusterPodApi {
    fn pods(&self, pod: &PodIdent) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace)
    }
}

pub(crate) fn is_status(error: &kube::Error, codes: &[u16]) -> bool {
    matches!(error, kube::Error::Api(status) if codes.contains(&status.code))
}

fn event(pod: &PodIdent, node: &str, type_: &str, reason: &str, message: &str) -> Event {
    let now = Time(k8s_openapi::jiff::Timestamp::now());
    Event {
        metadata: ObjectMeta {
            // As the field names events: two of one pod never fall into the same nanosecond.
            name: Some(format!("{}.{:x}", pod.name, now.0.as_nanosecond())),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some(type_.into()),
        reason: Some(reason.into()),
        message: Some(message.into()),
        source: Some(EventSource { component: Some("portolan".into()), host: Some(node.into()) }),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    }
}
