//! Corefiles as others write them, and as nobody should: the one place that calls the reader.

mod fuzz;
mod kubeadm;
mod law;
mod page;
mod problems;
mod reading;
mod variants;

use super::*;
use crate::name::Name;

pub fn name(text: &str) -> Name {
    Name::parse(text).expect("a name in a test")
}

/// The one block of a file that needs nothing else.
pub fn block(text: &str) -> Block {
    let mut blocks = whole(text).blocks;
    assert_eq!(blocks.len(), 1, "{text}");
    blocks.remove(0)
}

pub fn whole(text: &str) -> Corefile {
    read(text, &Sources::none()).unwrap_or_else(|problems| panic!("{text}\n{}", told(&problems)))
}

/// The problems of a file, as a person sees them.
pub fn problems(text: &str) -> String {
    match read(text, &Sources::none()) {
        Ok(corefile) => panic!("no problem in\n{text}\nread as\n{corefile}"),
        Err(problems) => told(&problems),
    }
}

pub fn told(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

/// The same without the lines that it was written in.
pub fn without_places(mut corefile: Corefile) -> Corefile {
    for block in &mut corefile.blocks {
        block.place = Place::default();
        block.forwards.iter_mut().for_each(|forward| forward.place = Place::default());
    }
    corefile
}
