//! What is frozen, written down before it is: whoever starts next thaws it.

use rusqlite::params;

use super::{State, broken, foreign};
use crate::model::{Result, TenantName};

/// A freeze that has not been ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreezeRow {
    pub number: i64,
    pub tenant: TenantName,
    /// Ids of containers.
    pub containers: Vec<String>,
}

impl State {
    /// Notes that these containers are about to be frozen. Gives the number by which [`State::freeze_end`] knows it.
    pub fn freeze_begin(&self, tenant: &TenantName, containers: &[String], now: u64) -> Result<i64> {
        let db = self.writer();
        let sql = "INSERT INTO freezes (tenant, containers, began) VALUES (?, ?, ?)";
        db.execute(sql, params![tenant.as_str(), containers.join(" "), now]).map_err(broken)?;
        Ok(db.last_insert_rowid())
    }

    pub fn freeze_end(&self, number: i64) -> Result<()> {
        self.writer().execute("DELETE FROM freezes WHERE number = ?", [number]).map(drop).map_err(broken)
    }

    /// The freezes that were not ended, oldest first.
    pub fn freezes(&self) -> Result<Vec<FreezeRow>> {
        let db = self.reader();
        let mut query =
            db.prepare_cached("SELECT number, tenant, containers FROM freezes ORDER BY number").map_err(broken)?;
        let rows = query.query_map([], |row| {
            let containers: String = row.get(2)?;
            Ok(FreezeRow {
                number: row.get(0)?,
                tenant: TenantName::new(&row.get::<_, String>(1)?).map_err(foreign)?,
                containers: containers.split_whitespace().map(str::to_owned).collect(),
            })
        });
        rows.and_then(Iterator::collect).map_err(broken)
    }
}
