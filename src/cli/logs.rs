//! `mcloud logs`.

use std::collections::HashMap;

use clap::Args;
use serde_json::json;

use super::context::{self, Context};
use crate::daemon::client::Heard;
use crate::model::Result;

/// Show what services wrote to their standard output and error
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud logs shop
  mcloud logs -f --tail 20 web.shop")]
pub struct Logs {
    /// The tenant, or one service of it; default: the tenant that is called as this folder is
    #[arg(value_name = "[SERVICE.]TENANT")]
    reference: Option<String>,
    /// Go on with what comes, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// The last so many lines of each service
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
}

pub fn run(arguments: &Logs, context: &Context) -> Result<u8> {
    let (tenant, service, host) = context.service(arguments.reference.as_deref())?;
    let several = service.is_none();
    let mut lines = Lines::default();
    let out = &context.out;
    let show = |service: &str, is_error: bool, line: &str| {
        if out.json {
            out.event(&json!({"event": "log", "service": service, "stderr": is_error, "line": line}));
        } else if several {
            out.line(format!("{service} | {line}"));
        } else {
            out.line(line);
        }
    };
    let mut count = 0u64;
    context::block_on(async {
        let client = context::connect(&host).await?;
        let hear = |heard: Heard| {
            for line in lines.take(&heard) {
                count += 1;
                show(&heard.service, heard.is_error, &line);
            }
        };
        client.logs(&tenant, service.as_ref(), arguments.follow, arguments.tail, hear).await
    })?;
    for ((service, is_error), rest) in lines.rest {
        if !rest.is_empty() {
            count += 1;
            show(&service, is_error, &String::from_utf8_lossy(&rest));
        }
    }
    out.done(json!({"lines": count}));
    Ok(0)
}

/// Whole lines out of pieces, for each service and each of its outputs.
#[derive(Default)]
struct Lines {
    rest: HashMap<(String, bool), Vec<u8>>,
}

impl Lines {
    fn take(&mut self, heard: &Heard) -> Vec<String> {
        let rest = self.rest.entry((heard.service.clone(), heard.is_error)).or_default();
        rest.extend_from_slice(&heard.data);
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let whole: Vec<u8> = rest.drain(..=end).collect();
        String::from_utf8_lossy(&whole).lines().map(|line| line.trim_end_matches('\r').to_owned()).collect()
    }
}
