//! What a plugin says to a question: the one word that all of them have in common.

use crate::answer::Alias;
use crate::build::Reply;

/// What a plugin that was asked says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said<'r> {
    /// This is the reply.
    Reply(Reply<'r>),
    /// The name is an alias, over these links (at least one), of a name that this plugin does not hold. Whoever asked
    /// resolves the last target as if a client had asked for it, and puts the links before what comes.
    Alias(Vec<Alias>),
    /// Send nothing.
    Silence,
    /// Not its business, or it found nothing and lets the query go on: the next plugin is asked.
    Next,
}
