//! Where a tenant's requests come in, as whoever freezes it sees that: the proxy.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Daemon;
use crate::model::Seat;
use crate::proxy::{Proxy, Reason};
use crate::release::freeze::{Door, Held};

struct Gate {
    proxy: Arc<Proxy>,
    tenant: Seat,
}

pub fn of(daemon: &Arc<Daemon>, tenant: &Seat) -> Box<dyn Door> {
    Box::new(Gate { proxy: daemon.proxy.clone(), tenant: tenant.clone() })
}

impl Door for Gate {
    fn hold(&self, limit: Duration) {
        self.proxy.hold(&self.tenant, Reason::Freeze, limit);
    }

    fn drained(&self, patience: Duration) -> BoxFuture<'_, usize> {
        Box::pin(async move { self.proxy.drained(&self.tenant, patience).await.requests })
    }

    fn let_go(&self) -> Held {
        let report = self.proxy.let_go(&self.tenant, Reason::Freeze);
        Held { requests: report.held, failed: report.failed, longest: report.longest }
    }
}
