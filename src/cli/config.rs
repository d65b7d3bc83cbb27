//! `mcloud config`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::context::{self, Context};
use super::{act, init};
use crate::model::Result;
use crate::model::running::{Act, Verb};

/// Show a tenant's mcloud.yml, how another one differs, or give it another env
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud config shop
  mcloud config shop --diff mcloud.yml       what `mcloud update shop mcloud.yml` would change
  mcloud config shop --set-env prod          its `~prod` blocks hold from now on")]
pub struct Config {
    /// The tenant; default: called as this folder is
    tenant: Option<String>,
    /// How this mcloud.yml (or this folder's) differs from the tenant's
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = ".", conflicts_with = "set_env")]
    diff: Option<PathBuf>,
    /// Its env from now on, \"\" for none; recreates what that changes
    #[arg(long, value_name = "ENV")]
    set_env: Option<String>,
}

pub fn run(arguments: &Config, context: &Context) -> Result<u8> {
    let (tenant, host) = context.tenant(arguments.tenant.as_deref())?;
    if let Some(env) = &arguments.set_env {
        let env = Some(Some(env.clone()).filter(|env| !env.is_empty()));
        let act = Act { verb: Verb::Update, tenant, service: None, scrub_data: false, config: None, env, hooks: false };
        context::block_on(async { act::perform(&context::connect(&host).await?, &act, context).await })?;
        act::done(Verb::Update, &act, context);
        return Ok(0);
    }
    let (tenant, text) = context::block_on(async { context::connect(&host).await?.config(&tenant).await })?;
    let Some(file) = &arguments.diff else {
        context.out.line(text.trim_end());
        context.out.done(json!({"tenant": tenant.name.as_str(), "env": tenant.env, "config": text}));
        return Ok(0);
    };
    let other = init::read(Some(file))?;
    let lines = difference(&text, &other);
    let changed = lines.iter().filter(|line| !line.starts_with(' ')).count();
    if changed == 0 {
        context.out.say("no difference");
    } else {
        context.out.line(lines.join("\n"));
    }
    context.out.done(json!({"tenant": tenant.name.as_str(), "lines_changed": changed, "diff": lines}));
    Ok(0)
}

/// The lines of both, those of the first alone with `-`, those of the second alone with `+`: the longest common
/// subsequence is what stays. Files too long for that are told apart as a whole.
fn difference(old: &str, new: &str) -> Vec<String> {
    const CELLS: usize = 16 << 20;
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let ends = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (same, old, new) = (&old[..ends], &old[ends..], &new[ends..]);
    let mut lines: Vec<String> = same.iter().map(|line| format!("  {line}")).collect();
    if old.len().saturating_mul(new.len()) > CELLS {
        lines.extend(old.iter().map(|line| format!("- {line}")).chain(new.iter().map(|line| format!("+ {line}"))));
        return lines;
    }
    let width = new.len() + 1;
    let mut longest = vec![0u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i * width + j] = match old[i] == new[j] {
                true => longest[(i + 1) * width + j + 1] + 1,
                false => longest[(i + 1) * width + j].max(longest[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(format!("  {}", old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1]) {
            lines.push(format!("- {}", old[i]));
            i += 1;
        } else {
            lines.push(format!("+ {}", new[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn a_difference_shows_what_goes_and_what_comes() {
        assert_eq!(difference("a\nb\nc\n", "a\nx\nc\nd\n"), ["  a", "- b", "+ x", "  c", "+ d"]);
        assert_eq!(difference("a\n", "a\n"), ["  a"]);
        assert_eq!(difference("", "a\n"), ["+ a"]);
    }
}
