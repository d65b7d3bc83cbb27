//! Where a tenant's requests come in, as whoever freezes it sees that.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Daemon;
use crate::model::TenantName;
use crate::release::freeze::{Door, Held};

/// Nobody comes in: nothing is published.
struct Closed;

pub fn of(_daemon: &Arc<Daemon>, _tenant: &TenantName) -> Box<dyn Door> {
    Box::new(Closed)
}

impl Door for Closed {
    fn hold(&self, _limit: Duration) {}

    fn drained(&self, _patience: Duration) -> BoxFuture<'_, usize> {
        Box::pin(std::future::ready(0))
    }

    fn let_go(&self) -> Held {
        Held::default()
    }
}
