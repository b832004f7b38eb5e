//! A lookup in a live cluster: the agent of the pod's node tells it, upstreams asked.

use std::fmt::Write;
use std::time::Duration;

use kube::Client;
use portolan_agent::dns::{Explanation, Inquiry};
use portolan_dns::Name;
use portolan_ingest::Object;

use super::{ExplainArgs, Question, Said, World, advice};
use crate::dns::feed::Namespaces;
use crate::failure::Failure;
use crate::gather::{self, agents};

/// Beyond what the agent waits for upstreams.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn explain(question: &Question, args: &ExplainArgs) -> Result<Said, Failure> {
    let client = match args.lab.is_given() {
        true => crate::client::connect(Some(crate::lab::open(&args.lab)?.kubeconfig())).await?,
        false => crate::client::connect(args.kubeconfig.clone()).await?,
    };
    let mut objects = Vec::new();
    for value in gather::values_of_cluster(&client).await? {
        objects.extend(Object::from_value(&value).map_err(Failure::no)?);
    }
    let world = World::of(objects, &question.pod, &args.ranges.settings("any"), Namespaces::Told)?;
    let pod = &question.pod;
    let Some(node) = world.asker.node.clone() else {
        return Err(Failure::no(format!("Pod {pod} is on no node yet: nobody answers it; wait until it is scheduled")));
    };
    let mut told = ask(&client, &node, &question.inquiry).await?;
    // One in its node's network asks as the node does; its agent knows no search list of its own for it.
    if told.asker.search.is_empty() && !world.asker.search.is_empty() && question.inquiry.search.is_none() {
        told = ask(&client, &node, &question.by_object(&world.asker)).await?;
    }
    advice::add(&mut told, &world);
    Ok(Said { told, node: Some(node) })
}

async fn ask(client: &Client, node: &str, inquiry: &Inquiry) -> Result<Explanation, Failure> {
    let path = format!("dns/explain?{}", query(inquiry));
    let told = agents::ask::<Explanation>(client, node, &path, PATIENCE).await;
    told.map_err(|why| Failure::no(format!("the agent of {node} does not explain: {why}")))
}

fn query(inquiry: &Inquiry) -> String {
    let mut parameters = vec![format!("name={}", encoded(&inquiry.name))];
    parameters.extend(inquiry.rtypes.iter().map(|rtype| format!("type={rtype}")));
    parameters.extend(inquiry.pod.iter().map(|pod| format!("pod={}", encoded(&pod.to_string()))));
    parameters.extend(inquiry.address.iter().map(|address| format!("address={}", encoded(&address.to_string()))));
    parameters.extend(inquiry.ndots.iter().map(|ndots| format!("ndots={ndots}")));
    let search = inquiry.search.iter().map(|search| {
        let names: Vec<String> = search.iter().map(Name::to_string).collect();
        format!("search={}", encoded(&names.join(",")))
    });
    parameters.extend(search);
    parameters.join("&")
}

/// For a URI's query: everything but letters, digits and `-._~/` by its bytes (RFC 3986 §2.1).
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(byte as char),
            other => write!(out, "%{other:02X}").expect("writing to a String cannot fail"),
        }
    }
    out
}
