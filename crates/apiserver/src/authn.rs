//! Who asks: the user and groups in a client certificate of our CA, else the anonymous user.

use http::HeaderMap;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::status::{ApiError, ApiResult};

/// A known or anonymous user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

impl User {
    pub fn anonymous() -> User {
        User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] }
    }

    pub fn is_anonymous(&self) -> bool {
        self.name == "system:anonymous"
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|mine| mine == group)
    }

    /// The node's name, if this is a node.
    pub fn node(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|_| self.is_in("system:nodes"))
    }
}

/// CN is the user, each O a group. The chain has been verified by TLS before.
pub fn user_of_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    groups.push("system:authenticated".into());
    Some(User { name, groups })
}

const IMPERSONATE_USER: &str = "impersonate-user";
const IMPERSONATE_GROUP: &str = "impersonate-group";

/// The user an administrator wants to be for this request (`kubectl --as`), else the user as is.
pub fn impersonated(user: User, headers: &HeaderMap) -> ApiResult<User> {
    let said = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned);
    let mut groups: Vec<String> = said(IMPERSONATE_GROUP).collect();
    let Some(name) = said(IMPERSONATE_USER).next().filter(|name| !name.is_empty()) else {
        return match groups.is_empty() {
            true => Ok(user),
            false => Err(ApiError::internal(format!("requested {groups:?} without impersonating a user"))),
        };
    };
    if !user.is_in("system:masters") {
        let why = format!(
            "users \"{name}\" is forbidden: User \"{}\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            user.name
        );
        return Err(ApiError::new(403, "Forbidden", why));
    }
    if groups.is_empty() && name.starts_with("system:serviceaccount:") {
        groups.push("system:serviceaccounts".into());
        groups.extend(name.split(':').nth(2).map(|namespace| format!("system:serviceaccounts:{namespace}")));
    }
    let everybody = if name == User::anonymous().name { "system:unauthenticated" } else { "system:authenticated" };
    if !groups.iter().any(|group| group == everybody) {
        groups.push(everybody.into());
    }
    Ok(User { name, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(user: &str, group: &str, headers: &[(&'static str, &'static str)]) -> Result<User, u16> {
        let user = User { name: user.into(), groups: vec![group.into()] };
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
        impersonated(user, &headers.collect()).map_err(|error| error.code)
    }

    #[test]
    fn only_an_administrator_may_be_somebody_else() {
        let as_ann = [(IMPERSONATE_USER, "ann"), (IMPERSONATE_GROUP, "dev")];
        let ann = asked("admin", "system:masters", &as_ann).expect("allowed");
        assert_eq!((ann.name.as_str(), ann.groups), ("ann", vec!["dev".into(), "system:authenticated".into()]));
        assert_eq!(asked("bob", "dev", &as_ann), Err(403));
        assert_eq!(asked("bob", "dev", &[]).expect("himself").name, "bob");
        assert_eq!(asked("admin", "system:masters", &[(IMPERSONATE_GROUP, "dev")]), Err(500));
    }
}
