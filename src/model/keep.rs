//! Which snapshots are kept, as people say it: the newest few, and one for each of the last hours, days, weeks and months.

use super::{Error, Result};

/// How many of each are kept; what no rule keeps may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest ones.
    pub last: u32,
    /// One for each of this many hours that have any; and so on.
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
}

impl Keep {
    /// No rule at all: nothing would be kept.
    pub fn is_empty(&self) -> bool {
        *self == Keep::default()
    }

    /// The rules with their words, as the options and the messages name them.
    pub fn rules(&self) -> [(&'static str, u32); 5] {
        [
            ("keep-last", self.last),
            ("keep-hourly", self.hourly),
            ("keep-daily", self.daily),
            ("keep-weekly", self.weekly),
            ("keep-monthly", self.monthly),
        ]
    }

    /// Refuses rules that keep nothing: they would remove everything there is.
    pub fn checked(self) -> Result<Keep> {
        if self.is_empty() {
            return Err(Error::usage("these rules keep no snapshot at all")
                .hint("say what is to be kept, such as --keep-last 3 --keep-daily 7"));
        }
        Ok(self)
    }
}

/// `keep-last 3 keep-daily 7`
impl std::fmt::Display for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said: Vec<String> =
            self.rules().iter().filter(|(_, n)| *n > 0).map(|(word, n)| format!("{word} {n}")).collect();
        f.pad(&said.join(" "))
    }
}
