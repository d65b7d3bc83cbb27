//! Folders of this machine: as an end of a sync, and two of them with no daemon in between.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::context::cache_dir;
use crate::cli::output::Output;
use crate::model::sync::{Report, SyncOptions};
use crate::model::{Error, Result};
use crate::sync::{Cancel, LiveDir, Observer};
use crate::sys::path::{is_foreign_link, real};

/// A folder with the file that remembers it.
pub fn live_dir(folder: &Path, out: &Output) -> LiveDir {
    let root = canonical(folder);
    let index = index_of(&root).filter(|index| {
        let Some(dir) = index.parent() else { return false };
        let made = std::fs::create_dir_all(dir);
        if let Err(cause) = &made {
            out.detail(format!(
                "nothing is remembered of {}: {} cannot be made: {cause}",
                folder.display(),
                dir.display()
            ));
        }
        made.is_ok()
    });
    LiveDir { root, index, label: folder.display().to_string() }
}

/// The folder without symlinks on the way to it, as far as it is there.
fn canonical(folder: &Path) -> PathBuf {
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    match real(&whole) {
        Ok(found) => return found,
        // Whoever opens it says why not.
        Err(error) if is_foreign_link(&error) => return whole,
        Err(_) => {}
    }
    match (whole.parent().map(real), whole.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => whole,
    }
}

fn index_of(root: &Path) -> Option<PathBuf> {
    let name = blake3::hash(root.as_os_str().as_bytes()).to_hex();
    Some(cache_dir()?.join("index").join(format!("{name}.idx")))
}

pub async fn run(
    from: &Path,
    to: &Path,
    options: &SyncOptions,
    observer: Arc<dyn Observer>,
    cancel: Cancel,
    out: &Output,
) -> Result<Report> {
    let (source, target) = (live_dir(from, out), live_dir(to, out));
    let options = options.clone();
    tokio::task::spawn_blocking(move || crate::sync::local(&source, &target, &options, observer, cancel))
        .await
        .map_err(|cause| Error::failed("the sync broke off by a mistake in mcloud").because(cause))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symlinks_on_the_way_do_not_make_another_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let real = canonical(&dir.path().join("real"));
        assert_eq!(canonical(&dir.path().join("link")), real);
        assert_eq!(canonical(&dir.path().join("link/new")), real.join("new"));
        assert_eq!(index_of(&real), index_of(&canonical(&dir.path().join("link/."))));
    }
}
