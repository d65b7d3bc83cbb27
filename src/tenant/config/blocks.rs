//! `~env` blocks and `extend`: from the tree as written to the tree as meant, for one env.
//!
//! A block `~prod: {…}` in any mapping is merged over that mapping when the env is `prod`, and is nothing otherwise.
//! Merging goes down into mappings; text and lists are replaced; an empty value takes the key away. `extend` merges a
//! service over another one in the same way.

use std::collections::BTreeSet;

use crate::model::Result;
use crate::model::reference::LABEL_MAX;

use super::yaml::{Entry, Node, Value};
use crate::model::meant::nearest;

/// How many envs one file may speak of: each is checked on its own.
const ENVS_MAX: usize = 32;

/// How many services may extend one another in a row.
const EXTEND_MAX: usize = 32;

/// A service gets its image from exactly one of these; giving another one replaces it.
pub const ORIGINS: [&str; 3] = ["image", "build", "dockerfile"];

/// The envs that have a block somewhere.
pub fn envs(root: &Node) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    collect(root, &mut found)?;
    if found.len() > ENVS_MAX {
        return Err(root.at.error(format!("{} different `~env` blocks, {ENVS_MAX} is the most", found.len())));
    }
    Ok(found)
}

fn collect(node: &Node, found: &mut BTreeSet<String>) -> Result<()> {
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                if let Some(env) = entry.key.strip_prefix('~') {
                    check_block(entry, env)?;
                    found.insert(env.to_owned());
                }
                collect(&entry.value, found)?;
            }
            Ok(())
        }
        Value::List(list) => list.iter().try_for_each(|node| collect(node, found)),
        Value::Null | Value::Text(_) => Ok(()),
    }
}

fn check_block(entry: &Entry, env: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if env.is_empty() || env.len() > LABEL_MAX || !env.chars().all(good) {
        return Err(entry.at.error(format!("`{}` does not name an env", entry.key.escape_debug())).hint(
            "a block for an env is written `~prod:`; a path of a volume has to stay inside the tenant's folder",
        ));
    }
    match entry.value.value {
        Value::Map(_) | Value::Null => Ok(()),
        _ => Err(entry
            .value
            .at
            .error(format!("`{}` has {} in it", entry.key, entry.value.kind()))
            .hint(format!("it holds the keys that differ in that env: `{}: {{env: {{DEBUG: \"0\"}}}}`", entry.key))),
    }
}

/// The tree without blocks and without `extend`.
pub fn resolve(root: &Node, env: Option<&str>) -> Result<Node> {
    let mut root = apply(root, env);
    let Value::Map(services) = &root.value else { return Ok(root) };
    let extended = services
        .iter()
        .map(|service| Ok(Entry { value: extend(service, services, &mut Vec::new())?, ..service.clone() }))
        .collect::<Result<Vec<Entry>>>()?;
    root.value = Value::Map(extended);
    Ok(root)
}

fn apply(node: &Node, env: Option<&str>) -> Node {
    let value = match &node.value {
        Value::Map(entries) => {
            let (blocks, plain): (Vec<&Entry>, Vec<&Entry>) =
                entries.iter().partition(|entry| entry.key.starts_with('~'));
            let mut kept: Vec<Entry> =
                plain.into_iter().map(|entry| Entry { value: apply(&entry.value, env), ..entry.clone() }).collect();
            for block in blocks {
                if block.key.strip_prefix('~') == env
                    && let Value::Map(over) = apply(&block.value, env).value
                {
                    merge(&mut kept, over);
                }
            }
            Value::Map(kept)
        }
        Value::List(list) => Value::List(list.iter().map(|node| apply(node, env)).collect()),
        other => other.clone(),
    };
    Node { at: node.at, value }
}

fn merge(under: &mut Vec<Entry>, over: Vec<Entry>) {
    if let Some(origin) = over.iter().find(|entry| is_origin(entry)) {
        under.retain(|entry| !is_origin(entry) || entry.key == origin.key);
    }
    for entry in over {
        match under.iter_mut().find(|known| known.key == entry.key) {
            None => under.push(entry),
            Some(known) => match (&mut known.value.value, entry.value.value) {
                (Value::Map(known), Value::Map(over)) => merge(known, over),
                (_, value) => {
                    known.at = entry.at;
                    known.value = Node { at: entry.value.at, value };
                }
            },
        }
    }
}

/// Whether this is a service's `image: NAME` (rather than, say, a variable called `image` whose neighbours are not).
fn is_origin(entry: &Entry) -> bool {
    ORIGINS.contains(&entry.key.as_str()) && matches!(entry.value.value, Value::Text(_))
}

fn extend(service: &Entry, all: &[Entry], path: &mut Vec<String>) -> Result<Node> {
    let Value::Map(entries) = &service.value.value else { return Ok(service.value.clone()) };
    let Some(position) = entries.iter().position(|entry| entry.key == "extend" && !entry.value.is_null()) else {
        return Ok(service.value.clone());
    };
    // The block of hosts and commands is no service; its reader says what is wrong with it.
    if service.key == "---" {
        return Ok(service.value.clone());
    }
    let wanted = &entries[position].value;
    let Value::Text(name) = &wanted.value else {
        return Err(wanted.at.error(format!("`extend` names a service, and this is {}", wanted.kind())));
    };
    path.push(service.key.clone());
    if path.contains(name) || path.len() > EXTEND_MAX {
        path.push(name.clone());
        return Err(wanted.at.error(format!("services extend one another in a circle: {}", shown(path))));
    }
    let Some(other) = all.iter().find(|other| other.key == *name && other.key != "---") else {
        let error = wanted.at.error(format!("`extend` names `{}`, and there is no such service", name.escape_debug()));
        let names = || all.iter().map(|entry| entry.key.as_str()).filter(|key| *key != "---" && *key != service.key);
        return Err(error.hint(match nearest(name, names()) {
            Some(near) => format!("did you mean `{}`?", near.escape_debug()),
            None => format!("the other services are {}", names().collect::<Vec<_>>().join(", ").escape_debug()),
        }));
    };
    let mut base = extend(other, all, path)?;
    let mut over = entries.clone();
    over.remove(position);
    match &mut base.value {
        Value::Map(under) => merge(under, over),
        _ => base.value = Value::Map(over),
    }
    Ok(Node { at: service.value.at, value: base.value })
}

fn shown(path: &[String]) -> String {
    path.iter().map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(" → ")
}
