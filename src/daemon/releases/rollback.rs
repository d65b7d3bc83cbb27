//! The way back: a domain leads to where the last release took it from.

use super::copying::difference;
use super::*;
use crate::model::Domain;

/// Moves a domain back. `data_back`: what was written since comes along, in a release the other way round.
pub async fn rollback(
    daemon: &Arc<Daemon>,
    who: &Principal,
    domain: &Domain,
    data_back: bool,
    say: Arc<Say>,
    cancel: Cancel,
) -> Result<Receipt> {
    let none = || {
        Error::new(Kind::NotFound, format!("no release has moved {domain}"))
            .hint("`mcloud release --history` shows those that there were")
    };
    let (row, was_rollback) = daemon.state.release_of(domain)?.ok_or_else(none)?;
    // All its domains came together and go together.
    let wanted = ReleaseWanted {
        from: row.to.clone(),
        to: row.from.clone(),
        domains: row.domains.clone(),
        hold_seconds: None,
        far: None,
        dry_run: false,
    };
    if was_rollback {
        return Err(Error::new(Kind::Refused, format!("{domain} is back at `{}` already", row.to))
            .hint(format!("`mcloud release {} {} {domain}` releases it again", row.to, row.from)));
    }
    let (daemon, who, running) = (daemon.clone(), who.clone(), daemon.running.clone());
    let working = tokio::spawn(async move {
        let done = match data_back {
            true => with_data(&daemon, &who, wanted, say, cancel).await,
            false => without(&daemon, &who, wanted, &*say, cancel).await,
        };
        drop(running);
        done
    });
    copies::joined(working.await)
}

async fn with_data(
    daemon: &Arc<Daemon>,
    who: &Principal,
    wanted: ReleaseWanted,
    say: Arc<Say>,
    cancel: Cancel,
) -> Result<Receipt> {
    let since = {
        let sides = (Side::of(daemon, who, &wanted.from, None).await?, Side::of(daemon, who, &wanted.to, None).await?);
        let volumes = pairs(&sides.0, &sides.1)?;
        difference((daemon, who), (&sides.0, &sides.1), &volumes, &cancel).await?
    };
    let mut receipt = whole(daemon, who, wanted, true, &*say, cancel).await?;
    receipt.since = Some(Since { copied_back: true, ..since });
    Ok(receipt)
}

/// The domains go back, the data stays where it was written.
async fn without(
    daemon: &Arc<Daemon>,
    who: &Principal,
    wanted: ReleaseWanted,
    say: &Say,
    cancel: Cancel,
) -> Result<Receipt> {
    let began = Instant::now();
    let _lives = lives_of(daemon, [&wanted.from, &wanted.to], say).await;
    let from = Side::of(daemon, who, &wanted.from, None).await?;
    let to = Side::of(daemon, who, &wanted.to, None).await?;
    let routes = routes(daemon, &wanted, &to)?;
    let mut row = ReleaseRow {
        number: 0,
        from: wanted.from.clone(),
        to: wanted.to.clone(),
        domains: wanted.domains.clone(),
        step: Step::Holding,
        to_was: to.wanted(daemon).await?,
    };
    row.number = daemon.state.release_begin(&row, true, now_unix())?;
    let door = door::of(daemon, &row.from);
    let moved = async {
        // It runs before anybody has to wait.
        to.come_back(daemon, say).await?;
        to.after(daemon, say).await?;
        crash_point!("rollback.thawed");
        let limits = frozen::limits(daemon);
        door.hold(limits.hold);
        door.drained(limits.patience).await;
        daemon.state.release_at(row.number, Step::Moving)?;
        crash_point!("rollback.held");
        let moves =
            routes.iter().map(|route| (Route { tenant: row.to.clone(), ..route.clone() }, Some(row.from.clone())));
        publishing::move_routes(daemon, &moves.collect::<Vec<_>>())?;
        crash_point!("rollback.moved");
        Ok(())
    }
    .await;
    let held = door.let_go();
    let since = match moved.is_ok() {
        true => difference((daemon, who), (&from, &to), &pairs(&from, &to)?, &cancel).await.ok(),
        false => {
            to.put_back(daemon, &row.to_was, say).await?;
            None
        }
    };
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let report = Report { seconds: began.elapsed().as_secs_f64(), held_requests: held.requests, ..Report::default() };
    let receipt = Receipt {
        number: row.number.unsigned_abs(),
        is_rollback: true,
        from: row.from.to_string(),
        to: row.to.to_string(),
        domains: row.domains.iter().map(ToString::to_string).collect(),
        began_unix: now_unix(),
        outcome: moved.as_ref().err().map_or_else(|| "done".to_owned(), Error::chain),
        serving: if moved.is_ok() { row.to.to_string() } else { row.from.to_string() },
        report,
        failed_requests: held.failed,
        longest_hold_ms: ms(held.longest),
        phases: vec![("moving back".to_owned(), ms(began.elapsed()))],
        since,
    };
    let bytes = super::super::requests::encoded(&crate::wire::release::receipt_out(&receipt));
    daemon.state.release_end(row.number, &bytes, moved.is_ok())?;
    moved.map(|()| receipt)
}
