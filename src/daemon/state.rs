//! What a daemon remembers, in SQLite: tenants, keys, invitations, tickets, and who did what.
//!
//! Written through (WAL, synchronous=FULL): what was answered is on disk. One connection writes, another one reads, so
//! that a handshake never waits for a disk. Times are seconds since 1970 and come from the caller.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use crate::model::host::{Access, AuditEntry, DataVolume, InviteTerms, Role, Tenant, TenantGlob, VolumeRef};
use crate::model::{Error, Kind, Result, ServiceName, TenantName, VolumePath};
use crate::transport::PublicKey;

mod before;
mod certs;
mod far;
mod freezes;
mod grants;
mod jobs;
mod lives;
mod releases;
mod routes;
mod schema;

pub use certs::CertRow;
pub use far::Errand;
pub use jobs::{Ended, JobRow};
pub use releases::ReleaseRow;

#[derive(Debug)]
pub struct State {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
}

/// What a key is to this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Enrolled {
        label: String,
        role: Role,
        tenants: Vec<TenantGlob>,
    },
    /// The key of an invitation that is still good.
    Invited,
    /// Another host that may come for what it has a ticket for.
    Ticketed,
    /// Another host that was granted something, under the name by which it is known.
    Granted(String),
    Unknown,
}

/// A tenant and the text it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRow {
    pub tenant: Tenant,
    pub config: String,
    /// The root volume is a folder of the host's that is not ours to delete.
    pub external: bool,
}

fn broken(error: rusqlite::Error) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => Kind::NoSpace,
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => Kind::Corrupt,
        _ => Kind::Failed,
    };
    Error::new(kind, "the daemon's database does not work").because(error)
}

fn key_of(row: &Row<'_>, column: &str) -> rusqlite::Result<PublicKey> {
    row.get::<_, [u8; 32]>(column).map(PublicKey)
}

/// A value of our own that does not read back: somebody else wrote it.
fn foreign(error: Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

fn globs_text(globs: &[TenantGlob]) -> String {
    globs.iter().map(TenantGlob::as_str).collect::<Vec<_>>().join(" ")
}

fn globs_of(row: &Row<'_>) -> rusqlite::Result<Vec<TenantGlob>> {
    let text: String = row.get("tenants")?;
    text.split_whitespace().map(TenantGlob::new).collect::<Result<_>>().map_err(foreign)
}

fn role_of(row: &Row<'_>) -> rusqlite::Result<Role> {
    row.get::<_, String>("role")?.parse().map_err(foreign)
}

fn access_of(row: &Row<'_>) -> rusqlite::Result<Access> {
    Ok(Access {
        key: key_of(row, "key")?.to_string(),
        label: row.get("label")?,
        role: role_of(row)?,
        tenants: globs_of(row)?,
        created_unix: row.get("created")?,
        last_seen_unix: row.get("last_seen")?,
    })
}

impl State {
    /// Opens the database, which is made or brought to this program's format. One of a newer program is refused, and not
    /// touched; of one that is migrated a copy is kept.
    pub fn open(file: &Path) -> Result<State> {
        schema::check(before::version_of(file)?, file)?;
        let cannot = |error| {
            let error = broken(error);
            Error { message: format!("cannot open the daemon's database {}", file.display()), ..error }
        };
        let open = || -> rusqlite::Result<Connection> {
            let writer = Connection::open(file)?;
            writer.busy_timeout(Duration::from_secs(10))?;
            writer.pragma_update(None, "journal_mode", "wal")?;
            writer.pragma_update(None, "synchronous", "full")?;
            writer.pragma_update(None, "foreign_keys", true)?;
            Ok(writer)
        };
        let mut writer = open().map_err(cannot)?;
        if let Some(to) = schema::migrates_to(&writer).map_err(cannot)? {
            before::keep_copy(&writer, file, to)?;
        }
        schema::migrate(&mut writer).map_err(cannot)?;
        let read = || -> rusqlite::Result<Connection> {
            let reader = Connection::open(file)?;
            reader.busy_timeout(Duration::from_secs(10))?;
            reader.pragma_update(None, "query_only", true)?;
            Ok(reader)
        };
        let reader = read().map_err(cannot)?;
        Ok(State { writer: Mutex::new(writer), reader: Mutex::new(reader) })
    }

    /// SQLite undoes what a panic left half done, so a poisoned lock is as good as any.
    fn writer(&self) -> MutexGuard<'_, Connection> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- keys ------------------------------------------------------------------------------------------------------

    pub fn standing(&self, key: &PublicKey, now: u64) -> Result<Standing> {
        let db = self.reader();
        let enrolled = db
            .prepare_cached("SELECT label, role, tenants FROM keys WHERE key = ? AND revoked IS NULL")
            .and_then(|mut query| {
                query
                    .query_row([key.0], |row| {
                        Ok(Standing::Enrolled {
                            label: row.get("label")?,
                            role: role_of(row)?,
                            tenants: globs_of(row)?,
                        })
                    })
                    .optional()
            })
            .map_err(broken)?;
        if let Some(enrolled) = enrolled {
            return Ok(enrolled);
        }
        let is = |sql: &str| -> Result<bool> {
            db.prepare_cached(sql).and_then(|mut query| query.exists(params![key.0, now])).map_err(broken)
        };
        if is("SELECT 1 FROM invites WHERE key = ? AND expires > ? AND used IS NULL")? {
            return Ok(Standing::Invited);
        }
        if let Some(grant) = grants::of_host(&db, key, now)?.pop() {
            return Ok(Standing::Granted(grant.terms.host));
        }
        let ticketed = is("SELECT 1 FROM tickets WHERE host_key = ? AND expires > ?")?;
        Ok(if ticketed { Standing::Ticketed } else { Standing::Unknown })
    }

    /// Enrols a key, or gives it another role.
    pub fn enrol(&self, key: &PublicKey, label: &str, role: Role, tenants: &[TenantGlob], now: u64) -> Result<()> {
        enrol(&self.writer(), key, label, role, tenants, now).map_err(broken)
    }

    pub fn seen(&self, key: &PublicKey, now: u64) -> Result<()> {
        let db = self.writer();
        let seen = |sql: &str| db.execute(sql, params![now, key.0]);
        seen("UPDATE keys SET last_seen = ? WHERE key = ?")
            .and_then(|_| seen("UPDATE grants SET last_seen = ? WHERE host_key = ?"))
            .map(drop)
            .map_err(broken)
    }

    /// The keys that are let in, in the order in which they came.
    pub fn keys(&self) -> Result<Vec<Access>> {
        let db = self.reader();
        let mut query =
            db.prepare_cached("SELECT * FROM keys WHERE revoked IS NULL ORDER BY created, rowid").map_err(broken)?;
        query.query_map([], access_of).and_then(Iterator::collect).map_err(broken)
    }

    /// Takes away a key's rights: its own, those it was granted, and those it granted to others.
    pub fn revoke(&self, key: &PublicKey, now: u64) -> Result<()> {
        let mut db = self.writer();
        let mut revoke = || -> rusqlite::Result<()> {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            tx.execute("UPDATE keys SET revoked = ? WHERE key = ?", params![now, key.0])?;
            tx.execute("DELETE FROM grants WHERE by_key = ?1 OR host_key = ?1", [key.0])?;
            tx.commit()
        };
        revoke().map_err(broken)
    }

    // ---- invitations -----------------------------------------------------------------------------------------------

    pub fn invite(&self, key: &PublicKey, terms: &InviteTerms, now: u64) -> Result<()> {
        let expires = now.saturating_add(terms.expires.as_secs()).min(i64::MAX as u64);
        let sql = "INSERT INTO invites (key, role, tenants, created, expires) VALUES (?, ?, ?, ?, ?)";
        let values = params![key.0, terms.role.word(), globs_text(&terms.tenants), now, expires];
        self.writer().execute(sql, values).map(drop).map_err(broken)
    }

    /// Uses the invitation up for the key `new`.
    pub fn accept(&self, invitation: &PublicKey, new: &PublicKey, label: &str, now: u64) -> Result<()> {
        let mut db = self.writer();
        let mut accept = || -> rusqlite::Result<bool> {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let terms = tx
                .query_row(
                    "UPDATE invites SET used = ?, used_by = ? WHERE key = ? AND used IS NULL AND expires > ? RETURNING role, tenants",
                    params![now, new.0, invitation.0, now],
                    |row| Ok((role_of(row)?, globs_of(row)?)),
                )
                .optional()?;
            let Some((role, tenants)) = terms else { return Ok(false) };
            enrol(&tx, new, label, role, &tenants, now)?;
            tx.commit()?;
            Ok(true)
        };
        if accept().map_err(broken)? {
            return Ok(());
        }
        Err(Error::new(Kind::Unreachable, "the invitation was used already, or has expired")
            .hint("ask an admin of that host for a new one (`mcloud invite`)"))
    }

    // ---- tickets ---------------------------------------------------------------------------------------------------

    /// A ticket for the host with key `host`: whoever proves that key and says the secret may read `source` once.
    pub fn issue_ticket(
        &self,
        secret: &[u8],
        host: &PublicKey,
        source: &VolumeRef,
        now: u64,
        expires: u64,
    ) -> Result<()> {
        let db = self.writer();
        let issue = || -> rusqlite::Result<()> {
            db.execute("DELETE FROM tickets WHERE expires <= ?", [now])?;
            let (service, path) = data_text(source.data.as_ref());
            db.execute(
                "INSERT INTO tickets (secret, host_key, tenant, service, path, expires) VALUES (?, ?, ?, ?, ?, ?)",
                params![secret_name(secret), host.0, source.tenant.as_str(), service, path, expires],
            )?;
            Ok(())
        };
        issue().map_err(broken)
    }

    /// Uses a ticket up. Whether it was good.
    pub fn redeem_ticket(&self, secret: &[u8], host: &PublicKey, source: &VolumeRef, now: u64) -> Result<bool> {
        let (service, path) = data_text(source.data.as_ref());
        self.writer()
            .execute(
                "DELETE FROM tickets WHERE secret = ? AND host_key = ? AND tenant = ? AND service = ? AND path = ? AND expires > ?",
                params![secret_name(secret), host.0, source.tenant.as_str(), service, path, now],
            )
            .map(|deleted| deleted == 1)
            .map_err(broken)
    }

    // ---- tenants ---------------------------------------------------------------------------------------------------

    pub fn add_tenant(&self, row: &TenantRow) -> Result<()> {
        let mut db = self.writer();
        let mut add = || -> rusqlite::Result<()> {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let tenant = &row.tenant;
            tx.execute(
                "INSERT INTO tenants (name, env, config, path, external, created) VALUES (?, ?, ?, ?, ?, ?)",
                params![tenant.name.as_str(), tenant.env, row.config, tenant.path, row.external, tenant.created_unix],
            )?;
            for volume in &tenant.volumes {
                tx.execute(
                    "INSERT INTO volumes (tenant, service, path) VALUES (?, ?, ?)",
                    params![tenant.name.as_str(), volume.service.as_str(), volume.path.as_str()],
                )?;
            }
            tx.commit()
        };
        match add() {
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                Err(Error::failed(format!("the tenant `{}` exists already", row.tenant.name))
                    .hint(format!("`mcloud update {}` gives it a new mcloud.yml", row.tenant.name)))
            }
            done => done.map_err(broken),
        }
    }

    pub fn tenant(&self, name: &TenantName) -> Result<Option<TenantRow>> {
        Ok(self.read_tenants(Some(name))?.pop())
    }

    /// All tenants, by name.
    pub fn tenants(&self) -> Result<Vec<TenantRow>> {
        self.read_tenants(None)
    }

    fn read_tenants(&self, name: Option<&TenantName>) -> Result<Vec<TenantRow>> {
        let db = self.reader();
        let read = || -> rusqlite::Result<Vec<TenantRow>> {
            let name = name.map(TenantName::as_str);
            let mut volumes = db.prepare_cached("SELECT service, path FROM volumes WHERE tenant = ? ORDER BY rowid")?;
            let mut tenants = db.prepare_cached("SELECT * FROM tenants WHERE ?1 IS NULL OR name = ?1 ORDER BY name")?;
            let rows = tenants.query_map([name], |row| {
                let name: String = row.get("name")?;
                let volumes = volumes.query_map([&name], |row| {
                    Ok(DataVolume {
                        service: ServiceName::new(&row.get::<_, String>("service")?).map_err(foreign)?,
                        path: VolumePath::new(&row.get::<_, String>("path")?).map_err(foreign)?,
                    })
                })?;
                let tenant = Tenant {
                    name: TenantName::new(&name).map_err(foreign)?,
                    env: row.get("env")?,
                    path: row.get("path")?,
                    volumes: volumes.collect::<rusqlite::Result<_>>()?,
                    created_unix: row.get("created")?,
                };
                Ok(TenantRow { tenant, config: row.get("config")?, external: row.get("external")? })
            })?;
            rows.collect()
        };
        read().map_err(broken)
    }

    pub fn remove_tenant(&self, name: &TenantName) -> Result<()> {
        let mut db = self.writer();
        let mut remove = || -> rusqlite::Result<()> {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            tx.execute("DELETE FROM tenants WHERE name = ?", [name.as_str()])?;
            // What was granted on it, or copied into it, must not be so for another one of this name.
            tx.execute("DELETE FROM grants WHERE tenant = ?", [name.as_str()])?;
            tx.execute("DELETE FROM jobs WHERE tenant = ?", [name.as_str()])?;
            tx.commit()
        };
        remove().map_err(broken)
    }

    // ---- audit -----------------------------------------------------------------------------------------------------

    /// Notes that something is begun; [`State::audit_end`] with this number notes how it ended.
    pub fn audit_begin(
        &self,
        key: &PublicKey,
        label: &str,
        what: &str,
        tenant: &str,
        on: &str,
        now: u64,
    ) -> Result<i64> {
        let db = self.writer();
        let sql =
            "INSERT INTO audit (at, key, label, what, tenant, what_on, result) VALUES (?, ?, ?, ?, ?, ?, 'started')";
        db.execute(sql, params![now, key.0, label, what, tenant, on]).map_err(broken)?;
        Ok(db.last_insert_rowid())
    }

    pub fn audit_end(&self, number: i64, result: &str) -> Result<()> {
        let sql = "UPDATE audit SET result = ? WHERE number = ?";
        self.writer().execute(sql, params![result, number]).map(drop).map_err(broken)
    }

    /// What was done since then to `tenant`, or to anything, oldest first.
    pub fn audit(&self, tenant: Option<&TenantName>, since: u64) -> Result<Vec<AuditEntry>> {
        let db = self.reader();
        let read = || -> rusqlite::Result<Vec<AuditEntry>> {
            let mut query = db
                .prepare_cached("SELECT * FROM audit WHERE at >= ?1 AND (?2 IS NULL OR tenant = ?2) ORDER BY number")?;
            let rows = query.query_map(params![since.min(i64::MAX as u64), tenant.map(TenantName::as_str)], |row| {
                Ok(AuditEntry {
                    at_unix: row.get("at")?,
                    key: key_of(row, "key")?.to_string(),
                    label: row.get("label")?,
                    what: row.get("what")?,
                    on: row.get("what_on")?,
                    result: row.get("result")?,
                })
            })?;
            rows.collect()
        };
        read().map_err(broken)
    }
}

fn enrol(
    db: &Connection,
    key: &PublicKey,
    label: &str,
    role: Role,
    tenants: &[TenantGlob],
    now: u64,
) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO keys (key, label, role, tenants, created) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (key) DO UPDATE SET label = ?2, role = ?3, tenants = ?4, revoked = NULL",
        params![key.0, label, role.word(), globs_text(tenants), now],
    )
    .map(drop)
}

fn data_text(data: Option<&DataVolume>) -> (&str, &str) {
    data.map_or(("", ""), |data| (data.service.as_str(), data.path.as_str()))
}

/// A ticket's secret is kept as its hash: who reads the database cannot use it.
fn secret_name(secret: &[u8]) -> [u8; 32] {
    *blake3::hash(secret).as_bytes()
}

#[cfg(test)]
mod tests;
