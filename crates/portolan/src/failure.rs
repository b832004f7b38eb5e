//! How a command ends: the message for a person, and the exit code for a script.

use std::fmt;
use std::process::ExitCode;

/// A failed command. Exit code 1: the answer is no; 2: wrong use or bad input; 3: the machine lacks something.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// The answer is no: not delivered, a difference, a failed check.
    pub fn no(message: impl fmt::Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// Wrong use or bad input.
    pub fn input(message: impl fmt::Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// The machine lacks something.
    pub fn machine(message: impl fmt::Display) -> Self {
        Self { code: 3, message: message.to_string() }
    }

    /// Prints the message and gives the exit code.
    pub fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("portolan: {}", self.message);
        }
        ExitCode::from(self.code)
    }

    /// A failure that passes on another command's exit code; what there was to say has been said.
    pub fn silent(code: u8) -> Self {
        Self { code, message: String::new() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
