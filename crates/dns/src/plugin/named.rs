//! The plugins by name, for those who count and explain.

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
