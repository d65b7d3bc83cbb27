//! `.mcignore` means what `.gitignore` means: random rules over random trees, and what gitignore(5) says, with git itself as
//! the reference. A rule that is read otherwise removes what it should protect.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Command, Stdio};

use mcloud::tree::filter::{Filter, Stand};

use crate::common::seed::seeds;
use crate::common::{Rng, scratch};

/// Names that files have, and some that look like rules.
const NAMES: [&[u8]; 28] = [
    b"a",
    b"b",
    b"ab",
    b"foo",
    b"bar.log",
    b"x.txt",
    b"build",
    b".hid",
    b"A",
    b"7x.db",
    b"core.12",
    b"{a,b}",
    b"{{a}}",
    b"[ab]",
    b"*",
    b"a*b",
    b"?",
    b"#a",
    b"!a",
    b"a ",
    b" ",
    b"a\t",
    b"b\\",
    b"a\r",
    b"caf\xc3\xa9",
    b"caf\xe9",
    b"\xff",
    b"a\nb",
];

/// Pieces of patterns, the odd ones as often as the plain ones.
const PIECES: [&[u8]; 62] = [
    b"a",
    b"b",
    b"ab",
    b"foo",
    b".log",
    b"x",
    b"build",
    b"*",
    b"*",
    b"*",
    b"?",
    b"?",
    b"**",
    b"**",
    b"***",
    b"*.log",
    b"f?o",
    b"*b*",
    b"[ab]",
    b"[!a]",
    b"[^b]",
    b"[a-c]",
    b"[c-a]",
    b"[]a]",
    b"[!]a]",
    b"[]-a]",
    b"[a-]",
    b"[-a]",
    b"[--a]",
    b"[\\]a]",
    b"[a\\-c]",
    b"[a-\\c]",
    b"[\\\\]",
    b"[a/b]",
    b"[[a]",
    b"[[:a]",
    b"[[:]",
    b"[[:a-z]",
    b"[",
    b"[a",
    b"[!",
    b"]",
    b"{a,b}",
    b"{{a}}",
    b"{",
    b"\\",
    b"\\a",
    b"\\*",
    b"\\[ab]",
    b"\\{",
    b"\\\\",
    b"\\ ",
    b" ",
    b"\t",
    b"\r",
    b"!",
    b"#",
    b"caf?",
    b"caf\xc3\xa9",
    b"caf\xe9",
    b"\xff",
    b"caf??",
];

const CLASSES: [&str; 15] = [
    "alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "xdigit",
    "word", "", "Alpha",
];

fn piece(rng: &mut Rng) -> Vec<u8> {
    if rng.one_in(12) {
        let negated = if rng.one_in(3) { "!" } else { "" };
        let more = *rng.pick(&["", "", "-", "_", "a-c"]);
        return format!("[{negated}[:{}:]{more}]", rng.pick(&CLASSES)).into_bytes();
    }
    rng.pick(&PIECES).to_vec()
}

/// A pattern of pieces.
fn made_up(rng: &mut Rng) -> Vec<u8> {
    let depth = *rng.pick(&[1, 1, 1, 2, 2, 3]);
    let mut parts = Vec::new();
    for _ in 0..depth {
        let count = *rng.pick(&[1, 1, 1, 2, 2, 3]);
        parts.push((0..count).flat_map(|_| piece(rng)).collect::<Vec<u8>>());
    }
    parts.join(*rng.pick(&[&b"/"[..], b"/", b"/", b"/", b"//", b"\\/", b"/**/"]))
}

/// A path that is there, with wildcards in place of parts of it.
fn made_of(path: &[u8], rng: &mut Rng) -> Vec<u8> {
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let from = if rng.one_in(2) { rng.below(names.len() as u64) as usize } else { 0 };
    let mut parts = Vec::new();
    for name in &names[from..] {
        if rng.one_in(6) {
            parts.push(rng.pick(&[&b"**"[..], b"*", b"?*", b"**"]).to_vec());
            continue;
        }
        let mut part = Vec::new();
        for byte in *name {
            match rng.below(12) {
                0 => part.push(b'?'),
                1 => part.extend(*rng.pick(&[&b"*"[..], b"**", b"*?"])),
                2 => part.extend([b'[', *byte, b']']),
                3 => part.extend([b'\\', *byte]),
                4 => part.extend([b"[[:alpha:]", &[*byte][..], b"]"].concat()),
                5 => part.extend([*byte, b'*']),
                _ => part.push(*byte),
            }
        }
        parts.push(part);
    }
    parts.join(&b'/')
}

fn line(paths: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut text = Vec::new();
    if rng.one_in(4) {
        text.extend(*rng.pick(&[&b"!"[..], b"!", b"!", b"\\!", b"#", b"\\#", b" ", b"!!", b"\xef\xbb\xbf", b"\0"]));
    }
    if rng.one_in(4) {
        text.push(b'/');
    }
    let pattern = if rng.one_in(2) { made_of(rng.pick::<Vec<u8>>(paths), rng) } else { made_up(rng) };
    // Long ones: of literals, and of stars that can be given their share in many ways.
    match rng.below(40) {
        0 => text.extend(pattern.repeat(rng.within(50, 400) as usize)),
        1 => text.extend(b"*a".repeat(rng.within(3, 60) as usize)),
        2 => text.extend([&b"**/*"[..], &pattern, b"*/"].concat().repeat(rng.within(2, 12) as usize)),
        _ => text.extend(&pattern),
    }
    if rng.one_in(4) {
        text.push(b'/');
    }
    if rng.one_in(5) {
        text.extend(*rng.pick(&[
            &b" "[..],
            b"  ",
            b"\\ ",
            b"\\  ",
            b"\t",
            b"\\",
            b"\r",
            b" \r",
            b"/ ",
            b"//",
            b"/**",
            b"\0x",
        ]));
    }
    text
}

fn rule_set(paths: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut text = Vec::new();
    if rng.one_in(10) {
        text.extend(b"\xef\xbb\xbf".repeat(*rng.pick(&[1, 1, 1, 2])));
    }
    for _ in 0..rng.within(1, 7) {
        text.extend(line(paths, rng));
        text.extend(*rng.pick(&[&b"\n"[..], b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r\n"]));
    }
    if rng.one_in(5) {
        text.pop();
    }
    text
}

/// What git says to these paths: whether each is ignored.
fn by_git(repository: &Path, paths: &[Vec<u8>]) -> Vec<bool> {
    let mut git = Command::new("git")
        .args(["-c", "core.ignoreCase=false", "-c", "core.excludesFile=/dev/null"])
        .args(["check-ignore", "--no-index", "--stdin", "-z", "--verbose", "--non-matching"])
        .current_dir(repository)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git runs");
    let mut input = git.stdin.take().unwrap();
    let text = paths.iter().flat_map(|path| [path, &b"\0"[..]].concat()).collect::<Vec<u8>>();
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
fn by_filter(filter: &Filter, path: &[u8], is_dir: bool) -> bool {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let above = slashes.map(|(at, _)| (&path[..at], true));
    above.chain([(path, is_dir)]).any(|(path, is_dir)| filter.stand(path, is_dir) == Stand::Protected)
}

fn is_dir(root: &Path, path: &[u8]) -> bool {
    fs::symlink_metadata(root.join(OsStr::from_bytes(path))).unwrap().is_dir()
}

fn repository() -> tempfile::TempDir {
    let dir = scratch();
    crate::common::sh("git", &["init", "-q", dir.path().to_str().unwrap()]);
    dir
}

/// A tree of some hundred folders, files and links of these names. git looks at the disk to know which is which.
fn tree(root: &Path, names: &[&[u8]], rng: &mut Rng) -> Vec<Vec<u8>> {
    for _ in 0..160 {
        let depth = rng.within(1, 5);
        let names: Vec<&[u8]> = (0..depth).map(|_| *rng.pick(names)).collect();
        let path = root.join(OsStr::from_bytes(&names.join(&b'/')));
        // What is in the way of another kind stays what it is.
        if rng.one_in(2) {
            let _ = fs::create_dir_all(path);
        } else if fs::create_dir_all(path.parent().unwrap()).is_ok() && path.symlink_metadata().is_err() {
            match rng.one_in(6) {
                true => std::os::unix::fs::symlink(".", path).unwrap(),
                false => fs::write(path, "").unwrap(),
            }
        }
    }
    let paths = crate::common::trees::walk(root).into_iter().filter(|path| !path.starts_with(root.join(".git")));
    paths.map(|path| path.strip_prefix(root).unwrap().as_os_str().to_owned().into_vec()).collect()
}

/// Says where the two differ.
fn compare(root: &Path, rules: &[u8], paths: &[Vec<u8>], of: &str) {
    fs::write(root.join(".gitignore"), rules).unwrap();
    let filter = Filter::new(b"", rules, &[]).unwrap();
    // The same, given as `--exclude`, where it can be.
    let excluded =
        std::str::from_utf8(rules).ok().filter(|text| !text.contains(['\r', '\0', '\u{feff}'])).map(|text| {
            let lines = text.split('\n').filter(|line| !line.starts_with('#'));
            Filter::new(b"", b"", &lines.map(str::to_owned).collect::<Vec<_>>()).unwrap()
        });
    for (path, git) in paths.iter().zip(by_git(root, paths)) {
        let is_dir = is_dir(root, path);
        for filter in [Some(&filter), excluded.as_ref()].into_iter().flatten() {
            let ours = by_filter(filter, path, is_dir);
            assert_eq!(
                ours,
                git,
                "{of}: {} (a folder: {is_dir}) under {} (git says {git})",
                path.escape_ascii(),
                rules.escape_ascii()
            );
        }
    }
}

/// `MCLOUD_RULE_SETS` asks for more of them than the usual few hundred.
#[test]
fn mcignore_leaves_out_what_gitignore_would() {
    let asked = std::env::var("MCLOUD_RULE_SETS").ok().and_then(|text| text.parse().ok());
    for batch in seeds(asked.map_or(12, |sets: u64| sets.div_ceil(40))) {
        let mut rng = Rng::new(batch);
        let dir = repository();
        let few: Vec<&[u8]> = (0..rng.within(5, 14)).map(|_| *rng.pick(&NAMES)).collect();
        let paths = tree(dir.path(), &few, &mut rng);
        for number in 0..40 {
            let rules = rule_set(&paths, &mut rng);
            compare(dir.path(), &rules, &paths, &format!("MCLOUD_SEED={batch}, set {number}"));
        }
    }
}

/// What git's own page says, and what people's files were found to hold.
#[test]
fn what_gitignore_promises_holds() {
    let paths = "hello.txt hello hello.c doc/frotz a/doc/frotz foo frotz/x a/frotz/x foo/x a/foo/x a/foo/bar foo/bar a/b a/x/b a/x/y/b abc/in/it \
         top/abc/z foobar foo.html Documentation/foo.html Documentation/ppc/ppc.html bar.c sub/foo.o foo/bar/x foo/baz/y {{app.name}} {a,b}.txt a.txt \
         b.txt app.py x.py{} core.1234 core.c 7x.db important!.txt logs/debug.log logs/important.log x/logs/debug.log lib.a foo.a !odd #odd \
         caf\u{e9} dir/deep/er/keep dir/other";
    let rules: &[&[u8]] = &[
        b"# a comment\n\nhello.*\n",
        b"\\#odd\n\\!odd\n",
        b"foo \nfoo\\ \n",
        b"*.html\n!foo.html\n",
        b"/*\n!/foo\n/foo/*\n!/foo/bar\n",
        b"logs/\n!logs/important.log\n",
        b"logs/*\n!logs/important.log\n",
        b"doc/frotz/\n",
        b"doc/frotz\n",
        b"frotz/\n",
        b"/hello.*\n",
        b"foo/*\n",
        b"**/foo\n",
        b"**/foo/bar\n",
        b"abc/**\n",
        b"a/**/b\n",
        b"foo**bar\n/f**o/bar\na/x**/b\n",
        b"*.[oa]\n!lib.a\n",
        b"Documentation/*.html\n",
        b"\xef\xbb\xbfhello\n",
        b"{{app.name}}\n{a,b}.txt\n*.py{}\n",
        b"core.[[:digit:]]*\n[[:digit:]]*.db\n",
        b"*[\\<\\>\\:\\\"\\/\\\\\\|\\?\\*]*\n",
        b"hello\r\nfoo/\r\n",
        b"hello\\\n[a\nfoo\n",
        b"caf\xc3\xa9\n",
        b"caf[\xa0-\xff][\xa0-\xff]\n",
        b"dir/**\n!dir/deep/er/keep\n",
        b"dir/**\n!dir/**/\n!dir/deep/er/keep\n",
        b"foo\0bar\n",
    ];
    let dir = repository();
    let mut files: Vec<Vec<u8>> = paths.split_whitespace().map(|path| path.as_bytes().to_vec()).collect();
    files.sort_by_key(|path| std::cmp::Reverse(path.len()));
    let mut all = std::collections::BTreeSet::new();
    for path in &files {
        let at = dir.path().join(OsStr::from_bytes(path));
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        // Some are folders already.
        let _ = fs::write(at, "");
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        all.extend((1..=names.len()).map(|depth| names[..depth].join(&b'/')));
    }
    all.retain(|path| dir.path().join(OsStr::from_bytes(path)).exists());
    let all: Vec<Vec<u8>> = all.into_iter().collect();
    for rules in rules {
        compare(dir.path(), rules, &all, "the table");
    }
}

/// Each class over every byte that a name may have.
#[test]
fn classes_hold_the_bytes_that_git_has_in_them() {
    let dir = repository();
    let names: Vec<Vec<u8>> = (1..=255u8)
        .filter(|byte| !b"/.:".contains(byte))
        .map(|byte| vec![byte])
        .chain([b"x:".to_vec(), b"x.".to_vec()])
        .collect();
    for name in &names {
        fs::write(dir.path().join(OsStr::from_bytes(name)), "").unwrap();
    }
    for class in CLASSES {
        for rule in
            [format!("[[:{class}:]]"), format!("x[[:{class}:]]"), format!("[![:{class}:]a]"), format!("[^[:{class}:]]")]
        {
            compare(dir.path(), rule.as_bytes(), &names, class);
        }
    }
    for range in ["[ -~]", "[!-/]", "[\\--0]", "[a-]", "[]-a]"] {
        compare(dir.path(), range.as_bytes(), &names, range);
    }
    compare(dir.path(), b"[\x80-\xff]\n", &names, "high bytes");
}
