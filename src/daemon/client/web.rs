//! A daemon as the proxy of another host sees it: what serves a tenant there, and connections to that.

use super::{Client, answer, start, unexpected};
use crate::model::{Result, TenantName};
use crate::transport::{Connection, Pipe, Stream};
use crate::wire::proto::{self, request, response};

/// What serves a tenant, as it changes.
pub struct WebWatch(Stream);

impl WebWatch {
    pub async fn next(&mut self) -> Result<proto::WebNow> {
        match answer(&mut self.0).await? {
            response::What::WebNow(now) => Ok(now),
            _ => Err(unexpected()),
        }
    }

    /// Says that no request is under way any more, since the tenant is held.
    pub async fn drained(&mut self) -> Result<()> {
        self.0.send(&proto::WebDrained {}).await
    }
}

impl Client {
    pub async fn web_watch(&self, tenant: &TenantName) -> Result<WebWatch> {
        let watch = proto::WebWatch { tenant: tenant.to_string() };
        Ok(WebWatch(start(&self.connection, request::What::WebWatch(watch)).await?))
    }
}

/// A connection to what serves a tenant there.
pub async fn web_dial(connection: &Connection, wanted: proto::WebDial) -> Result<Pipe> {
    let mut stream = start(connection, request::What::WebDial(wanted)).await?;
    match answer(&mut stream).await? {
        response::What::Done(_) => Ok(stream.into_pipe()),
        _ => Err(unexpected()),
    }
}
