//! The certificates of this host: kept in files of the home, brought by people or got from a CA, and renewed in time.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::access::Principal;
use super::publishing::reply;
use super::state::{CertRow, State};
use super::{Daemon, now_unix, requests};
use crate::model::host::Role;
use crate::model::publish::Cert;
use crate::model::{Domain, Error, Kind, Result};
use crate::proxy::{self, Certificate};
use crate::transport::Stream;
use crate::transport::identity::private_dir;
use crate::wire::proto::{self, response};
use crate::wire::publish as wire;

/// How often it is looked whether one has to be renewed.
const LOOK: Duration = Duration::from_secs(5);
/// A certificate is not awaited any longer; the CA's own patience ends before.
const ISSUING: Duration = Duration::from_secs(110);
/// After a try to renew that failed; twice as long after each one more.
const FIRST_PAUSE_SECONDS: u64 = 60;
const LONGEST_PAUSE_SECONDS: u64 = 6 * 3600;

/// The file of one certificate: its key, then its chain.
fn file(daemon: &Daemon, domain: &Domain) -> std::path::PathBuf {
    daemon.home.certs().join(format!("{domain}.pem"))
}

/// Reads all certificates, in place of those that are known. One that cannot be used is no reason to drop the others.
pub fn load(daemon: &Daemon) -> Result<usize> {
    let mut all = Vec::new();
    for row in daemon.state.certs()? {
        match read(daemon, &row.domain) {
            Ok(certificate) => all.push((row.domain, certificate)),
            Err(error) => tracing::error!("{}", error.chain()),
        }
    }
    let many = all.len();
    daemon.proxy.certificates.set_all(all);
    Ok(many)
}

fn read(daemon: &Daemon, domain: &Domain) -> Result<Certificate> {
    let file = file(daemon, domain);
    let pem = fs::read(&file).map_err(|error| {
        Error::io(format!("the certificate for {domain} ({}) cannot be read", file.display()), error)
    })?;
    Certificate::new(domain, &pem, &pem)
}

/// Writes a file that its owner alone may read, whole or not at all.
fn write_private(file: &Path, bytes: &[u8]) -> Result<()> {
    let fresh = file.with_extension("new");
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(&fresh);
        let mut opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        opened.write_all(bytes)?;
        opened.sync_all()?;
        fs::rename(&fresh, file)?;
        file.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
    };
    write().map_err(|error| Error::io(format!("{} cannot be written", file.display()), error))
}

/// Checks a certificate, keeps it and uses it from now on.
fn take(daemon: &Daemon, domain: &Domain, chain: &[u8], key: &[u8], acme: bool) -> Result<()> {
    let certificate = Certificate::new(domain, chain, key)?;
    certificate.check_time(domain, now_unix())?;
    private_dir(&daemon.home.certs())?;
    write_private(&file(daemon, domain), &[key.trim_ascii_end(), chain].join(b"\n".as_slice()))?;
    daemon.state.keep_cert(&CertRow { domain: domain.clone(), acme, tries: 0, next_try: 0, error: None })?;
    daemon.proxy.certificates.set(domain, certificate);
    Ok(())
}

/// A domain's certificate is the business of who may act on the tenants that it leads to; others' of admins alone.
fn may(state: &State, who: &Principal, domain: &Domain) -> Result<()> {
    if who.may_administrate().is_ok() {
        return Ok(());
    }
    let routes: Vec<_> = state.routes()?.into_iter().filter(|route| route.domain == *domain).collect();
    if routes.is_empty() || routes.iter().any(|route| !who.sees(&route.tenant.tenant)) {
        return Err(Error::new(Kind::Refused, format!("{domain} leads to no tenant that this key may act on"))
            .hint("publish it first, or ask an admin of this host"));
    }
    routes.iter().try_for_each(|route| who.may(Role::Deployer, &route.tenant.tenant))
}

fn shown(daemon: &Daemon, row: CertRow) -> Cert {
    let known = daemon.proxy.certificates.find(row.domain.as_str());
    Cert {
        domain: row.domain,
        acme: row.acme,
        not_after_unix: known.as_ref().map(|known| known.not_after),
        renew_at_unix: known.as_ref().filter(|_| row.acme).map(|known| known.renew_at().max(row.next_try)),
        trouble: match (row.error, &known) {
            (Some(error), _) => Some(error),
            (None, None) => Some("its file cannot be used; the daemon's log says why".to_owned()),
            (None, Some(known)) if known.not_after < now_unix() => Some("it has expired".to_owned()),
            (None, Some(_)) => None,
        },
    }
}

fn one(daemon: &Daemon, domain: &Domain) -> Result<response::What> {
    let row = daemon.state.certs()?.into_iter().find(|row| row.domain == *domain);
    let certs = row.map(|row| wire::cert_out(&shown(daemon, row))).into_iter().collect();
    Ok(response::What::Certs(proto::Certs { certs }))
}

pub fn add(daemon: &Daemon, who: &Principal, add: &proto::CertAdd) -> Result<response::What> {
    let domain = Domain::new(&add.domain)?;
    requests::note(daemon, who, "cert add", &tenant_of(daemon, &domain), domain.as_str(), &mut || {
        may(&daemon.state, who, &domain)?;
        take(daemon, &domain, &add.chain, &add.key, false)?;
        one(daemon, &domain)
    })
}

/// The tenant under which the audit log has it.
fn tenant_of(daemon: &Daemon, domain: &Domain) -> String {
    let found = [true, false].map(|ssl| daemon.state.route(domain, ssl).ok().flatten());
    found.into_iter().flatten().next().map(|route| route.tenant.tenant.to_string()).unwrap_or_default()
}

pub fn list(daemon: &Daemon, who: &Principal) -> Result<response::What> {
    who.is_enrolled()?;
    let routes = daemon.state.routes()?;
    let sees = |domain: &Domain| {
        who.may_administrate().is_ok()
            || routes.iter().any(|route| route.domain == *domain && who.sees(&route.tenant.tenant))
    };
    let rows = daemon.state.certs()?.into_iter().filter(|row| sees(&row.domain));
    let certs = rows.map(|row| wire::cert_out(&shown(daemon, row))).collect();
    Ok(response::What::Certs(proto::Certs { certs }))
}

pub fn remove(daemon: &Daemon, who: &Principal, remove: &proto::CertRemove) -> Result<response::What> {
    let domain = Domain::new(&remove.domain)?;
    requests::note(daemon, who, "cert remove", &tenant_of(daemon, &domain), domain.as_str(), &mut || {
        may(&daemon.state, who, &domain)?;
        let was = one(daemon, &domain)?;
        if !daemon.state.forget_cert(&domain)? {
            return Err(Error::new(Kind::NotFound, format!("there is no certificate for {domain}"))
                .hint("`mcloud cert list` lists those there are"));
        }
        daemon.proxy.certificates.remove(&domain);
        match fs::remove_file(file(daemon, &domain)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("{} could not be deleted", file(daemon, &domain).display()), error)
                    .hint("it is not used any more: delete it by hand"))
            }
            _ => Ok(was),
        }
    })
}

pub async fn acme(daemon: Arc<Daemon>, who: Principal, stream: Stream, asked: proto::CertAcme) {
    let answered = async {
        let domain = Domain::new(&asked.domain)?;
        let (key, label, tenant) = (who.key, who.label(), tenant_of(&daemon, &domain));
        let number = daemon.state.audit_begin(&key, &label, "cert acme", &tenant, domain.as_str(), now_unix())?;
        let got = async {
            may(&daemon.state, &who, &domain)?;
            if domain.is_address() {
                return Err(Error::usage(format!("{domain} is an address: certificates are for names")));
            }
            issue(&daemon, &domain).await?;
            one(&daemon, &domain)
        };
        let got = got.await;
        let result = match &got {
            Ok(_) => "ok".to_owned(),
            Err(error) => format!("{}: {}", error.kind.word(), error.chain()),
        };
        daemon.state.audit_end(number, &result)?;
        got
    };
    let answered = answered.await;
    reply(stream, answered).await;
}

/// Has a certificate made by the CA, keeps it and uses it.
async fn issue(daemon: &Arc<Daemon>, domain: &Domain) -> Result<()> {
    // One at a time: a CA counts orders, and the account is made once.
    let _one = daemon.issuing.lock().await;
    let late = |_| Error::failed(format!("the CA did not come to an end with the certificate for {domain}"));
    let issued = tokio::time::timeout(ISSUING, async {
        // Another CA is another account.
        let name = blake3::hash(daemon.acme.directory.as_bytes()).to_hex();
        let file = daemon.home.certs().join(format!("account-{}.json", &name[..16]));
        let kept = fs::read_to_string(&file).ok();
        let (account, new) = daemon.acme.account(kept.as_deref()).await?;
        if let Some(new) = new {
            private_dir(&daemon.home.certs())?;
            write_private(&file, new.as_bytes())?;
        }
        proxy::issue(&account, &daemon.proxy.certificates, domain).await
    });
    let issued = issued.await.map_err(late)??;
    take(daemon, domain, issued.chain.as_bytes(), issued.key.as_bytes(), true)
}

/// Renews what has to be, for ever.
pub async fn keep(daemon: Arc<Daemon>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let rows = daemon.state.certs().unwrap_or_default();
        for row in rows.into_iter().filter(|row| row.acme) {
            let now = now_unix();
            let is_due =
                daemon.proxy.certificates.find(row.domain.as_str()).is_none_or(|known| known.renew_at() <= now);
            if !is_due || row.next_try > now {
                continue;
            }
            match issue(&daemon, &row.domain).await {
                Ok(()) => tracing::info!("the certificate for {} is renewed", row.domain),
                Err(error) => {
                    tracing::error!("the certificate for {} is not renewed: {}", row.domain, error.chain());
                    let pause = FIRST_PAUSE_SECONDS << row.tries.min(16);
                    let next_try = now_unix() + pause.min(LONGEST_PAUSE_SECONDS);
                    let failed = CertRow { tries: row.tries + 1, next_try, error: Some(error.chain()), ..row };
                    // One that was removed meanwhile stays so.
                    let is_there =
                        daemon.state.certs().is_ok_and(|rows| rows.iter().any(|row| row.domain == failed.domain));
                    if is_there && let Err(error) = daemon.state.keep_cert(&failed) {
                        tracing::error!("{}", error.chain());
                    }
                }
            }
        }
    }
}
