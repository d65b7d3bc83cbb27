//! One error type for everything a user can meet: a kind (which decides the exit status), what failed, why, and a hint.
//!
//! A message never repeats the text of its cause; [`Error::chain`] joins them when they are shown.

use std::fmt;

/// What sort of failure it was. The exit status and the `kind` of the JSON event follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It was tried and did not work; nothing is half done. Exit 1.
    Failed,
    /// The command line, a file or a message says something that makes no sense. Exit 2.
    Usage,
    /// A halt rule, a missing permission or an answer of no. Exit 3.
    Refused,
    /// The host cannot be reached, or does not let us in. Exit 4.
    Unreachable,
    /// What is named does not exist. Exit 1.
    NotFound,
    /// Somebody else is at it. Exit 1.
    Busy,
    /// No room left where it was to be written. Exit 1.
    NoSpace,
    /// Bytes are not what their name says. Exit 1.
    Corrupt,
    /// The user stopped it. Exit 1.
    Cancelled,
}

impl Kind {
    /// Every kind with its word, as it crosses wires and stands in JSON.
    pub const ALL: [(Kind, &'static str); 9] = [
        (Kind::Failed, "failed"),
        (Kind::Usage, "usage"),
        (Kind::Refused, "refused"),
        (Kind::Unreachable, "unreachable"),
        (Kind::NotFound, "not_found"),
        (Kind::Busy, "busy"),
        (Kind::NoSpace, "no_space"),
        (Kind::Corrupt, "corrupt"),
        (Kind::Cancelled, "cancelled"),
    ];

    /// The process exit status this kind ends with.
    pub fn exit_status(self) -> u8 {
        match self {
            Kind::Usage => 2,
            Kind::Refused => 3,
            Kind::Unreachable => 4,
            _ => 1,
        }
    }

    /// The kind's word.
    pub fn word(self) -> &'static str {
        Kind::ALL.iter().find(|(kind, _)| *kind == self).map_or("failed", |(_, word)| word)
    }

    /// The kind a word stands for; an unknown word (a newer peer's) is a plain failure.
    pub fn from_word(word: &str) -> Kind {
        Kind::ALL.iter().find(|(_, w)| *w == word).map_or(Kind::Failed, |(kind, _)| *kind)
    }
}

/// A failure as a person can use it.
#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    /// What failed, and on what.
    pub message: String,
    /// What to do about it; one sentence.
    pub hint: Option<String>,
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), hint: None, cause: None }
    }

    pub fn failed(message: impl Into<String>) -> Error {
        Error::new(Kind::Failed, message)
    }

    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(Kind::Usage, message)
    }

    /// An operating system error on a named thing: the kind follows from the error number.
    pub fn io(message: impl Into<String>, cause: impl Into<std::io::Error>) -> Error {
        let cause = cause.into();
        let kind = match cause.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Kind::NoSpace,
            _ => Kind::Failed,
        };
        Error::new(kind, message).because(cause)
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.cause = Some(cause.into());
        self
    }

    /// Whether it is about a key that is not let in, or is not the right one: waiting does not mend that. What crosses a
    /// wire is the message, so that is what tells.
    pub fn is_about_keys(&self) -> bool {
        const SAID: [&str; 4] =
            ["does not know our key", "our key was revoked", "is not the one pinned for it", "no key is pinned for"];
        self.kind == Kind::Unreachable && SAID.iter().any(|said| self.message.contains(said))
    }

    /// The message and all its causes on one line.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = self.cause.as_deref().map(|cause| cause as &dyn std::error::Error);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static))
    }
}
