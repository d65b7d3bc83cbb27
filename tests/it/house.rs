//! The house keeps its shape: imports run downward, and what has one room stays in it.

use std::fs;
use std::path::{Path, PathBuf};

/// Each module and its layer. A module uses only those of lower layers, itself, and its neighbours in `BESIDE`.
const LAYERS: &[(&str, u8)] = &[
    ("model", 0),
    ("sys", 0),
    ("tree", 1),
    ("wire", 1),
    ("sync", 2),
    ("store", 2),
    ("fuse", 2),
    ("tenant", 2),
    ("proxy", 2),
    ("schedule", 2),
    ("transport", 3),
    ("release", 4),
    ("daemon", 5),
    ("cli", 6),
];

/// Arrows within a layer: who may use whom.
const BESIDE: &[(&str, &str)] = &[("wire", "tree")];

/// Arrows that run downward and still must not be: these know nothing of trees.
const NEVER: &[(&str, &str)] =
    &[("tenant", "tree"), ("proxy", "tree"), ("schedule", "tree"), ("tree", "wire"), ("sync", "wire")];

/// What has one room: the words that give it away, and the paths below `src` where they may stand.
const FENCES: &[(&[&str], &[&str])] = &[
    (&["clap::", "clap_complete::", "clap_mangen::", "indicatif::"], &["cli", "cli.rs"]),
    (&["println!(", "eprintln!(", "print!(", "eprint!(", "dbg!("], &["cli", "cli.rs"]),
    (&["quinn::"], &["transport", "transport.rs"]),
    (&["rustls::"], &["transport", "transport.rs", "proxy", "proxy.rs"]),
    (&["rusqlite::"], &["daemon/state", "daemon/state.rs"]),
    (&["bollard::"], &["tenant/docker", "tenant/docker.rs"]),
    (&["fuser::"], &["fuse/adapter", "fuse/adapter.rs"]),
    (&["hyper::", "hyper_util::"], &["proxy", "proxy.rs"]),
    (&["saphyr_parser::"], &["tenant/config", "tenant/config.rs"]),
    (&["rustix::fs::inotify"], &["sys", "sys.rs"]),
    (&["unsafe {", "unsafe fn", "unsafe impl"], &["sys", "sys.rs"]),
    (&["SystemTime::now", "Utc::now"], &["sys", "sys.rs"]),
];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source");
                found.push((path.strip_prefix(root).expect("below").to_path_buf(), text));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    found.sort();
    assert!(found.len() > 20, "these are not all sources");
    found
}

/// The code of a file: no comments, no strings' insides worth looking at, no tests.
fn code(path: &Path, text: &str) -> String {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if stem == "tests" || stem.ends_with("_tests") {
        return String::new();
    }
    let body = match text.find("#[cfg(test)]\nmod ") {
        // A test module in this file is its end; one in another file is a line.
        Some(at) if text[at..].lines().nth(1).is_some_and(|line| line.ends_with('{')) => &text[..at],
        _ => text,
    };
    body.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |code, line| code + line + "\n")
}

/// The top-level modules of the crate that this code names.
fn used(path: &Path, code: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut after = |rest: &str| {
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut start = true;
            for (at, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => start = true,
                    c if start && (c.is_alphanumeric() || c == '_') => {
                        names.push(ident(&group[at..]));
                        start = false;
                    }
                    _ => {}
                }
            }
        } else {
            names.push(ident(rest));
        }
    };
    for (at, _) in code.match_indices("crate::") {
        if !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            after(&code[at + 7..]);
        }
    }
    // The way up to the root by name: one `super` for each module that this file is below.
    let root = "super::".repeat(path.components().count());
    for (at, _) in code.match_indices(&root) {
        if !code[..at].ends_with("super::") && !code[at + root.len()..].starts_with("super::") {
            after(&code[at + root.len()..]);
        }
    }
    names.retain(|name| LAYERS.iter().any(|(module, _)| module == name));
    names
}

fn ident(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn module_of(path: &Path) -> String {
    let first = path.components().next().expect("a path").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn layer(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

#[test]
fn imports_run_downward() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let from = module_of(&path);
        if matches!(from.as_str(), "lib" | "main") {
            continue;
        }
        let own = layer(&from).unwrap_or_else(|| panic!("{} is in no layer of the house", path.display()));
        for to in used(&path, &code(&path, &text)) {
            let arrow = (from.as_str(), to.as_str());
            let down = layer(&to).is_some_and(|other| other < own) || from == to || BESIDE.contains(&arrow);
            if !down || NEVER.contains(&arrow) {
                wrong.push(format!("{} uses {to}", path.display()));
            }
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "arrows that must not be:\n{}", wrong.join("\n"));
}

#[test]
fn what_has_one_room_stays_in_it() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let code = code(&path, &text);
        for (words, rooms) in FENCES {
            if rooms.iter().any(|room| path.starts_with(room)) {
                continue;
            }
            for word in *words {
                let found = code
                    .match_indices(word)
                    .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'));
                if found {
                    wrong.push(format!("{} has `{word}`, which belongs in {}", path.display(), rooms.join(", ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "through the fence:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<String> = sources()
        .into_iter()
        .filter(|(path, text)| {
            !text.starts_with("//! ") && !path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests"))
        })
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "no `//!` at the top of {}", silent.join(", "));
}

#[test]
fn the_reader_of_imports_reads_them_all() {
    let path = Path::new("tree/scan.rs");
    let code = "use crate::model::{Error, Name};\nuse crate::{sys, sync::{a, daemon}, cli};\nfn f() { super::super::wire::g() }\nother_crate::fuse::x();\n";
    let mut names = used(path, code);
    names.sort();
    assert_eq!(names, ["cli", "model", "sync", "sys", "wire"]);
    assert_eq!(used(Path::new("tree.rs"), "use super::daemon::X;"), ["daemon"]);
    let text = "// crate::cli\nfn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::cli;\n}\n";
    assert!(used(path, &self::code(path, text)).is_empty());
}

#[test]
fn the_modules_are_listed_in_the_order_of_their_layers() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("lib.rs");
    let listed: Vec<u8> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(|module| layer(module).unwrap_or_else(|| panic!("{module} is in no layer of the house")))
        .collect();
    assert!(listed.is_sorted(), "lib.rs lists its modules in another order than their layers: {listed:?}");
}
