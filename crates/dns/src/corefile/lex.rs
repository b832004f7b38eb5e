//! A Corefile's words: what stands between white space, quoted text as one word, comments left out.
//!
//! As CoreDNS's reader has it: `#` begins a comment wherever it stands outside quotes; within quotes only `\"` is an
//! escape and a line may end; `{` and `}` count when they stand alone. Other than there, a quote that is never closed is a
//! problem, and a brace in quotes is a word like any other.

use std::sync::Arc;

use super::Told;
use super::config::Place;

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub text: String,
    pub file: Arc<str>,
    pub line: usize,
    /// The first of its line.
    pub starts_line: bool,
    pub quoted: bool,
}

impl Word {
    pub fn place(&self) -> Place {
        Place { file: self.file.to_string(), line: self.line }
    }

    pub fn opens(&self) -> bool {
        !self.quoted && self.text == "{"
    }

    pub fn closes(&self) -> bool {
        !self.quoted && self.text == "}"
    }
}

/// The words of `text`.
pub(super) fn words(text: &str, file: &str, told: &mut Told) -> Vec<Word> {
    let mut lexer = Lexer { file: Arc::from(file), line: 1, starts_line: true, words: Vec::new() };
    let mut chars = text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\n' => lexer.end_line(),
            '#' => while chars.next_if(|char| *char != '\n').is_some() {},
            '"' => lexer.quoted(&mut chars, told),
            char if char.is_whitespace() => {}
            first => {
                let mut text = String::from(first);
                while let Some(char) = chars.next_if(|char| !char.is_whitespace() && *char != '#') {
                    text.push(char);
                }
                lexer.push(text, lexer.line, false);
            }
        }
    }
    lexer.words
}

struct Lexer {
    file: Arc<str>,
    line: usize,
    starts_line: bool,
    words: Vec<Word>,
}

impl Lexer {
    fn end_line(&mut self) {
        self.line += 1;
        self.starts_line = true;
    }

    fn push(&mut self, text: String, line: usize, quoted: bool) {
        let starts_line = std::mem::take(&mut self.starts_line);
        self.words.push(Word { text, file: self.file.clone(), line, starts_line, quoted });
    }

    /// Reads on behind an opening quote.
    fn quoted(&mut self, chars: &mut impl Iterator<Item = char>, told: &mut Told) {
        let begun = self.line;
        let mut text = String::new();
        let mut escaped = false;
        for char in chars {
            match (escaped, char) {
                (false, '"') => return self.push(text, begun, true),
                (false, '\\') => {
                    escaped = true;
                    continue;
                }
                (true, '"') => text.push('"'),
                (true, other) => text.extend(['\\', other]),
                (false, other) => text.push(other),
            }
            escaped = false;
            self.line += usize::from(char == '\n');
        }
        let place = Place { file: self.file.to_string(), line: begun };
        told.problem(&place, "a quote is opened here and never closed; close it with \"");
    }
}
