//! The names that a resolver asks for, from what a program gave it: search list and ndots.
//!
//! As the C library does it (resolv.conf(5)): a final dot makes a name absolute; one with ndots dots or more is tried as it
//! is first and through the list after; any other through the list first.

use crate::name::Name;

/// A name to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) name: Name,
    /// The domain that was put after the given name, if one was.
    pub(super) search: Option<String>,
}

/// What is asked for in turn. Names that would break a limit of DNS are left out, as resolvers leave them out.
pub(super) fn candidates(given: &str, search: &[String], ndots: u8) -> Vec<Candidate> {
    let bare = Name::parse(given).ok().map(|name| Candidate { name, search: None });
    if given.ends_with('.') {
        return bare.into_iter().collect();
    }
    let joined = |domain: &String| {
        let name = Name::parse(&format!("{given}.{}", domain.trim_end_matches('.'))).ok()?;
        Some(Candidate { name, search: Some(domain.clone()) })
    };
    let listed = search.iter().filter(|domain| *domain != ".").filter_map(joined);
    let is_dotted = given.matches('.').count() >= usize::from(ndots);
    match is_dotted {
        true => bare.into_iter().chain(listed).collect(),
        false => listed.chain(bare).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_asks_in_this_order() {
        let search = ["default.svc.cluster.local.", "svc.cluster.local.", "."].map(str::to_owned);
        let asked = |given, ndots| -> Vec<String> {
            candidates(given, &search, ndots).iter().map(|candidate| candidate.name.to_string()).collect()
        };
        assert_eq!(asked("web", 5), ["web.default.svc.cluster.local.", "web.svc.cluster.local.", "web."]);
        assert_eq!(asked("web.", 5), ["web."]);
        assert_eq!(asked("a.b", 1), ["a.b.", "a.b.default.svc.cluster.local.", "a.b.svc.cluster.local."]);
        assert_eq!(asked("a..b", 1), [] as [&str; 0]);
    }
}
