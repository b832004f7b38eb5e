//! Speakers against each other over a made network, against a stranger's bytes, and the RIB against its law.

mod mesh;
mod network;
mod rib;
mod session;
mod update;
