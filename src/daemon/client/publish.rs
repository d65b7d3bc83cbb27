//! What a client asks of domains and their certificates.

use super::{Client, unexpected};
use crate::model::publish::{Cert, PublishedRoute, Route};
use crate::model::{Domain, Result, Seat};
use crate::wire::proto::{self, request, response};
use crate::wire::publish as wire;

impl Client {
    /// Makes a domain lead to a tenant; the tenant that had it, if another one did.
    pub async fn publish(&self, route: &Route) -> Result<(PublishedRoute, Option<Seat>)> {
        let (routes, from) = self.routes_of(request::What::Publish(wire::publish_out(route))).await?;
        Ok((super::only(routes)?, from))
    }

    /// Takes a route away; what it was.
    pub async fn unpublish(&self, domain: &Domain, ssl: bool) -> Result<PublishedRoute> {
        let unpublish = proto::Unpublish { domain: domain.to_string(), ssl };
        super::only(self.routes_of(request::What::Unpublish(unpublish)).await?.0)
    }

    /// The routes of the tenants that we see.
    pub async fn routes(&self) -> Result<Vec<PublishedRoute>> {
        Ok(self.routes_of(request::What::RouteList(proto::RouteList {})).await?.0)
    }

    /// Takes a certificate, PEM.
    pub async fn add_cert(&self, domain: &Domain, chain: Vec<u8>, key: Vec<u8>) -> Result<Cert> {
        let add = proto::CertAdd { domain: domain.to_string(), chain: chain.into(), key: key.into() };
        super::only(self.certs_of(request::What::CertAdd(add)).await?)
    }

    /// Has a certificate made by the host's CA.
    pub async fn acme_cert(&self, domain: &Domain) -> Result<Cert> {
        super::only(self.certs_of(request::What::CertAcme(proto::CertAcme { domain: domain.to_string() })).await?)
    }

    pub async fn certs(&self) -> Result<Vec<Cert>> {
        self.certs_of(request::What::CertList(proto::CertList {})).await
    }

    /// Forgets a certificate; what it was.
    pub async fn remove_cert(&self, domain: &Domain) -> Result<Cert> {
        super::only(self.certs_of(request::What::CertRemove(proto::CertRemove { domain: domain.to_string() })).await?)
    }

    async fn certs_of(&self, what: request::What) -> Result<Vec<Cert>> {
        match self.ask(what).await? {
            response::What::Certs(found) => found.certs.into_iter().map(wire::cert_in).collect(),
            _ => Err(unexpected()),
        }
    }

    async fn routes_of(&self, what: request::What) -> Result<(Vec<PublishedRoute>, Option<Seat>)> {
        match self.ask(what).await? {
            response::What::Routes(found) => {
                let routes = found.routes.into_iter().map(wire::published_in).collect::<Result<_>>()?;
                let from = Some(found.moved_from).filter(|from| !from.is_empty());
                Ok((routes, from.map(|from| from.parse()).transpose()?))
            }
            _ => Err(unexpected()),
        }
    }
}
