//! The name of a site, as it stands in a request's `Host` and in a certificate.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::{Error, Result};

/// The longest name that DNS can hold.
const NAME_CHARS: usize = 253;
const LABEL_CHARS: usize = 63;

/// A domain in its one form: small ASCII letters, no dot at its end. An IPv4 address is one, too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(String);

impl Domain {
    pub fn new(text: &str) -> Result<Domain> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let wrong = |why: &str, hint: &str| {
            Err(Error::usage(format!("`{}` is not a domain: {why}", text.escape_debug())).hint(hint))
        };
        if name.is_empty() {
            return wrong("it is empty", "write one such as shop.example.com");
        }
        if name.contains("://") || name.contains('/') {
            return wrong("it is an address of a page", "write just the domain: shop.example.com");
        }
        if name.contains('*') {
            return wrong("it has a `*`", "each domain is published by its full name");
        }
        if name.contains(':') {
            return wrong("it has a `:`", "write it without a port; an IPv6 address cannot be published");
        }
        if !name.is_ascii() {
            return wrong(
                "it has letters beyond ASCII",
                "write it as DNS has it, with xn-- (`idn2 NAME` or a browser shows that)",
            );
        }
        if name.len() > NAME_CHARS {
            return wrong("it is too long", "253 characters are the most");
        }
        if name.split('.').any(str::is_empty) {
            return wrong("there is nothing between two dots", "write one such as shop.example.com");
        }
        let good = |label: &str| {
            label.len() <= LABEL_CHARS
                && label.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if let Some(label) = name.split('.').find(|label| !good(label)) {
            return wrong(
                &format!("`{}` cannot stand between dots", label.escape_debug()),
                "letters, digits, `-` and `_`, at most 63, a `-` neither first nor last",
            );
        }
        let is_number = |label: &str| label.bytes().all(|c| c.is_ascii_digit());
        if name.rsplit('.').next().is_some_and(is_number) && name.parse::<Ipv4Addr>().is_err() {
            return wrong("it ends with a number and is no IPv4 address", "write one such as shop.example.com");
        }
        Ok(Domain(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is an address, which no certificate and no SNI can name.
    pub fn is_address(&self) -> bool {
        self.0.parse::<Ipv4Addr>().is_ok()
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Domain {
    type Err = Error;

    fn from_str(text: &str) -> Result<Domain> {
        Domain::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_has_one_form() {
        for (text, name) in [
            ("Shop.Example.COM", "shop.example.com"),
            ("shop.example.com.", "shop.example.com"),
            ("localhost", "localhost"),
            ("203.0.113.5", "203.0.113.5"),
            ("a_b.xn--bcher-kva.example", "a_b.xn--bcher-kva.example"),
        ] {
            assert_eq!(Domain::new(text).map(|domain| domain.to_string()).ok().as_deref(), Some(name));
        }
        assert!(Domain::new("203.0.113.5").unwrap().is_address() && !Domain::new("a.b").unwrap().is_address());
    }

    #[test]
    fn what_is_none_is_refused_with_what_to_write() {
        let long = format!("{}.de", "a.".repeat(126));
        for (text, why) in [
            ("", "empty"),
            (".", "empty"),
            ("*.example.com", "`*`"),
            ("http://example.com", "page"),
            ("example.com/x", "page"),
            ("example.com:8080", "`:`"),
            ("::1", "`:`"),
            ("a..b", "between two dots"),
            ("-a.example", "`-a`"),
            ("a b", "`a b`"),
            ("bücher.example", "ASCII"),
            ("1.2.3", "number"),
            ("a\u{1b}[2J", "between dots"),
            (long.as_str(), "too long"),
        ] {
            let error = Domain::new(text).expect_err(text);
            assert!(error.message.contains(why) && error.hint.is_some(), "{text}: {error}");
            assert!(!error.message.chars().any(char::is_control));
        }
    }
}
