//! A set of ignore rules as git reads one `.gitignore`: the last that matches decides. What needs no search (whole names,
//! whole paths, endings) is looked up, so that a path costs as many steps as there are patterns with other wildcards.

use std::collections::HashMap;

use super::RULES_MAX;
use super::glob::Glob;
use crate::model::{Error, Result};

/// The most rules in a set, and the most bytes in those of them that have to be tried one by one: each path is.
const COUNT_MAX: usize = 1 << 16;
const TRIED_MAX: usize = 128 << 10;

#[derive(Default)]
pub struct Rules {
    /// Whether each takes back what an earlier one left out.
    negated: Vec<bool>,
    /// Names, paths from the root, and ends of names.
    names: HashMap<Vec<u8>, Last>,
    paths: HashMap<Vec<u8>, Last>,
    tails: HashMap<Vec<u8>, Last>,
    /// The lengths of all `tails`.
    tail_lens: Vec<usize>,
    /// The rest, in order.
    tried: Vec<Tried>,
    tried_bytes: usize,
}

/// The last rule of some that say the same: of those for anything, and of those for folders.
#[derive(Default, Clone, Copy)]
struct Last {
    any: Option<usize>,
    folder: Option<usize>,
}

struct Tried {
    number: usize,
    folder: bool,
    /// Whether it looks at the whole path, or at the name.
    whole: bool,
    /// What comes before the first wildcard.
    prefix: Vec<u8>,
    rest: Glob,
}

impl Rules {
    /// `text`: of a `.mcignore`; `further`: patterns of `--exclude`, which come after it.
    pub fn new(text: &[u8], further: &[String]) -> Result<Rules> {
        let mut rules = Rules::default();
        let further_bytes = further.iter().fold(0, |sum: usize, line| sum.saturating_add(line.len()));
        if text.len() > RULES_MAX || further_bytes > RULES_MAX {
            return Err(too_many("are longer than 1 MiB"));
        }
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        for line in text.split(|byte| *byte == b'\n') {
            rules.add(line.strip_suffix(b"\r").unwrap_or(line))?;
        }
        for pattern in further {
            if pattern.starts_with('#') {
                return Err(Error::usage(format!("--exclude {pattern:?} leaves nothing out: it is a comment"))
                    .hint("write \\# for a name that begins with #"));
            }
            rules.add(pattern.as_bytes())?;
        }
        rules.tail_lens = rules.tails.keys().map(Vec::len).collect();
        rules.tail_lens.sort_unstable();
        rules.tail_lens.dedup();
        Ok(rules)
    }

    pub fn is_empty(&self) -> bool {
        self.negated.is_empty()
    }

    /// Whether the last rule that matches leaves `path` out. The folders above it are not looked at: what is in one that is
    /// left out is not walked.
    pub fn leaves_out(&self, path: &[u8], is_dir: bool) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let mut last = None;
        let mut take = |found: Option<&Last>| {
            if let Some(found) = found {
                last = last.max(found.any).max(found.folder.filter(|_| is_dir));
            }
        };
        take(self.names.get(name));
        take(self.paths.get(path));
        for len in self.tail_lens.iter().take_while(|len| **len <= name.len()) {
            take(self.tails.get(&name[name.len() - len..]));
        }
        let later = self.tried.iter().rev().take_while(|tried| last.is_none_or(|last| tried.number > last));
        let found = later.filter(|tried| is_dir || !tried.folder).find(|tried| {
            let text = if tried.whole { path } else { name };
            text.strip_prefix(&tried.prefix[..]).is_some_and(|rest| tried.rest.matches(rest))
        });
        found.map(|tried| tried.number).or(last).is_some_and(|number| !self.negated[number])
    }

    /// Takes up a line. One that can match nothing counts for nothing, as in git.
    fn add(&mut self, line: &[u8]) -> Result<()> {
        let line = line.split(|byte| *byte == 0).next().unwrap_or(line);
        if line.starts_with(b"#") {
            return Ok(());
        }
        let pattern = without_trailing_spaces(line);
        let (negated, pattern) = pattern.strip_prefix(b"!").map_or((false, pattern), |rest| (true, rest));
        let (folder, pattern) = pattern.strip_suffix(b"/").map_or((false, pattern), |rest| (true, rest));
        let whole = pattern.contains(&b'/');
        let pattern = if whole { pattern.strip_prefix(b"/").unwrap_or(pattern) } else { pattern };
        // What is literal is cut off before the wildcards are read, and so `a**/b` is `a` and `**/b`: git does it so, too.
        let wild = pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(pattern.len());
        let (prefix, rest) = pattern.split_at(if whole { wild } else { 0 });
        let Some(rest) = Glob::new(rest) else { return Ok(()) };
        if pattern.is_empty() {
            return Ok(());
        }
        let number = self.negated.len();
        if number == COUNT_MAX {
            return Err(too_many("are more than 65,536"));
        }
        self.negated.push(negated);
        let looked_up = match (rest.literal(), rest.tail()) {
            (Some(text), _) if whole => self.paths.entry([prefix, &text].concat()),
            (Some(text), _) => self.names.entry(text),
            (None, Some(tail)) if !whole => self.tails.entry(tail),
            (None, _) => {
                self.tried_bytes += pattern.len();
                if self.tried_bytes > TRIED_MAX {
                    return Err(too_many("have more than 128 KiB of patterns with wildcards"));
                }
                self.tried.push(Tried { number, folder, whole, prefix: prefix.to_vec(), rest });
                return Ok(());
            }
        };
        let last = looked_up.or_default();
        *if folder { &mut last.folder } else { &mut last.any } = Some(number);
        Ok(())
    }
}

fn too_many(what: &str) -> Error {
    Error::usage(format!("the rules of .mcignore and --exclude {what}")).hint("use fewer, wider patterns")
}

/// Spaces at the end do not count, but for one behind a backslash.
fn without_trailing_spaces(line: &[u8]) -> &[u8] {
    let mut end = 0;
    let mut at = 0;
    while at < line.len() {
        let step = if line[at] == b'\\' { 2 } else { 1 };
        if line[at] != b' ' {
            end = (at + step).min(line.len());
        }
        at += step;
    }
    &line[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        Rules::new(text.as_bytes(), &[]).unwrap()
    }

    #[test]
    fn a_line_ends_where_git_ends_it() {
        for (line, name) in [
            ("a  ", "a"),
            ("a\\ ", "a "),
            ("a\\  ", "a "),
            ("a\t", "a\t"),
            ("a\r", "a"),
            ("a\r\r", "a\r"),
            ("a \r", "a"),
            ("a\0b", "a"),
            ("\u{feff}a", "a"),
            ("\\#a", "#a"),
            ("\\!a", "!a"),
            (" a", " a"),
        ] {
            let all = ["a", "a ", "a\t", "a\r", "#a", "!a", " a"];
            let found: Vec<_> = all.iter().filter(|name| rules(line).leaves_out(name.as_bytes(), false)).collect();
            assert_eq!(found, [&name], "{line:?}");
        }
    }

    #[test]
    fn lines_that_match_nothing_are_none() {
        for line in ["", " ", "#a", "!", "/", "\r", "a\\", "[a", "[[:nope:]]", "\0a", "  \r\n\n"] {
            assert!(rules(line).is_empty(), "{line:?}");
        }
        assert_eq!(Rules::new(b"", &["#a".into()]).err().unwrap().kind, crate::model::Kind::Usage);
    }

    #[test]
    fn the_last_rule_decides_however_it_is_found() {
        let lines = ["x.log", "/x.log", "*.log", "?.log", "!x.log", "!*.log", "!/x.lo[g]", "!x.log/"];
        for first in lines {
            for second in lines {
                let found = rules(&format!("{first}\n{second}\n"));
                let decides = if second.ends_with('/') { first } else { second };
                assert_eq!(found.leaves_out(b"x.log", false), !decides.starts_with('!'), "{first} {second}");
                assert_eq!(found.leaves_out(b"x.log", true), !second.starts_with('!'), "{first} {second}");
            }
        }
    }

    #[test]
    fn rules_without_bound_are_refused() {
        let many = |line: &str, count: usize| Rules::new(line.repeat(count).as_bytes(), &[]).map(|_| ());
        many("a\n", 65_536).unwrap();
        many("*.log\n", 60_000).unwrap();
        many("#\n", 500_000).unwrap();
        for (line, count) in [("a\n", 65_537), ("a*b\n", 60_000), ("aaaaaaaaaaaaaaa\n", 65_537)] {
            assert_eq!(many(line, count).unwrap_err().kind, crate::model::Kind::Usage, "{line}");
        }
    }
}
