//! Which paths belong to a view: the part asked for with `--path`, less what `.mcignore` and `--exclude` leave out.
//! Both ends of a sync use the same rules, so what is left out at the source is left alone at the target.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::model::{Error, Result};

/// The file of rules at a source's root.
pub const RULES_FILE: &[u8] = b".mcignore";
/// The most that is read of it.
pub const RULES_MAX: usize = 1 << 20;
/// Where a target stages beside or inside a tree; never part of one.
pub const STAGE_PREFIX: &[u8] = b".mcloud-stage";

pub struct Filter {
    rules: Option<Gitignore>,
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
        let mut builder = GitignoreBuilder::new("");
        let text = String::from_utf8_lossy(rules);
        let lines =
            text.lines().map(|line| (".mcignore", line)).chain(exclude.iter().map(|line| ("--exclude", &line[..])));
        let mut any = false;
        for (place, line) in lines {
            any |= !line.trim().is_empty();
            builder.add_line(None, line).map_err(|cause| {
                Error::usage(format!("{place}: the pattern {line:?} is not a valid one"))
                    .because(cause)
                    .hint("patterns are written as in a .gitignore file")
            })?;
        }
        let rules =
            builder.build().map_err(|cause| Error::usage("the ignore rules cannot be used together").because(cause))?;
        Ok(Filter { rules: any.then_some(rules), scope: clean_scope(scope)? })
    }

    /// The stand of the entry at `path` (relative, not empty).
    pub fn stand(&self, path: &[u8], is_dir: bool) -> Stand {
        if is_stage(path) {
            return Stand::Outside;
        }
        let scope = &self.scope[..];
        let above = !scope.is_empty() && is_below(scope, path);
        if !scope.is_empty() && !above && path != scope && !is_below(path, scope) {
            return Stand::Outside;
        }
        if let Some(rules) = &self.rules
            && rules.matched(Path::new(OsStr::from_bytes(path)), is_dir).is_ignore()
        {
            return Stand::Protected;
        }
        if above { Stand::Above } else { Stand::In }
    }

    pub fn is_whole_tree(&self) -> bool {
        self.scope.is_empty()
    }
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
