//! The tables, and how an older database becomes a newer one. A migration that was released is never changed.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::model::{Error, Kind, Result};

/// One step each; the database's `user_version` counts those that were taken.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE keys (
        key BLOB PRIMARY KEY NOT NULL,
        label TEXT NOT NULL,
        role TEXT NOT NULL,
        tenants TEXT NOT NULL,
        created INTEGER NOT NULL,
        last_seen INTEGER,
        revoked INTEGER
    ) STRICT;
    CREATE TABLE invites (
        key BLOB PRIMARY KEY NOT NULL,
        role TEXT NOT NULL,
        tenants TEXT NOT NULL,
        created INTEGER NOT NULL,
        expires INTEGER NOT NULL,
        used INTEGER,
        used_by BLOB
    ) STRICT;
    CREATE TABLE tickets (
        secret BLOB PRIMARY KEY NOT NULL,
        host_key BLOB NOT NULL,
        tenant TEXT NOT NULL,
        service TEXT NOT NULL,
        path TEXT NOT NULL,
        expires INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX tickets_by_host ON tickets (host_key);
    CREATE TABLE tenants (
        name TEXT PRIMARY KEY NOT NULL,
        env TEXT,
        config TEXT NOT NULL,
        path TEXT NOT NULL,
        external INTEGER NOT NULL,
        created INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE volumes (
        tenant TEXT NOT NULL REFERENCES tenants (name) ON DELETE CASCADE,
        service TEXT NOT NULL,
        path TEXT NOT NULL,
        UNIQUE (tenant, service, path)
    ) STRICT;
    CREATE TABLE audit (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        key BLOB NOT NULL,
        label TEXT NOT NULL,
        what TEXT NOT NULL,
        tenant TEXT NOT NULL,
        what_on TEXT NOT NULL,
        result TEXT NOT NULL
    ) STRICT;
    CREATE INDEX audit_by_time ON audit (at);
",
    "
    CREATE TABLE services (
        tenant TEXT NOT NULL REFERENCES tenants (name) ON DELETE CASCADE,
        service TEXT NOT NULL,
        wanted TEXT NOT NULL,
        UNIQUE (tenant, service)
    ) STRICT;
    ALTER TABLE volumes ADD COLUMN of_image INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE vars (
        name TEXT PRIMARY KEY NOT NULL,
        value TEXT NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE grants (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        host_key BLOB NOT NULL,
        host TEXT NOT NULL,
        role TEXT NOT NULL,
        tenant TEXT NOT NULL,
        purpose TEXT NOT NULL,
        by_key BLOB NOT NULL,
        created INTEGER NOT NULL,
        expires INTEGER,
        last_seen INTEGER
    ) STRICT;
    CREATE INDEX grants_by_host ON grants (host_key);
",
    "
    CREATE TABLE freezes (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant TEXT NOT NULL,
        containers TEXT NOT NULL,
        began INTEGER NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE routes (
        domain TEXT NOT NULL,
        ssl INTEGER NOT NULL,
        tenant TEXT NOT NULL REFERENCES tenants (name) ON DELETE CASCADE,
        port INTEGER,
        created INTEGER NOT NULL,
        PRIMARY KEY (domain, ssl)
    ) STRICT;
",
    "
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        cron TEXT NOT NULL,
        zone TEXT NOT NULL,
        tenant TEXT NOT NULL,
        work BLOB NOT NULL,
        by_key BLOB NOT NULL,
        by_label TEXT NOT NULL,
        created INTEGER NOT NULL,
        paused INTEGER NOT NULL DEFAULT 0,
        mark INTEGER NOT NULL,
        again INTEGER
    ) STRICT;
    CREATE TABLE runs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
        slot INTEGER,
        missed INTEGER NOT NULL,
        began INTEGER NOT NULL,
        ended INTEGER,
        outcome TEXT NOT NULL,
        kind TEXT,
        message TEXT,
        hint TEXT,
        report BLOB,
        tries INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX runs_by_job ON runs (job, number);
",
    "ALTER TABLE runs ADD COLUMN kept BLOB;",
    "
    CREATE TABLE releases (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        from_tenant TEXT NOT NULL,
        to_tenant TEXT NOT NULL,
        domains TEXT NOT NULL,
        is_rollback INTEGER NOT NULL,
        step TEXT NOT NULL,
        to_was TEXT NOT NULL,
        began INTEGER NOT NULL,
        is_done INTEGER NOT NULL DEFAULT 0,
        receipt BLOB
    ) STRICT;
",
    "
    CREATE TABLE certs (
        domain TEXT PRIMARY KEY NOT NULL,
        acme INTEGER NOT NULL,
        tries INTEGER NOT NULL,
        next_try INTEGER NOT NULL,
        error TEXT
    ) STRICT;
",
    "
    CREATE TABLE far_tenants (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant TEXT NOT NULL,
        host TEXT NOT NULL,
        host_key BLOB NOT NULL,
        addresses TEXT NOT NULL,
        grant_number INTEGER NOT NULL,
        UNIQUE (tenant, host)
    ) STRICT;
    CREATE TABLE errands (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        seat TEXT NOT NULL,
        what TEXT NOT NULL
    ) STRICT;
    CREATE TABLE routes_of_all (
        domain TEXT NOT NULL,
        ssl INTEGER NOT NULL,
        tenant TEXT REFERENCES tenants (name) ON DELETE CASCADE,
        far INTEGER REFERENCES far_tenants (number),
        port INTEGER,
        created INTEGER NOT NULL,
        PRIMARY KEY (domain, ssl),
        CHECK ((tenant IS NULL) <> (far IS NULL))
    ) STRICT;
    INSERT INTO routes_of_all (domain, ssl, tenant, port, created) SELECT domain, ssl, tenant, port, created FROM routes;
    DROP TABLE routes;
    ALTER TABLE routes_of_all RENAME TO routes;
",
];

fn version(db: &Connection) -> rusqlite::Result<usize> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Takes the steps that are missing, all of them or none.
pub fn migrate(db: &mut Connection) -> rusqlite::Result<()> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = version(&tx)?;
    for step in MIGRATIONS.iter().skip(done) {
        tx.execute_batch(step)?;
    }
    if done < MIGRATIONS.len() {
        tx.pragma_update(None, "user_version", MIGRATIONS.len())?;
    }
    tx.commit()
}

/// The version that a database with something in it has to be migrated to, if it has to be.
pub fn migrates_to(db: &Connection) -> rusqlite::Result<Option<usize>> {
    let (known, version) = (MIGRATIONS.len(), version(db)?);
    Ok(Some(known).filter(|_| (1..known).contains(&version)))
}

/// A database of a newer program is not opened.
pub fn check(version: usize, file: &Path) -> Result<()> {
    let known = MIGRATIONS.len();
    if version <= known {
        return Ok(());
    }
    let message = format!("{} is of a newer mcloud: its format is {version}, this one knows {known}", file.display());
    let hint = "run the newer mcloud again; or put the copy back that it kept before it migrated (`state.db.before-…`), \
                with no daemon running, and what was done since is forgotten";
    Err(Error::new(Kind::Failed, message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_copied_once_when_it_is_migrated_and_not_when_it_is_made_or_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state.db");
        let copies = || {
            let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.to_string_lossy().contains("before")).collect::<Vec<_>>()
        };
        let before = MIGRATIONS.len() - 1;
        let db = Connection::open(&file).unwrap();
        for step in &MIGRATIONS[..before] {
            db.execute_batch(step).unwrap();
        }
        db.pragma_update(None, "user_version", before).unwrap();
        db.execute_batch("INSERT INTO tenants VALUES ('shop', NULL, '', '/srv', 0, 1)").unwrap();
        drop(db);
        for _ in 0..2 {
            let tenants = crate::daemon::state::State::open(&file).unwrap().tenants().unwrap();
            assert_eq!(tenants[0].tenant.name.as_str(), "shop");
            assert_eq!(copies(), [format!("state.db.before-{}", MIGRATIONS.len()).as_str()]);
        }
        let kept = Connection::open(dir.path().join(&copies()[0])).unwrap();
        assert_eq!(version(&kept).unwrap(), before);
        let other = dir.path().join("other");
        std::fs::create_dir(&other).unwrap();
        crate::daemon::state::State::open(&other.join("state.db")).unwrap();
        assert!(
            std::fs::read_dir(&other)
                .unwrap()
                .all(|entry| { !entry.unwrap().file_name().to_string_lossy().contains("before") })
        );
    }

    #[test]
    fn routes_of_a_database_that_knew_no_other_hosts_lead_where_they_did() {
        let mut db = Connection::open_in_memory().unwrap();
        db.pragma_update(None, "foreign_keys", true).unwrap();
        let before = 9;
        for step in &MIGRATIONS[..before] {
            db.execute_batch(step).unwrap();
        }
        db.pragma_update(None, "user_version", before).unwrap();
        db.execute_batch(
            "INSERT INTO tenants VALUES ('shop', NULL, '', '/srv', 0, 1), ('blog', NULL, '', '/srv', 0, 1);
             INSERT INTO routes VALUES ('a.example', 0, 'shop', 8080, 7), ('b.example', 1, 'blog', NULL, 8);",
        )
        .unwrap();
        migrate(&mut db).unwrap();
        let row = |domain: &str| {
            db.query_row("SELECT tenant, far, port, created FROM routes WHERE domain = ?", [domain], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
        };
        type Row = (String, Option<i64>, Option<u16>, i64);
        let found: Row = row("a.example").unwrap();
        assert_eq!(found, ("shop".to_owned(), None, Some(8080), 7));
        // A tenant that goes takes its routes along, as before.
        db.execute("DELETE FROM tenants WHERE name = 'blog'", []).unwrap();
        assert!(row("b.example").map(|row: Row| row).is_err());
        assert!(db.execute("INSERT INTO routes VALUES ('c.example', 0, NULL, NULL, NULL, 9)", []).is_err());
    }
}
