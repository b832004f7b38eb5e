//! Corefiles: CoreDNS's configuration, read as it is.
//!
//! ```text
//!  text ──► lex: words ──► tree: snippets, imports, variables ──► directives ──► plugins ──► Corefile (values)
//!                                                                               └──► problems, each with its line
//! ```
//!
//! Everything that is not understood is a problem that names its file, line and word: nothing is passed over. What is
//! understood but has no effect here is a note ([`read_with_notes`]). All problems of a file are told at once. [`Corefile`]
//! prints itself in a normal form that reads back as the same.
//!
//! This room opens no file and asks no environment: both are given in, by functions ([`Sources`]).
//!
//! Spec: CoreDNS 1.12's pages corefile(5) and of its plugins; [`support`] says what of them holds here.

pub mod config;
mod defaults;
mod heads;
pub mod kube_dns;
mod lex;
mod plugins;
mod print;
mod shipped;
pub mod support;
mod tree;
mod words;

#[cfg(test)]
mod tests;

use std::fmt;

pub use config::{Block, Corefile, Place};

/// Files by name, with their contents.
pub type NamedTexts = Vec<(String, String)>;

/// What a file may refer to.
pub struct Sources<'a> {
    /// Contents of the files that an `import` means, with their names, in order; a pattern (`*`) may mean none. `None`:
    /// there is no such file. The name is as written; whoever answers knows which folder it is relative to.
    pub files: &'a dyn Fn(&str) -> Option<NamedTexts>,
    /// The value of a variable of the environment, if it is set.
    pub variables: &'a dyn Fn(&str) -> Option<String>,
}

impl Sources<'static> {
    /// No files and no variables.
    pub fn none() -> Self {
        Self { files: &|_| None, variables: &|_| None }
    }
}

/// What is wrong at one place of a file, what may stand there, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Problem {
    pub place: Place,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.place.file, self.place.line, self.what)
    }
}

impl std::error::Error for Problem {}

/// The name that a main file's places carry.
pub const MAIN: &str = "Corefile";

/// Reads a Corefile.
///
/// # Errors
/// All problems of the file, in its order; at least one.
pub fn read(text: &str, sources: &Sources<'_>) -> Result<Corefile, Vec<Problem>> {
    read_with_notes(text, sources).map(|(corefile, _)| corefile)
}

/// As [`read`]; also says what was read and has no effect here, and why.
///
/// # Errors
/// All problems of the file, in its order; at least one.
pub fn read_with_notes(text: &str, sources: &Sources<'_>) -> Result<(Corefile, Vec<Problem>), Vec<Problem>> {
    let mut told = Told::default();
    let blocks = tree::read(text, sources, &mut told);
    let blocks: Vec<Block> = blocks.iter().flat_map(|block| plugins::blocks(block, &mut told)).collect();
    heads::refuse_doubles(&blocks, &mut told);
    if blocks.is_empty() && told.problems.is_empty() {
        let place = Place { file: MAIN.into(), line: 1 };
        told.problem(&place, "there is no server block; write one, such as `.:53 { forward . /etc/resolv.conf }`");
    }
    told.problems.sort();
    told.notes.sort();
    match told.problems.is_empty() {
        true => Ok((Corefile { blocks }, told.notes)),
        false => Err(told.problems),
    }
}

/// What is gathered while a file is read.
#[derive(Default)]
struct Told {
    problems: Vec<Problem>,
    notes: Vec<Problem>,
}

impl Told {
    /// More of them than a person reads; a file of nonsense has one for each word.
    const MOST: usize = 100;

    fn problem(&mut self, place: &Place, what: impl Into<String>) {
        if self.problems.len() < Self::MOST {
            self.problems.push(Problem { place: place.clone(), what: what.into() });
        }
    }

    /// The value, or its problem kept.
    fn take<T>(&mut self, read: Result<T, Problem>) -> Option<T> {
        read.map_err(|Problem { place, what }| self.problem(&place, what)).ok()
    }

    fn note(&mut self, place: &Place, what: impl Into<String>) {
        if self.notes.len() < Self::MOST {
            self.notes.push(Problem { place: place.clone(), what: what.into() });
        }
    }
}
