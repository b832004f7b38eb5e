//! `portolan image`: the store of container images.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use portolan_pods::image::{HostImage, PullOptions, Reference, Store, nginx_from};

use crate::failure::Failure;

/// Where images are kept.
#[derive(Args, Clone, Debug)]
pub struct StoreArgs {
    /// Where container images are kept
    #[arg(long, value_name = "DIR", env = "PORTOLAN_IMAGES")]
    image_store: Option<PathBuf>,
}

impl StoreArgs {
    fn open(&self) -> Result<Store, Failure> {
        let dir = self.image_store.clone().unwrap_or_else(crate::lab::default_image_store);
        Store::open(&dir).map_err(Failure::no)
    }
}

/// What can be done with images.
#[derive(Subcommand, Clone, Debug)]
pub enum ImageCommand {
    /// List images
    Ls(StoreArgs),
    /// Take in an archive that `docker save` or an OCI tool wrote
    Import {
        #[command(flatten)]
        store: StoreArgs,
        /// The archive
        archive: PathBuf,
        /// Name to keep it under, if the archive has none
        #[arg(long)]
        name: Option<String>,
    },
    /// Fetch an image from a registry
    Pull {
        #[command(flatten)]
        store: StoreArgs,
        /// Such as nginx:latest
        reference: String,
        /// Ask HOST[:PORT] in place of a registry
        #[arg(long, value_name = "REGISTRY=HOST", value_parser = parse_mirror)]
        mirror: Vec<(String, String)>,
        /// Talk plain HTTP to this registry, as HOST[:PORT]
        #[arg(long, value_name = "HOST")]
        insecure: Vec<String>,
    },
    /// Remove an image
    Rm {
        #[command(flatten)]
        store: StoreArgs,
        /// Its name
        reference: String,
    },
    /// Pack programs of this machine, with the libraries they need, into an image
    BuildFromHost {
        #[command(flatten)]
        store: StoreArgs,
        /// Name of the image
        name: String,
        /// A program to pack; repeats. The first one is the image's command
        #[arg(long = "program", value_name = "PATH")]
        programs: Vec<PathBuf>,
        /// Look for programs and libraries below this folder first
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
        /// Pack Debian's nginx from --root as the official image has it
        #[arg(long, conflicts_with = "programs", requires = "root")]
        nginx: bool,
    },
}

/// Carries one out.
///
/// # Errors
/// What the store says.
pub fn run(command: ImageCommand) -> Result<(), Failure> {
    match command {
        ImageCommand::Ls(store) => list(&store.open()?),
        ImageCommand::Import { store, archive, name } => {
            for image in store.open()?.import(&archive, name.as_deref()).map_err(Failure::no)? {
                println!("{} {}", image.reference, image.digest);
            }
            Ok(())
        }
        ImageCommand::Pull { store, reference, mirror, insecure } => pull(&store.open()?, &reference, mirror, insecure),
        ImageCommand::Rm { store, reference } => store.open()?.remove(&reference).map_err(Failure::no),
        ImageCommand::BuildFromHost { store, name, programs, root, nginx } => {
            let spec = match (nginx, root) {
                (true, Some(root)) => HostImage { name, ..nginx_from(&root) },
                (_, root) => of_programs(name, programs, root)?,
            };
            let image = store.open()?.build_from_host(&spec).map_err(Failure::no)?;
            println!("{} {}", image.reference, image.digest);
            Ok(())
        }
    }
}

fn of_programs(name: String, programs: Vec<PathBuf>, root: Option<PathBuf>) -> Result<HostImage, Failure> {
    let first = programs.first().ok_or_else(|| Failure::input("--program: name at least one program to pack"))?;
    let entrypoint = vec![first.to_string_lossy().into_owned()];
    Ok(HostImage { name, entrypoint, programs, root, ..HostImage::default() })
}

/// Reads `docker.io=127.0.0.1:5000`.
pub fn parse_mirror(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((registry, host)) if !registry.is_empty() && !host.is_empty() => {
            Ok((registry.to_owned(), host.to_owned()))
        }
        _ => Err("write REGISTRY=HOST[:PORT], such as docker.io=127.0.0.1:5000".to_owned()),
    }
}

/// The registry that the name means may be asked: the user said so by naming it.
fn pull(store: &Store, reference: &str, mirrors: Vec<(String, String)>, insecure: Vec<String>) -> Result<(), Failure> {
    let registry = Reference::parse(reference).map_err(Failure::input)?.registry;
    let options = PullOptions { registries: vec![registry], mirrors: mirrors.into_iter().collect(), insecure };
    let image = crate::process::block_on(async { store.pull(reference, &options).await.map_err(Failure::no) })?;
    println!("{} {}", image.reference, image.digest);
    Ok(())
}

fn list(store: &Store) -> Result<(), Failure> {
    println!("{:<40} {:<20} {:>10}", "IMAGE", "DIGEST", "SIZE");
    for image in store.list().map_err(Failure::no)? {
        let short: String = image.digest.chars().take(19).collect();
        println!("{:<40} {short:<20} {:>7} kB", image.reference, image.size_bytes / 1000);
    }
    Ok(())
}
