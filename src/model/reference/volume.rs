//! The paths of volumes.

use std::fmt;
use std::str::FromStr;

use crate::model::{Error, Result};

/// The path of a volume inside its service: absolute, without `.`, `..`, doubled or trailing slashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumePath(String);

impl VolumePath {
    pub fn new(text: &str) -> Result<VolumePath> {
        let shown = text.escape_debug();
        let Some(below) = text.strip_prefix('/') else {
            return Err(Error::usage(format!("the volume `{shown}` is not an absolute path")).hint(format!(
                "a volume is named by its path in the container: /{}",
                text.trim_start_matches("./").escape_debug()
            )));
        };
        let parts: Vec<&str> = below.split('/').filter(|part| !part.is_empty()).collect();
        let wrong = if text.chars().any(char::is_control) {
            Some("has control characters in it")
        } else if parts.iter().any(|part| *part == "." || *part == "..") {
            Some("has `.` or `..` in it")
        } else if text.len() > 4096 {
            Some("is longer than 4096 bytes")
        } else if parts.is_empty() {
            Some("is the container's whole file system")
        } else {
            None
        };
        match wrong {
            Some(wrong) => Err(Error::usage(format!("the volume `{shown}` {wrong}"))
                .hint("a volume is named by its path in the container, such as /data")),
            None => Ok(VolumePath(format!("/{}", parts.join("/")))),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for VolumePath {
    type Err = Error;

    fn from_str(text: &str) -> Result<VolumePath> {
        VolumePath::new(text)
    }
}
