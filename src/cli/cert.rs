//! `mcloud cert add`, `acme`, `list` and `remove`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::{self, Context};
use super::{show, when};
use crate::model::publish::Cert as Known;
use crate::model::{Domain, Error, Result};

/// A certificate and its key have a few thousand bytes.
const FILE_BYTES: u64 = 1 << 20;

/// The certificates with which TLS is ended for domains that are published with --ssl
///
/// They are used for domains whose service names no `ssl:` port; where one does, TLS is its business. A certificate that is
/// added or renewed is used from then on; connections that are open keep the one they have.
#[derive(Args, Debug)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:
  mcloud cert acme shop.example.com                            from Let's Encrypt, and renewed in time
  mcloud cert add shop.example.com fullchain.pem privkey.pem   your own
  mcloud cert list"
)]
pub struct Cert {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Take a certificate of your own, or another one in place of it
    #[command(after_help = "Examples:\n  mcloud cert add shop.example.com fullchain.pem privkey.pem")]
    Add {
        /// The domain, which has to be among the certificate's names
        domain: Domain,
        /// The certificate, and behind it those that lead to its CA; PEM
        cert: PathBuf,
        /// Its key, not encrypted; PEM
        key: PathBuf,
    },
    /// Get a certificate from the server's CA, and have it renewed in time
    ///
    /// The domain has to lead to the host: the CA looks at its port 80 or 443.
    #[command(after_help = "Examples:\n  mcloud cert acme shop.example.com")]
    Acme {
        /// The domain
        domain: Domain,
    },
    /// List the certificates
    #[command(after_help = "Examples:\n  mcloud cert list --json")]
    List,
    /// Forget a certificate and delete its key
    #[command(after_help = "Examples:\n  mcloud cert remove shop.example.com")]
    Remove {
        /// The domain
        domain: Domain,
    },
}

pub fn run(arguments: &Cert, context: &Context) -> Result<u8> {
    match &arguments.what {
        What::Add { domain, cert, key } => {
            let (chain, key) = (read(cert)?, read(key)?);
            let known = context::block_on(async { context.connect().await?.add_cert(domain, chain, key).await })?;
            done(&known, "has its certificate", context)
        }
        What::Acme { domain } => {
            context.out.say(format!("asking the CA for a certificate for {domain}"));
            let known = context::block_on(async { context.connect().await?.acme_cert(domain).await })?;
            done(&known, "has its certificate", context)
        }
        What::List => list(context),
        What::Remove { domain } => {
            let known = context::block_on(async { context.connect().await?.remove_cert(domain).await })?;
            done(&known, "has no certificate any more; it had one", context)
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let cannot = |error| Error::io(format!("{} cannot be read", show::text(&file.display().to_string())), error);
    if std::fs::metadata(file).map_err(cannot)?.len() > FILE_BYTES {
        return Err(Error::usage(format!("{} is too large to be PEM", show::text(&file.display().to_string()))));
    }
    std::fs::read(file).map_err(cannot)
}

fn done(known: &Known, what: &str, context: &Context) -> Result<u8> {
    let until = known.not_after_unix.map(|until| format!(" until {}", when::shown(until))).unwrap_or_default();
    context.out.line(format!("{} {what}{until}", known.domain));
    let mut fields = event(known);
    fields["event"] = json!("done");
    context.out.done(fields);
    Ok(0)
}

fn list(context: &Context) -> Result<u8> {
    let all = context::block_on(async { context.connect().await?.certs().await })?;
    if all.is_empty() {
        context.out.say("there are no certificates; `mcloud cert acme DOMAIN` gets one");
    } else {
        let shown = |at: Option<u64>| at.map_or_else(|| "-".to_owned(), when::shown);
        let row = |known: &Known| {
            let from = if known.acme { "CA" } else { "added" };
            let trouble = known.trouble.as_deref().map(show::text).unwrap_or_default();
            vec![
                known.domain.to_string(),
                from.to_owned(),
                shown(known.not_after_unix),
                shown(known.renew_at_unix),
                trouble,
            ]
        };
        let rows: Vec<Vec<String>> = all.iter().map(row).collect();
        context.out.line(show::table(&["DOMAIN", "FROM", "GOOD UNTIL", "RENEWED", "TROUBLE"], &rows));
    }
    for known in &all {
        context.out.event(&event(known));
    }
    context.out.done(json!({"certs": all.len()}));
    Ok(0)
}

fn event(known: &Known) -> Value {
    json!({
        "event": "cert",
        "domain": known.domain.as_str(),
        "acme": known.acme,
        "not_after_unix": known.not_after_unix,
        "renew_at_unix": known.renew_at_unix,
        "trouble": known.trouble,
    })
}
