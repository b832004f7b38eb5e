//! Selectors over labels, in Calico's language: what pools, peers and filters choose nodes and namespaces by.
//!
//! ```text
//!  or    = and { "||" and }
//!  and   = not { "&&" not }
//!  not   = "!" not | "(" or ")" | term
//!  term  = all() | global() | has(KEY) | KEY (== | != | contains | starts with | ends with) "text" | KEY [not] in { "text", … }
//! ```
//!
//! A label that is not there is unequal to every text and not in any set. Spec: Calico, "Selectors" of its resource reference.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::names::Text;

/// Labels of an object.
pub type Labels = BTreeMap<Text, Text>;

/// Brackets deeper than this are refused: people write three at most.
const MOST_DEPTH: usize = 32;

/// A selector as it was written, ready to be asked. Equal if it is written alike.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector {
    text: Text,
    tree: Arc<Tree>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Tree {
    All,
    Has(Text),
    Is(Text, Test, Text),
    In(Text, Vec<Text>),
    Not(Box<Tree>),
    And(Vec<Tree>),
    Or(Vec<Tree>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Equal,
    Contains,
    StartsWith,
    EndsWith,
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("selector {text:?}, at character {at}: {what}")]
pub struct SelectorError {
    /// As given.
    pub text: String,
    /// Counted from 1.
    pub at: usize,
    /// What is wrong there, and what is expected.
    pub what: String,
}

impl Selector {
    /// Reads a selector; an empty one chooses everything.
    ///
    /// # Errors
    /// Where it stops to be one.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut reader = Reader { text, at: 0, depth: 0 };
        let tree = match text.trim().is_empty() {
            true => Tree::All,
            false => reader.or()?,
        };
        reader.skip_spaces();
        match reader.rest().is_empty() || text.trim().is_empty() {
            true => Ok(Self { text: text.into(), tree: Arc::new(tree) }),
            false => Err(reader.error("expected && or || or the end")),
        }
    }

    /// The selector that chooses everything.
    pub fn all() -> Self {
        Self { text: "all()".into(), tree: Arc::new(Tree::All) }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it chooses an object with these labels.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.tree.matches(labels)
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Selector {}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;

    fn try_from(text: String) -> Result<Self, SelectorError> {
        Self::parse(&text)
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.text.to_string()
    }
}

impl Tree {
    fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Has(key) => labels.contains_key(key),
            Self::Is(key, test, text) => labels.get(key).is_some_and(|value| test.holds(value, text)),
            Self::In(key, texts) => labels.get(key).is_some_and(|value| texts.contains(value)),
            Self::Not(tree) => !tree.matches(labels),
            Self::And(trees) => trees.iter().all(|tree| tree.matches(labels)),
            Self::Or(trees) => trees.iter().any(|tree| tree.matches(labels)),
        }
    }
}

impl Test {
    fn holds(self, value: &str, text: &str) -> bool {
        match self {
            Self::Equal => value == text,
            Self::Contains => value.contains(text),
            Self::StartsWith => value.starts_with(text),
            Self::EndsWith => value.ends_with(text),
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    /// In bytes.
    at: usize,
    depth: usize,
}

impl<'t> Reader<'t> {
    fn or(&mut self) -> Result<Tree, SelectorError> {
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return Err(self.error("brackets are too deep"));
        }
        let mut trees = vec![self.and()?];
        while self.take("||") {
            trees.push(self.and()?);
        }
        self.depth -= 1;
        Ok(one_or(trees, Tree::Or))
    }

    fn and(&mut self) -> Result<Tree, SelectorError> {
        let mut trees = vec![self.not()?];
        while self.take("&&") {
            trees.push(self.not()?);
        }
        Ok(one_or(trees, Tree::And))
    }

    fn not(&mut self) -> Result<Tree, SelectorError> {
        let mut negated = false;
        while self.take("!") {
            negated = !negated;
        }
        let tree = match self.take("(") {
            true => {
                let tree = self.or()?;
                self.expect(")")?;
                tree
            }
            false => self.term()?,
        };
        Ok(if negated { Tree::Not(Box::new(tree)) } else { tree })
    }

    fn term(&mut self) -> Result<Tree, SelectorError> {
        let key = self.key()?;
        if self.take("(") {
            return self.call(key);
        }
        let key: Text = key.into();
        if self.take("==") {
            return Ok(Tree::Is(key, Test::Equal, self.quoted()?));
        }
        if self.take("!=") {
            return Ok(Tree::Not(Box::new(Tree::Is(key, Test::Equal, self.quoted()?))));
        }
        for (words, test) in [
            (&["contains"][..], Test::Contains),
            (&["starts", "with"], Test::StartsWith),
            (&["ends", "with"], Test::EndsWith),
        ] {
            if self.take_words(words) {
                return Ok(Tree::Is(key, test, self.quoted()?));
            }
        }
        if self.take_words(&["not", "in"]) {
            return Ok(Tree::Not(Box::new(Tree::In(key, self.set()?))));
        }
        if self.take_words(&["in"]) {
            return Ok(Tree::In(key, self.set()?));
        }
        Err(self.error("expected ==, !=, in, not in, contains, starts with or ends with"))
    }

    fn call(&mut self, name: &str) -> Result<Tree, SelectorError> {
        let tree = match name {
            "all" | "global" => Tree::All,
            "has" => Tree::Has(self.key()?.into()),
            _ => return Err(self.error(&format!("there is no {name}(): say all(), global() or has(LABEL)"))),
        };
        self.expect(")")?;
        Ok(tree)
    }

    fn set(&mut self) -> Result<Vec<Text>, SelectorError> {
        self.expect("{")?;
        let mut texts = Vec::new();
        if self.take("}") {
            return Ok(texts);
        }
        loop {
            texts.push(self.quoted()?);
            if !self.take(",") {
                self.expect("}")?;
                return Ok(texts);
            }
        }
    }

    fn key(&mut self) -> Result<&'t str, SelectorError> {
        self.skip_spaces();
        let rest = self.rest();
        let is_of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
        let length = rest.find(|c| !is_of_key(c)).unwrap_or(rest.len());
        match length {
            0 => Err(self.error("expected a label, all(), has(LABEL) or a bracket")),
            _ => {
                self.at += length;
                Ok(&rest[..length])
            }
        }
    }

    fn quoted(&mut self) -> Result<Text, SelectorError> {
        self.skip_spaces();
        let rest = self.rest();
        let Some(mark) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            return Err(self.error("expected a text in quotes"));
        };
        match rest[1..].find(mark) {
            Some(length) => {
                self.at += length + 2;
                Ok(rest[1..=length].into())
            }
            None => Err(self.error("this quote is not closed")),
        }
    }

    fn take(&mut self, sign: &str) -> bool {
        self.skip_spaces();
        let is_there = self.rest().starts_with(sign) && !(sign == "!" && self.rest().starts_with("!="));
        self.at += if is_there { sign.len() } else { 0 };
        is_there
    }

    /// Takes all of these words, or nothing.
    fn take_words(&mut self, words: &[&str]) -> bool {
        let before = self.at;
        for word in words {
            match self.key() {
                Ok(found) if found == *word => {}
                _ => {
                    self.at = before;
                    return false;
                }
            }
        }
        true
    }

    fn expect(&mut self, sign: &str) -> Result<(), SelectorError> {
        if self.take(sign) { Ok(()) } else { Err(self.error(&format!("expected {sign}"))) }
    }

    fn skip_spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn error(&self, what: &str) -> SelectorError {
        let at = self.text[..self.at].chars().count() + 1;
        SelectorError { text: self.text.to_owned(), at, what: what.to_owned() }
    }
}

fn one_or(mut trees: Vec<Tree>, join: fn(Vec<Tree>) -> Tree) -> Tree {
    match trees.len() {
        1 => trees.remove(0),
        _ => join(trees),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(of: &[(&str, &str)]) -> Labels {
        of.iter().map(|(key, value)| (Text::from(*key), Text::from(*value))).collect()
    }

    #[test]
    fn a_selector_chooses_what_its_words_say() {
        let node = labels(&[("rack", "r1"), ("kubernetes.io/hostname", "node-1"), ("gpu", "")]);
        for (selector, expected) in [
            ("", true),
            ("all()", true),
            ("global()", true),
            ("!all()", false),
            ("has(gpu)", true),
            ("has( missing )", false),
            ("rack == 'r1'", true),
            ("rack == \"r2\"", false),
            ("rack != 'r2'", true),
            ("missing != 'r2'", true),
            ("missing == ''", false),
            ("gpu == ''", true),
            ("rack in {'r1', 'r2'}", true),
            ("rack in {}", false),
            ("rack not in {'r1'}", false),
            ("missing not in {'r1'}", true),
            ("kubernetes.io/hostname starts with 'node'", true),
            ("kubernetes.io/hostname ends with '-1'", true),
            ("kubernetes.io/hostname contains 'x'", false),
            ("has(gpu) && rack == 'r2'", false),
            ("has(gpu) && rack == 'r2' || all()", true),
            ("has(gpu) && (rack == 'r2' || rack == 'r1')", true),
            ("!(has(gpu) || has(rack))", false),
            ("!!has(gpu)", true),
            ("  has(gpu)&&rack=='r1'  ", true),
        ] {
            let selector = Selector::parse(selector).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(selector.matches(&node), expected, "{selector}");
        }
    }

    #[test]
    fn what_is_no_selector_is_told_with_its_place() {
        for (text, at, word) in [
            ("rack = 'r1'", 6, "expected =="),
            ("rack == r1", 9, "in quotes"),
            ("rack == 'r1", 9, "not closed"),
            ("has(rack", 9, "expected )"),
            ("some()", 6, "there is no some()"),
            ("rack in 'r1'", 9, "expected {"),
            ("all() all()", 7, "expected && or ||"),
            ("(all()", 7, "expected )"),
            ("&&", 1, "expected a label"),
            ("é == 'x'", 1, "expected a label"),
        ] {
            let error = Selector::parse(text).expect_err(text);
            assert_eq!(error.at, at, "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
        let deep = "(".repeat(100_000);
        assert!(Selector::parse(&deep).expect_err("too deep").what.contains("too deep"));
    }
}
