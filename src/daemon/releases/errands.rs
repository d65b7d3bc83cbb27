//! What a release that was broken off leaves to be done at another host: written down, and tried until it is done.

use std::collections::BTreeMap;

use super::side;
use super::*;
use crate::daemon::far;
use crate::daemon::state::Errand;
use crate::model::Seat;

/// Before the second try; then twice as long each time, up to the longest.
const AGAIN: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
const RESUME: &str = "resume";
const SETTLE: &str = "settle";

/// Goes on as long as the daemon does.
pub async fn keep(daemon: Arc<Daemon>) {
    let mut pause = AGAIN;
    loop {
        let notified = daemon.errands.changed.notified();
        match run(&daemon, |_| true).await {
            Ok(()) => {
                pause = AGAIN;
                notified.await;
            }
            Err(error) => {
                if pause == AGAIN {
                    tracing::error!("left to be done at another host: {}", error.chain());
                }
                let _ = tokio::time::timeout(pause, notified).await;
                pause = LONGEST.min(2 * pause);
            }
        }
    }
}

/// How errands are waited for.
#[derive(Default)]
pub struct Errands {
    changed: tokio::sync::Notify,
    /// Held while they are run.
    one: tokio::sync::Mutex<()>,
}

/// Does what is left to be done to this tenant before anything else is.
pub(super) async fn run_of(daemon: &Arc<Daemon>, seat: &Seat) -> Result<()> {
    run(daemon, |errand| errand.seat == *seat).await
}

async fn run(daemon: &Arc<Daemon>, is_meant: impl Fn(&Errand) -> bool) -> Result<()> {
    let _one = daemon.errands.one.lock().await;
    let mut failed = None;
    for errand in daemon.state.errands()?.into_iter().filter(|errand| is_meant(errand)) {
        match one(daemon, &errand).await {
            Ok(()) => daemon.state.errand_done(errand.number)?,
            // The tenant is not there any more, and nothing is to be done to it.
            Err(error) if error.kind == Kind::NotFound => {
                tracing::warn!("{}: {}", errand.seat, error.chain());
                daemon.state.errand_done(errand.number)?;
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn one(daemon: &Arc<Daemon>, errand: &Errand) -> Result<()> {
    let (seat, tenant) = (&errand.seat, &errand.seat.tenant);
    let told = seat.clone();
    let say = move |_: Option<&crate::model::ServiceName>, text: String| tracing::info!("{told}: {text}");
    let client = far::visit_noted(daemon, seat).await?;
    let done = match errand.what.split_once(' ').unwrap_or((&errand.what, "")) {
        (RESUME, _) => side::resume(&client, tenant, &say).await,
        (SETTLE, was) => side::settle(&client, tenant, &was_in(was), &say).await,
        (other, _) => {
            tracing::error!("{seat}: nobody knows how to `{other}`");
            Ok(())
        }
    };
    client.close().await;
    done
}

/// What could not be done to a far tenant now is done later.
fn leave(daemon: &Daemon, seat: &Seat, what: &str) -> Result<()> {
    daemon.state.add_errand(seat, what)?;
    daemon.errands.changed.notify_one();
    Ok(())
}

/// It is to be thawed.
pub(super) fn leave_thawing(daemon: &Daemon, seat: &Seat) -> Result<()> {
    leave(daemon, seat, RESUME)
}

/// Its services are to be what they had been asked to be.
pub(super) fn leave_settling(daemon: &Daemon, seat: &Seat, was: &BTreeMap<String, Wanted>) -> Result<()> {
    leave(daemon, seat, &format!("{SETTLE} {}", was_out(was)))
}

fn was_out(was: &BTreeMap<String, Wanted>) -> String {
    was.iter().map(|(service, wanted)| format!("{service}={wanted}")).collect::<Vec<_>>().join(" ")
}

fn was_in(text: &str) -> BTreeMap<String, Wanted> {
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    pairs.filter_map(|(service, wanted)| Some((service.to_owned(), wanted.parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_services_were_is_read_as_it_was_written() {
        let was: BTreeMap<String, Wanted> =
            [("web".to_owned(), Wanted::Running), ("redis".to_owned(), Wanted::Paused)].into();
        assert_eq!(was_in(&was_out(&was)), was);
        assert!(was_in("").is_empty());
    }
}
