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

/// A plugin, as metrics and explanations name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Plugin {
    /// None: the packet itself was at fault, or nobody serves the name.
    #[default]
    None,
    Acl,
    Any,
    Autopath,
    Cache,
    External,
    Forward,
    Hosts,
    Kubernetes,
    Local,
    Loop,
    Rewrite,
    Rrl,
    Template,
    Transfer,
}

impl Plugin {
    /// How many there are.
    pub const COUNT: usize = 15;

    /// All of them, each at the place of its number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::None,
        Self::Acl,
        Self::Any,
        Self::Autopath,
        Self::Cache,
        Self::External,
        Self::Forward,
        Self::Hosts,
        Self::Kubernetes,
        Self::Local,
        Self::Loop,
        Self::Rewrite,
        Self::Rrl,
        Self::Template,
        Self::Transfer,
    ];

    /// Its name in a Corefile; none has none.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Acl => "acl",
            Self::Any => "any",
            Self::Autopath => "autopath",
            Self::Cache => "cache",
            Self::External => "k8s_external",
            Self::Forward => "forward",
            Self::Hosts => "hosts",
            Self::Kubernetes => "kubernetes",
            Self::Local => "local",
            Self::Loop => "loop",
            Self::Rewrite => "rewrite",
            Self::Rrl => "rrl",
            Self::Template => "template",
            Self::Transfer => "transfer",
        }
    }
}
