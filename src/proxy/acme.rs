//! Certificates from an ACME server (RFC 8555): ordered, its challenges answered by the proxy, fetched.
//!
//! HTTP-01 is tried first, since a domain's port 80 is more often where it should be; then TLS-ALPN-01 (RFC 8737).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AccountBuilder, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder,
    Order, OrderStatus, RetryPolicy,
};

use super::certs::{Answering, Certificates};
use crate::model::{Domain, Error, Result};

/// How long a CA may take to look, and to make a certificate.
const PATIENCE: Duration = Duration::from_secs(40);

/// Which CA, and whom it knows us as.
#[derive(Clone, Debug)]
pub struct Acme {
    /// The URL of its directory.
    pub directory: String,
    /// The root to trust in place of the system's, a PEM file: for a CA of one's own.
    pub root: Option<PathBuf>,
}

/// What a CA gave, as PEM.
pub struct Issued {
    pub chain: String,
    pub key: String,
}

fn broken(what: impl Into<String>, error: instant_acme::Error) -> Error {
    Error::failed(what).because(error)
}

impl Acme {
    fn builder(&self) -> Result<AccountBuilder, instant_acme::Error> {
        match &self.root {
            Some(root) => Account::builder_with_root(root),
            None => Account::builder(),
        }
    }

    /// The account whose credentials were kept, or a new one with credentials to keep.
    pub async fn account(&self, kept: Option<&str>) -> Result<(Account, Option<String>)> {
        let cannot = |error| {
            broken(format!("the CA at {} does not let us in", self.directory), error)
                .hint("is its address right, and can this host reach it?")
        };
        let credentials = kept.and_then(|kept| serde_json::from_str::<AccountCredentials>(kept).ok());
        if let Some(credentials) = credentials {
            let known = self.builder().map_err(cannot)?.from_credentials(credentials).await.map_err(cannot)?;
            return Ok((known, None));
        }
        let new = NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
        let made = self.builder().map_err(cannot)?.create(&new, self.directory.clone(), None).await;
        let (account, credentials) = made.map_err(cannot)?;
        let text = serde_json::to_string(&credentials)
            .map_err(|error| Error::failed("the CA's account cannot be kept").because(error))?;
        Ok((account, Some(text)))
    }
}

/// Has a certificate made.
pub async fn issue(account: &Account, certificates: &Arc<Certificates>, domain: &Domain) -> Result<Issued> {
    let mut last = None;
    for way in [ChallengeType::Http01, ChallengeType::TlsAlpn01] {
        match order(account, certificates, domain, &way).await {
            Ok(Some(issued)) => return Ok(issued),
            Ok(None) => {}
            // The first way's error is the one to mend, unless there was no first way.
            Err(error) => last = last.or(Some(error)),
        }
    }
    Err(last.unwrap_or_else(|| Error::failed(format!("the CA offers no challenge for {domain} that we can answer"))))
}

/// One order, proved in one way; `None` when the CA does not offer that.
async fn order(
    account: &Account,
    certificates: &Arc<Certificates>,
    domain: &Domain,
    way: &ChallengeType,
) -> Result<Option<Issued>> {
    let refused = |error| broken(format!("the CA gives no certificate for {domain}"), error);
    let names = [Identifier::Dns(domain.to_string())];
    let mut order = account.new_order(&NewOrder::new(&names)).await.map_err(refused)?;
    // Answers are given until the order is decided.
    let mut answering: Vec<Answering> = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(refused)?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let Some(mut challenge) = authorization.challenge(way.clone()) else { return Ok(None) };
        let key = challenge.key_authorization();
        answering.push(match way {
            ChallengeType::TlsAlpn01 => {
                let (chain, answer_key) = answer(domain, key.digest().as_ref())?;
                certificates.answer_tls(domain, chain.as_bytes(), answer_key.as_bytes())?
            }
            _ => certificates.answer_token(&challenge.token, key.as_str()),
        });
        if let Err(error) = challenge.set_ready().await {
            return Err(unseen(domain).because(error));
        }
    }
    let policy = RetryPolicy::default().timeout(PATIENCE);
    let status = order.poll_ready(&policy).await.map_err(refused)?;
    if status != OrderStatus::Ready {
        return Err(why(&mut order, domain).await);
    }
    let key = order.finalize().await.map_err(refused)?;
    let chain = order.poll_certificate(&policy).await.map_err(refused)?;
    drop(answering);
    Ok(Some(Issued { chain, key }))
}

/// What the CA says of an order that came to nothing.
async fn why(order: &mut Order, domain: &Domain) -> Error {
    let mut said = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if let Ok(state) = authorization.refresh().await {
            said.extend(state.challenges.iter().filter_map(|challenge| challenge.error.as_ref()?.detail.clone()));
        }
    }
    if said.is_empty() { unseen(domain) } else { unseen(domain).because(said.join("; ")) }
}

fn unseen(domain: &Domain) -> Error {
    Error::failed(format!("the CA could not see that {domain} leads here"))
        .hint(format!("{domain} has to lead to this host, port 80 to --http or port 443 to --https"))
}

/// The certificate that answers TLS-ALPN-01, and its key.
fn answer(domain: &Domain, digest: &[u8]) -> Result<(String, String)> {
    let made = || -> Result<(String, String), rcgen::Error> {
        let mut wanted = rcgen::CertificateParams::new(vec![domain.to_string()])?;
        wanted.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest)];
        let key = rcgen::KeyPair::generate()?;
        Ok((wanted.self_signed(&key)?.pem(), key.serialize_pem()))
    };
    made().map_err(|error| Error::failed("the answer to the CA's challenge cannot be made").because(error))
}
