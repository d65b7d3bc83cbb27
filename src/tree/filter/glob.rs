//! Patterns as git matches them (gitignore(5)), byte by byte. A match takes time in proportion to the pattern's length
//! times the path's at most, whatever the pattern is: rules come from whoever is the source.

/// A pattern that can match something.
pub struct Glob(Vec<Token>);

enum Token {
    Byte(u8),
    /// `?`: any byte but a slash.
    Any,
    /// `[…]`: one of these, never a slash.
    Set(Box<ByteSet>),
    /// `*`: any bytes but slashes.
    Star,
    /// `**` at an end: any bytes.
    Deep,
    /// `**/`: nothing, or any bytes and then a slash.
    Folders,
}

impl Glob {
    /// `None` for what matches nothing: a class that does not end or does not exist, a backslash at the end.
    pub fn new(pattern: &[u8]) -> Option<Glob> {
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(&byte) = pattern.get(at) {
            at += 1;
            tokens.push(match byte {
                b'\\' => {
                    at += 1;
                    Token::Byte(*pattern.get(at - 1)?)
                }
                b'?' => Token::Any,
                b'*' => stars(pattern, &mut at),
                b'[' => Token::Set(Box::new(class(pattern, &mut at)?)),
                byte => Token::Byte(byte),
            });
        }
        Some(Glob(tokens))
    }

    /// The text, where it is all that the pattern matches.
    pub fn literal(&self) -> Option<Vec<u8>> {
        literal(&self.0)
    }

    /// The text that names of any beginning end with, where the pattern says no more than that.
    pub fn tail(&self) -> Option<Vec<u8>> {
        match self.0.split_first() {
            Some((Token::Star | Token::Deep, rest)) => literal(rest),
            _ => None,
        }
    }

    pub fn matches(&self, text: &[u8]) -> bool {
        let (mut at, mut token) = (0, 0);
        // Where to go on when the text does not fit: behind the last `*`, and behind the last `**` or `**/`. No earlier one
        // needs to be tried again. An earlier `*` of the same name could only leave less to the last, and what stands before
        // the last `**` has been found as early as it can be, which leaves the most to what comes after.
        let mut star: Option<(usize, usize)> = None;
        let mut deep: Option<(usize, usize, bool)> = None;
        loop {
            match self.0.get(token) {
                None if at == text.len() => return true,
                Some(Token::Star) => {
                    token += 1;
                    star = Some((token, at));
                    continue;
                }
                Some(kind @ (Token::Deep | Token::Folders)) => {
                    token += 1;
                    deep = Some((token, at, matches!(kind, Token::Folders)));
                    star = None;
                    continue;
                }
                Some(one) if text.get(at).is_some_and(|byte| one.takes(*byte)) => {
                    // A `*` ends before the slash.
                    star = star.filter(|_| text[at] != b'/');
                    (at, token) = (at + 1, token + 1);
                    continue;
                }
                _ => {}
            }
            if let Some((behind, from)) = star
                && text.get(from).is_some_and(|byte| *byte != b'/')
            {
                (at, token) = (from + 1, behind);
                star = Some((behind, at));
                continue;
            }
            let Some((behind, from, folders)) = deep else { return false };
            let step = match folders {
                true => text[from..].iter().position(|byte| *byte == b'/'),
                false => (from < text.len()).then_some(0),
            };
            let Some(step) = step else { return false };
            (at, token, star) = (from + step + 1, behind, None);
            deep = Some((behind, at, folders));
        }
    }
}

impl Token {
    /// Whether this byte is one that the token stands for; of tokens that stand for one byte.
    fn takes(&self, byte: u8) -> bool {
        match self {
            Token::Byte(wanted) => *wanted == byte,
            Token::Any => byte != b'/',
            Token::Set(set) => set.has(byte),
            Token::Star | Token::Deep | Token::Folders => false,
        }
    }
}

fn literal(tokens: &[Token]) -> Option<Vec<u8>> {
    tokens.iter().map(|token| if let Token::Byte(byte) = token { Some(*byte) } else { None }).collect()
}

/// One star or more, of which the first is before `at`. More than one reach over slashes where they stand for whole names.
fn stars(pattern: &[u8], at: &mut usize) -> Token {
    let first = *at - 1;
    while pattern.get(*at) == Some(&b'*') {
        *at += 1;
    }
    let opens = first == 0 || pattern[first - 1] == b'/';
    let rest = &pattern[*at..];
    if *at - first == 1 || !opens {
        return Token::Star;
    }
    if rest.first() == Some(&b'/') {
        *at += 1;
        return Token::Folders;
    }
    if rest.is_empty() || rest.starts_with(b"\\/") { Token::Deep } else { Token::Star }
}

/// The class of which the `[` is before `at`; `at` is then behind its `]`.
fn class(pattern: &[u8], at: &mut usize) -> Option<ByteSet> {
    let next = |at: &mut usize| {
        *at += 1;
        pattern.get(*at - 1).copied()
    };
    let mut set = ByteSet::default();
    let mut byte = next(at)?;
    let negated = matches!(byte, b'!' | b'^');
    if negated {
        byte = next(at)?;
    }
    // What a range could begin with.
    let mut before: Option<u8> = None;
    loop {
        match byte {
            b'\\' => {
                let escaped = next(at)?;
                set.add(escaped, escaped);
                before = Some(escaped);
            }
            b'-' if before.is_some() && pattern.get(*at).is_some_and(|end| *end != b']') => {
                let mut end = next(at)?;
                if end == b'\\' {
                    end = next(at)?;
                }
                set.add(before.unwrap_or(end), end);
                before = None;
            }
            b'[' if pattern.get(*at) == Some(&b':') => {
                let rest = &pattern[*at + 1..];
                let end = rest.iter().position(|byte| *byte == b']')?;
                if let Some(name) = rest[..end].strip_suffix(b":") {
                    set.add_named(name)?;
                    before = None;
                    *at += 1 + end + 1;
                } else {
                    set.add(b'[', b'[');
                    before = Some(b'[');
                }
            }
            byte => {
                set.add(byte, byte);
                before = Some(byte);
            }
        }
        byte = next(at)?;
        if byte == b']' {
            break;
        }
    }
    if negated {
        set.0.iter_mut().for_each(|word| *word = !*word);
    }
    set.remove(b'/');
    Some(set)
}

/// A set of bytes, a bit for each.
#[derive(Default)]
struct ByteSet([u64; 4]);

impl ByteSet {
    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }

    fn add(&mut self, first: u8, last: u8) {
        for byte in first..=last {
            self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    }

    fn remove(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] &= !(1 << (byte & 63));
    }

    /// `[:NAME:]`, ASCII alone as in git, where neither a vertical tab nor a form feed is a space.
    fn add_named(&mut self, name: &[u8]) -> Option<()> {
        let belongs: fn(u8) -> bool = match name {
            b"alnum" => |byte| byte.is_ascii_alphanumeric(),
            b"alpha" => |byte| byte.is_ascii_alphabetic(),
            b"blank" => |byte| matches!(byte, b' ' | b'\t'),
            b"cntrl" => |byte| byte.is_ascii_control(),
            b"digit" => |byte| byte.is_ascii_digit(),
            b"graph" => |byte| byte.is_ascii_graphic(),
            b"lower" => |byte| byte.is_ascii_lowercase(),
            b"print" => |byte| byte.is_ascii_graphic() || byte == b' ',
            b"punct" => |byte| byte.is_ascii_punctuation(),
            b"space" => |byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'),
            b"upper" => |byte| byte.is_ascii_uppercase(),
            b"xdigit" => |byte| byte.is_ascii_hexdigit(),
            _ => return None,
        };
        (0..=u8::MAX).filter(|byte| belongs(*byte)).for_each(|byte| self.add(byte, byte));
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn says(pattern: &str, text: &str) -> bool {
        Glob::new(pattern.as_bytes()).is_some_and(|glob| glob.matches(text.as_bytes()))
    }

    /// What the tokens mean, tried in every way there is.
    fn slowly(tokens: &[Token], text: &[u8]) -> bool {
        let Some((token, rest)) = tokens.split_first() else { return text.is_empty() };
        let mut ways = (0..=text.len()).map(|len| (&text[..len], &text[len..]));
        match token {
            Token::Star => ways.any(|(taken, left)| !taken.contains(&b'/') && slowly(rest, left)),
            Token::Deep => ways.any(|(_, left)| slowly(rest, left)),
            Token::Folders => {
                ways.any(|(taken, left)| (taken.is_empty() || taken.ends_with(b"/")) && slowly(rest, left))
            }
            one => text.first().is_some_and(|byte| one.takes(*byte)) && slowly(rest, &text[1..]),
        }
    }

    #[test]
    fn stars_reach_as_far_as_they_may() {
        for (pattern, text, expected) in [
            ("*", "a", true),
            ("*", "a/b", false),
            ("a*c", "abbc", true),
            ("**/a", "a", true),
            ("**/a", "x/y/a", true),
            ("**/a", "xa", false),
            ("a/**", "a/b/c", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a**/b", "a/x/b", false),
            ("**\\/b", "b", false),
            ("**\\/b", "a/b", true),
            ("***/b", "b", true),
        ] {
            assert_eq!(says(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_does_not_end_matches_nothing() {
        for pattern in ["a\\", "[a", "[", "[!", "[]", "[a-", "[a\\", "[[:alpha:]", "[[:word:]]", "[[::]]", "[[:alpha"] {
            assert!(Glob::new(pattern.as_bytes()).is_none(), "{pattern}");
        }
    }

    #[test]
    fn hostile_patterns_take_no_longer_than_both_lengths_allow() {
        let name = "a".repeat(250);
        let path = "a/".repeat(2000);
        let since = std::time::Instant::now();
        assert!(!says(&("*a".repeat(2000) + "b"), &name));
        assert!(!says(&("*?[a-z]".repeat(2000) + "b"), &name));
        assert!(!says(&("**/a/".repeat(300) + "b"), &path));
        assert!(!says(&("**/*a*/".repeat(300) + "b"), &path));
        assert!(since.elapsed().as_secs() < 5, "{:?}", since.elapsed());
    }

    proptest! {
        #[test]
        fn going_back_to_the_last_star_finds_what_trying_all_does(
            pattern in "(\\*\\*/|\\*\\*|\\*|/|a|b|\\?|\\[ab\\]|\\\\/|[*?/ab]){0,9}",
            text in "[ab/]{0,10}",
        ) {
            if let Some(glob) = Glob::new(pattern.as_bytes()) {
                prop_assert_eq!(glob.matches(text.as_bytes()), slowly(&glob.0, text.as_bytes()));
            }
        }
    }
}
