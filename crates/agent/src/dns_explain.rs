//! A pod's lookup as this node answers it: `GET /portolan/v1/dns/explain`; and what its pods asked: `GET /portolan/v1/dns/pods`.
//!
//! ```text
//!  name=web&type=A&pod=default/client ──► Handle::explain ──► Explanation
//!                                               └─ where an upstream has the last word: asked, as a client would ask
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use portolan_dns::explain::{Ending, Explanation, Inquiry, RecordTold, Told};
use portolan_dns::message::Message;
use portolan_dns::{Name, Rcode, Rtype, wire};
use portolan_model::NsName;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::api::NodeApi;

/// A client of DNS waits no longer.
const PATIENCE: Duration = Duration::from_secs(5);
const DNS_PORT: u16 = 53;

type Refused = (StatusCode, String);

/// Paths for the API server's certificate only.
pub(crate) fn routes() -> Router<Arc<NodeApi>> {
    Router::new().route("/portolan/v1/dns/explain", get(explain)).route("/portolan/v1/dns/pods", get(pods))
}

/// What a pod of this node asked its DNS, since the agent's start or the pod's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodQueries {
    /// Who asked.
    pub pod: NsName,
    /// All its queries.
    pub queries: u64,
    /// Steps of its search list that ended in "no such name".
    pub wasted: u64,
    /// The names that those were for, the most frequent first.
    #[serde(default)]
    pub names: Vec<NameInVain>,
}

/// A name as a pod's programs give it, and how many steps of the search list failed for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NameInVain {
    /// Without a final dot.
    pub name: String,
    /// At most this often: of a name that comes seldom, too many.
    pub queries: u64,
}

/// Pods that asked nothing are left out.
async fn pods(State(api): State<Arc<NodeApi>>) -> Json<Vec<PodQueries>> {
    let site = api.dns.site();
    let counted = site.pods().iter().map(|pod| {
        let (queries, wasted) = pod.counts();
        let names = pod
            .wasted_names()
            .into_iter()
            .map(|(name, queries)| NameInVain { name: name.to_string().trim_end_matches('.').to_owned(), queries });
        PodQueries { pod: pod.key.clone(), queries, wasted, names: names.collect() }
    });
    Json(counted.filter(|pod| pod.queries > 0).collect())
}

async fn explain(
    State(api): State<Arc<NodeApi>>,
    Query(asked): Query<Vec<(String, String)>>,
) -> Result<Json<Explanation>, Refused> {
    let inquiry = inquiry(&asked).map_err(|why| (StatusCode::BAD_REQUEST, format!("{why}\n")))?;
    let Some(own) = api.fixed.own_dns() else {
        let why = "this node's agent serves no cluster DNS (--cluster-dns is empty): ask who does\n";
        return Err((StatusCode::NOT_FOUND, why.to_owned()));
    };
    let mut told = api.dns.explain(&inquiry);
    ask_upstreams(&mut told, (own, DNS_PORT).into()).await;
    Ok(Json(told))
}

/// What the parameters ask.
fn inquiry(asked: &[(String, String)]) -> Result<Inquiry, String> {
    let mut inquiry = Inquiry::default();
    for (what, value) in asked {
        let wrong = |why: &str| format!("{what}={value}: {why}");
        match what.as_str() {
            "name" => inquiry.name.clone_from(value),
            "type" => inquiry.rtypes.push(Rtype::parse(value).ok_or_else(|| wrong("it is no record type"))?),
            "pod" => {
                let parts = value.split_once('/').ok_or_else(|| wrong("say namespace/name"))?;
                inquiry.pod = Some(NsName::new(parts.0, parts.1));
            }
            "address" => inquiry.address = Some(value.parse().map_err(|_| wrong("it is no address"))?),
            "ndots" => inquiry.ndots = Some(value.parse().map_err(|_| wrong("it is no number"))?),
            "search" => {
                let names = value.split(',').filter(|name| !name.is_empty()).map(Name::parse);
                inquiry.search = Some(names.collect::<Result<_, _>>().map_err(|e| wrong(&e.to_string()))?);
            }
            _ => return Err(wrong("ask name, type, pod, address, ndots, search")),
        }
    }
    match Name::parse(&inquiry.name) {
        Ok(_) if !inquiry.name.is_empty() => Ok(inquiry),
        Ok(_) => Err("ask for a name".to_owned()),
        Err(error) => Err(format!("name={}: {error}", inquiry.name)),
    }
}

/// Asks our own listener for what only upstreams know, and puts what it says in place.
async fn ask_upstreams(told: &mut Explanation, own: SocketAddr) {
    for step in &mut told.steps {
        let Ok(name) = Name::parse(&step.name) else { continue };
        for question in step.questions.iter_mut().filter(|question| question.outcome == Ending::Upstream) {
            let Some(rtype) = Rtype::parse(&question.rtype) else { continue };
            match tokio::time::timeout(PATIENCE, ask(&name, rtype, own)).await {
                Ok(Ok(reply)) => heard(question, &reply),
                Ok(Err(error)) => question.reason = format!("{}; asked just now: {error}", question.reason),
                Err(_) => question.reason = format!("{}; asked just now: no answer in time", question.reason),
            }
        }
    }
    told.resolved = told.steps.iter().any(portolan_dns::explain::Step::has_records);
    if !told.resolved {
        told.wasted_queries = told.steps.iter().map(|step| step.questions.len()).sum();
        // A list at whose end nothing is found is walked by the resolver too.
        told.autopath.saves_queries = 0;
    }
}

fn heard(question: &mut Told, reply: &Message) {
    question.outcome = match (reply.rcode, reply.answers.is_empty()) {
        (Rcode::NOERROR, false) => Ending::Records,
        (Rcode::NOERROR, true) => Ending::NoData,
        (Rcode::NXDOMAIN, _) => Ending::NoSuchName,
        _ => Ending::Error,
    };
    question.rcode = reply.rcode.to_string();
    let record = |record: &portolan_dns::message::Record| RecordTold {
        owner: record.owner.to_string(),
        rtype: record.rtype.to_string(),
        ttl_secs: record.ttl_secs,
        data: record.data.to_string(),
    };
    question.records = reply.answers.iter().map(record).collect();
}

/// By TCP, so that nothing is cut short.
async fn ask(name: &Name, rtype: Rtype, own: SocketAddr) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(own).await?;
    let query = wire::ask(rand::random(), &wire::question(name, rtype), false, None);
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &query].concat()).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    Message::parse(&reply).ok_or_else(|| std::io::Error::other("the reply cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(parameters: &[(&str, &str)]) -> Result<Inquiry, String> {
        let owned: Vec<(String, String)> =
            parameters.iter().map(|(what, value)| ((*what).to_owned(), (*value).to_owned())).collect();
        inquiry(&owned)
    }

    #[test]
    fn parameters_are_an_inquiry() {
        let inquiry = asked(&[
            ("name", "web"),
            ("type", "A"),
            ("type", "SRV"),
            ("pod", "shop/client"),
            ("ndots", "2"),
            ("search", "a.b.,c."),
        ])
        .expect("all of it is right");
        assert_eq!(inquiry.rtypes, [Rtype::A, Rtype::SRV]);
        assert_eq!(inquiry.pod, Some(NsName::new("shop", "client")));
        assert_eq!((inquiry.ndots, inquiry.search.map(|names| names.len())), (Some(2), Some(2)));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (parameters, word) in [
            (vec![("type", "A")], "ask for a name"),
            (vec![("name", "a..b")], "a..b"),
            (vec![("name", "a"), ("type", "WEB")], "type=WEB"),
            (vec![("name", "a"), ("pod", "web")], "namespace/name"),
            (vec![("name", "a"), ("ndots", "many")], "ndots=many"),
            (vec![("name", "a"), ("address", "here")], "address=here"),
            (vec![("nam", "a")], "nam=a"),
        ] {
            let why = asked(&parameters).expect_err("one is wrong");
            assert!(why.contains(word), "{parameters:?}: {why}");
        }
    }

    #[tokio::test]
    async fn what_an_upstream_says_takes_the_place_of_the_promise() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let own = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut query = vec![0; usize::from(stream.read_u16().await.expect("a length"))];
                stream.read_exact(&mut query).await.expect("a query");
                let is_a = query[query.len() - 3] == 1;
                let mut reply = [&query[..2], &[0x81, if is_a { 0x80 } else { 0x83 }], &query[4..]].concat();
                if is_a {
                    reply[7] = 1;
                    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
                }
                let framed = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
                stream.write_all(&framed).await.expect("loopback");
            }
        });
        let mut told = portolan_dns::explain::explain(
            &portolan_dns::Site::nothing(),
            &Inquiry { name: "www.example.org.".to_owned(), ..Inquiry::default() },
            Duration::ZERO,
        );
        for question in &mut told.steps[0].questions {
            question.outcome = Ending::Upstream;
        }
        ask_upstreams(&mut told, own).await;
        let endings: Vec<Ending> = told.steps[0].questions.iter().map(|question| question.outcome).collect();
        assert_eq!(endings, [Ending::Records, Ending::NoSuchName]);
        assert_eq!(told.steps[0].questions[0].records[0].data, "192.0.2.7");
        assert!(told.resolved);
    }
}
