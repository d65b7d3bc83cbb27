//! The names of tenants, services and schedules.

use std::fmt;
use std::str::FromStr;

use crate::model::{Error, Result};

/// The longest name of a service or tenant: that of a DNS label, since it becomes a host name.
pub const LABEL_MAX: usize = 63;

macro_rules! label {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            pub fn new(text: &str) -> Result<$type> {
                check_label($what, text)?;
                Ok($type(text.to_owned()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<$type> {
                $type::new(text)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

label!(
    /// A tenant's name.
    TenantName,
    "tenant name"
);
label!(
    /// A service's name: a key of `mcloud.yml`.
    ServiceName,
    "service name"
);
label!(
    /// A schedule's name.
    JobName,
    "schedule name"
);

/// Letters, digits, `_` and `-`, at most 63, starting with a letter or digit.
fn check_label(what: &str, text: &str) -> Result<()> {
    let shown = text.escape_debug();
    let wrong = if text.is_empty() {
        format!("a {what} is missing")
    } else if text.len() > LABEL_MAX {
        format!("the {what} `{shown}` is {} characters long, {LABEL_MAX} is the most", text.chars().count())
    } else if let Some(bad) = text.chars().find(|c| !is_label_char(*c)) {
        format!("the {what} `{shown}` has a {} in it", name_of_char(bad))
    } else if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        format!("the {what} `{shown}` starts with `{}`", &text[..1])
    } else {
        return Ok(());
    };
    let error = Error::usage(wrong);
    let suggested: String = text
        .chars()
        .map(|c| if is_label_char(c) { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(LABEL_MAX)
        .collect();
    let rule = "names are letters, digits, `_` and `-`, and start with a letter or digit";
    Err(error.hint(match suggested.trim_end_matches('-') {
        "" => rule.to_owned(),
        meant => format!("{rule}: `{meant}` would do"),
    }))
}

pub fn is_label_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

pub fn name_of_char(c: char) -> String {
    match c {
        ' ' => "space".to_owned(),
        c => format!("`{}`", c.escape_debug()),
    }
}
