//! The keys that say how long something may take: `wait`, `health`, `snapshot`.

use std::time::Duration;

use super::super::yaml::{Entry, Node};
use super::super::{Health, Hooks, Wait};
use super::{Result, map, text, unknown};

/// The longest time anything may be told to wait.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// `30`, `30s`, `2m`, or `30s for "text in the log"`.
pub fn wait(node: &Node) -> Result<Wait> {
    let whole = text(node, "wait")?;
    let wrong = |what: String| node.at.error(what).hint("write `wait: 30`, or `wait: '30s for \"text in the log\"'`");
    let (time, log) = match whole.split_once(" for ") {
        Some((time, log)) => (time, Some(log.trim())),
        None => (whole.as_str(), None),
    };
    let at_most = duration(time.trim())
        .ok_or_else(|| wrong(format!("`wait` is a number of seconds, and `{}` is not", time.trim().escape_debug())))?;
    if at_most > WAIT_MAX {
        return Err(node.at.error(format!("`wait` of {} seconds, an hour is the most", at_most.as_secs())));
    }
    let log = match log {
        None => None,
        Some(log) => match ['"', '\''].iter().find_map(|q| log.strip_prefix(*q)?.strip_suffix(*q)) {
            Some(inner) if !inner.is_empty() => Some(inner.to_owned()),
            _ => return Err(wrong(format!("the text that `wait` looks for is not in quotes: {}", log.escape_debug()))),
        },
    };
    Ok(Wait { at_most, log })
}

fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let scale = match unit.trim() {
        "" | "s" | "sec" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        _ => return None,
    };
    Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(scale)?))
}

pub fn health(node: &Node) -> Result<Health> {
    const HEALTH_KEYS: [&str; 2] = ["path", "timeout"];
    let mut path = None;
    let mut timeout = Duration::from_secs(5);
    for Entry { key, at, value } in map(node, "health", "{path: /up, timeout: 5}")? {
        match key.as_str() {
            "path" => {
                let text = text(value, key)?;
                if !text.starts_with('/') || text.contains(char::is_whitespace) {
                    return Err(value
                        .at
                        .error(format!("`{}` is not the path of a page", text.escape_debug()))
                        .hint("it starts with a slash and is asked for at the `web` port: `path: /up`"));
                }
                path = Some(text);
            }
            "timeout" => timeout = limit(value, "write `timeout: 5`")?,
            _ => return Err(unknown(key, *at, "in `health`", &HEALTH_KEYS)),
        }
    }
    let path = path.ok_or_else(|| node.at.error("`health` has no `path`").hint("write `health: {path: /up}`"))?;
    Ok(Health { path, timeout })
}

fn limit(value: &Node, example: &str) -> Result<Duration> {
    let text = text(value, "timeout")?;
    duration(&text).filter(|time| !time.is_zero() && *time <= WAIT_MAX).ok_or_else(|| {
        value
            .at
            .error(format!("`timeout` is a number of seconds, and `{}` is not", text.escape_debug()))
            .hint(example.to_owned())
    })
}

pub fn hooks(node: &Node) -> Result<Hooks> {
    let mut hooks = Hooks::default();
    for Entry { key, at, value } in map(node, "snapshot", "{before: COMMAND, after: COMMAND}")? {
        let slot = match key.as_str() {
            "before" => &mut hooks.before,
            "after" => &mut hooks.after,
            "timeout" => {
                hooks.timeout = limit(value, "how long a hook may take: `timeout: 60`")?;
                continue;
            }
            _ => return Err(unknown(key, *at, "in `snapshot`", &["before", "after", "timeout"])),
        };
        *slot = if value.is_null() { None } else { Some(text(value, key)?) };
    }
    Ok(hooks)
}
