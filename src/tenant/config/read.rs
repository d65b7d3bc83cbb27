//! From the tree as meant to services: every key, its type, its limits.

use crate::model::meant::nearest;
use crate::model::{Error, Result, ServiceName, VolumePath};

use super::blocks::ORIGINS;
use super::yaml::{At, Entry, Node, Value};
use super::{Command, Config, Hooks, LocalPath, Mount, Origin, Service};

mod extras;
mod timed;

use extras::extras;
use timed::{health, hooks, wait};

const KEYS: [&str; 15] = [
    "image",
    "build",
    "dockerfile",
    "cmd",
    "entrypoint",
    "workdir",
    "env",
    "volumes",
    "data",
    "web",
    "ssl",
    "wait",
    "health",
    "snapshot",
    "extend",
];

/// What other tools call it.
const ALSO_KNOWN: [(&str, &str); 14] = [
    ("command", "the key is `cmd`"),
    ("run", "the key is `cmd`"),
    ("environment", "the key is `env`"),
    ("env_file", "write the variables under `env`"),
    ("working_dir", "the key is `workdir`"),
    ("workingdir", "the key is `workdir`"),
    ("healthcheck", "the key is `health`: {path: /up, timeout: 5}"),
    ("extends", "the key is `extend`"),
    ("<<", "the key is `extend`, with the name of a service"),
    ("depends_on", "services start in the order they are written: remove it"),
    ("links", "services reach each other by their names: remove it"),
    ("ports", "the port that is published is `web`"),
    ("port", "the port that is published is `web`"),
    ("expose", "services reach each other on every port; the one that is published is `web`"),
];

pub fn config(root: &Node) -> Result<Config> {
    let mut config = Config { services: Vec::new(), hosts: Vec::new(), commands: Vec::new() };
    let entries = match &root.value {
        Value::Map(entries) => entries.as_slice(),
        Value::Null => &[],
        _ => {
            return Err(root
                .at
                .error(format!("expected services, found {}", root.kind()))
                .hint("each top-level key is a service: `web: {image: nginx}`"));
        }
    };
    for entry in entries {
        if entry.key == "---" {
            extras(entry, &mut config)?;
        } else {
            config.services.push(service(entry)?);
        }
    }
    if config.services.is_empty() {
        return Err(root
            .at
            .error("there is no service in it")
            .hint("the shortest mcloud.yml is `web: {image: nginx}`"));
    }
    Ok(config)
}

fn service(entry: &Entry) -> Result<Service> {
    let name = ServiceName::new(&entry.key).map_err(|error| located(entry.at, error))?;
    let Value::Map(entries) = &entry.value.value else {
        let error =
            entry.at.error(format!("the service `{name}` has {} in it instead of its keys", entry.value.kind()));
        return Err(error.hint(match name.as_str() {
            "version" | "services" | "networks" | "volumes" => {
                "this looks like a compose file: in mcloud.yml each top-level key is a service, and there is nothing above it"
                    .to_owned()
            }
            name => format!("write what it runs: `{name}: {{image: NAME}}`"),
        }));
    };
    let mut service = Service {
        origin: origin(&name, entry, entries)?,
        name,
        cmd: None,
        entrypoint: None,
        workdir: None,
        env: Vec::new(),
        volumes: Vec::new(),
        data: Vec::new(),
        web: None,
        ssl: None,
        wait: None,
        health: None,
        snapshot: Hooks::default(),
    };
    for Entry { key, at, value } in entries {
        // A key without a value is as good as none: that is how a block takes one away.
        if value.is_null() && KEYS.contains(&key.as_str()) {
            continue;
        }
        match key.as_str() {
            "image" | "build" | "dockerfile" | "extend" => {}
            "cmd" => service.cmd = Some(command(value, key)?),
            "entrypoint" => service.entrypoint = Some(command(value, key)?),
            "workdir" => service.workdir = Some(workdir(value)?),
            "env" => service.env = env(value)?,
            "volumes" => service.volumes = volumes(value)?,
            "data" => service.data = data(value)?,
            "web" => service.web = Some(port(value, key)?),
            "ssl" => service.ssl = Some(port(value, key)?),
            "wait" => service.wait = Some(wait(value)?),
            "health" => service.health = Some(health(value)?),
            "snapshot" => service.snapshot = hooks(value)?,
            _ => return Err(unknown(key, *at, &format!("in the service `{}`", service.name), &KEYS)),
        }
    }
    check(&service, entry.at, entries)?;
    Ok(service)
}

/// What the keys of a service say together.
fn check(service: &Service, at: At, entries: &[Entry]) -> Result<()> {
    let at_key = |key: &str| entries.iter().find(|entry| entry.key == key).map_or(at, |entry| entry.at);
    if service.health.is_some() && service.web.is_none() {
        return Err(at_key("health")
            .error(format!("`health` of `{}` has no port to ask", service.name))
            .hint("add the port that its page is served at: `web: 5000`"));
    }
    let mut seen: Vec<&VolumePath> = Vec::new();
    let mounts = service.volumes.iter().map(|mount| (&mount.path, "volumes"));
    for (path, key) in mounts.chain(service.data.iter().map(|path| (path, "data"))) {
        if seen.contains(&path) {
            return Err(at_key(key)
                .error(format!("`{path}` of `{}` is a volume twice", service.name))
                .hint("code goes under `volumes`, live data under `data`; a path is one or the other"));
        }
        seen.push(path);
    }
    Ok(())
}

fn origin(name: &ServiceName, entry: &Entry, entries: &[Entry]) -> Result<Origin> {
    let given: Vec<&Entry> =
        entries.iter().filter(|entry| ORIGINS.contains(&entry.key.as_str()) && !entry.value.is_null()).collect();
    let Entry { key, value, .. } = match given.as_slice() {
        [one] => one,
        [] => {
            // A misspelt `image` is why there is none: say that instead.
            if let Some(odd) = entries.iter().find(|entry| !KEYS.contains(&entry.key.as_str())) {
                return Err(unknown(&odd.key, odd.at, &format!("in the service `{name}`"), &KEYS));
            }
            return Err(entry
                .at
                .error(format!("the service `{name}` has no image"))
                .hint("give it `image: NAME`, `build: DIR` or `dockerfile: |` with its source"));
        }
        [_, second, ..] => {
            return Err(second
                .at
                .error(format!("the service `{name}` has both `{}` and `{}`", given[0].key, second.key))
                .hint("an image comes from one of `image`, `build` and `dockerfile`"));
        }
    };
    let text = text(value, key)?;
    match key.as_str() {
        "build" => Ok(Origin::Build(local_path(&text, value.at)?)),
        "dockerfile" if !text.contains('\n') && !text.trim_start().to_ascii_uppercase().starts_with("FROM ") => {
            Err(value
                .at
                .error("`dockerfile` is the source of a Dockerfile, and this is not one")
                .hint("for a folder with a Dockerfile in it write `build: DIR`"))
        }
        "dockerfile" => Ok(Origin::Dockerfile(text)),
        _ if text.is_empty() || text.chars().any(char::is_whitespace) || text.starts_with('-') => Err(value
            .at
            .error(format!("`{}` is not the name of an image", text.escape_debug()))
            .hint("an image is named like `redis`, `python:3.12` or `registry.example.com/team/app:tag`")),
        _ => Ok(Origin::Image(text)),
    }
}

fn command(node: &Node, key: &str) -> Result<Command> {
    match &node.value {
        Value::Text(line) if !line.trim().is_empty() => Ok(Command::Line(line.clone())),
        Value::List(list) if !list.is_empty() => {
            list.iter().map(|word| text(word, key)).collect::<Result<_>>().map(Command::Words)
        }
        Value::Text(_) | Value::List(_) => Err(node.at.error(format!("`{key}` is empty"))),
        _ => Err(expected(node, key, "a line or a list of words")),
    }
}

fn workdir(node: &Node) -> Result<String> {
    let path = text(node, "workdir")?;
    if path.starts_with('/') {
        return Ok(path);
    }
    Err(node
        .at
        .error(format!("`workdir` is a path in the container, and `{}` is not absolute", path.escape_debug()))
        .hint(format!("write /{}", path.trim_start_matches("./").escape_debug())))
}

fn env(node: &Node) -> Result<Vec<(String, String)>> {
    if let Value::List(list) = &node.value {
        let example = list.iter().find_map(|item| match &item.value {
            Value::Text(text) => text.split_once('='),
            _ => None,
        });
        let (name, value) = example.unwrap_or(("DEBUG", "1"));
        return Err(expected(node, "env", "a mapping of names to values").hint(format!(
            "write {}: \"{}\" instead of a list",
            name.escape_debug(),
            value.escape_debug()
        )));
    }
    let mut variables = Vec::new();
    for entry in map(node, "env", "a mapping of names to values")? {
        if entry.key.is_empty() || entry.key.contains(['=', '\n']) {
            return Err(entry.at.error(format!("`{}` is not the name of a variable", entry.key.escape_debug())));
        }
        if !entry.value.is_null() {
            variables.push((entry.key.clone(), text(&entry.value, &entry.key)?));
        }
    }
    Ok(variables)
}

fn volumes(node: &Node) -> Result<Vec<Mount>> {
    if let Value::List(_) = &node.value {
        return Err(expected(node, "volumes", "a mapping of the tenant's folders to paths in the container")
            .hint("write `volumes: {.: /usr/src/app}`; volumes with live data go under `data: [/data]`"));
    }
    let mut mounts = Vec::new();
    for entry in map(node, "volumes", "a mapping of the tenant's folders to paths in the container")? {
        if !entry.value.is_null() {
            let local = local_path(&entry.key, entry.at)?;
            mounts.push(Mount { local, path: container_path(&entry.value, "volumes")? });
        }
    }
    Ok(mounts)
}

fn data(node: &Node) -> Result<Vec<VolumePath>> {
    match &node.value {
        Value::List(list) => list.iter().map(|item| container_path(item, "data")).collect(),
        Value::Text(path) => Err(expected(node, "data", "a list of paths in the container")
            .hint(format!("write `data: [{}]`", path.escape_debug()))),
        _ => Err(expected(node, "data", "a list of paths in the container").hint("write `data: [/data]`")),
    }
}

/// A volume's path in the container. A colon would split it in Docker's own notation.
fn container_path(node: &Node, key: &str) -> Result<VolumePath> {
    let path = text(node, key)?;
    if let Some((front, _)) = path.split_once(':') {
        return Err(node.at.error(format!("the path `{}` has a `:` in it", path.escape_debug())).hint(
            if front.starts_with('/') {
                format!("write {}", front.escape_debug())
            } else {
                "a path in the container is all that goes here, such as /data".to_owned()
            },
        ));
    }
    VolumePath::new(&path).map_err(|error| located(node.at, error))
}

/// A path inside the tenant's folder.
fn local_path(text: &str, at: At) -> Result<LocalPath> {
    let shown = text.escape_debug();
    let outside = || {
        at.error(format!("`{shown}` leads outside the tenant's folder")).hint(
            "paths are relative to the folder that mcloud.yml is in, and stay inside it: `.`, `app`, `./conf/nginx`",
        )
    };
    if text.is_empty() {
        return Err(at.error("the path is empty").hint("the tenant's folder itself is `.`"));
    }
    if text.starts_with('/') || text == "~" || text.starts_with("~/") {
        return Err(outside());
    }
    if text.contains(['\n', '\r', '\t']) || text.len() > 4096 {
        return Err(at.error(format!("`{}` is not a path", text.chars().take(80).collect::<String>().escape_debug())));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(outside)?;
            }
            part => parts.push(part),
        }
    }
    Ok(LocalPath(parts.join("/")))
}

fn port(node: &Node, key: &str) -> Result<u16> {
    let text = text(node, key)?;
    match text.parse::<u16>() {
        Ok(port) if port > 0 && !text.starts_with('+') => Ok(port),
        _ => {
            Err(node.at.error(format!("`{key}` is a port, and `{}` is not one", text.escape_debug())).hint(match text
                .rsplit_once(':')
            {
                Some((_, inner)) if inner.parse::<u16>().is_ok() => {
                    format!("only the port in the container: `{key}: {inner}`; `publish` does the rest")
                }
                _ => "a port is a number from 1 to 65535".to_owned(),
            }))
        }
    }
}

// What every key needs.

fn text(node: &Node, key: &str) -> Result<String> {
    match &node.value {
        Value::Text(text) => Ok(text.clone()),
        _ => Err(expected(node, key, "text")),
    }
}

fn map<'n>(node: &'n Node, key: &str, what: &str) -> Result<&'n [Entry]> {
    match &node.value {
        Value::Map(entries) => Ok(entries),
        _ => Err(expected(node, key, what)),
    }
}

fn map_or_none<'n>(node: &'n Node, key: &str, what: &str) -> Result<&'n [Entry]> {
    if node.is_null() { Ok(&[]) } else { map(node, key, what) }
}

fn expected(node: &Node, key: &str, what: &str) -> Error {
    node.at.error(format!("`{}` is {what}, and this is {}", key.escape_debug(), node.kind()))
}

fn unknown(key: &str, at: At, place: &str, known: &[&'static str]) -> Error {
    let error = at.error(format!("unknown key `{}` {place}", key.escape_debug()));
    let also = ALSO_KNOWN.iter().find(|(name, _)| *name == key && known.len() == KEYS.len());
    error.hint(match (also, nearest(key, known.iter().copied())) {
        (Some((_, meant)), _) => (*meant).to_owned(),
        (None, Some(near)) => format!("did you mean `{near}`?"),
        (None, None) => format!("the keys here are {}", known.join(", ")),
    })
}

/// An error of a value, at its place in the file.
fn located(at: At, error: Error) -> Error {
    Error { hint: error.hint, ..at.error(error.message) }
}
