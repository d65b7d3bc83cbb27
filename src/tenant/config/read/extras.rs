//! `"---"`: what is no service. Short names for hosts and for lines of commands.

use super::super::Config;
use super::super::yaml::{Entry, Value};
use super::{Error, Result, ServiceName, located, map, map_or_none, text, unknown};
use crate::model::Reference;
use crate::model::reference::Host;

/// `"---": {hosts: …, commands: …}`.
pub fn extras(entry: &Entry, config: &mut Config) -> Result<()> {
    if entry.value.is_null() {
        return Ok(());
    }
    for Entry { key, at, value } in map(&entry.value, "---", "{hosts: …, commands: …}")? {
        match key.as_str() {
            "hosts" => {
                for host in map_or_none(value, "hosts", "{live: app@203.0.113.5}")? {
                    check_short_name("host", host)?;
                    let text = text(&host.value, &host.key)?;
                    let reference: Reference = text.parse().map_err(|error| located(host.value.at, error))?;
                    if reference.host.is_none() {
                        return Err(host.value.at.error(format!("the host `{}` says no address", host.key)).hint(
                            format!("write `{}: {reference}@ADDRESS`, or @{} for this machine", host.key, Host::Me),
                        ));
                    }
                    if reference.volume.is_some() {
                        return Err(host
                            .value
                            .at
                            .error(format!("the host `{}` names a volume", host.key))
                            .hint("a host is [SERVICE.]TENANT@HOST; write the volume in the command: `{host}:/data`"));
                    }
                    config.hosts.push((host.key.clone(), reference));
                }
            }
            "commands" => {
                for named in map_or_none(value, "commands", "{ship: [\"mcloud sync . {host}\"]}")? {
                    check_short_name("command", named)?;
                    let lines = match &named.value.value {
                        Value::List(list) => list.iter().map(|line| text(line, &named.key)).collect::<Result<_>>()?,
                        _ => vec![text(&named.value, &named.key)?],
                    };
                    if lines.is_empty() {
                        return Err(named.at.error(format!("the command `{}` has no lines", named.key)));
                    }
                    config.commands.push((named.key.clone(), lines));
                }
            }
            _ => return Err(unknown(key, *at, "in `\"---\"`", &["hosts", "commands"])),
        }
    }
    Ok(())
}

fn check_short_name(what: &str, entry: &Entry) -> Result<()> {
    ServiceName::new(&entry.key).map(drop).map_err(|error| {
        let message = error.message.replace("service name", &format!("{what}'s name"));
        located(entry.at, Error { message, ..error })
    })
}
