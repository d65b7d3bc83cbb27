//! Every tenant brought back to what was asked of it: when this daemon starts, and whenever Docker comes back.

use std::sync::Arc;
use std::time::Duration;

use super::lives::crew;
use super::{Daemon, frozen, publishing};
use crate::model::{ServiceName, TenantName};

/// How often it is looked whether Docker is back.
const LOOK: Duration = Duration::from_secs(2);
/// So many looks without an answer, one after the other, and it is gone.
const UNANSWERED: u32 = 2;
/// How long a Docker that went away is not asked whether it is back.
const AWAY: Duration = Duration::from_millis(200);

/// Goes on as long as the daemon does.
pub async fn keep(daemon: Arc<Daemon>) {
    let mut complained = false;
    loop {
        match daemon.runtime.ping().await {
            Ok(()) => {
                complained = false;
                if let Err(error) = frozen::recover(&daemon, |_| true).await {
                    tracing::error!("{}", error.chain());
                }
                while_there(&daemon).await;
                tokio::time::sleep(AWAY).await;
            }
            Err(error) => {
                if !complained && !lives(&daemon).is_empty() {
                    tracing::error!("{}", error.chain());
                    complained = true;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// Brings the tenants back, and returns when Docker is gone. One that is back before the next look was away all the same.
async fn while_there(daemon: &Arc<Daemon>) {
    let mut gone = daemon.runtime.gone();
    let lives = lives(daemon);
    let back = futures_util::future::join_all(lives.iter().map(|tenant| bring_back(daemon, tenant)));
    tokio::select! {
        () = &mut gone => return tracing::warn!("Docker went away while tenants were brought back"),
        _ = back => {}
    }
    let mut unanswered = 0;
    while unanswered < UNANSWERED {
        tokio::select! {
            () = &mut gone => return tracing::warn!("Docker went away"),
            () = tokio::time::sleep(LOOK) => match daemon.runtime.ping().await {
                Ok(()) => unanswered = 0,
                Err(error) => {
                    unanswered += 1;
                    tracing::warn!("{}", error.chain());
                }
            },
        }
    }
}

/// The tenants of which anything is wanted.
fn lives(daemon: &Daemon) -> Vec<TenantName> {
    let rows = daemon.state.tenants().unwrap_or_default();
    let lives = |name: &TenantName| daemon.state.wanted(name).is_ok_and(|wanted| !wanted.is_empty());
    rows.into_iter().map(|row| row.tenant.name).filter(lives).collect()
}

pub async fn bring_back(daemon: &Arc<Daemon>, tenant: &TenantName) {
    let _held = daemon.life_lock(tenant).lock_owned().await;
    let name = tenant.clone();
    let say = move |service: Option<&ServiceName>, text: String| match service {
        Some(service) => tracing::info!("{service}.{name}: {text}"),
        None => tracing::info!("{name}: {text}"),
    };
    let settled = async {
        let crew = crew(daemon, None, tenant).await?;
        crew.settle(&crew.site(&say)).await
    };
    let settled = settled.await;
    publishing::after(daemon, tenant, &say).await;
    if let Err(error) = settled {
        tracing::error!("{tenant} is not brought back to what it was: {}", error.chain());
    }
}
