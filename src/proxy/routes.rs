//! Which tenant a host name leads to: one immutable map, swapped as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use super::gate::Gate;
use super::upstream::{Serving, Upstream};
use crate::model::{Domain, Seat};
use std::sync::{PoisonError, RwLock};

/// The two ways in: a domain may be published on both, each time for another tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    Http,
    Tls,
}

/// A domain that leads to a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub domain: Domain,
    pub way: Way,
    pub tenant: Seat,
    /// Another port than the one that its service names with `web:` or `ssl:`.
    pub port: Option<u16>,
}

/// What is known of one tenant, for as long as the process lives.
#[derive(Debug)]
pub struct Tenant {
    pub name: Seat,
    pub gate: Arc<Gate>,
    serving: RwLock<Serving>,
}

impl Tenant {
    pub fn new(name: Seat) -> Tenant {
        let serving = RwLock::new(Serving::Down("is not running".to_owned()));
        Tenant { name, gate: Arc::default(), serving }
    }

    pub fn serving(&self) -> Serving {
        self.serving.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what serves from now on. One that is the same keeps its connections.
    pub fn set_serving(&self, new: Serving) {
        let mut serving = self.serving.write().unwrap_or_else(PoisonError::into_inner);
        let is_same = matches!((&*serving, &new), (Serving::Up(old), Serving::Up(new)) if Upstream::is_same(old, new));
        if !is_same {
            *serving = new;
            drop(serving);
            self.gate.say_changed();
        }
    }
}

/// One entry of the map.
#[derive(Clone, Debug)]
pub struct Target {
    pub tenant: Arc<Tenant>,
    pub port: Option<u16>,
}

/// The map itself.
#[derive(Debug, Default)]
pub struct Routes {
    http: HashMap<Box<str>, Target>,
    tls: HashMap<Box<str>, Target>,
}

impl Routes {
    pub fn new(routes: Vec<Route>, tenant: impl Fn(&Seat) -> Arc<Tenant>) -> Routes {
        let mut map = Routes::default();
        for route in routes {
            let target = Target { tenant: tenant(&route.tenant), port: route.port };
            let way = match route.way {
                Way::Http => &mut map.http,
                Way::Tls => &mut map.tls,
            };
            way.insert(route.domain.as_str().into(), target);
        }
        map
    }

    /// `name` is in its one form, as [`host_name`] gives it.
    pub fn find(&self, way: Way, name: &str) -> Option<&Target> {
        match way {
            Way::Http => self.http.get(name),
            Way::Tls => self.tls.get(name),
        }
    }
}

/// The name in a `Host`, an authority or an SNI: no port, no dot at the end, small letters. `None`: it is no name.
pub fn host_name(text: &str) -> Option<std::borrow::Cow<'_, str>> {
    let name = match text.strip_prefix('[') {
        // An IPv6 address, which nothing is published for.
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            is_port(after).then_some(&text[..address.len() + 2])?
        }
        None => match text.split_once(':') {
            Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) && port.len() <= 5 => name,
            Some(_) => return None,
            None => text,
        },
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.' | b'[' | b']' | b':');
    if name.is_empty() || !name.bytes().all(good) {
        return None;
    }
    Some(match name.bytes().any(|c| c.is_ascii_uppercase()) {
        true => name.to_ascii_lowercase().into(),
        false => name.into(),
    })
}

fn is_port(text: &str) -> bool {
    text.is_empty()
        || text.strip_prefix(':').is_some_and(|port| port.len() <= 5 && port.bytes().all(|c| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_host_is_found_or_it_is_none() {
        for (text, name) in [
            ("shop.example.com", "shop.example.com"),
            ("Shop.Example.com:8080", "shop.example.com"),
            ("shop.example.com.", "shop.example.com"),
            ("shop.example.com.:80", "shop.example.com"),
            ("a:", "a"),
            ("[::1]:80", "[::1]"),
        ] {
            assert_eq!(host_name(text).as_deref(), Some(name), "{text}");
        }
        for text in ["", ".", ":80", "a b", "a:80:80", "a:x", "a@b", "[::1", "[x]:80", "[::1]x", "a/b", "é", "a:123456"]
        {
            assert_eq!(host_name(text), None, "{text}");
        }
    }

    #[test]
    fn each_way_in_has_routes_of_its_own() {
        let route = |way, tenant: &str, port| Route {
            domain: Domain::new("a.example").unwrap(),
            way,
            tenant: tenant.parse().unwrap(),
            port,
        };
        let routes = Routes::new(vec![route(Way::Http, "one", None), route(Way::Tls, "two", Some(8443))], |name| {
            Arc::new(Tenant::new(name.clone()))
        });
        let find = |way| routes.find(way, "a.example").map(|found| (found.tenant.name.to_string(), found.port));
        assert_eq!(find(Way::Http), Some(("one".to_owned(), None)));
        assert_eq!(find(Way::Tls), Some(("two".to_owned(), Some(8443))));
        assert!(routes.find(Way::Http, "b.example").is_none());
    }
}
