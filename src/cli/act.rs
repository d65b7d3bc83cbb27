//! What the verbs that change services have in common: which services, how it is told, how it ends.

use serde_json::json;

use super::context::{self, Context};
use super::show;
use crate::model::running::{Act, Verb};
use crate::model::{Error, Kind, Result, ServiceName, TenantName};

/// Does it, and tells of it as it is done.
pub fn run(verb: Verb, typed: Option<&str>, scrub_data: bool, yes: bool, context: &Context) -> Result<u8> {
    let (tenant, service, host) = context.service(typed)?;
    let on = name(&tenant, service.as_ref());
    let question = format!("Delete the data volumes of {on} for good?");
    if scrub_data && !yes && context.out.ask(&question) == Some(false) {
        return Err(Error::new(Kind::Refused, "you said no; nothing was done"));
    }
    let act = Act { verb, tenant, service, scrub_data, config: None, env: None, hooks: false };
    context::block_on(async { perform(&context::connect(&host).await?, &act, context).await })?;
    done(verb, &act, context);
    Ok(0)
}

/// `[SERVICE.]TENANT`.
pub fn name(tenant: &TenantName, service: Option<&ServiceName>) -> String {
    service.map_or_else(|| tenant.to_string(), |service| format!("{service}.{tenant}"))
}

/// The request with its notes shown.
pub async fn perform(client: &crate::daemon::client::Client, act: &Act, context: &Context) -> Result<()> {
    let out = &context.out;
    client
        .act(act, |service, text| {
            let shown = if service.is_empty() { text.to_owned() } else { format!("{service}: {text}") };
            if out.json {
                out.event(&json!({"event": "note", "service": service, "text": text}));
            } else {
                out.say(show::text(&shown));
            }
        })
        .await
}

pub fn done(verb: Verb, act: &Act, context: &Context) {
    let on = name(&act.tenant, act.service.as_ref());
    context.out.line(match verb {
        Verb::Create => format!("{on} has its containers"),
        Verb::Start | Verb::Restart => format!("{on} runs"),
        Verb::Stop => format!("{on} is stopped"),
        Verb::Pause => format!("{on} is paused"),
        Verb::Resume => format!("{on} goes on"),
        Verb::Destroy if act.scrub_data => format!("{on} has no containers and no data any more"),
        Verb::Destroy => format!("{on} has no containers any more; its volumes stay"),
        Verb::Rebuild => format!("{on} is made anew"),
        Verb::Update => format!("{on} is what its mcloud.yml says"),
    });
    context.out.done(json!({
        "verb": verb.word(),
        "tenant": act.tenant.as_str(),
        "service": act.service.as_ref().map(ServiceName::as_str),
    }));
}
