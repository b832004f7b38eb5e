//! `portolan dns explain`: how a pod's lookup goes, name by name: who answers, because of which objects, and what would
//! serve better.
//!
//! ```text
//!  API or -f ──► objects ──► the pod, its search list ──► Inquiry ─┬─► its node's agent: /portolan/v1/dns/explain
//!                   │                                              └─► a nameserver of our own, for files
//!                   └──► advice                    Explanation ◄─────┘ ──► text, or JSON: docs/dns.md names its fields
//! ```

mod advice;
mod files;
mod live;
mod print;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use portolan_agent::dns::{Explanation, Inquiry};
use portolan_dns::explain::Ending;
use portolan_dns::{Name, Rtype};
use portolan_ingest::{Event, Object};
use portolan_model::{NsName, Settings, Snapshot};
use portolan_story::place::{Sender, find};
use serde::Serialize;

use crate::dns::feed::{Feed, Namespaces};
use crate::dns::pods::{Asker, asker};
use crate::failure::Failure;
use crate::lab::LabName;
use crate::settings::{ClusterArgs, OutputFormat};

/// Command line of `dns explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// The name as a program would look it up; one with a final dot is absolute
    #[arg(value_name = "NAME")]
    asked: String,
    /// Who asks: pod/NAME or pod/NAMESPACE/NAME
    #[arg(long, value_name = "POD")]
    from: String,
    /// Which records: A, AAAA, SRV, PTR…; repeats. A and AAAA if none is said, as resolvers ask
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', value_parser = rtype)]
    types: Vec<Rtype>,
    /// Namespace of a pod that names none
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// As if the pod's resolv.conf said ndots:N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=15))]
    ndots: Option<u8>,
    /// As if the pod's search list were these domains
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',', value_parser = domain)]
    search: Option<Vec<Name>>,
    /// The cluster from files instead: Kubernetes objects in a file, a folder, or -; repeats
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// With -f: CoreDNS's configuration
    #[arg(long, value_name = "FILE", requires = "files")]
    corefile: Option<PathBuf>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
    #[command(flatten)]
    ranges: ClusterArgs,
    #[command(flatten)]
    lab: LabName,
    /// The cluster; unset takes $KUBECONFIG, else the lab that is up
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "files"])]
    kubeconfig: Option<PathBuf>,
}

fn rtype(text: &str) -> Result<Rtype, String> {
    Rtype::parse(text).ok_or_else(|| "it is no record type; say A, AAAA, SRV, PTR, TXT… or TYPE65".to_owned())
}

fn domain(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|e| format!("{e}; say a domain such as default.svc.cluster.local"))
}

/// A lookup, with what only the cluster knows beside it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    #[serde(flatten)]
    told: Explanation,
    /// Whose agent told it; none did where objects come from files.
    node: Option<String>,
}

/// Tells a lookup.
///
/// # Errors
/// Exit code 1 without a further message: nothing comes of it, as has been told. Or there is no such pod, or nobody answers.
pub async fn run(args: ExplainArgs) -> Result<(), Failure> {
    let question = Question::read(&args)?;
    let said = match args.files.is_empty() {
        true => live::explain(&question, &args).await?,
        false => files::explain(&question, &args).await?,
    };
    let text = match args.output {
        OutputFormat::Json => format!("{:#}\n", serde_json::to_value(&said).map_err(Failure::no)?),
        OutputFormat::Text => print::text(&said),
    };
    // A reader that has seen enough (`| head`) closes the pipe; the answer is in the exit code all the same.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if may_resolve(&said.told) { Ok(()) } else { Err(Failure::silent(1)) }
}

/// Records came, or an upstream has the last word, which nobody asked it for.
fn may_resolve(told: &Explanation) -> bool {
    let last = told.steps.last().into_iter().flat_map(|step| &step.questions);
    told.resolved || last.into_iter().any(|question| question.outcome == Ending::Upstream)
}

/// What the command line asks.
struct Question {
    pod: NsName,
    inquiry: Inquiry,
}

impl Question {
    fn read(args: &ExplainArgs) -> Result<Self, Failure> {
        let name = &args.asked;
        if name.is_empty() {
            return Err(Failure::input("NAME is empty: say one as a program would, such as web or www.example.org"));
        }
        if let Err(error) = Name::parse(name) {
            return Err(Failure::input(format!("NAME {name:?} is no DNS name: {error}")));
        }
        let pod = match Sender::parse(&args.from, &args.namespace) {
            Ok(Sender::Pod(key)) => key,
            _ => {
                let why = format!("--from {:?}: say pod/NAME or pod/NAMESPACE/NAME", args.from);
                return Err(Failure::input(why));
            }
        };
        let inquiry = Inquiry {
            name: name.clone(),
            rtypes: args.types.clone(),
            pod: Some(pod.clone()),
            search: args.search.clone(),
            ndots: args.ndots,
            ..Inquiry::default()
        };
        Ok(Self { pod, inquiry })
    }

    /// The same with all that the pod's object says.
    fn by_object(&self, asker: &Asker) -> Inquiry {
        Inquiry {
            address: asker.addresses.first().copied(),
            search: self.inquiry.search.clone().or_else(|| Some(asker.search.clone())),
            ndots: self.inquiry.ndots.or(Some(asker.ndots)),
            ..self.inquiry.clone()
        }
    }
}

/// The cluster's objects, and who asks among them.
struct World {
    snapshot: std::sync::Arc<Snapshot>,
    asker: Asker,
}

impl World {
    /// # Errors
    /// There is no such pod; the message names those whose names are near.
    fn of(objects: Vec<Object>, pod: &NsName, settings: &Settings, namespaces: Namespaces) -> Result<Self, Failure> {
        let asks = objects.iter().filter(|object| object.reference().key == *pod);
        let asker = asks.filter_map(|object| asker(object, settings)).next_back();
        let mut feed = Feed::new(settings.clone(), namespaces, []);
        feed.take(objects.into_iter().map(Event::Value).collect(), []);
        let snapshot = feed.snapshot().clone();
        match asker {
            Some(asker) => Ok(Self { snapshot, asker }),
            None => Err(Failure::input(find::unknown_key("Pod", pod, snapshot.pods.keys()))),
        }
    }
}
