//! A database that another version of the program wrote: looked at without a trace, and copied before it is migrated.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::broken;
use crate::model::{Error, Result};
use crate::sys::dir::private_file;

/// So many copies are kept, the newest.
const COPIES: usize = 3;
/// How a database file begins, and where it has its `user_version`, big endian (SQLite's file format, 1.3).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const USER_VERSION: usize = 60;
const HEADER: usize = 64;

/// The `user_version` of a database file, 0 where there is none. The file and its log stay byte by byte what they are.
pub fn version_of(file: &Path) -> Result<usize> {
    let cannot = |error| Error::io(format!("the daemon's database {} cannot be read", file.display()), error);
    let is_logged = fs::metadata(beside(file, "-wal")).is_ok_and(|log| log.len() > 0);
    if is_logged {
        // What counts may be in the log alone, and a database that is closed would take its log in.
        let version = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).and_then(|db| {
            db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            db.pragma_query_value(None, "user_version", |row| row.get(0))
        });
        return version.map_err(broken);
    }
    let mut head = [0; HEADER];
    match File::open(file).and_then(|mut file| file.read_exact(&mut head)) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => return Ok(0),
        Err(error) => return Err(cannot(error)),
    }
    if !head.starts_with(MAGIC) {
        // What it is SQLite says when it is opened.
        return Ok(0);
    }
    let version = head[USER_VERSION..].first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    Ok(version as usize)
}

fn beside(file: &Path, end: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Keeps a copy of the database, with all that is in its log, as `state.db.before-N`, N being the version that it is about
/// to be migrated to. When this returns the copy is there for good. Of older ones a few are kept.
pub fn keep_copy(db: &Connection, file: &Path, to: usize) -> Result<()> {
    let (draft, kept) = (beside(file, ".before.draft"), beside(file, &format!(".before-{to}")));
    let cannot = |error: Error| Error {
        message: format!("no copy of {} can be kept before it is migrated", file.display()),
        hint: Some("it is as it was; make room in the daemon's home and start it again".to_owned()),
        ..error
    };
    let failed = |error| cannot(Error::io(String::new(), error));
    let fresh = || -> std::io::Result<File> {
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // SQLite fills a file that is there and empty: so it is its owner's alone from the first byte on.
        private_file().create_new(true).open(&draft)
    };
    let copy = fresh().map_err(failed)?;
    let into = draft.to_string_lossy().into_owned();
    db.execute("VACUUM INTO ?", [into]).map_err(|error| {
        let _ = fs::remove_file(&draft);
        cannot(broken(error))
    })?;
    // It is written without any sync.
    let settle = || -> std::io::Result<()> {
        copy.sync_all()?;
        fs::rename(&draft, &kept)?;
        File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    settle().map_err(failed)?;
    tracing::info!("{} was kept before it is migrated", kept.display());
    forget_old(file);
    Ok(())
}

/// Removes all but the newest copies. One that cannot be is no reason not to start.
fn forget_old(file: &Path) {
    let prefix = beside(file, ".before-");
    let Some((folder, prefix)) = prefix.parent().zip(prefix.file_name().and_then(|name| name.to_str())) else { return };
    let mut copies: Vec<(u64, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?, entry.path())))
        .collect();
    copies.sort_unstable();
    for (_, old) in copies.iter().rev().skip(COPIES) {
        if let Err(error) = fs::remove_file(old) {
            tracing::warn!("{} cannot be removed: {error}", old.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A database whose table and version are in its log alone, as after a crash.
    fn crashed(dir: &Path, version: usize) -> PathBuf {
        let db = Connection::open(dir.join("live.db")).unwrap();
        db.pragma_update(None, "journal_mode", "wal").unwrap();
        db.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        db.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (7);").unwrap();
        db.pragma_update(None, "user_version", version).unwrap();
        let file = dir.join("state.db");
        for end in ["", "-wal"] {
            fs::copy(beside(&dir.join("live.db"), end), beside(&file, end)).unwrap();
        }
        file
    }

    #[test]
    fn a_version_is_read_out_of_file_or_log_and_neither_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(version_of(&dir.path().join("none")).unwrap(), 0);
        let file = crashed(dir.path(), 77);
        let bytes = || ["", "-wal"].map(|end| fs::read(beside(&file, end)).unwrap());
        let before = bytes();
        assert_eq!(version_of(&file).unwrap(), 77);
        assert_eq!(bytes(), before);
        // Taken in, and read from the file itself.
        drop(
            Connection::open(&file)
                .and_then(|db| db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").map(|()| db))
                .unwrap(),
        );
        let _ = fs::remove_file(beside(&file, "-wal"));
        let before = fs::read(&file).unwrap();
        assert_eq!(version_of(&file).unwrap(), 77);
        assert_eq!(fs::read(&file).unwrap(), before);
        assert!(!beside(&file, "-wal").exists(), "nothing is made beside it");
    }

    #[test]
    fn a_copy_has_what_is_in_the_log_and_only_the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = crashed(dir.path(), 9);
        let db = Connection::open(&file).unwrap();
        for to in [8, 9, 10, 11, 12] {
            keep_copy(&db, &file, to).unwrap();
        }
        let copy = beside(&file, ".before-12");
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        let kept = Connection::open(&copy).unwrap();
        assert_eq!(kept.query_row("SELECT x FROM t", [], |row| row.get::<_, i64>(0)).unwrap(), 7);
        assert_eq!(kept.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).unwrap(), 9);
        let left = |to: usize| beside(&file, &format!(".before-{to}")).exists();
        assert_eq!([8, 9, 10, 11, 12].map(left), [false, false, true, true, true]);
        assert!(!beside(&file, ".before.draft").exists());
    }
}
