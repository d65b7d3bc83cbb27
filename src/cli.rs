//! What people and scripts see: arguments, one file a verb, text, progress, JSON, exit statuses.
//!
//! Nothing below this module prints or knows of arguments. A verb takes what it was told and a [`Context`], and returns
//! its exit status or an error; [`run`] shows the error and ends.

mod access;
mod act;
mod audit;
mod cert;
mod commands;
mod completions;
mod config;
mod context;
mod create;
mod destroy;
mod exec;
mod init;
mod inspect;
mod invite;
mod keep;
mod kill;
mod list;
mod login;
mod logs;
mod man;
mod mount;
mod output;
mod pause;
mod ps;
mod publish;
mod rebuild;
mod release;
mod remove;
mod restart;
mod resume;
mod rollback;
mod routes;
mod run;
mod schedule;
mod server;
mod set;
mod show;
mod snapshot;
mod start;
mod status;
mod stop;
mod sync;
mod terminal;
mod unmount;
mod unpublish;
mod unset;
mod update;
mod vars;
mod when;
mod whoami;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::model::{Error, Result};

use context::Context;
use output::Output;

/// Runs tenants on Docker hosts and moves what they are made of: code, live data, whole trees, exactly.
#[derive(Debug, Parser)]
#[command(
    name = "mcloud",
    version,
    disable_help_flag = true,
    arg_required_else_help = true,
    after_help = "A reference is [SERVICE.]TENANT[@HOST[:PORT]][:/VOLUME]; @me is this machine.\n\
                  `mcloud help COMMAND` has examples for each command.",
    after_long_help = EVERYWHERE
)]
struct Mcloud {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Verb,
}

const EVERYWHERE: &str = "\
Examples:
  mcloud server                                 run the daemon of this machine
  mcloud -h 203.0.113.5 init shop               make a tenant from the mcloud.yml of this folder
  mcloud sync . shop@203.0.113.5                copy the code to it
  mcloud sync redis.shop@203.0.113.5:/data ./d  copy live data from it

A reference is [SERVICE.]TENANT[@HOST[:PORT]][:/VOLUME]; @me is this machine.

Exit status:
  0 done, 1 failed (nothing half done), 2 usage, 3 refused, 4 unreachable or not let in, 5 done with entries left out

Environment:
  MCLOUD_HOST        the host, where -h does not say
  MCLOUD_HOME        the daemon's state (default /var/lib/mcloud for root, else ~/.local/share/mcloud)
  MCLOUD_CONFIG_DIR  this client's key and the hosts it knows (default ~/.config/mcloud)
  MCLOUD_CACHE_DIR   what is remembered of folders (default $XDG_CACHE_HOME/mcloud, else ~/.cache/mcloud)
  MCLOUD_LOG         what to log on standard error, a tracing filter such as debug or mcloud::sync=trace
  NO_COLOR           no colours";

/// What every command takes, before or after its name.
#[derive(Args, Debug)]
struct Global {
    /// The daemon's host; default $MCLOUD_HOST, else the daemon of this machine
    #[arg(short = 'h', long, global = true, value_name = "HOST[:PORT]", help_heading = "Everywhere")]
    host: Option<String>,
    /// One JSON object a line on standard output; the last one is `done` or `error`
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,
    /// Say nothing but errors and what was asked for
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    quiet: bool,
    /// Say more
    #[arg(short, long, global = true, conflicts_with = "quiet", help_heading = "Everywhere")]
    verbose: bool,
    /// No colours
    #[arg(long, global = true, help_heading = "Everywhere")]
    no_color: bool,
    /// Print help
    #[arg(long, global = true, action = clap::ArgAction::Help, help_heading = "Everywhere")]
    help: Option<bool>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Server(server::Server),
    Invite(invite::Invite),
    Login(login::Login),
    Whoami(whoami::Whoami),
    Access(access::Access),
    Audit(audit::Audit),
    Init(init::Init),
    List(list::List),
    Create(create::Create),
    Start(start::Start),
    Stop(stop::Stop),
    Restart(restart::Restart),
    Pause(pause::Pause),
    Resume(resume::Resume),
    Destroy(destroy::Destroy),
    Rebuild(rebuild::Rebuild),
    Update(update::Update),
    Config(config::Config),
    Status(status::Status),
    Logs(logs::Logs),
    Inspect(inspect::Inspect),
    Exec(exec::Exec),
    Run(run::Run),
    Set(set::Set),
    Unset(unset::Unset),
    Vars(vars::Vars),
    Ps(ps::Ps),
    Kill(kill::Kill),
    Remove(remove::Remove),
    Publish(publish::Publish),
    Unpublish(unpublish::Unpublish),
    Routes(routes::Routes),
    Release(release::Release),
    Rollback(rollback::Rollback),
    Cert(cert::Cert),
    Sync(sync::Sync),
    Mount(mount::Mount),
    Unmount(unmount::Unmount),
    Snapshot(snapshot::Snapshot),
    Schedule(schedule::Schedule),
    Completions(completions::Completions),
    Man(man::Man),
}

/// The whole program: parses, does, tells, and gives the exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    crate::sys::memory::keep_buffers();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let (matches, own) = match parse(&arguments) {
        Ok(parsed) => parsed,
        Err(status) => return status,
    };
    if let (Some(own), Some((name, matches))) = (own, matches.subcommand())
        && command().find_subcommand(name).is_none()
    {
        return end_own(&own, name, matches);
    }
    let parsed = match Mcloud::from_arg_matches(&matches) {
        Ok(parsed) => parsed,
        Err(error) => return misused(&arguments, &error),
    };
    let Mcloud { global, command } = parsed;
    let out = Output::new(global.json, global.quiet, global.verbose, global.no_color);
    let status = start_log(&global, &out, matches!(command, Verb::Server(_)))
        .and_then(|()| verb(command, Context::new(out.clone(), global.host)));
    end(&out, status)
}

fn end(out: &Output, status: Result<u8>) -> ExitCode {
    match status {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            out.error(&error);
            ExitCode::from(error.kind.exit_status())
        }
    }
}

/// The arguments, read. Those that are none of ours, and help, look at the commands of this folder's mcloud.yml as well.
fn parse(arguments: &[OsString]) -> Result<(clap::ArgMatches, Option<commands::Commands>), ExitCode> {
    let error = match command().try_get_matches_from(arguments) {
        Ok(matches) => return Ok((matches, None)),
        Err(error) => error,
    };
    let unknown = error.kind() == ErrorKind::InvalidSubcommand;
    let helps = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
    if !unknown && !helps {
        return Err(misused(arguments, &error));
    }
    match commands::here() {
        Ok(Some(own)) => match own.added_to(command()).try_get_matches_from(arguments) {
            Ok(matches) => Ok((matches, Some(own))),
            Err(error) => Err(misused(arguments, &error)),
        },
        // What is meant may stand in the file that cannot be read.
        Err(wrong) if unknown && !arguments.iter().any(|word| command().find_subcommand(word).is_some()) => {
            let out = output(arguments);
            let word = error.get(ContextKind::InvalidSubcommand).map(ToString::to_string).unwrap_or_default();
            let message = format!("`{}` is no command, and the mcloud.yml here cannot be read", show::text(&word));
            let hint = wrong.hint.clone();
            out.error(&Error { hint, ..Error::usage(message).because(wrong.chain()) });
            Err(ExitCode::from(2))
        }
        Ok(None) | Err(_) => Err(misused(arguments, &error)),
    }
}

/// Runs a command of this folder's mcloud.yml.
fn end_own(own: &commands::Commands, name: &str, matches: &clap::ArgMatches) -> ExitCode {
    let global = match Global::from_arg_matches(matches) {
        Ok(global) => global,
        Err(error) => return misused(&[], &error),
    };
    let out = Output::new(global.json, global.quiet, global.verbose, global.no_color);
    end(&out, start_log(&global, &out, false).and_then(|()| own.run(name, matches, &global, &out)))
}

fn command() -> clap::Command {
    Mcloud::command()
}

fn verb(verb: Verb, context: Context) -> Result<u8> {
    match verb {
        Verb::Server(arguments) => server::run(arguments, &context),
        Verb::Invite(arguments) => invite::run(&arguments, &context),
        Verb::Login(arguments) => login::run(&arguments, &context),
        Verb::Whoami(_) => whoami::run(&context),
        Verb::Access(arguments) => access::run(&arguments, &context),
        Verb::Audit(arguments) => audit::run(&arguments, &context),
        Verb::Init(arguments) => init::run(&arguments, &context),
        Verb::List(arguments) => list::run(&arguments, &context),
        Verb::Create(arguments) => create::run(&arguments, &context),
        Verb::Start(arguments) => start::run(&arguments, &context),
        Verb::Stop(arguments) => stop::run(&arguments, &context),
        Verb::Restart(arguments) => restart::run(&arguments, &context),
        Verb::Pause(arguments) => pause::run(&arguments, &context),
        Verb::Resume(arguments) => resume::run(&arguments, &context),
        Verb::Destroy(arguments) => destroy::run(&arguments, &context),
        Verb::Rebuild(arguments) => rebuild::run(&arguments, &context),
        Verb::Update(arguments) => update::run(&arguments, &context),
        Verb::Config(arguments) => config::run(&arguments, &context),
        Verb::Status(arguments) => status::run(&arguments, &context),
        Verb::Logs(arguments) => logs::run(&arguments, &context),
        Verb::Inspect(arguments) => inspect::run(&arguments, &context),
        Verb::Exec(arguments) => exec::run(&arguments, &context),
        Verb::Run(arguments) => run::run(&arguments, &context),
        Verb::Set(arguments) => set::run(&arguments, &context),
        Verb::Unset(arguments) => unset::run(&arguments, &context),
        Verb::Vars(_) => vars::run(&context),
        Verb::Ps(_) => ps::run(&context),
        Verb::Kill(arguments) => kill::run(&arguments, &context),
        Verb::Remove(arguments) => remove::run(&arguments, &context),
        Verb::Publish(arguments) => publish::run(&arguments, &context),
        Verb::Unpublish(arguments) => unpublish::run(&arguments, &context),
        Verb::Routes(_) => routes::run(&context),
        Verb::Release(arguments) => release::run(arguments, &context),
        Verb::Rollback(arguments) => rollback::run(&arguments, &context),
        Verb::Cert(arguments) => cert::run(&arguments, &context),
        Verb::Sync(arguments) => sync::run(arguments, context),
        Verb::Mount(arguments) => mount::run(&arguments, &context),
        Verb::Unmount(arguments) => unmount::run(&arguments, &context),
        Verb::Snapshot(arguments) => snapshot::run(arguments, context),
        Verb::Schedule(arguments) => schedule::run(arguments, &context),
        Verb::Completions(arguments) => completions::run(&arguments, &context),
        Verb::Man(arguments) => man::run(&arguments, &context),
    }
}

/// A command line that clap does not take, and its help and version, which come the same way.
fn misused(arguments: &[OsString], error: &clap::Error) -> ExitCode {
    let out = output(arguments);
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            out.help(&error.render(), false);
            return ExitCode::SUCCESS;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if !out.json => {
            out.help(&error.render(), true);
            return ExitCode::from(2);
        }
        _ => {}
    }
    out.error(&usage_error(&error.render().to_string()));
    ExitCode::from(2)
}

/// Where to print what cannot be done because of its arguments.
fn output(arguments: &[OsString]) -> std::sync::Arc<Output> {
    let flag = |name: &str| arguments.iter().take_while(|word| *word != "--").any(|word| word == name);
    Output::new(flag("--json"), false, false, flag("--no-color"))
}

/// clap's message as one of ours: its first paragraph says what is wrong, a `tip:` what was meant.
fn usage_error(rendered: &str) -> Error {
    let text = rendered.strip_prefix("error: ").unwrap_or(rendered);
    let words = |part: &str| part.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut parts = text.split("\n\n").map(words).filter(|part| !part.is_empty());
    let message = match parts.next() {
        Some(message) if !message.starts_with("Usage:") && !rendered.starts_with(|c: char| c.is_uppercase()) => message,
        _ => "a command is missing".to_owned(),
    };
    let hints: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter_map(|line| {
            line.strip_prefix("tip: ").map(words).or_else(|| Some(format!("usage: {}", line.strip_prefix("Usage: ")?)))
        })
        .collect();
    Error::usage(message).hint(match hints.as_slice() {
        [] => "`mcloud help` lists the commands".to_owned(),
        hints => hints.join("; "),
    })
}

/// What `MCLOUD_LOG` asks for goes to standard error.
fn start_log(global: &Global, out: &Output, server: bool) -> Result<()> {
    let default = match (server, global.verbose) {
        (true, false) => "info",
        (_, true) => "mcloud=debug",
        (false, false) => "off",
    };
    let wanted = std::env::var("MCLOUD_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = tracing_subscriber::EnvFilter::try_new(wanted.as_deref().unwrap_or(default)).map_err(|cause| {
        Error::usage(format!("MCLOUD_LOG is not a filter: {}", show::text(wanted.as_deref().unwrap_or_default())))
            .because(cause)
            .hint("write a level (debug) or a module with one (mcloud::sync=trace)")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(out.colors_on_stderr())
        .try_init()
        .map_err(|cause| Error::failed("the log cannot be started").because(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_and_after_the_command() {
        let parse = |words: &[&str]| Mcloud::try_parse_from(words).map(|parsed| parsed.global.host);
        assert_eq!(parse(&["mcloud", "-h", "a", "list"]).ok().flatten().as_deref(), Some("a"));
        assert_eq!(parse(&["mcloud", "list", "-h", "a"]).ok().flatten().as_deref(), Some("a"));
        assert_eq!(parse(&["mcloud", "access", "list", "--host", "a"]).ok().flatten().as_deref(), Some("a"));
        assert_eq!(parse(&["mcloud", "list", "--help"]).map_err(|e| e.kind()), Err(ErrorKind::DisplayHelp));
        assert_eq!(parse(&["mcloud", "help", "sync"]).map_err(|e| e.kind()), Err(ErrorKind::DisplayHelp));
    }

    #[test]
    fn every_command_has_an_example() {
        for verb in command().get_subcommands().filter(|verb| verb.get_name() != "help") {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("mcloud "), "`{}` has no example", verb.get_name());
        }
    }
}
