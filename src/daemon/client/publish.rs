//! What a client asks of domains.

use super::{Client, unexpected};
use crate::model::publish::{PublishedRoute, Route};
use crate::model::{Domain, Result, TenantName};
use crate::wire::proto::{self, request, response};
use crate::wire::publish as wire;

impl Client {
    /// Makes a domain lead to a tenant; the tenant that had it, if another one did.
    pub async fn publish(&self, route: &Route) -> Result<(PublishedRoute, Option<TenantName>)> {
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

    async fn routes_of(&self, what: request::What) -> Result<(Vec<PublishedRoute>, Option<TenantName>)> {
        match self.ask(what).await? {
            response::What::Routes(found) => {
                let routes = found.routes.into_iter().map(wire::published_in).collect::<Result<_>>()?;
                let from = Some(found.moved_from).filter(|from| !from.is_empty());
                Ok((routes, from.map(|from| TenantName::new(&from)).transpose()?))
            }
            _ => Err(unexpected()),
        }
    }
}
