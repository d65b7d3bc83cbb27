//! How people point at things: `[SERVICE.]TENANT[@HOST[:PORT]][:/VOLUME]`, and what the two arguments of `sync` may be.
//!
//! A reference is parsed once, here. Whoever holds one need not ask again whether its names are names. What is wrong
//! with one is said with the part that is wrong and with what was probably meant.

mod address;
mod label;
mod volume;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub use address::{Address, DEFAULT_PORT, Host};
pub use label::{JobName, LABEL_MAX, ServiceName, TenantName};
pub use volume::VolumePath;

use super::{Error, Result};

const FORM: &str = "[SERVICE.]TENANT[@HOST[:PORT]][:/VOLUME]";

/// `[SERVICE.]TENANT[@HOST[:PORT]][:/VOLUME]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    pub service: Option<ServiceName>,
    pub tenant: TenantName,
    /// `None`: whichever host the command is about.
    pub host: Option<Host>,
    pub volume: Option<VolumePath>,
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Reference> {
        parse_reference(text).map_err(|mut error| {
            if error.hint.is_none() {
                error.hint = Some(format!("a reference is {FORM}"));
            }
            Error { message: format!("`{}`: {}", text.escape_debug(), error.message), ..error }
        })
    }
}

fn parse_reference(text: &str) -> Result<Reference> {
    if text.trim().is_empty() {
        return Err(Error::usage("a tenant is missing"));
    }
    // A name has no slash, and an address has `:/` nowhere, so the first one starts the volume.
    let (front, volume) = match text.split_once(":/") {
        Some((front, volume)) => (front, Some(VolumePath::new(&format!("/{volume}"))?)),
        None => (text, None),
    };
    let (names, host) = match front.split_once('@') {
        Some((_, host)) if host.contains('@') => {
            return Err(Error::usage("there is more than one `@`"));
        }
        Some((names, host)) => (names, Some(host)),
        None => (front, None),
    };
    if host.is_none()
        && let Some((name, rest)) = names.split_once(':')
    {
        let error = Error::usage(format!("after `{}` a `:` begins a volume, and that is a path", name.escape_debug()));
        let meant = if rest.is_empty() { format!("{name}:/data") } else { format!("{name}:/{rest}") };
        return Err(error.hint(format!(
            "write {} for a volume, {}@HOST for a host",
            meant.escape_debug(),
            name.escape_debug()
        )));
    }
    let (service, tenant) = match names.split_once('.') {
        Some((_, tenant)) if tenant.contains('.') => {
            return Err(Error::usage(format!("`{}` has more than one `.`", names.escape_debug()))
                .hint(format!("a reference is {FORM}; a host goes behind an `@`")));
        }
        Some((service, tenant)) => (Some(ServiceName::new(service)?), tenant),
        None => (None, names),
    };
    let tenant = TenantName::new(tenant)?;
    let host = match host {
        Some("") => return Err(Error::usage("the host behind the `@` is missing").hint("this machine is `@me`")),
        Some(host) => Some(parse_host(host)?),
        None => None,
    };
    Ok(Reference { service, tenant, host, volume })
}

/// As [`Host`], but knows that a `:` which begins no port may have been meant to begin a volume.
fn parse_host(text: &str) -> Result<Host> {
    if let Some(rest) = text.strip_prefix("me:")
        && rest.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Err(Error::usage(format!(
            "`me` is this machine's daemon and takes no port (`{}`)",
            rest.escape_debug()
        ))
        .hint(format!("write @127.0.0.1:{} for a port", rest.escape_debug())));
    }
    let after = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(text, |(_, after)| after);
    if after.matches(':').count() == 1
        && let Some((_, last)) = after.split_once(':')
        && last.starts_with(|c: char| c.is_ascii_alphabetic() || c == '.')
    {
        let front = &text[..text.len() - last.len() - 1];
        return Err(Error::usage(format!("`{}` is neither a port nor a volume", last.escape_debug())).hint(format!(
            "a volume starts with a slash: {}:/{}",
            front.escape_debug(),
            last.escape_debug()
        )));
    }
    text.parse()
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(service) = &self.service {
            write!(f, "{service}.")?;
        }
        write!(f, "{}", self.tenant)?;
        if let Some(host) = &self.host {
            write!(f, "@{host}")?;
        }
        self.volume.as_ref().map_or(Ok(()), |volume| write!(f, ":{volume}"))
    }
}

/// One of the two arguments of `sync`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A tenant or a volume of one; always with a host.
    Tenant(Reference),
}

impl Place {
    /// What has no `@`, and what starts with `/` or `.`, is a path; all else is a reference.
    pub fn parse(text: &std::ffi::OsStr) -> Result<Place> {
        use std::os::unix::ffi::OsStrExt;
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            return Err(Error::usage("a folder or tenant is missing: the argument is empty").hint("this folder is `.`"));
        }
        if bytes.starts_with(b"/") || bytes.starts_with(b".") || !bytes.contains(&b'@') {
            return Ok(Place::Folder(PathBuf::from(text)));
        }
        let Some(text) = text.to_str() else {
            return Err(Error::usage(format!(
                "`{}` has an `@` but is not valid UTF-8",
                text.to_string_lossy().escape_debug()
            ))
            .hint("write ./ in front of it if it is a folder"));
        };
        let before = text.split('@').next().unwrap_or_default();
        if before.contains('/') {
            return Err(Error::usage(format!(
                "`{}` has an `@`, but `{}` is not a tenant",
                text.escape_debug(),
                before.escape_debug()
            ))
            .hint(format!("write ./{} if it is a folder", text.escape_debug())));
        }
        text.parse().map(Place::Tenant)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Folder(path) => write!(f, "{}", path.display().to_string().escape_debug()),
            Place::Tenant(reference) => reference.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Kind;

    fn parse(text: &str) -> Reference {
        text.parse().unwrap_or_else(|error: Error| panic!("{text}: {error}"))
    }

    fn refused(text: &str) -> (String, String) {
        let error = text.parse::<Reference>().expect_err(text);
        assert_eq!(error.kind, Kind::Usage, "{text}");
        (error.message, error.hint.unwrap_or_default())
    }

    #[test]
    fn every_part_is_found() {
        let reference = parse("redis.app@203.0.113.5:7080:/data/db");
        assert_eq!(reference.service, Some(ServiceName::new("redis").unwrap()));
        assert_eq!(reference.tenant.as_str(), "app");
        assert_eq!(reference.host, Some(Host::At(Address { host: "203.0.113.5".into(), port: Some(7080) })));
        assert_eq!(reference.volume, Some(VolumePath::new("/data/db").unwrap()));
        assert_eq!(parse("tenantA_flask-redis@me").host, Some(Host::Me));
        assert_eq!(parse("app").host, None);
        assert_eq!(parse("app:/data").volume.unwrap().as_str(), "/data");
        assert_eq!(parse("app@host:/a//b/").volume.unwrap().as_str(), "/a/b");
    }

    #[test]
    fn ipv6_hosts_stand_in_brackets() {
        let reference = parse("a.b@[2001:db8::7]:99:/data");
        assert_eq!(reference.host, Some(Host::At(Address { host: "2001:db8::7".into(), port: Some(99) })));
        assert_eq!(parse("b@[::1]").to_string(), "b@[::1]");
        assert_eq!(parse("b@[::1]:/data").to_string(), "b@[::1]:/data");
        assert!(refused("b@::1").1.contains("[::1]"));
        assert!(refused("b@[::1").0.contains("without its `]`"));
        assert!(refused("b@[host]").0.contains("not an IPv6"));
    }

    #[test]
    fn mistakes_say_what_was_meant() {
        assert!(refused("my app@h").1.contains("`my-app`"));
        assert!(refused("-app").1.contains("`app`"));
        assert!(refused("app@").1.contains("@me"));
        assert!(refused("@host").0.contains("tenant name is missing"));
        assert!(refused(".app").0.contains("service name is missing"));
        assert!(refused("a.b.c@h").0.contains("more than one `.`"));
        assert!(refused("a@b@c").0.contains("more than one `@`"));
        assert!(refused("app@host:data").1.contains("host:/data"));
        assert!(refused("app:data").1.contains("app:/data"));
        assert!(refused("app@host:0").0.contains("not a port"));
        assert!(refused("app@host:70800").0.contains("not a port"));
        assert!(refused("app@me:data").1.contains("me:/data"));
        assert!(refused("app@me:7080").1.contains("127.0.0.1:7080"));
        assert!(refused("app@1.2.3").0.contains("not an IPv4"));
        assert!(refused("app@h:/a/../b").0.contains(".."));
        assert!(refused("app@h:/").0.contains("whole file system"));
        assert!(refused(&"a".repeat(64)).0.contains("63 is the most"));
        assert!(refused("a\u{1b}[2J").0.contains("\\u{1b}"));
        assert!(refused("").0.contains("missing"));
    }

    #[test]
    fn what_sync_takes_as_a_path() {
        let folder = |text: &str| Place::parse(text.as_ref()).unwrap() == Place::Folder(text.into());
        assert!(folder(".") && folder("/srv/x@y") && folder("./a@b") && folder("../a@b") && folder("plain"));
        assert!(folder("C:\\x") && folder(".hidden@x"));
        assert!(matches!(Place::parse("app@me".as_ref()), Ok(Place::Tenant(_))));
        let error = Place::parse("a/b@c".as_ref()).unwrap_err();
        assert!(error.hint.unwrap().contains("./a/b@c"));
        assert!(Place::parse("".as_ref()).is_err());
        use std::os::unix::ffi::OsStrExt;
        assert!(Place::parse(std::ffi::OsStr::from_bytes(b"a\xff@b")).is_err());
        assert!(Place::parse(std::ffi::OsStr::from_bytes(b"a\xff")).is_ok());
    }

    fn label() -> impl Strategy<Value = String> {
        "[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}"
    }

    fn address() -> impl Strategy<Value = Address> {
        let host = prop_oneof![
            "[a-z][a-z0-9]{0,10}(\\.[a-z][a-z0-9-]{0,10}){0,3}",
            any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
            any::<std::net::Ipv6Addr>().prop_map(|ip| ip.to_string()),
        ];
        (host.prop_filter("`me` is this machine", |host| host != "me"), proptest::option::of(1..=u16::MAX))
            .prop_map(|(host, port)| Address { host, port })
    }

    proptest! {
        #[test]
        fn shown_and_parsed_again_is_the_same(
            service in proptest::option::of(label()),
            tenant in label(),
            host in proptest::option::of(prop_oneof![Just(Host::Me), address().prop_map(Host::At)]),
            volume in proptest::option::of("(/[a-zA-Z0-9_@: é-]{1,8}){1,4}"),
        ) {
            let reference = Reference {
                service: service.map(|name| ServiceName::new(&name).unwrap()),
                tenant: TenantName::new(&tenant).unwrap(),
                host,
                volume: volume.map(|path| VolumePath::new(&path).unwrap()),
            };
            prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
        }

        #[test]
        fn anything_else_is_an_error_that_shows_no_control_characters(text in ".{0,80}") {
            match text.parse::<Reference>() {
                Ok(reference) => prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference),
                Err(error) => {
                    prop_assert!(error.hint.is_some());
                    let shown = format!("{}{}", error.message, error.hint.unwrap_or_default());
                    prop_assert!(!shown.chars().any(char::is_control), "{}", shown);
                }
            }
        }

        #[test]
        fn bits_of_the_grammar_in_any_order_never_panic(text in "[a@.:/\\[\\]0-]{0,24}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
            let _ = Place::parse(text.as_ref());
        }
    }
}
