//! `minimal`: authority and additional records that an answer does not need are left out. Absences, errors and
//! delegations keep theirs: a client needs the SOA of an absence to keep it (RFC 2308).

use crate::build::Reply;
use crate::wire::Rcode;

/// Takes off what an answer does not need.
pub fn strip(reply: &mut Reply<'_>) {
    if reply.rcode == Rcode::NOERROR && !reply.answers.is_empty() {
        reply.authority.clear();
        reply.additional.clear();
    }
}
