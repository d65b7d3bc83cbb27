//! Domains and routes as messages.

use super::{nonsense, proto};
use crate::model::publish::{Cert, PublishedRoute, Route};
use crate::model::{Domain, Result};

fn port_in(port: u32) -> Result<Option<u16>> {
    match u16::try_from(port) {
        Ok(0) => Ok(None),
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(nonsense("a port that is none")),
    }
}

pub fn publish_out(route: &Route) -> proto::Publish {
    proto::Publish {
        tenant: route.tenant.to_string(),
        domain: route.domain.to_string(),
        port: route.port.unwrap_or(0).into(),
        ssl: route.ssl,
    }
}

pub fn publish_in(publish: proto::Publish) -> Result<Route> {
    Ok(Route {
        domain: Domain::new(&publish.domain)?,
        ssl: publish.ssl,
        tenant: publish.tenant.parse()?,
        port: port_in(publish.port)?,
    })
}

pub fn published_out(published: &PublishedRoute) -> proto::PublishedRoute {
    let PublishedRoute { route, state, why, upstream, waiting } = published;
    proto::PublishedRoute {
        domain: route.domain.to_string(),
        ssl: route.ssl,
        tenant: route.tenant.to_string(),
        port: route.port.unwrap_or(0).into(),
        state: state.clone(),
        why: why.clone().unwrap_or_default(),
        upstream: upstream.clone().unwrap_or_default(),
        waiting: *waiting,
    }
}

pub fn published_in(published: proto::PublishedRoute) -> Result<PublishedRoute> {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(PublishedRoute {
        route: Route {
            domain: Domain::new(&published.domain)?,
            ssl: published.ssl,
            tenant: published.tenant.parse()?,
            port: port_in(published.port)?,
        },
        state: published.state,
        why: some(published.why),
        upstream: some(published.upstream),
        waiting: published.waiting,
    })
}

pub fn cert_out(cert: &Cert) -> proto::Cert {
    proto::Cert {
        domain: cert.domain.to_string(),
        acme: cert.acme,
        not_after_unix: cert.not_after_unix,
        renew_at_unix: cert.renew_at_unix,
        trouble: cert.trouble.clone().unwrap_or_default(),
    }
}

pub fn cert_in(cert: proto::Cert) -> Result<Cert> {
    Ok(Cert {
        domain: Domain::new(&cert.domain)?,
        acme: cert.acme,
        not_after_unix: cert.not_after_unix,
        renew_at_unix: cert.renew_at_unix,
        trouble: Some(cert.trouble).filter(|trouble| !trouble.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_come_out_as_they_went_in() {
        for (port, ssl, why) in [(None, false, None), (Some(8080), true, Some("is stopped".to_owned()))] {
            let (domain, tenant) = (Domain::new("a.example").unwrap(), "shop@h.example".parse().unwrap());
            let route = Route { domain, ssl, tenant, port };
            assert_eq!(publish_in(publish_out(&route)).unwrap(), route);
            let published = PublishedRoute { route, state: "down".into(), why, upstream: None, waiting: 3 };
            assert_eq!(published_in(published_out(&published)).unwrap(), published);
        }
        let wrong = proto::Publish { tenant: "a".into(), domain: "a.b".into(), port: 70_000, ssl: false };
        assert!(publish_in(wrong).is_err());
    }
}
