//! Which domains lead to which tenants.

use rusqlite::{OptionalExtension, Row, TransactionBehavior, params};

use super::{State, broken, foreign};
use crate::model::publish::Route;
use crate::model::{Domain, Result, TenantName};

fn route_of(row: &Row<'_>) -> rusqlite::Result<Route> {
    Ok(Route {
        domain: Domain::new(&row.get::<_, String>("domain")?).map_err(foreign)?,
        ssl: row.get("ssl")?,
        tenant: TenantName::new(&row.get::<_, String>("tenant")?).map_err(foreign)?,
        port: row.get("port")?,
    })
}

impl State {
    /// All routes, by domain.
    pub fn routes(&self) -> Result<Vec<Route>> {
        let db = self.reader();
        let mut query = db.prepare_cached("SELECT * FROM routes ORDER BY domain, ssl").map_err(broken)?;
        query.query_map([], route_of).and_then(Iterator::collect).map_err(broken)
    }

    pub fn route(&self, domain: &Domain, ssl: bool) -> Result<Option<Route>> {
        let db = self.reader();
        let mut query = db.prepare_cached("SELECT * FROM routes WHERE domain = ? AND ssl = ?").map_err(broken)?;
        query.query_row(params![domain.as_str(), ssl], route_of).optional().map_err(broken)
    }

    /// Makes routes lead where these say, all in one step, if each still leads to the tenant that `from` says (`None`: to
    /// none). Whether they did.
    pub fn move_routes(&self, moves: &[(Route, Option<TenantName>)], now: u64) -> Result<bool> {
        let mut db = self.writer();
        let mut write = || -> rusqlite::Result<bool> {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for (route, from) in moves {
                let sql = "SELECT tenant FROM routes WHERE domain = ? AND ssl = ?";
                let there: Option<String> =
                    tx.query_row(sql, params![route.domain.as_str(), route.ssl], |row| row.get(0)).optional()?;
                if there.as_deref() != from.as_ref().map(TenantName::as_str) {
                    return Ok(false);
                }
                tx.execute(
                    "INSERT INTO routes (domain, ssl, tenant, port, created) VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (domain, ssl) DO UPDATE SET tenant = ?3, port = ?4, created = ?5",
                    params![route.domain.as_str(), route.ssl, route.tenant.as_str(), route.port, now],
                )?;
            }
            tx.commit()?;
            Ok(true)
        };
        write().map_err(broken)
    }

    /// Takes a route away, if it leads to this tenant. Whether there was one.
    pub fn remove_route(&self, route: &Route) -> Result<bool> {
        let sql = "DELETE FROM routes WHERE domain = ? AND ssl = ? AND tenant = ?";
        let values = params![route.domain.as_str(), route.ssl, route.tenant.as_str()];
        self.writer().execute(sql, values).map(|rows| rows > 0).map_err(broken)
    }
}
