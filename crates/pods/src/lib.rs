//! Pods on a node: images, container runtime, probes, logs, exec, and the loop that keeps them as asked.
//!
//! ```text
//!            set_pod / remove_pod                 Decision { status, actions, probes, wake }
//!  agent ───────────────────────► kubelet::Worker ◄──────────────── lifecycle::decide (pure)
//!    ▲   PodApi: status, events        │  ▲                                ▲
//!    │   PodNetwork: attach, detach    ▼  │ state, exits, probe results    │ spec, observed, now
//!    └──────────────────────────── shim (a process per pod) ───────────────┘
//! ```
//!
//! `lifecycle`, `spec`, `limits`, `env`, `resolv`, `etc_files` decide and never act; `kubelet`, `probe`, `volumes`, `image`,
//! `cgroups` and `shim` act. This room knows nothing of Services, DNS or routes: a pod's network is whatever
//! [`PodNetwork`] does. Behaviour follows Kubernetes 1.33's kubelet where a user can see it.

pub mod cgroups;
pub mod env;
pub mod etc_files;
pub mod exec;
mod ident;
mod ids;
pub mod image;
pub mod kubelet;
pub mod lifecycle;
pub mod limits;
pub mod logs;
pub mod probe;
pub mod resolv;
pub mod shim;
mod sockets;
pub mod spec;
pub mod volumes;

pub use exec::{ExecError, ExecRequest, ExecSession};
pub use ident::PodIdent;
pub use image::pull::ImagePuller;
pub use kubelet::{Kubelet, KubeletConfig, PodApi, PodNetwork};
pub use limits::{CgroupRoots, NodeLimits};
pub use logs::{LogError, LogOptions};
pub use shim::reexec;
