//! `kubernetes`, and the plugins that show more of its records: `k8s_external`, `autopath`, `transfer`.

use ipnet::IpNet;

use super::super::config::{Autopath, AutopathBy, Block, ExternalConfig, KubernetesConfig, PodMode, TransferConfig};
use super::super::tree::Entry;
use super::super::words::{net, problem, zones};
use super::super::{Problem, Told};
use super::each_option;
use crate::name::{Name, labels};

const OPTIONS: &str = "pods, ttl, fallthrough, namespaces, endpoint_pod_names, noendpoints, ignore, startup_timeout";

pub(super) fn kubernetes(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    let mut config = KubernetesConfig::new(zones_or_blocks(entry, block)?);
    each_option(entry, told, |option, told| kubernetes_option(&mut config, option, told));
    if config.zones.iter().all(is_reverse) && !config.zones.is_empty() {
        return Err(
            entry.wrong("`kubernetes` needs a zone for names, such as cluster.local, beside those for addresses")
        );
    }
    block.kubernetes = Some(config);
    Ok(())
}

fn kubernetes_option(config: &mut KubernetesConfig, option: &Entry, told: &mut Told) -> Result<(), Problem> {
    match option.name() {
        "pods" => config.pods = pod_mode(option)?,
        "ttl" => config.ttl_secs = option.number(0..=3600)?,
        "fallthrough" => config.fallthrough = option.fallthrough()?,
        "namespaces" => {
            let names = option.some("names of namespaces")?.iter().map(|word| word.text.clone());
            config.namespaces.extend(names);
        }
        "endpoint_pod_names" => {
            option.none()?;
            config.endpoint_pod_names = true;
        }
        "noendpoints" => {
            option.none()?;
            config.no_endpoints = true;
        }
        "ignore" => match option.one("`empty_service`")? {
            word if word.text == "empty_service" => config.ignore_empty_service = true,
            word => {
                return Err(problem(word, format!("`ignore {}`: what may stand there is empty_service", word.text)));
            }
        },
        "startup_timeout" => {
            config.startup_timeout = option.duration()?;
            let what = "`startup_timeout` of `kubernetes` has no effect here: answers begin at once, and what is not read \
                        yet is SERVFAIL";
            told.note(&option.place(), what);
        }
        "endpoint" | "tls" | "kubeconfig" | "apiserver_qps" | "apiserver_burst" | "apiserver_max_inflight" => {
            let what = format!("`{}` of `kubernetes` has no effect here: the agent reads the cluster", option.name());
            told.note(&option.place(), what);
        }
        "upstream" | "resyncperiod" | "transfer" => {
            let what =
                format!("`{}` of `kubernetes` is not an option of CoreDNS any more, and has no effect", option.name());
            told.note(&option.place(), what);
        }
        "labels" => return Err(option.not_here("kubernetes", "all Services are shown; narrow it by `namespaces`")),
        "namespace_labels" => return Err(option.not_here("kubernetes", "name the namespaces by `namespaces`")),
        "multicluster" => return Err(option.not_here("kubernetes", "a cluster shows its own Services; take it out")),
        "zonal" => return Err(option.not_here("kubernetes", "take it out")),
        _ => return Err(option.unknown("kubernetes", OPTIONS)),
    }
    Ok(())
}

fn pod_mode(option: &Entry) -> Result<PodMode, Problem> {
    let word = option.one("disabled, insecure or verified")?;
    match word.text.as_str() {
        "disabled" => Ok(PodMode::Disabled),
        "insecure" => Ok(PodMode::Insecure),
        "verified" => Ok(PodMode::Verified),
        other => Err(problem(word, format!("`pods {other}`: what may stand there is disabled, insecure or verified"))),
    }
}

pub(super) fn external(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    let mut config = ExternalConfig::new(zones_or_blocks(entry, block)?);
    each_option(entry, told, |option, _| {
        match option.name() {
            "ttl" => config.ttl_secs = option.number(0..=3600)?,
            "apex" => config.apex = apex(option)?,
            "headless" => {
                option.none()?;
                config.headless = true;
            }
            "fallthrough" => config.fallthrough = option.fallthrough()?,
            _ => return Err(option.unknown("k8s_external", "ttl, apex, headless, fallthrough")),
        }
        Ok(())
    });
    block.external = Some(config);
    Ok(())
}

fn apex(option: &Entry) -> Result<String, Problem> {
    let word = option.one("a label such as dns")?;
    match Name::root().child(&word.text) {
        Some(_) => Ok(word.text.to_ascii_lowercase()),
        None => Err(problem(word, format!("`apex {}`: one label may stand there, such as dns", word.text))),
    }
}

pub(super) fn autopath(entry: &Entry, block: &mut Block) -> Result<(), Problem> {
    entry.plain()?;
    let (by, zones_of) =
        entry.some("@kubernetes or a file such as /etc/resolv.conf")?.split_last().expect("at least one");
    let by = match by.text.strip_prefix('@') {
        Some("kubernetes") => AutopathBy::Kubernetes,
        Some(other) => {
            let what = format!("`autopath @{other}`: the plugin that knows search lists here is @kubernetes");
            return Err(problem(by, what));
        }
        None => AutopathBy::File(by.text.clone()),
    };
    block.autopath = Some(Autopath { zones: zones(zones_of)?, by });
    Ok(())
}

pub(super) fn transfer(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    let mut config = TransferConfig { zones: zones(entry.args())?, to: Vec::new() };
    let problems = told.problems.len();
    each_option(entry, told, |option, told| match option.name() {
        "to" => transfer_to(&mut config, option, told),
        "source" => Err(option.not_here("transfer", "nobody is notified, so there is no address to do it from")),
        _ => Err(option.unknown("transfer", "to")),
    });
    if config.to.is_empty() && told.problems.len() == problems {
        return Err(entry.wrong("`transfer` needs `to` with addresses, or * for everybody"));
    }
    block.transfers.push(config);
    Ok(())
}

fn transfer_to(config: &mut TransferConfig, option: &Entry, told: &mut Told) -> Result<(), Problem> {
    for word in option.some("addresses, or * for everybody")? {
        match word.text.as_str() {
            "*" => config.to.extend(everybody()),
            text => {
                // Secondaries are written with the port that they are notified at; who asks comes from any port.
                let socket = super::super::words::socket(text, 53).map(|socket| IpNet::from(socket.ip()));
                let allowed = socket.map_or_else(|| net(word), Ok);
                config.to.extend(told.take(allowed));
            }
        }
    }
    Ok(())
}

fn everybody() -> [IpNet; 2] {
    ["0.0.0.0/0", "::/0"].map(|net| net.parse().expect("all of a family is a network"))
}

/// The zones behind the plugin's name, else the block's.
fn zones_or_blocks(entry: &Entry, block: &Block) -> Result<Vec<Name>, Problem> {
    Ok(match entry.args() {
        [] => block.zones.clone(),
        words => zones(words)?,
    })
}

fn is_reverse(zone: &Name) -> bool {
    let labels: Vec<&[u8]> = labels(zone.as_wire()).collect();
    matches!(labels.as_slice(), [.., b"in-addr" | b"ip6", b"arpa"])
}
