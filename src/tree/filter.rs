//! Which paths belong to a view: the part asked for with `--path`, less what `.mcignore` and `--exclude` leave out.
//! Both ends of a sync use the same rules, so what is left out at the source is left alone at the target.

mod glob;
mod rules;

use std::io::Read;

use crate::model::{Error, Result};
use crate::sys::dir::Dir;
use rules::Rules;

/// The file of rules at a source's root.
pub const RULES_FILE: &[u8] = b".mcignore";
/// The most that is read of it.
pub const RULES_MAX: usize = 1 << 20;
/// Where a target stages beside or inside a tree; never part of one.
pub const STAGE_PREFIX: &[u8] = b".mcloud-stage";

pub struct Filter {
    rules: Rules,
    scope: Vec<u8>,
}

/// How a path stands to a view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stand {
    In,
    /// A directory above the part asked for: walked through, itself not compared.
    Above,
    /// Not in the part asked for, or not ours to see.
    Outside,
    /// Left out by a rule: there may be something there, and it is to be left alone.
    Protected,
}

impl Filter {
    /// `scope`: relative path or empty; `rules`: the text of `.mcignore`; `exclude`: further patterns, which win.
    pub fn new(scope: &[u8], rules: &[u8], exclude: &[String]) -> Result<Filter> {
        Ok(Filter { rules: Rules::new(rules, exclude)?, scope: clean_scope(scope)? })
    }

    /// The stand of the entry at `path` (relative, not empty).
    pub fn stand(&self, path: &[u8], is_dir: bool) -> Stand {
        if is_stage(path) { Stand::Outside } else { self.stand_of_any(path, is_dir) }
    }

    /// Whether the entry is outside for nothing but its name, which is kept for stages.
    pub fn hides(&self, path: &[u8], is_dir: bool) -> bool {
        is_stage(path) && self.stand_of_any(path, is_dir) == Stand::In
    }

    fn stand_of_any(&self, path: &[u8], is_dir: bool) -> Stand {
        let scope = &self.scope[..];
        let above = !scope.is_empty() && is_below(scope, path);
        if !scope.is_empty() && !above && path != scope && !is_below(path, scope) {
            return Stand::Outside;
        }
        if self.rules.leaves_out(path, is_dir) {
            return Stand::Protected;
        }
        if above { Stand::Above } else { Stand::In }
    }

    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    pub fn is_whole_tree(&self) -> bool {
        self.scope.is_empty()
    }
}

/// The `.mcignore` of a live directory; empty where there is none. What is there and cannot be read as rules stops whoever
/// wants them: it may protect something.
pub fn read_rules(root: &Dir, label: &str) -> Result<Vec<u8>> {
    let failed = |cause| {
        Error::io(format!("the .mcignore of {label} cannot be read"), cause)
            .hint("its rules protect paths, so nothing is copied without them: make it readable, or remove it")
    };
    let Some(stat) = root.stat_if_there(RULES_FILE).map_err(failed)? else { return Ok(Vec::new()) };
    if let Some(kind) = not_a_file(rustix::fs::FileType::from_raw_mode(stat.st_mode)) {
        return Err(no_rules(label, kind));
    }
    // One that was there a moment ago is no reason to go on without it.
    let file = root.read(RULES_FILE).map_err(failed)?;
    let mut rules = Vec::new();
    file.take(RULES_MAX as u64 + 1).read_to_end(&mut rules).map_err(failed)?;
    if rules.len() > RULES_MAX {
        return Err(too_long(label));
    }
    Ok(rules)
}

fn not_a_file(kind: rustix::fs::FileType) -> Option<&'static str> {
    use rustix::fs::FileType;
    match kind {
        FileType::RegularFile => None,
        FileType::Symlink => Some("a symbolic link"),
        FileType::Directory => Some("a folder"),
        _ => Some("no regular file"),
    }
}

/// A `.mcignore` that is something else than a file: its rules are not known.
pub fn no_rules(label: &str, kind: &str) -> Error {
    Error::failed(format!("the .mcignore of {label} is {kind}, and its rules are not read")).hint(
        "rules protect paths, so nothing is copied without them: make it a file with the rules in it, or remove it",
    )
}

pub fn too_long(label: &str) -> Error {
    Error::usage(format!("the .mcignore of {label} is larger than 1 MiB")).hint("use fewer, wider patterns")
}

/// `--path SUB` as the walk sees it: no leading, trailing or doubled slashes, nothing that leads out.
pub fn clean_scope(path: &[u8]) -> Result<Vec<u8>> {
    let mut names = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(Error::usage("--path must stay inside the tree").hint("give a path without `..`")),
            name => names.push(name),
        }
    }
    Ok(names.join(&b'/'))
}

/// Whether the entry at `path` of a root is a stage: that of this tree, or of one beside it.
pub fn is_stage(path: &[u8]) -> bool {
    path.strip_prefix(STAGE_PREFIX).is_some_and(|rest| rest.is_empty() || rest[0] == b'.' && !rest.contains(&b'/'))
}

/// All that a stage ever holds (`sync/stage.rs`, `sync/names.rs`).
pub const STAGE_PARTS: [&[u8]; 10] =
    [b"new", b"files", b"trash", b"left", b"salvage", b"log", b"log.draft", b"link.draft", b"probe", b"names"];

/// Whether what stands under a stage's name in a root is a stage, and not somebody's folder of that name: closed to others,
/// with nothing in it but what stages hold. What has gone in the meantime was one.
pub fn is_real_stage(root: &Dir, name: &[u8]) -> bool {
    let looked = || {
        let Some(stat) = root.stat_if_there(name)? else { return Ok(true) };
        if !crate::sys::dir::is_dir(&stat) || stat.st_mode & 0o077 != 0 {
            return Ok(false);
        }
        let parts = root.open_beneath(name)?.names()?;
        Ok(parts.iter().all(|part| STAGE_PARTS.contains(&&part.name[..])))
    };
    looked().unwrap_or_else(|error: std::io::Error| error.kind() == std::io::ErrorKind::NotFound)
}

/// Whether `path` lies strictly below `above`.
fn is_below(path: &[u8], above: &[u8]) -> bool {
    path.len() > above.len() && path.starts_with(above) && path[above.len()] == b'/'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_shows_its_part_and_the_way_to_it() {
        let filter = Filter::new(b"/a/b/", b"", &[]).unwrap();
        assert_eq!(filter.stand(b"a", true), Stand::Above);
        assert_eq!(filter.stand(b"a/b", true), Stand::In);
        assert_eq!(filter.stand(b"a/b/c", false), Stand::In);
        assert_eq!(filter.stand(b"a/bc", false), Stand::Outside);
        assert_eq!(filter.stand(b"x", true), Stand::Outside);
        assert!(Filter::new(b"../x", b"", &[]).is_err());
    }

    #[test]
    fn only_stages_are_nobodys() {
        let filter = Filter::new(b"", b"", &[]).unwrap();
        let is_in = |path: &[u8]| filter.stand(path, false) == Stand::In;
        assert!(!is_in(b".mcloud-stage") && !is_in(b".mcloud-stage.www"));
        assert!(is_in(b".mcloud-stagecraft") && is_in(b".mcloud-stage-2") && is_in(b"a/.mcloud-stage"));
    }

    #[test]
    fn later_patterns_win_and_negation_brings_back() {
        let filter = Filter::new(b"", b"*.log\n/build/\n", &["!keep.log".to_string()]).unwrap();
        assert_eq!(filter.stand(b"a/x.log", false), Stand::Protected);
        assert_eq!(filter.stand(b"a/keep.log", false), Stand::In);
        assert_eq!(filter.stand(b"build", true), Stand::Protected);
        assert_eq!(filter.stand(b"a/build", true), Stand::In);
    }
}
