//! Which domains lead to which tenants.

use super::{Domain, Seat};

/// A domain of one way in, and the tenant it leads to. A domain may have a route for HTTP and one for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub domain: Domain,
    /// The route for TLS.
    pub ssl: bool,
    pub tenant: Seat,
    /// Another port than the one that the service names with `web:` or `ssl:`.
    pub port: Option<u16>,
}

/// A certificate with which TLS is ended for a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cert {
    pub domain: Domain,
    /// From a CA by ACME, and renewed there.
    pub acme: bool,
    pub not_after_unix: Option<u64>,
    /// When it is tried to renew it.
    pub renew_at_unix: Option<u64>,
    /// What is wrong with it, or with renewing it.
    pub trouble: Option<String>,
}

/// A route as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedRoute {
    pub route: Route,
    /// `serving`, `held` or `down`.
    pub state: String,
    /// Why it is held or down, or what there is to do about it.
    pub why: Option<String>,
    /// Where requests go, ADDR:PORT.
    pub upstream: Option<String>,
    /// Requests that wait.
    pub waiting: u64,
}
