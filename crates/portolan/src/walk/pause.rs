//! `--pause`: the reader says when the walk goes on.

use std::io::{BufRead, IsTerminal};

use crate::failure::Failure;

/// What the reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    GoOn,
    End,
}

/// # Errors
/// Nobody can answer: standard input is no terminal.
pub(super) fn needs_a_reader() -> Result<(), Failure> {
    if std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Failure::input(
        "--pause waits for Enter, and standard input is no terminal; run it in one, or leave --pause out",
    ))
}

/// Waits for one line: `q` and the end of input end the walk, all else goes on.
pub(super) fn wish(input: &mut dyn BufRead) -> Wish {
    let mut line = String::new();
    match input.read_line(&mut line) {
        Ok(read) if read > 0 && !matches!(line.trim(), "q" | "Q" | "quit") => Wish::GoOn,
        _ => Wish::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enter_goes_on_and_q_or_the_end_of_input_ends() {
        for (typed, wanted) in
            [("\n", Wish::GoOn), ("yes\n", Wish::GoOn), ("q\n", Wish::End), (" Q \n", Wish::End), ("", Wish::End)]
        {
            assert_eq!(wish(&mut typed.as_bytes()), wanted, "{typed:?}");
        }
    }
}
