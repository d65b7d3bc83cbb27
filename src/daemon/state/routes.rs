//! Which domains lead to which tenants, of this host or of another one.

use rusqlite::{OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::{State, broken, foreign};
use crate::model::publish::Route;
use crate::model::{Domain, Result, Seat, TenantName};

/// A route beside the far tenant that it leads to, if it does.
const WITH_FAR: &str = "SELECT routes.*, far_tenants.tenant AS far_tenant, far_tenants.host AS far_host
    FROM routes LEFT JOIN far_tenants ON far_tenants.number = routes.far";

fn seat_of(row: &Row<'_>) -> rusqlite::Result<Seat> {
    let (tenant, host): (String, Option<String>) = match row.get("tenant")? {
        Some(tenant) => (tenant, None),
        None => (row.get("far_tenant")?, Some(row.get("far_host")?)),
    };
    let host = host.map(|host| host.parse()).transpose().map_err(foreign)?;
    Ok(Seat { tenant: TenantName::new(&tenant).map_err(foreign)?, host })
}

fn route_of(row: &Row<'_>) -> rusqlite::Result<Route> {
    Ok(Route {
        domain: Domain::new(&row.get::<_, String>("domain")?).map_err(foreign)?,
        ssl: row.get("ssl")?,
        tenant: seat_of(row)?,
        port: row.get("port")?,
    })
}

/// Where a route leads.
fn leads(tx: &Transaction<'_>, route: &Route) -> rusqlite::Result<Option<Seat>> {
    let sql = format!("{WITH_FAR} WHERE routes.domain = ? AND routes.ssl = ?");
    tx.query_row(&sql, params![route.domain.as_str(), route.ssl], seat_of).optional()
}

impl State {
    /// All routes, by domain.
    pub fn routes(&self) -> Result<Vec<Route>> {
        let db = self.reader();
        let mut query = db.prepare_cached(&format!("{WITH_FAR} ORDER BY routes.domain, routes.ssl")).map_err(broken)?;
        query.query_map([], route_of).and_then(Iterator::collect).map_err(broken)
    }

    pub fn route(&self, domain: &Domain, ssl: bool) -> Result<Option<Route>> {
        let db = self.reader();
        let sql = format!("{WITH_FAR} WHERE routes.domain = ? AND routes.ssl = ?");
        let mut query = db.prepare_cached(&sql).map_err(broken)?;
        query.query_row(params![domain.as_str(), ssl], route_of).optional().map_err(broken)
    }

    /// Makes routes lead where these say, all in one step, if each still leads to the tenant that `from` says (`None`: to
    /// none). Whether they did.
    pub fn move_routes(&self, moves: &[(Route, Option<Seat>)], now: u64) -> Result<bool> {
        let mut db = self.writer();
        let mut write = || -> rusqlite::Result<bool> {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for (route, from) in moves {
                if leads(&tx, route)? != *from {
                    return Ok(false);
                }
                let Seat { tenant, host } = &route.tenant;
                let far: Option<i64> = match host {
                    None => None,
                    Some(host) => {
                        let sql = "SELECT number FROM far_tenants WHERE tenant = ? AND host = ?";
                        Some(tx.query_row(sql, params![tenant.as_str(), host.to_string()], |row| row.get(0))?)
                    }
                };
                let here = far.is_none().then_some(tenant.as_str());
                tx.execute(
                    "INSERT INTO routes (domain, ssl, tenant, far, port, created) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT (domain, ssl) DO UPDATE SET tenant = ?3, far = ?4, port = ?5, created = ?6",
                    params![route.domain.as_str(), route.ssl, here, far, route.port, now],
                )?;
            }
            tx.commit()?;
            Ok(true)
        };
        write().map_err(broken)
    }

    /// Takes a route away, if it leads to this tenant. Whether there was one.
    pub fn remove_route(&self, route: &Route) -> Result<bool> {
        let mut db = self.writer();
        let mut write = || -> rusqlite::Result<bool> {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if leads(&tx, route)?.as_ref() != Some(&route.tenant) {
                return Ok(false);
            }
            let sql = "DELETE FROM routes WHERE domain = ? AND ssl = ?";
            let removed = tx.execute(sql, params![route.domain.as_str(), route.ssl])?;
            tx.commit()?;
            Ok(removed > 0)
        };
        write().map_err(broken)
    }
}
