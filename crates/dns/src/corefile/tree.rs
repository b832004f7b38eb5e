//! From words to directives: server blocks, their heads and bodies; snippets and imports in place of their names,
//! variables in place of theirs.
//!
//! ```text
//!  head, head {                 RawBlock { heads, entries }
//!      name word word {             Entry { words: [name, word, word], body: Some([…]) }
//!          name word                    Entry { words: [name, word], body: None }
//! ```
//!
//! An import may stand wherever a line begins. It means a snippet if there is one of that name, else files. Imports
//! within imports go 16 deep at most and 50,000 words in all, so that no file grows without end. Words behind a
//! snippet's name replace `{args[0]}` and so on in it.

use std::collections::BTreeMap;

use super::config::Place;
use super::lex::{Word, words};
use super::{MAIN, Sources, Told};

/// How deep imports may lie within imports.
const DEEPEST: usize = 16;
/// How many words imports may bring in all.
const MOST_IMPORTED: usize = 50_000;
/// How deep braces may lie within braces: plugins need two.
const MOST_BRACES: usize = 8;

/// A server block before its words mean anything.
pub(super) struct RawBlock {
    pub place: Place,
    pub heads: Vec<Word>,
    pub entries: Vec<Entry>,
}

/// A line, with the lines in braces at its end.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// At least one.
    pub words: Vec<Word>,
    /// `None`: it has no braces.
    pub body: Option<Vec<Entry>>,
}

impl Entry {
    pub fn name(&self) -> &str {
        &self.words[0].text
    }

    pub fn args(&self) -> &[Word] {
        &self.words[1..]
    }

    pub fn place(&self) -> Place {
        self.words[0].place()
    }
}

/// The server blocks of a file.
pub(super) fn read(text: &str, sources: &Sources<'_>, told: &mut Told) -> Vec<RawBlock> {
    let mut expander = Expander { sources, told, snippets: BTreeMap::new(), imported: 0 };
    let main = words(text, MAIN, expander.told);
    let expanded = expander.expand(main, 0);
    Parser { words: expanded, at: 0, told }.blocks()
}

/// Puts what is imported in its place.
struct Expander<'a, 's> {
    sources: &'a Sources<'s>,
    told: &'a mut Told,
    snippets: BTreeMap<String, Vec<Word>>,
    imported: usize,
}

impl Expander<'_, '_> {
    /// `words` with its imports and variables replaced, its snippets taken out and kept.
    fn expand(&mut self, words: Vec<Word>, depth: usize) -> Vec<Word> {
        let mut out = Vec::with_capacity(words.len());
        let mut braces = 0_usize;
        let mut rest = words.into_iter().peekable();
        while let Some(mut word) = rest.next() {
            if word.starts_line && word.text == "import" && !word.quoted {
                let args: Vec<Word> =
                    std::iter::from_fn(|| rest.next_if(|next| !next.starts_line && !next.closes())).collect();
                self.import(&word, &args, depth, &mut out);
                continue;
            }
            let name = word.text.strip_prefix('(').and_then(|text| text.strip_suffix(')'));
            if let Some(name) = name.filter(|_| braces == 0 && rest.peek().is_some_and(Word::opens)) {
                self.keep_snippet(&word, name.to_owned(), &mut rest);
                continue;
            }
            braces = match (word.opens(), word.closes()) {
                (true, _) => braces + 1,
                (_, true) => braces.saturating_sub(1),
                _ => braces,
            };
            word.text = self.with_variables(&word);
            out.push(word);
        }
        out
    }

    /// Keeps the words up to the brace that closes the snippet.
    fn keep_snippet(&mut self, head: &Word, name: String, rest: &mut impl Iterator<Item = Word>) {
        let opening = rest.next();
        let mut depth = usize::from(opening.is_some());
        let mut body = Vec::new();
        for word in rest.by_ref() {
            depth = match (word.opens(), word.closes()) {
                (true, _) => depth + 1,
                (_, true) => depth - 1,
                _ => depth,
            };
            if depth == 0 {
                break;
            }
            body.push(word);
        }
        if depth > 0 {
            self.told.problem(&head.place(), format!("snippet `({name})` is never closed; close it with }}"));
        }
        if self.snippets.insert(name.clone(), body).is_some() {
            self.told.problem(&head.place(), format!("snippet `({name})` was declared before; keep one of the two"));
        }
    }

    fn import(&mut self, word: &Word, args: &[Word], depth: usize, out: &mut Vec<Word>) {
        let place = word.place();
        let Some((target, args)) = args.split_first() else {
            return self.told.problem(&place, "`import` needs the name of a snippet or of a file");
        };
        let name = self.with_variables(target);
        if depth >= DEEPEST {
            let what = format!("imports lie more than {DEEPEST} deep at `{name}`; does it import itself?");
            return self.told.problem(&place, what);
        }
        let brought = match self.snippets.get(&name) {
            Some(body) => vec![self.with_args(body.clone(), args, &place)],
            None => self.files(&name, args, &place),
        };
        for words in brought {
            self.imported += words.len();
            if self.imported > MOST_IMPORTED {
                let what = format!("imports bring more than {MOST_IMPORTED} words in all; does one import itself?");
                return self.told.problem(&place, what);
            }
            let starts_line = out.len();
            out.extend(self.expand(words, depth + 1));
            out.get_mut(starts_line).into_iter().for_each(|first| first.starts_line = true);
        }
    }

    /// The words of each file that `name` means.
    fn files(&mut self, name: &str, args: &[Word], place: &Place) -> Vec<Vec<Word>> {
        if let Some(arg) = args.first() {
            let what =
                format!("`{}`: a file takes no arguments, only a snippet does; `{name}` is no snippet", arg.text);
            self.told.problem(place, what);
            return Vec::new();
        }
        match (self.sources.files)(name) {
            Some(files) => files.iter().map(|(file, text)| words(text, file, self.told)).collect(),
            None if name.contains(['*', '?', '[']) => {
                self.told.note(place, format!("no file fits `import {name}`"));
                Vec::new()
            }
            None => {
                let what = format!("cannot import `{name}`: there is no snippet and no file of this name");
                self.told.problem(place, what);
                Vec::new()
            }
        }
    }

    /// `{args[0]}` and so on replaced by what stands behind the snippet's name.
    fn with_args(&mut self, mut body: Vec<Word>, args: &[Word], place: &Place) -> Vec<Word> {
        for word in body.iter_mut().filter(|word| word.text.contains("{args[")) {
            for (index, arg) in args.iter().enumerate() {
                word.text = word.text.replace(&format!("{{args[{index}]}}"), &arg.text);
            }
            if word.text.contains("{args[") {
                let what = format!("`{}`: the import gives {} arguments; give more", word.text, args.len());
                self.told.problem(place, what);
            }
        }
        body
    }

    /// `{%NAME%}`, `{$NAME}` and `{$NAME:default}` replaced by what the environment says: nothing, if it says nothing.
    fn with_variables(&mut self, word: &Word) -> String {
        let mut text = word.text.clone();
        for (start, end) in [("{%", "%}"), ("{$", "}")] {
            let mut done = 0;
            while let Some(from) = text[done..].find(start).map(|at| at + done) {
                let Some(to) = text[from..].find(end).map(|at| at + from) else { break };
                let name = &text[from + start.len()..to];
                if name.is_empty() {
                    break;
                }
                let value = self.variable(name, &word.place());
                text.replace_range(from..to + end.len(), &value);
                // A value is not looked through again.
                done = from + value.len();
            }
        }
        text
    }

    fn variable(&mut self, name: &str, place: &Place) -> String {
        let (name, default) = name.split_once(':').map_or((name, None), |(name, default)| (name, Some(default)));
        match ((self.sources.variables)(name), default) {
            (Some(value), _) => value,
            (None, Some(default)) => default.to_owned(),
            (None, None) => {
                self.told.note(place, format!("the variable {name} is not set; nothing stands in its place"));
                String::new()
            }
        }
    }
}

/// Reads words that need no replacing any more.
struct Parser<'t> {
    words: Vec<Word>,
    at: usize,
    told: &'t mut Told,
}

impl Parser<'_> {
    fn blocks(mut self) -> Vec<RawBlock> {
        let mut blocks = Vec::new();
        while self.at < self.words.len() {
            if let Some(block) = self.block() {
                blocks.push(block);
            }
        }
        blocks
    }

    fn block(&mut self) -> Option<RawBlock> {
        let first = self.words[self.at].clone();
        if first.closes() {
            self.told.problem(&first.place(), "`}` closes nothing: no brace is open here; take it out");
            self.at += 1;
            return None;
        }
        let heads = self.heads();
        let place = first.place();
        if heads.is_empty() {
            self.told.problem(&place, "a server block needs a zone before its `{`, such as `.:53 {`");
        }
        let entries = match self.words.get(self.at).is_some_and(Word::opens) {
            true => {
                self.at += 1;
                self.entries(&place, 1)
            }
            // A file that is one server block needs no braces.
            false => self.bare_entries(),
        };
        (!heads.is_empty()).then_some(RawBlock { place, heads, entries })
    }

    /// Zones before a `{`, on one line or with commas between them.
    fn heads(&mut self) -> Vec<Word> {
        let mut heads: Vec<Word> = Vec::new();
        let mut goes_on = true;
        while let Some(word) = self.words.get(self.at).filter(|word| !word.opens() && !word.closes()) {
            if word.starts_line && !heads.is_empty() && !goes_on {
                break;
            }
            goes_on = word.text.ends_with(',');
            let parts = word.text.split(',').filter(|part| !part.is_empty());
            heads.extend(parts.map(|part| Word { text: part.to_owned(), ..word.clone() }));
            self.at += 1;
        }
        if goes_on && let Some(last) = heads.last() {
            let what = format!("a zone is missing behind `{},`; add it or take the comma out", last.text);
            self.told.problem(&last.place(), what);
        }
        heads
    }

    /// Entries up to the `}` that closes what was opened at `opened`; the brace is behind us already.
    fn entries(&mut self, opened: &Place, depth: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        loop {
            match self.words.get(self.at) {
                None => {
                    self.told.problem(opened, "`{` is opened here and never closed; close it with }");
                    return entries;
                }
                Some(word) if word.closes() => {
                    self.at += 1;
                    return entries;
                }
                Some(_) => entries.extend(self.entry(depth)),
            }
        }
    }

    fn bare_entries(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        while self.words.get(self.at).is_some_and(|word| !word.closes()) {
            entries.extend(self.entry(1));
        }
        entries
    }

    fn entry(&mut self, depth: usize) -> Option<Entry> {
        let mut words: Vec<Word> = Vec::new();
        while let Some(word) = self.words.get(self.at) {
            if word.opens() || word.closes() || (word.starts_line && !words.is_empty()) {
                break;
            }
            words.push(word.clone());
            self.at += 1;
        }
        let brace = self.words.get(self.at).filter(|word| word.opens()).cloned();
        let Some(brace) = brace.filter(|brace| words.is_empty() || !brace.starts_line) else {
            return (!words.is_empty()).then_some(Entry { words, body: None });
        };
        if words.is_empty() {
            self.told.problem(&brace.place(), "`{` must stand at the end of the line of what it opens");
        }
        if depth >= MOST_BRACES {
            self.told.problem(&brace.place(), format!("braces lie more than {MOST_BRACES} deep; no plugin needs that"));
            self.at = self.words.len();
            return None;
        }
        self.at += 1;
        let body = self.entries(&brace.place(), depth + 1);
        (!words.is_empty()).then_some(Entry { words, body: Some(body) })
    }
}
