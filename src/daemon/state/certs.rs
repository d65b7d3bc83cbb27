//! Which domains have certificates here, and how renewing them goes.

use rusqlite::{Row, params};

use super::{State, broken, foreign};
use crate::model::{Domain, Result};

/// A certificate, besides its bytes, which lie in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertRow {
    pub domain: Domain,
    /// From the CA, and renewed there; else somebody brought it.
    pub acme: bool,
    /// Tries to renew it that failed, since one did not.
    pub tries: u32,
    /// Not before then is it tried again.
    pub next_try: u64,
    pub error: Option<String>,
}

fn cert_of(row: &Row<'_>) -> rusqlite::Result<CertRow> {
    Ok(CertRow {
        domain: Domain::new(&row.get::<_, String>("domain")?).map_err(foreign)?,
        acme: row.get("acme")?,
        tries: row.get("tries")?,
        next_try: row.get("next_try")?,
        error: row.get("error")?,
    })
}

impl State {
    pub fn certs(&self) -> Result<Vec<CertRow>> {
        let db = self.reader();
        let mut query = db.prepare_cached("SELECT * FROM certs ORDER BY domain").map_err(broken)?;
        query.query_map([], cert_of).and_then(Iterator::collect).map_err(broken)
    }

    pub fn keep_cert(&self, cert: &CertRow) -> Result<()> {
        let sql = "INSERT INTO certs (domain, acme, tries, next_try, error) VALUES (?1, ?2, ?3, ?4, ?5)
                   ON CONFLICT (domain) DO UPDATE SET acme = ?2, tries = ?3, next_try = ?4, error = ?5";
        let values = params![cert.domain.as_str(), cert.acme, cert.tries, cert.next_try, cert.error];
        self.writer().execute(sql, values).map(drop).map_err(broken)
    }

    /// Whether there was one.
    pub fn forget_cert(&self, domain: &Domain) -> Result<bool> {
        let gone = self.writer().execute("DELETE FROM certs WHERE domain = ?", [domain.as_str()]);
        gone.map(|rows| rows > 0).map_err(broken)
    }
}
