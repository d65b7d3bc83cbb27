//! `mcloud NAME [HOST]`: the commands that the mcloud.yml of this folder has under `"---"`.
//!
//! Each line is a step: it is shown, run, and has to end with status 0 before the next one. A line of plain words is run
//! as it is, any other by `/bin/sh -c`; `mcloud` in it is this program. `{host}` stands for the reference that HOST means,
//! which holds nothing that a shell would read.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use clap::{Arg, ArgMatches};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::output::Output;
use super::{Global, context, init, show};
use crate::model::meant::nearest;
use crate::model::{Error, Kind, Reference, Result, line};
use crate::tenant::config::{self, Config};

/// Where HOST's reference goes.
const PLACE: &str = "{host}";
/// The commands that run around this one, so that none runs itself.
const WITHIN: &str = "MCLOUD_WITHIN";
/// A longer line of a step's output is passed on in pieces.
const LINE_BYTES: usize = 64 << 10;

pub struct Commands(Config);

/// Those of this folder; `None` where it has no mcloud.yml.
pub fn here() -> Result<Option<Commands>> {
    match init::read(None) {
        Ok(text) => Ok(Some(Commands(config::parse(&text, None)?))),
        Err(error) if error.kind == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Commands {
    /// The program with these as commands. One that is called as a verb is that verb.
    pub fn added_to(&self, program: clap::Command) -> clap::Command {
        let verbs: Vec<String> = program.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
        let new = self.0.commands.iter().filter(|(name, _)| !verbs.contains(name) && name != "help");
        new.fold(program, |program, (name, lines)| program.subcommand(self.verb(name, lines)))
    }

    fn verb(&self, name: &str, lines: &[String]) -> clap::Command {
        let shown: Vec<String> = lines.iter().map(|line| show::text(line)).collect();
        let steps = format!("Its steps, from the mcloud.yml of this folder:\n  {}", shown.join("\n  "));
        let verb = clap::Command::new(name.to_owned())
            .about(format!("mcloud.yml: {}", shown.join("; ")))
            .long_about(steps)
            .disable_help_flag(true);
        if !needs_host(lines) {
            return verb;
        }
        let names: Vec<&str> = self.0.hosts.iter().map(|(name, _)| name.as_str()).collect();
        let help = match names.as_slice() {
            [] => "[SERVICE.]TENANT@HOST".to_owned(),
            names => format!("{}, or [SERVICE.]TENANT@HOST", names.join(", ")),
        };
        verb.arg(Arg::new("host").value_name("HOST").required(true).help(help))
    }

    /// Runs one that clap has recognised; its exit status is that of the step that fails.
    pub fn run(&self, name: &str, matches: &ArgMatches, global: &Global, out: &Output) -> Result<u8> {
        let Some((_, lines)) = self.0.commands.iter().find(|(known, _)| known == name) else {
            return Err(Error::usage(format!("there is no command `{name}`")));
        };
        let reference = match needs_host(lines) {
            true => matches.get_one::<String>("host").map(|host| self.reference(host)).transpose()?,
            false => None,
        };
        let around = std::env::var(WITHIN).unwrap_or_default();
        if around.split(',').any(|running| running == name) {
            return Err(Error::usage(format!("the command `{name}` of mcloud.yml runs itself")));
        }
        let runner = Runner {
            program: std::env::current_exe()
                .map_err(|cause| Error::io("where this program lies is not known", cause))?,
            within: format!("{around},{name}").trim_start_matches(',').to_owned(),
            global,
            out,
        };
        let place = reference.as_ref().map(ToString::to_string).unwrap_or_default();
        let steps: Vec<String> = lines.iter().map(|line| line.replace(PLACE, &place)).collect();
        for (at, step) in steps.iter().enumerate() {
            let status = context::block_on(runner.step(at + 1, steps.len(), step))?;
            if status != 0 {
                let stopped = format!("`{name}` stopped at step {} of {}", at + 1, steps.len());
                let error = Error::failed(format!("{stopped}: `{}` ended with status {status}", show::text(step)));
                out.error(&match at + 1 < steps.len() {
                    true => error.hint("the steps behind it were not run"),
                    false => error,
                });
                return Ok(status);
            }
        }
        out.done(json!({"command": name, "host": reference.map(|host| host.to_string()), "steps": steps.len()}));
        Ok(0)
    }

    fn reference(&self, typed: &str) -> Result<Reference> {
        if let Some((_, known)) = self.0.hosts.iter().find(|(name, _)| name == typed) {
            return Ok(known.clone());
        }
        if typed.contains('@') {
            let reference: Reference = typed.parse()?;
            return match reference.volume {
                Some(_) => Err(Error::usage(format!("`{reference}` names a volume, and a host is wanted"))
                    .hint("write [SERVICE.]TENANT@HOST")),
                None => Ok(reference),
            };
        }
        let names: Vec<&str> = self.0.hosts.iter().map(|(name, _)| name.as_str()).collect();
        let error = Error::usage(format!("mcloud.yml has no host `{}`", show::text(typed)));
        Err(error.hint(match (nearest(typed, names.iter().copied()), names.is_empty()) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, false) => format!("it has {}", names.join(", ")),
            (None, true) => format!("name it there: \"---\": {{hosts: {{{}: app@203.0.113.5}}}}", show::text(typed)),
        }))
    }
}

fn needs_host(lines: &[String]) -> bool {
    lines.iter().any(|line| line.contains(PLACE))
}

struct Runner<'a> {
    /// This program, which is what `mcloud` in a line means.
    program: PathBuf,
    within: String,
    global: &'a Global,
    out: &'a Output,
}

impl Runner<'_> {
    /// Runs one step to its end; its exit status.
    async fn step(&self, number: usize, of: usize, step: &str) -> Result<u8> {
        let (out, json) = (self.out, self.global.json);
        out.event(&json!({"event": "step", "step": number, "of": of, "line": step}));
        if !json {
            out.say(format!("$ {}", show::text(step)));
        }
        let mut command = self.command(step);
        command.stdout(if json { Stdio::piped() } else { Stdio::inherit() });
        // Ctrl-C reaches the step as well: how it ends is for it to say.
        let mut interrupts =
            signal(SignalKind::interrupt()).map_err(|cause| Error::io("cannot listen to signals", cause))?;
        let mut child =
            command.spawn().map_err(|cause| Error::io(format!("`{}` cannot be started", show::text(step)), cause))?;
        let heard = async {
            if let Some(stdout) = child.stdout.take() {
                pass_on(stdout, |line| out.event(&said(number, line))).await;
            }
            ended(&mut child).await
        };
        let never = async {
            while interrupts.recv().await.is_some() {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            status = heard => status,
            () = never => Ok(1),
        }
    }

    fn command(&self, step: &str) -> Command {
        let mut command = match line::words(step) {
            Some(words) if words[0] == "mcloud" => {
                let mut command = Command::new(&self.program);
                let flags = [
                    ("--json", self.global.json),
                    ("--quiet", self.global.quiet),
                    ("--verbose", self.global.verbose),
                    ("--no-color", self.global.no_color),
                ];
                command.args(flags.iter().filter(|(_, set)| *set).map(|(flag, _)| flag)).args(&words[1..]);
                command
            }
            Some(words) => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command
            }
            None => {
                let mut command = Command::new("/bin/sh");
                command.arg("-c").arg(step);
                command
            }
        };
        let mut path: OsString = self.program.parent().map(|dir| dir.as_os_str().to_owned()).unwrap_or_default();
        if let Some(known) = std::env::var_os("PATH") {
            path.push(":");
            path.push(known);
        }
        command.env("PATH", path).env(WITHIN, &self.within);
        if let Some(host) = &self.global.host {
            command.env("MCLOUD_HOST", host);
        }
        command
    }
}

async fn ended(child: &mut Child) -> Result<u8> {
    let status: ExitStatus =
        child.wait().await.map_err(|cause| Error::io("how a step ended cannot be learnt", cause))?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(u8::try_from(code).unwrap_or(1))
}

/// A line of a step's output, for scripts: what mcloud says in one of its own is passed on as it is.
fn said(step: usize, line: &[u8]) -> Value {
    match serde_json::from_slice::<Value>(line) {
        Ok(said @ Value::Object(_)) => json!({"event": "said", "step": step, "said": said}),
        _ => json!({"event": "said", "step": step, "text": String::from_utf8_lossy(line)}),
    }
}

async fn pass_on(from: impl AsyncRead + Unpin, mut hear: impl FnMut(&[u8])) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        let (taken, whole) = match from.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(piece) => match piece.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    line.extend_from_slice(&piece[..end]);
                    (end + 1, true)
                }
                None => {
                    line.extend_from_slice(piece);
                    (piece.len(), line.len() >= LINE_BYTES)
                }
            },
        };
        from.consume(taken);
        if whole {
            hear(&std::mem::take(&mut line));
        }
    }
    if !line.is_empty() {
        hear(&line);
    }
}
