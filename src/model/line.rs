//! A line of a command as people write it: the words it has where it is plain, or that a shell has to read it.

/// Commands that only a shell has. (`:` and `.` are among them.)
const OF_THE_SHELL: [&str; 32] = [
    ".", ":", "!", "{", "}", "[", "alias", "bg", "case", "cd", "command", "eval", "exec", "exit", "export", "fg",
    "for", "hash", "if", "jobs", "read", "return", "set", "shift", "trap", "type", "ulimit", "umask", "unset", "until",
    "wait", "while",
];

/// The words of a plain line, with its quotes and backslashes taken as a shell takes them; `None` where more than that
/// is asked of a shell: variables, patterns, pipes, assignments, commands of its own.
pub fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start_matches([' ', '\t']);
    while !rest.is_empty() {
        let (word, quoted, after) = word(rest)?;
        let of_the_shell = words.is_empty() && !quoted && (OF_THE_SHELL.contains(&word.as_str()) || word.contains('='));
        if of_the_shell {
            return None;
        }
        words.push(word);
        rest = after.trim_start_matches([' ', '\t']);
    }
    (!words.is_empty()).then_some(words)
}

/// The first word, whether any of it was quoted, and what is behind it.
fn word(line: &str) -> Option<(String, bool, &str)> {
    let (mut word, mut quoted) = (String::new(), false);
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            ' ' | '\t' => return Some((word, quoted, &line[at..])),
            '\'' => {
                quoted = true;
                loop {
                    match chars.next()?.1 {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                quoted = true;
                loop {
                    match chars.next()?.1 {
                        '"' => break,
                        '$' | '`' | '\\' => return None,
                        c => word.push(c),
                    }
                }
            }
            c if c.is_alphanumeric() || "/.-_:,@+=%^".contains(c) => word.push(c),
            // `{host}` and `{}` are nothing to a shell; `{a,b}` is to some.
            '{' => {
                let (inside, _) = line[at + 1..].split_once('}')?;
                if !inside.chars().all(|c| c.is_alphanumeric() || c == '_') {
                    return None;
                }
                word.push('{');
            }
            '}' => word.push('}'),
            _ => return None,
        }
    }
    Some((word, quoted, ""))
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn plain_lines_need_no_shell() {
        for (line, meant) in [
            ("redis-server --dir /data", &["redis-server", "--dir", "/data"][..]),
            ("  a\t b ", &["a", "b"]),
            ("echo 'x  y' \"it's\" ''", &["echo", "x  y", "it's", ""]),
            ("a'b'\"c\"d", &["abcd"]),
            ("x --env=A=b {host} {}", &["x", "--env=A=b", "{host}", "{}"]),
            ("'cd' x", &["cd", "x"]),
            ("wörter 1+1 50%", &["wörter", "1+1", "50%"]),
        ] {
            assert_eq!(words(line).unwrap(), meant, "{line}");
        }
    }

    #[test]
    fn whatever_a_shell_would_read_is_left_to_one() {
        for line in [
            "",
            " ",
            "a && b",
            "a|b",
            "a;b",
            "a&",
            "a >b",
            "a <b",
            "echo $HOME",
            "echo \"$HOME\"",
            "echo `a`",
            "echo \"`a`\"",
            "A=b c",
            "exit 3",
            "cd /x",
            "[ -f a ]",
            "ls *",
            "ls a?",
            "ls [ab]",
            "~/bin/x",
            "a \\b",
            "a\nb",
            "a # b",
            "! a",
            "echo {a,b}",
            "echo {1..3}",
            "{ a",
            "echo 'open",
            "echo \"open",
            "(a)",
        ] {
            assert_eq!(words(line), None, "{line:?}");
        }
    }
}
