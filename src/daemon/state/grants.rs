//! What other hosts were granted. A grant is as good as the standing of whoever gave it is now.

use rusqlite::{Connection, Row, params};

use super::{State, broken, foreign, globs_of, key_of};
use crate::model::host::{Grant, GrantTerms, Role, TenantGlob};
use crate::model::{Result, TenantName};
use crate::transport::PublicKey;

/// A grant beside its giver's standing, if he has one.
const WITH_GIVER: &str = "SELECT grants.*, keys.label AS by, keys.role AS by_role, keys.tenants AS tenants
    FROM grants JOIN keys ON keys.key = grants.by_key AND keys.revoked IS NULL";

impl State {
    /// Notes a grant, and forgets those that have run out.
    pub fn add_grant(&self, host: &PublicKey, terms: &GrantTerms, by: &PublicKey, now: u64) -> Result<u64> {
        let db = self.writer();
        let add = || -> rusqlite::Result<u64> {
            db.execute("DELETE FROM grants WHERE expires <= ?", [now])?;
            db.execute(
                "INSERT INTO grants (host_key, host, role, tenant, purpose, by_key, created, expires)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    host.0,
                    terms.host,
                    terms.role.word(),
                    terms.tenant.as_str(),
                    terms.purpose,
                    by.0,
                    now,
                    terms.expires_unix
                ],
            )?;
            u64::try_from(db.last_insert_rowid()).map_err(|_| rusqlite::Error::InvalidQuery)
        };
        add().map_err(broken)
    }

    /// What this host may do now.
    pub fn grants_of(&self, host: &PublicKey, now: u64) -> Result<Vec<Grant>> {
        of_host(&self.reader(), host, now)
    }

    /// All that are good now, in the order in which they were given.
    pub fn grants(&self, now: u64) -> Result<Vec<Grant>> {
        let db = self.reader();
        let sql = format!("{WITH_GIVER} WHERE expires IS NULL OR expires > ? ORDER BY number");
        let mut query = db.prepare_cached(&sql).map_err(broken)?;
        let rows = query.query_map([now], good).and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>);
        Ok(rows.map_err(broken)?.into_iter().flatten().collect())
    }

    /// Takes a grant back. Whether there was one.
    pub fn remove_grant(&self, number: u64) -> Result<bool> {
        self.writer().execute("DELETE FROM grants WHERE number = ?", [number]).map(|rows| rows > 0).map_err(broken)
    }
}

/// What a host may do now.
pub(super) fn of_host(db: &Connection, host: &PublicKey, now: u64) -> Result<Vec<Grant>> {
    let sql = format!("{WITH_GIVER} WHERE host_key = ? AND (expires IS NULL OR expires > ?) ORDER BY number");
    let mut query = db.prepare_cached(&sql).map_err(broken)?;
    let rows = query.query_map(params![host.0, now], good).and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>);
    Ok(rows.map_err(broken)?.into_iter().flatten().collect())
}

/// The grant, if its giver still has the right that he gave.
fn good(row: &Row<'_>) -> rusqlite::Result<Option<Grant>> {
    let role: Role = row.get::<_, String>("role")?.parse().map_err(foreign)?;
    let own: Role = row.get::<_, String>("by_role")?.parse().map_err(foreign)?;
    let tenant = TenantName::new(&row.get::<_, String>("tenant")?).map_err(foreign)?;
    let globs: Vec<TenantGlob> = globs_of(row)?;
    let has = own == Role::Admin || own >= role && globs.iter().any(|glob| glob.matches(tenant.as_str()));
    let terms = GrantTerms {
        host_key: key_of(row, "host_key")?.to_string(),
        host: row.get("host")?,
        role,
        tenant,
        purpose: row.get("purpose")?,
        expires_unix: row.get("expires")?,
    };
    let grant = Grant {
        number: row.get("number")?,
        terms,
        by_key: key_of(row, "by_key")?.to_string(),
        by: row.get("by")?,
        created_unix: row.get("created")?,
        last_seen_unix: row.get("last_seen")?,
    };
    Ok(has.then_some(grant))
}
