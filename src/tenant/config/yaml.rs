//! YAML with positions: text to a tree of nodes, each of which knows its line and column.
//!
//! The file may be hostile. Its size is checked first; depth and the number of nodes (aliases counted as often as they are
//! used) are checked while events come in, so nothing is built that is not allowed to exist.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput};

use crate::model::{Error, Result};

use super::SIZE_MAX;

/// How deep collections may nest. The deepest sensible file has six levels.
const DEPTH_MAX: usize = 32;

/// Nodes after aliases are expanded.
const NODES_MAX: usize = 50_000;

/// A place in the text; both count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub line: usize,
    pub column: usize,
}

impl At {
    fn of(marker: &Marker) -> At {
        At { line: marker.line().max(1), column: marker.col() + 1 }
    }

    /// An error at this place.
    pub fn error(self, message: impl AsRef<str>) -> Error {
        Error::usage(format!("mcloud.yml, line {}, column {}: {}", self.line, self.column, message.as_ref()))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub at: At,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    /// A scalar, as written: what it means is up to the key it stands at.
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub at: At,
    pub value: Node,
}

impl Node {
    pub fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    /// What it is, in words, for "expected X, found Y".
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// The one document of `text`. An empty one is a null.
pub fn parse(text: &str) -> Result<Node> {
    if text.len() > SIZE_MAX {
        return Err(Error::usage(format!("mcloud.yml is {} bytes, {SIZE_MAX} is the most", text.len()))
            .hint("large content belongs in files of the tenant's folder"));
    }
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    loop {
        match reader.next()? {
            (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
            (Event::StreamEnd | Event::DocumentEnd, span) => {
                return Ok(Node { at: At::of(&span.start), value: Value::Null });
            }
            (event, span) => {
                let root = reader.node(event, span, 0)?;
                reader.end()?;
                return Ok(root);
            }
        }
    }
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    /// Each anchor's node and how many nodes that is.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span)> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(syntax(&error)),
            None => Err(Error::usage("mcloud.yml ends in the middle")),
        }
    }

    /// Nothing may follow the document.
    fn end(&mut self) -> Result<()> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentStart(_), span) => {
                    return Err(At::of(&span.start).error("a second YAML document starts here").hint(
                        "mcloud.yml is one document; the block of hosts and commands is a key in quotes: \"---\":",
                    ));
                }
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node> {
        let at = At::of(&span.start);
        if depth > DEPTH_MAX {
            return Err(at.error(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let before = self.nodes;
        self.count(1, at)?;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                if let Some(bad) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r')) {
                    return Err(at.error(format!("a control character ({}) in a value", bad.escape_debug())));
                }
                let null = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                (anchor, if null { Value::Null } else { Value::Text(text.into_owned()) })
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                let mut list = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => list.push(self.node(event, span, depth + 1)?),
                    }
                }
                (anchor, Value::List(list))
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                (anchor, Value::Map(self.entries(depth)?))
            }
            Event::Alias(anchor) => {
                // An anchor is known once its node is complete, so a node cannot contain itself.
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    return Err(at.error("an alias to something that contains it"));
                };
                let (node, size) = (node.clone(), *size);
                if depth + depth_of(&node) > DEPTH_MAX {
                    return Err(at.error(format!("nested deeper than {DEPTH_MAX} levels")));
                }
                self.count(size, at)?;
                return Ok(Node { at, ..node });
            }
            _ => return Err(at.error("a value is missing here")),
        };
        let node = Node { at, value };
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before));
        }
        Ok(node)
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(entries);
            }
            let key = self.node(event, span, depth + 1)?;
            let at = key.at;
            let key = match key.value {
                Value::Text(text) => text,
                Value::Null => return Err(at.error("a key is missing before the `:`")),
                Value::List(_) | Value::Map(_) => {
                    return Err(at.error("a key has to be text").hint("put text with { } or [ ] in quotes"));
                }
            };
            if let Some(line) = lines.insert(key.clone(), at.line) {
                return Err(at
                    .error(format!("the key `{}` is here twice", key.escape_debug()))
                    .hint(format!("the first one is on line {line}: remove one, or join them")));
            }
            let (event, span) = self.next()?;
            entries.push(Entry { key, at, value: self.node(event, span, depth + 1)? });
        }
    }

    fn count(&mut self, more: usize, at: At) -> Result<()> {
        self.nodes += more;
        if self.nodes > NODES_MAX {
            return Err(at.error(format!("more than {NODES_MAX} values, with aliases counted each time they are used")));
        }
        Ok(())
    }
}

fn depth_of(node: &Node) -> usize {
    match &node.value {
        Value::Null | Value::Text(_) => 0,
        Value::List(list) => 1 + list.iter().map(depth_of).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|entry| depth_of(&entry.value)).max().unwrap_or(0),
    }
}

fn check_tag(tag: Option<&saphyr_parser::Tag>, at: At) -> Result<()> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() && tag.suffix != "!" && !tag.suffix.is_empty() => {
            Err(at.error(format!("the tag `{}` means nothing here", tag.suffix.escape_debug())).hint("remove it"))
        }
        _ => Ok(()),
    }
}

fn syntax(error: &ScanError) -> Error {
    let info: String = error.info().chars().flat_map(char::escape_debug).collect();
    let at = At::of(error.marker());
    let hint = if info.contains("tab") || info.contains('\t') {
        "YAML is indented with spaces, never with tabs"
    } else if info.contains("anchor") || info.contains("alias") {
        "a text that starts with `*` or `&` wants quotes"
    } else {
        "look at this line's indentation, and put text with `: `, ` #`, brackets or quotes in quotes"
    };
    at.error(format!("not valid YAML: {info}")).hint(hint)
}
