//! Releases as they are asked for: notes as they come, then the receipt.

use super::*;
use crate::daemon::mouth::{Ear, mouth, telling};
use crate::daemon::requests;
use crate::model::Domain;
use crate::transport::Stream;
use crate::wire::proto::{self, response};
use crate::wire::{nonsense, release as wire};

pub async fn start(daemon: Arc<Daemon>, who: Principal, stream: Stream, asked: proto::ReleaseStart) {
    let (say, heard) = mouth();
    let cancel = Cancel::default();
    let work = async {
        let wanted = named(&daemon, wire::wanted_in(&asked)?)?;
        if wanted.domains.is_empty() {
            return Err(nonsense("a release of no domain"));
        }
        let verb = if wanted.dry_run { "release --dry-run" } else { "release" };
        let on = (
            wanted.from.tenant.to_string(),
            format!("{} → {} for {}", wanted.from, wanted.to, asked.domains.join(" ")),
        );
        let work = release(&daemon, &who, wanted, false, say, cancel.clone());
        noted(&daemon, &who, verb, on, &cancel, work).await
    };
    told(stream, heard, Box::pin(work)).await;
}

/// A tenant of another host is called here as it always was, whatever that host is called now.
fn named(daemon: &Daemon, mut wanted: ReleaseWanted) -> Result<ReleaseWanted> {
    let seats = [&mut wanted.from, &mut wanted.to];
    match (&wanted.far, seats.iter().filter(|seat| seat.host.is_some()).count()) {
        (None, 0) => Ok(wanted),
        (Some(far), 1) => {
            for seat in seats.into_iter().filter(|seat| seat.host.is_some()) {
                *seat = daemon.state.name_of_far(seat, &far.host_key.parse()?)?;
            }
            Ok(wanted)
        }
        _ => Err(nonsense("a release that is half at another host")),
    }
}

pub async fn back(daemon: Arc<Daemon>, who: Principal, stream: Stream, asked: proto::RollbackStart) {
    let (say, heard) = mouth();
    let cancel = Cancel::default();
    let work = async {
        let domain = Domain::new(&asked.domain)?;
        let on = (String::new(), domain.to_string());
        let work = rollback::rollback(&daemon, &who, &domain, asked.data_back, say, cancel.clone());
        noted(&daemon, &who, "rollback", on, &cancel, work).await
    };
    told(stream, heard, Box::pin(work)).await;
}

/// The receipts that he may see, oldest first.
pub fn history(daemon: &Daemon, who: &Principal) -> Result<response::What> {
    who.is_enrolled()?;
    let sees = |name: &str| name.parse::<Seat>().is_ok_and(|seat| who.sees(&seat.tenant));
    let receipts = receipts(daemon)?.into_iter().filter(|receipt| sees(&receipt.from) && sees(&receipt.to));
    Ok(response::What::Receipts(proto::Receipts { receipts: receipts.map(|one| wire::receipt_out(&one)).collect() }))
}

pub fn receipts(daemon: &Daemon) -> Result<Vec<Receipt>> {
    let damaged = |error| Error::new(Kind::Corrupt, "a receipt in the daemon's database is damaged").because(error);
    let read = |bytes: Vec<u8>| {
        let receipt: proto::Receipt = prost::Message::decode(&bytes[..]).map_err(damaged)?;
        wire::receipt_in(receipt)
    };
    daemon.state.receipts()?.into_iter().map(read).collect()
}

/// In the audit log and among the tasks.
async fn noted(
    daemon: &Arc<Daemon>,
    who: &Principal,
    verb: &str,
    (tenant, on): (String, String),
    cancel: &Cancel,
    work: impl Future<Output = Result<Receipt>> + Send,
) -> Result<Receipt> {
    let number = daemon.state.audit_begin(&who.key, &who.label(), verb, &tenant, &on, now_unix())?;
    let kill = cancel.clone();
    let listed = if tenant.is_empty() { on } else { tenant };
    let _listed =
        daemon.tasks.begin(verb, &listed, &who.label(), move || kill.store(true, std::sync::atomic::Ordering::SeqCst));
    let done = work.await;
    let result = match &done {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("{}: {}", error.kind.word(), error.chain()),
    };
    daemon.state.audit_end(number, &result)?;
    done
}

/// Works, tells of it, and says how it ended.
async fn told(mut stream: Stream, heard: Ear, working: impl Future<Output = Result<Receipt>> + Send) {
    match telling(&mut stream, heard, working).await {
        Ok(receipt) => requests::say(&mut stream, response::What::Receipt(wire::receipt_out(&receipt))).await,
        Err(error) => requests::fail(stream, &error).await,
    }
}
