//! Releases as a client asks for them.

use super::{Client, answer, start, unexpected};
use crate::model::release::{Receipt, ReleaseWanted};
use crate::model::{Domain, Result};
use crate::wire::proto::{self, request, response};
use crate::wire::release as wire;

impl Client {
    /// Releases a tenant in the place of another; `note` hears of which service what was done.
    pub async fn release(&self, wanted: &ReleaseWanted, note: impl FnMut(&str, &str)) -> Result<Receipt> {
        self.receipt(request::What::Release(wire::wanted_out(wanted)?), note).await
    }

    /// Moves a domain back to where the last release took it from.
    pub async fn rollback(&self, domain: &Domain, data_back: bool, note: impl FnMut(&str, &str)) -> Result<Receipt> {
        let rollback = proto::RollbackStart { domain: domain.to_string(), data_back };
        self.receipt(request::What::Rollback(rollback), note).await
    }

    async fn receipt(&self, what: request::What, mut note: impl FnMut(&str, &str)) -> Result<Receipt> {
        let mut stream = start(&self.connection, what).await?;
        loop {
            match answer(&mut stream).await? {
                response::What::Note(heard) => note(&heard.service, &heard.text),
                response::What::Receipt(receipt) => return wire::receipt_in(receipt),
                _ => return Err(unexpected()),
            }
        }
    }

    /// The receipts of all releases, oldest first.
    pub async fn releases(&self) -> Result<Vec<Receipt>> {
        match self.ask(request::What::ReleaseHistory(proto::ReleaseHistory {})).await? {
            response::What::Receipts(found) => found.receipts.into_iter().map(wire::receipt_in).collect(),
            _ => Err(unexpected()),
        }
    }
}
