//! Corefiles: CoreDNS's configuration, read as it is.
//!
//! ```text
//!  text ──► tokens ──► snippets, imports, variables ──► blocks of directives ──► Corefile (values), or errors with lines
//! ```
//!
//! Everything that is not understood is an error that names its file, line and word: nothing is passed over. This room
//! opens no file: what is imported is given in, by name.

pub mod config;
mod shipped;

pub use config::{Block, Corefile, Place};
