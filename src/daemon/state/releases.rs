//! Releases: those under way, so that whoever starts next knows how far they came, and the receipts of all.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Row, params};

use super::{State, broken, foreign};
use crate::model::running::Wanted;
use crate::model::{Domain, Result, Seat};
use crate::release::steps::Step;

/// A release that has not come to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct ReleaseRow {
    pub number: i64,
    pub from: Seat,
    pub to: Seat,
    pub domains: Vec<Domain>,
    pub step: Step,
    /// What the target's services had been asked to be.
    pub to_was: BTreeMap<String, Wanted>,
}

fn row_of(row: &Row<'_>) -> rusqlite::Result<ReleaseRow> {
    let seat = |column: &str| row.get::<_, String>(column)?.parse::<Seat>().map_err(foreign);
    let domains: String = row.get("domains")?;
    let was: String = row.get("to_was")?;
    let was = was.split_whitespace().filter_map(|pair| pair.split_once('=')).map(|(service, wanted)| {
        let wanted: Wanted = wanted.parse().map_err(foreign)?;
        Ok((service.to_owned(), wanted))
    });
    Ok(ReleaseRow {
        number: row.get("number")?,
        from: seat("from_tenant")?,
        to: seat("to_tenant")?,
        domains: domains.split_whitespace().map(Domain::new).collect::<Result<_>>().map_err(foreign)?,
        step: row.get::<_, String>("step")?.parse().map_err(foreign)?,
        to_was: was.collect::<rusqlite::Result<_>>()?,
    })
}

impl State {
    /// Notes a release that begins; its number in `row` does not count.
    pub fn release_begin(&self, row: &ReleaseRow, is_rollback: bool, now: u64) -> Result<i64> {
        let domains = row.domains.iter().map(Domain::as_str).collect::<Vec<_>>().join(" ");
        let was =
            row.to_was.iter().map(|(service, wanted)| format!("{service}={wanted}")).collect::<Vec<_>>().join(" ");
        let db = self.writer();
        db.execute(
            "INSERT INTO releases (from_tenant, to_tenant, domains, is_rollback, step, to_was, began)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![row.from.to_string(), row.to.to_string(), domains, is_rollback, row.step.word(), was, now],
        )
        .map_err(broken)?;
        Ok(db.last_insert_rowid())
    }

    /// Notes that a step is about to be taken.
    pub fn release_at(&self, number: i64, step: Step) -> Result<()> {
        let sql = "UPDATE releases SET step = ? WHERE number = ?";
        self.writer().execute(sql, params![step.word(), number]).map(drop).map_err(broken)
    }

    /// Notes how a release ended, with its receipt.
    pub fn release_end(&self, number: i64, receipt: &[u8], is_done: bool) -> Result<()> {
        let sql = "UPDATE releases SET receipt = ?, is_done = ? WHERE number = ?";
        self.writer().execute(sql, params![receipt, is_done, number]).map(drop).map_err(broken)
    }

    /// Those that have not ended, oldest first.
    pub fn releases_open(&self) -> Result<Vec<ReleaseRow>> {
        let db = self.reader();
        let mut query =
            db.prepare_cached("SELECT * FROM releases WHERE receipt IS NULL ORDER BY number").map_err(broken)?;
        query.query_map([], row_of).and_then(Iterator::collect).map_err(broken)
    }

    /// The last release that moved this domain, and whether that was a rollback.
    pub fn release_of(&self, domain: &Domain) -> Result<Option<(ReleaseRow, bool)>> {
        let db = self.reader();
        let mut query = db
            .prepare_cached(
                "SELECT * FROM releases WHERE is_done = 1 AND ' ' || domains || ' ' LIKE '% ' || ? || ' %'
                 ORDER BY number DESC LIMIT 1",
            )
            .map_err(broken)?;
        let found = query.query_row([domain.as_str()], |row| Ok((row_of(row)?, row.get("is_rollback")?)));
        found.optional().map_err(broken)
    }

    /// The receipts of the releases that have ended, oldest first.
    pub fn receipts(&self) -> Result<Vec<Vec<u8>>> {
        let db = self.reader();
        let mut query = db
            .prepare_cached("SELECT receipt FROM releases WHERE receipt IS NOT NULL ORDER BY number")
            .map_err(broken)?;
        query.query_map([], |row| row.get(0)).and_then(Iterator::collect).map_err(broken)
    }
}
