//! A lookup in a cluster of files: a nameserver of our own that listens nowhere and asks nobody.

use std::path::Path;
use std::sync::Arc;

use portolan_agent::dns::{self, Options, PodsChange};
use portolan_dns::ClientPod;
use portolan_dns::corefile::Corefile;
use portolan_model::Delta;

use super::{ExplainArgs, Question, Said, World, advice};
use crate::dns::configuration::{Configuration, Read};
use crate::dns::feed::Namespaces;
use crate::failure::Failure;

pub(super) async fn explain(question: &Question, args: &ExplainArgs) -> Result<Said, Failure> {
    let resolv_conf = Path::new("/etc/resolv.conf");
    let (configuration, Read { corefile, .. }) =
        Configuration::open(args.corefile.as_deref(), &[], resolv_conf, &args.ranges)?;
    let settings = args.ranges.settings("files");
    let mut objects = Vec::new();
    for value in crate::apply::read(&args.files)? {
        objects.extend(crate::render::object(value)?);
    }
    let world = World::of(objects, &question.pod, &settings, Namespaces::Used)?;
    let options = Options {
        own: settings.cluster_dns.clone(),
        settings: Arc::new(settings),
        corefile: by_itself(corefile),
        base: configuration.base(),
        listen: dns::Listen::At(Vec::new()),
        pages: Vec::new(),
        threads: 1,
    };
    let handle = dns::start(options).await.map_err(|e| Failure::input(e.to_string()))?;
    let inquiry = question.by_object(&world.asker);
    handle.pods(PodsChange { set: vec![client(&world)], gone: Vec::new() });
    handle.zones(world.snapshot.clone(), Delta::all(&world.snapshot), true);
    // It has taken all that in when it answers.
    handle.records().await;
    let mut told = handle.explain(&inquiry);
    advice::add(&mut told, &world);
    Ok(Said { told, node: None })
}

/// No page is opened, and no upstream is asked for a loop.
fn by_itself(mut corefile: Corefile) -> Corefile {
    for block in &mut corefile.blocks {
        (block.health, block.ready, block.metrics, block.detects_loops) = (None, None, None, false);
    }
    corefile
}

fn client(world: &World) -> ClientPod {
    let asker = &world.asker;
    ClientPod {
        key: asker.key.clone(),
        link: 0,
        addresses: if asker.host_network { Vec::new() } else { asker.addresses.clone() },
        search: asker.search.clone(),
        ndots: asker.ndots,
    }
}
