//! `mcloud schedule …`: things done at a time, by the daemon that they change something at.

mod add;
mod looks;

use clap::{Args, Subcommand};

use crate::model::{Error, Result};

use super::context::{self, Context};
use super::show;

/// Copy tenants, or take snapshots of them, at set times
///
/// A schedule lives at the daemon of its target, which does it whether this client is there or not. It runs with the rights of
/// the key that added it. What was missed while the daemon was down is done once, as soon as it is up.
#[derive(Args, Debug)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:
  mcloud schedule add '0 2 * * *' shop@203.0.113.5 copy@203.0.113.9 --tz Europe/Berlin
  mcloud schedule add '0 3 * * *' --snapshot shop --keep-daily 7 --keep-monthly 12
  mcloud -h 203.0.113.9 schedule list
  mcloud -h 203.0.113.9 schedule run copy          now, and wait for it
  mcloud -h 203.0.113.9 schedule history copy"
)]
pub struct Schedule {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Add(add::Add),
    /// List the schedules of a host
    #[command(after_help = "Examples:\n  mcloud schedule list\n  mcloud -h 203.0.113.9 schedule list --json")]
    List,
    /// Show one schedule and its last runs
    #[command(after_help = "Examples:\n  mcloud schedule show nightly")]
    Show {
        /// The schedule's name
        name: String,
    },
    /// Run a schedule now, and wait for it; exits with 1 when the run fails
    ///
    /// The run goes on when this command is stopped: `mcloud ps` shows it, `mcloud kill` ends it.
    #[command(after_help = "Examples:\n  mcloud schedule run nightly")]
    Run {
        /// The schedule's name
        name: String,
    },
    /// Let a schedule rest; what goes by meanwhile is not made up for
    #[command(after_help = "Examples:\n  mcloud schedule pause nightly")]
    Pause {
        /// The schedule's name
        name: String,
    },
    /// Let a paused schedule go on
    #[command(after_help = "Examples:\n  mcloud schedule resume nightly")]
    Resume {
        /// The schedule's name
        name: String,
    },
    /// Forget a schedule, its history, and what the source's host granted for it
    #[command(after_help = "Examples:\n  mcloud schedule remove nightly")]
    Remove {
        /// The schedule's name
        name: String,
    },
    /// List runs, the newest first, with what they did
    #[command(after_help = "Examples:\n  mcloud schedule history\n  mcloud schedule history nightly --last 100 --json")]
    History {
        /// The schedule's name; default: all
        name: Option<String>,
        /// How many
        #[arg(long, value_name = "N", default_value_t = 20)]
        last: u32,
    },
}

pub fn run(arguments: Schedule, context: &Context) -> Result<u8> {
    match arguments.what {
        What::Add(add) => add::run(add, context),
        What::List => looks::list(context),
        What::Show { name } => looks::show(&name, context),
        What::Run { name } => now(&name, context),
        What::Pause { name } => change(&name, "pause", context),
        What::Resume { name } => change(&name, "resume", context),
        What::Remove { name } => change(&name, "remove", context),
        What::History { name, last } => looks::history(name.as_deref(), last, context),
    }
}

fn change(name: &str, verb: &str, context: &Context) -> Result<u8> {
    let (job, notes) = context::block_on(async { context.connect().await?.schedule_change(name, verb).await })?;
    let said = match verb {
        "pause" => format!("{} is paused", job.name),
        "resume" => format!("{} goes on; next {}", job.name, looks::next(&job)),
        _ => format!("{} is removed", job.name),
    };
    context.out.line(said);
    for note in &notes {
        context.out.warn(show::text(note));
    }
    let mut fields = looks::fields(&job);
    fields["notes"] = serde_json::json!(notes);
    context.out.done(fields);
    Ok(0)
}

fn now(name: &str, context: &Context) -> Result<u8> {
    let watching = super::sync::watching(context.out.clone());
    let run = context::block_on(async {
        let client = context.connect().await?;
        let run = client.schedule_run(name, |event| crate::sync::Observer::event(&*watching, event)).await;
        watching.end();
        run
    })?;
    watching.list_left_out();
    let left_out =
        run.report.as_ref().map_or(0, |report| report.left_out) + run.kept.as_ref().map_or(0, |kept| kept.left_out);
    match (&run.failure, &run.report, &run.kept) {
        (Some(failure), ..) => {
            let error =
                Error::failed(format!("the run of `{}` {}", run.name, ended(&run))).because(failure.message.clone());
            Err(match &failure.hint {
                Some(hint) => error.hint(hint.clone()),
                None => error,
            })
        }
        (None, Some(report), _) => {
            if !context.out.quiet {
                context.out.line(super::sync::summary(report));
            }
            context.out.done(looks::run_fields(&run));
            Ok(if left_out > 0 { 5 } else { 0 })
        }
        (None, None, Some(kept)) => {
            if !context.out.quiet {
                context.out.say(looks::kept(kept));
            }
            context.out.line(kept.id.to_string());
            context.out.done(looks::run_fields(&run));
            Ok(if left_out > 0 { 5 } else { 0 })
        }
        (None, None, None) => Err(Error::failed(format!("the run of `{}` left no receipt", run.name))),
    }
}

fn ended(run: &crate::model::schedule::Run) -> &'static str {
    match run.outcome {
        crate::model::schedule::Outcome::Interrupted => "was interrupted",
        _ => "failed",
    }
}
