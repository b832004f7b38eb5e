//! Diagnose: why a packet did not arrive, whose fault that is, and what to do about it. Evidence comes first; where it
//! does not tell, the diagnosis says what was last seen and where, and guesses nothing.
//!
//! ```text
//!  name unknown ─► names     a rule ended it ─► rules     went where no Service sends it ─► services
//!  refused, silent ─► ends   no route, wrong route ─► routes
//! ```

mod ends;
mod names;
mod routes;
mod rules;
mod services;

use portolan_model::ObjectRef;

use crate::evidence::ProbeEnd;
use crate::story::End;
use crate::tell::Case;

/// A cause, in the words of a [`crate::story::Verdict`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) because: Option<String>,
    pub(crate) object: Option<ObjectRef>,
    pub(crate) mend: Option<String>,
}

impl Cause {
    fn new(because: impl Into<String>) -> Self {
        Self { because: Some(because.into()), object: None, mend: None }
    }

    fn of(mut self, object: impl Into<Option<ObjectRef>>) -> Self {
        self.object = object.into();
        self
    }

    fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}

/// The cause of an end that is not as it should be.
pub(crate) fn cause(case: &Case<'_>, end: End) -> Cause {
    let not_sent = || match case.probed.map(|probed| &probed.end) {
        Some(ProbeEnd::NotSent { why }) => ends::not_sent(case, why),
        _ => Cause::new("nothing was sent, and no node saw anything"),
    };
    match end {
        End::NoSuchName => names::cause(case),
        End::NotSeen => ends::not_seen(case),
        End::NotSent => not_sent(),
        End::Delivered => services::bypass(case)
            .or_else(|| services::stale(case))
            .or_else(|| services::unmasqueraded(case))
            .unwrap_or_default(),
        _ => rules::cause(case)
            .or_else(|| services::bypass(case))
            .or_else(|| services::stale(case))
            .or_else(|| services::unmasqueraded(case))
            .or_else(|| services::unclaimed(case, end))
            .or_else(|| ends::refused(case, end))
            .or_else(|| routes::cause(case))
            .unwrap_or_else(|| ends::silent(case)),
    }
}
