//! Members that a JSON document says twice.
//!
//! A parser keeps the last one and says nothing; Kubernetes warns, or refuses where the client asks
//! for strictness.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Paths of the members that stand twice or more, as `spec.ports[0].port`, each once; none for a
/// document that is no JSON.
pub fn of_json(document: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut parser = serde_json::Deserializer::from_slice(document);
    let place = Place { path: String::new(), found: &mut found };
    match place.deserialize(&mut parser) {
        Ok(()) => found,
        Err(_) => Vec::new(),
    }
}

/// One value of the document.
struct Place<'a> {
    path: String,
    found: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<(), D::Error> {
        // The parser itself refuses what is nested deeper than 128.
        parser.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut known = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            let path = match self.path.as_str() {
                "" => name.clone(),
                parent => format!("{parent}.{name}"),
            };
            if !known.insert(name) && !self.found.contains(&path) {
                self.found.push(path.clone());
            }
            members.next_value_seed(Place { path, found: &mut *self.found })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut at = 0;
        loop {
            let path = format!("{}[{at}]", self.path);
            let place = Place { path, found: &mut *self.found };
            if items.next_element_seed(place)?.is_none() {
                return Ok(());
            }
            at += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_stand_twice_are_named_by_their_path() {
        for (document, expected) in [
            (r#"{"a":1,"b":{"a":2}}"#, vec![]),
            (r#"{"a":1,"a":2,"a":3}"#, vec!["a"]),
            (r#"{"spec":{"ports":[{"port":1},{"port":2,"name":"x","port":3}]}}"#, vec!["spec.ports[1].port"]),
            (r#"{"a":{"x":1},"a":{"x":1,"x":null}}"#, vec!["a", "a.x"]),
            (r#"["a",[{"b":1.5,"b":true}]]"#, vec!["[1][0].b"]),
            (r#"{"a":1,"a":"#, vec![]),
        ] {
            assert_eq!(of_json(document.as_bytes()), expected, "{document}");
        }
    }

    #[test]
    fn a_deep_document_ends_the_search_and_not_the_program() {
        let deep = "[".repeat(100_000);
        assert!(of_json(deep.as_bytes()).is_empty());
    }
}
