//! A tenant as the proxy of another host has to see it: what serves it, and whether its requests are to wait.
//!
//! That proxy counts its own requests. Here all of them together are one request under way, which ends when it says that
//! none is: so whoever holds the tenant waits for them, too.

use std::sync::Arc;

use tokio::sync::watch;

use super::Proxy;
use super::gate::Passed;
use super::routes::Tenant;
use super::upstream::Serving;
use crate::model::Seat;

/// Dropped, that proxy has no request under way.
#[derive(Debug)]
pub struct Watch {
    tenant: Arc<Tenant>,
    changes: watch::Receiver<()>,
    passed: Option<Passed>,
}

impl Proxy {
    /// Begins to watch a tenant.
    pub fn watch(&self, seat: &Seat) -> Watch {
        let tenant = self.tenant(seat);
        Watch { changes: tenant.gate.changes(), tenant, passed: None }
    }
}

impl Watch {
    /// What serves the tenant now, and whether it is held.
    pub fn look(&mut self) -> (Serving, bool) {
        self.changes.mark_unchanged();
        let serving = self.tenant.serving();
        if self.tenant.gate.is_held() {
            return (serving, true);
        }
        if self.passed.is_none() {
            self.passed = self.tenant.gate.pass();
        }
        (serving, self.passed.is_none())
    }

    /// Of the requests of the other proxy none is under way any more.
    pub fn drained(&mut self) {
        self.passed = None;
    }

    /// Resolves when there may be something else to see.
    pub async fn changed(&mut self) {
        // Its sender lives as long as the tenant, which is ours.
        let _ = self.changes.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::gate::Reason;
    use super::super::{Left, Limits};
    use super::*;

    #[tokio::test]
    async fn who_holds_a_tenant_waits_until_the_other_proxy_says_that_nothing_is_under_way() {
        let proxy = Proxy::new(Limits::default(), |_| {}).unwrap();
        let seat: Seat = "shop".parse().unwrap();
        let mut watch = proxy.watch(&seat);
        assert!(!watch.look().1);
        proxy.hold(&seat, Reason::Pause, Duration::from_secs(9));
        tokio::time::timeout(Duration::from_secs(9), watch.changed()).await.expect("it hears of the hold");
        assert!(watch.look().1);
        assert_eq!(proxy.drained(&seat, Duration::from_millis(20)).await, Left { requests: 1, streams: 0 });
        watch.drained();
        assert_eq!(proxy.drained(&seat, Duration::from_secs(9)).await, Left::default());
        assert!(watch.look().1, "it is held still");
        proxy.let_go(&seat, Reason::Pause);
        tokio::time::timeout(Duration::from_secs(9), watch.changed()).await.expect("it hears that it is let go");
        assert!(!watch.look().1);
        drop(watch);
        proxy.hold(&seat, Reason::Pause, Duration::from_secs(9));
        assert_eq!(proxy.drained(&seat, Duration::from_secs(9)).await, Left::default(), "one that is gone has none");
    }
}
