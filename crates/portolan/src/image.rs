//! `portolan image`: the store of container images.

mod bars;
mod sources;

use std::os::fd::{FromRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use portolan_pods::image::login::logins_of;
use portolan_pods::image::{HostImage, Login, PullOptions, Reference, Store, broker, nginx_from};

pub use self::sources::RegistryArgs;
use self::sources::SourceArgs;
use crate::failure::Failure;

/// How long who fetches for a lab waits for the next question.
const IDLE: Duration = Duration::from_secs(10);

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
        /// The archive, a folder of OCI layout, or - for standard input
        archive: PathBuf,
        /// Name to keep its image under
        #[arg(long)]
        name: Option<String>,
    },
    /// Fetch an image from a registry
    Pull {
        #[command(flatten)]
        store: StoreArgs,
        /// Such as nginx:latest
        reference: String,
        #[command(flatten)]
        sources: SourceArgs,
        /// Take the login for the registry from this file, which `docker login` or `podman login` wrote
        #[arg(long, value_name = "FILE")]
        auth_file: Option<PathBuf>,
    },
    /// Fetch for a lab's nodes, at an inherited socket
    #[command(hide = true)]
    Serve {
        #[command(flatten)]
        store: StoreArgs,
        /// Descriptor of the listening socket
        #[arg(long, value_name = "FD", value_parser = clap::value_parser!(i32).range(3..))]
        listen_fd: RawFd,
        #[command(flatten)]
        registries: RegistryArgs,
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
        ImageCommand::Import { store, archive, name } => import(&store.open()?, &archive, name.as_deref()),
        ImageCommand::Pull { store, reference, sources, auth_file } => {
            let logins = auth_file.map_or_else(|| Ok(Vec::new()), |file| logins_from(&file))?;
            pull(&store.open()?, &reference, &sources, &logins)
        }
        ImageCommand::Serve { store, listen_fd, registries } => {
            // SAFETY: whoever started this passed the descriptor, and it is taken once.
            let listener = unsafe { std::os::unix::net::UnixListener::from_raw_fd(listen_fd) };
            let (store, options) = (store.open()?, registries.options());
            crate::process::block_on(async {
                broker::serve(listener, store, options, IDLE)
                    .await
                    .map_err(|e| Failure::no(format!("--listen-fd: {e}")))
            })
        }
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

/// A file that cannot be taken in is bad input, whatever is wrong with it.
fn import(store: &Store, archive: &Path, name: Option<&str>) -> Result<(), Failure> {
    if let Some(name) = name {
        Reference::parse(name).map_err(Failure::input)?;
    }
    let taken = if archive.as_os_str() == "-" {
        store.import_stream(std::io::stdin().lock(), Path::new("standard input"), name)
    } else {
        store.import(archive, name)
    };
    for image in taken.map_err(Failure::input)? {
        println!("{} {}", image.reference, image.digest);
    }
    Ok(())
}

fn logins_from(file: &Path) -> Result<Vec<Login>, Failure> {
    let failed = |reason: String| Failure::input(format!("--auth-file: {}: {reason}", file.display()));
    let bytes = std::fs::read(file).map_err(|e| failed(e.to_string()))?;
    logins_of(&bytes).map_err(failed)
}

/// The registry that the name means may be asked: the user said so by naming it.
fn pull(store: &Store, reference: &str, sources: &SourceArgs, logins: &[Login]) -> Result<(), Failure> {
    let registry = Reference::parse(reference).map_err(Failure::input)?.registry;
    let options = PullOptions { registries: vec![registry], ..sources.options() };
    let bars = Arc::new(bars::Bars::on_stderr());
    let pulled = crate::process::block_on(async {
        store.pull(reference, &options, logins, bars.clone()).await.map_err(Failure::no)
    });
    bars.clear();
    let image = pulled?;
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
