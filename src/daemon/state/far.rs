//! Tenants of other hosts that this one has to do with, and what is still to be done there.

use rusqlite::{OptionalExtension, Row, params};

use super::{State, broken, foreign, key_of};
use crate::model::host::FarHost;
use crate::model::{Result, Seat};
use crate::transport::PublicKey;

/// Something that has to be done at another host, and is tried until it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errand {
    pub number: i64,
    pub seat: Seat,
    pub what: String,
}

fn far_of(row: &Row<'_>) -> rusqlite::Result<FarHost> {
    let addresses: String = row.get("addresses")?;
    Ok(FarHost {
        host_key: key_of(row, "host_key")?.to_string(),
        addresses: addresses.split_whitespace().map(str::to_owned).collect(),
        grant: row.get("grant_number")?,
    })
}

impl State {
    /// How a tenant of another host is called here: as it was the first time, whatever name its host has now.
    pub fn name_of_far(&self, wanted: &Seat, host: &PublicKey) -> Result<Seat> {
        let db = self.reader();
        let mut query =
            db.prepare_cached("SELECT host FROM far_tenants WHERE tenant = ? AND host_key = ?").map_err(broken)?;
        let known: Option<String> =
            query.query_row(params![wanted.tenant.as_str(), host.0], |row| row.get(0)).optional().map_err(broken)?;
        match known {
            Some(known) => Ok(Seat { tenant: wanted.tenant.clone(), host: Some(known.parse()?) }),
            None => Ok(wanted.clone()),
        }
    }

    /// Notes how a tenant of another host is reached from now on. The grant that this one takes the place of, if it does.
    pub fn keep_far(&self, seat: &Seat, host: &PublicKey, far: &FarHost) -> Result<Option<u64>> {
        let before = self.far(seat)?.filter(|before| before.host_key == far.host_key && before.grant != far.grant);
        let label = seat.host.as_ref().map(ToString::to_string).unwrap_or_default();
        self.writer()
            .execute(
                "INSERT INTO far_tenants (tenant, host, host_key, addresses, grant_number) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (tenant, host) DO UPDATE SET host_key = ?3, addresses = ?4, grant_number = ?5",
                params![seat.tenant.as_str(), label, host.0, far.addresses.join(" "), far.grant],
            )
            .map_err(broken)?;
        Ok(before.map(|before| before.grant))
    }

    pub fn far(&self, seat: &Seat) -> Result<Option<FarHost>> {
        let label = seat.host.as_ref().map(ToString::to_string).unwrap_or_default();
        let db = self.reader();
        let mut query = db.prepare_cached("SELECT * FROM far_tenants WHERE tenant = ? AND host = ?").map_err(broken)?;
        query.query_row(params![seat.tenant.as_str(), label], far_of).optional().map_err(broken)
    }

    pub fn add_errand(&self, seat: &Seat, what: &str) -> Result<()> {
        let sql = "INSERT INTO errands (seat, what) VALUES (?, ?)";
        self.writer().execute(sql, params![seat.to_string(), what]).map(drop).map_err(broken)
    }

    /// Those that are not done, oldest first.
    pub fn errands(&self) -> Result<Vec<Errand>> {
        let db = self.reader();
        let mut query = db.prepare_cached("SELECT * FROM errands ORDER BY number").map_err(broken)?;
        let errand = |row: &Row<'_>| {
            let seat: String = row.get("seat")?;
            Ok(Errand { number: row.get("number")?, seat: seat.parse().map_err(foreign)?, what: row.get("what")? })
        };
        query.query_map([], errand).and_then(Iterator::collect).map_err(broken)
    }

    pub fn errand_done(&self, number: i64) -> Result<()> {
        self.writer().execute("DELETE FROM errands WHERE number = ?", [number]).map(drop).map_err(broken)
    }
}
