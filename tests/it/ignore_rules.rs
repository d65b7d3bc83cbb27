//! `.mcignore` means what `.gitignore` means: random rules and paths, with git itself as the reference.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use mcloud::tree::filter::{Filter, Stand};

use crate::common::seed::seeds;
use crate::common::{Rng, scratch};

const NAMES: [&str; 9] = ["a", "b", "ab", "foo", "bar.log", "x.txt", "build", ".hid", "A"];

fn pattern(rng: &mut Rng) -> String {
    let parts =
        ["a", "b", "ab", "foo", "*", "?", "*.log", "x.*", "build", "[ab]", "[!a]", ".h*", "**", "f?o", "*b*", "[a-c]b"];
    let mut text = String::new();
    if rng.one_in(4) {
        text.push('!');
    }
    if rng.one_in(4) {
        text.push('/');
    }
    let depth = *rng.pick(&[1, 1, 1, 2, 2, 3]);
    for level in 0..depth {
        if level > 0 {
            text.push('/');
        }
        let part = *rng.pick(&parts);
        text.push_str(part);
    }
    if rng.one_in(4) {
        text.push('/');
    }
    text
}

/// What git says to these paths: whether each is ignored.
fn by_git(repository: &Path, paths: &[String]) -> Vec<bool> {
    let mut git = Command::new("git")
        .args([
            "-c",
            "core.ignoreCase=false",
            "check-ignore",
            "--no-index",
            "--stdin",
            "-z",
            "--verbose",
            "--non-matching",
        ])
        .current_dir(repository)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git runs");
    let mut input = git.stdin.take().unwrap();
    let text = paths.iter().flat_map(|path| [path.as_bytes(), b"\0"].concat()).collect::<Vec<u8>>();
    let writer = std::thread::spawn(move || input.write_all(&text));
    let out = git.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let fields: Vec<&[u8]> = out.stdout.split(|byte| *byte == 0).collect();
    // source, line, pattern, path for each; a pattern that takes back begins with `!`.
    let said: Vec<bool> =
        fields.chunks_exact(4).map(|four| !four[2].is_empty() && !four[2].starts_with(b"!")).collect();
    assert_eq!(said.len(), paths.len(), "{}", String::from_utf8_lossy(&out.stdout));
    said
}

/// As the walk does it: what lies below a folder that is left out is never looked at.
fn by_filter(filter: &Filter, path: &str, is_dir: bool) -> bool {
    let above = path.match_indices('/').map(|(at, _)| (&path[..at], true));
    above.chain([(path, is_dir)]).any(|(path, is_dir)| filter.stand(path.as_bytes(), is_dir) == Stand::Protected)
}

/// A tree of some hundred folders and files of few names. git looks at the disk to know which is which.
fn tree(root: &Path, rng: &mut Rng) -> Vec<(String, bool)> {
    for _ in 0..250 {
        let depth = rng.within(1, 5);
        let names: Vec<&str> = (0..depth).map(|_| *rng.pick(&NAMES)).collect();
        let path = root.join(names.join("/"));
        // What is in the way of another kind stays what it is.
        if rng.one_in(2) {
            let _ = fs::create_dir_all(path);
        } else if fs::create_dir_all(path.parent().unwrap()).is_ok() && !path.exists() {
            fs::write(path, "").unwrap();
        }
    }
    let paths = crate::common::trees::walk(root).into_iter().filter(|path| !path.starts_with(root.join(".git")));
    paths.map(|path| (path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), path.is_dir())).collect()
}

#[test]
fn mcignore_leaves_out_what_gitignore_would() {
    let dir = scratch();
    crate::common::sh("git", &["init", "-q", dir.path().to_str().unwrap()]);
    let found = tree(dir.path(), &mut Rng::new(1));
    let paths: Vec<String> = found.iter().map(|(path, _)| path.clone()).collect();
    for seed in seeds(150) {
        let mut rng = Rng::new(seed);
        let rules: Vec<String> = (0..rng.within(1, 5)).map(|_| pattern(&mut rng)).collect();
        let rules = rules.join("\n") + "\n";
        fs::write(dir.path().join(".gitignore"), &rules).unwrap();
        let filter = Filter::new(b"", rules.as_bytes(), &[]).unwrap();
        for ((path, is_dir), git) in found.iter().zip(by_git(dir.path(), &paths)) {
            let ours = by_filter(&filter, path, *is_dir);
            assert_eq!(ours, git, "seed {seed}: {path:?} (a folder: {is_dir}) under {rules:?} (git says {git})");
        }
    }
}
