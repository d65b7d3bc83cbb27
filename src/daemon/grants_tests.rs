//! What another host was granted: as much as it says, for as long as its giver has it, and not a moment longer.

use super::client::{Client, open_source};
use super::tests::{Host, new_tenant};
use super::*;
use crate::model::Kind;
use crate::model::host::{GrantTerms, TenantGlob, VolumeRef};
use crate::transport::dial;
use crate::wire::{host as wire, proto};

fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn to(other: &Host, role: Role, name: &str) -> GrantTerms {
    GrantTerms {
        host_key: other.started.daemon.identity.public().to_string(),
        host: "other.example".to_owned(),
        role,
        tenant: tenant(name),
        purpose: "schedule nightly on other.example".to_owned(),
        expires_unix: None,
    }
}

/// The other host's daemon asks for the root volume of a tenant.
async fn reads(other: &Host, host: &Host, name: &str) -> Result<()> {
    let daemon = &host.started.daemon;
    let key = daemon.identity.public();
    let connection = dial(&[daemon.listen], "the source's host", &other.started.daemon.identity, key).await?;
    let volume = wire::volume_out(&VolumeRef { tenant: tenant(name), data: None });
    let open = proto::SourceOpen { volume: Some(volume), ticket: bytes::Bytes::new(), ..Default::default() };
    open_source(&connection, open).await.map(drop)
}

async fn pair() -> (Host, Host, Client) {
    let (host, other) = (Host::start().await, Host::start().await);
    let admin = host.admin().await;
    for name in ["shop-eu", "shop-us", "blog"] {
        admin.tenant_init(&new_tenant(name)).await.unwrap();
    }
    (host, other, admin)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_lets_one_host_do_one_thing_to_one_tenant_until_it_is_taken_back() {
    let (host, other, admin) = pair().await;
    assert_eq!(reads(&other, &host, "shop-eu").await.unwrap_err().kind, Kind::Unreachable, "nobody knows it");
    let granted = admin.grant(&to(&other, Role::Viewer, "shop-eu")).await.unwrap();
    assert_eq!(granted.host_key, host.started.daemon.identity.public().to_string());
    assert_eq!(granted.addresses.last().unwrap(), &host.started.daemon.listen.to_string());
    reads(&other, &host, "shop-eu").await.unwrap();
    let error = reads(&other, &host, "blog").await.unwrap_err();
    assert!(error.message.contains("host other.example") && error.kind == Kind::Refused, "{error}");
    let principal = host.started.daemon.principal(other.started.daemon.identity.public()).unwrap();
    assert!(principal.may(Role::Deployer, &tenant("shop-eu")).is_err());
    assert!(principal.may_administrate().is_err());
    assert!(principal.sees(&tenant("shop-eu")) && !principal.sees(&tenant("blog")));

    let listed = admin.access_list().await.unwrap().grants;
    assert_eq!((listed.len(), listed[0].by.as_str()), (1, "this-host"));
    assert_eq!(listed[0].terms, to(&other, Role::Viewer, "shop-eu"));
    while admin.access_list().await.unwrap().grants[0].last_seen_unix.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let gone = admin.access_revoke(&format!("g{}", granted.number)).await.unwrap();
    assert_eq!(gone.grants.len(), 1);
    assert_eq!(reads(&other, &host, "shop-eu").await.unwrap_err().kind, Kind::Unreachable);
    let audit: Vec<String> =
        admin.audit(None, 0).await.unwrap().iter().map(|entry| format!("{} {}", entry.what, entry.on)).collect();
    let grant = "grant viewer to other.example: schedule nightly on other.example".to_owned();
    assert!(audit.contains(&grant) && audit.contains(&"revoke g1".to_owned()), "{audit:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_grants_more_than_he_has_and_it_goes_with_his_key() {
    let (host, other, admin) = pair().await;
    let ann = host.enrol("ann", Role::Deployer, &["shop-*"]).await;
    let bob = host.enrol("bob", Role::Viewer, &["*"]).await;
    for (client, role, name) in
        [(&ann, Role::Deployer, "blog"), (&ann, Role::Admin, "shop-eu"), (&bob, Role::Deployer, "blog")]
    {
        assert_eq!(client.grant(&to(&other, role, name)).await.unwrap_err().kind, Kind::Refused, "{role} {name}");
    }
    assert_eq!(admin.grant(&to(&other, Role::Admin, "blog")).await.unwrap_err().kind, Kind::Usage);
    assert_eq!(admin.grant(&to(&other, Role::Viewer, "none")).await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(admin.grant(&to(&host, Role::Viewer, "blog")).await.unwrap_err().kind, Kind::Usage);
    let past = GrantTerms { expires_unix: Some(now_unix() - 1), ..to(&other, Role::Viewer, "blog") };
    assert_eq!(admin.grant(&past).await.unwrap_err().kind, Kind::Usage);

    let granted = ann.grant(&to(&other, Role::Deployer, "shop-eu")).await.unwrap();
    ann.grant(&to(&other, Role::Viewer, "shop-us")).await.unwrap();
    reads(&other, &host, "shop-eu").await.unwrap();
    assert_eq!(bob.grant_revoke(granted.number).await.unwrap_err().kind, Kind::NotFound, "it is not his");
    ann.grant_revoke(granted.number).await.unwrap();
    assert_eq!(reads(&other, &host, "shop-eu").await.unwrap_err().kind, Kind::Refused, "it still has the other one");
    reads(&other, &host, "shop-us").await.unwrap();
    let gone = admin.access_revoke(&ann.whoami().key).await.unwrap();
    assert_eq!((gone.keys.len(), gone.grants.len()), (1, 1));
    assert_eq!(reads(&other, &host, "shop-us").await.unwrap_err().kind, Kind::Unreachable);
    // Who comes back does not bring back what he gave.
    host.enrol("ann", Role::Deployer, &["shop-*"]).await;
    assert_eq!(reads(&other, &host, "shop-us").await.unwrap_err().kind, Kind::Unreachable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_was_granted_something_cannot_give_it_on_and_loses_it_with_the_tenant() {
    let (host, other, admin) = pair().await;
    admin.grant(&to(&other, Role::Deployer, "blog")).await.unwrap();
    let principal = host.started.daemon.principal(other.started.daemon.identity.public()).unwrap();
    assert!(principal.may(Role::Deployer, &tenant("blog")).is_ok());
    assert!(principal.may_by_himself(Role::Viewer, &tenant("blog")).is_err());
    // Whose glob does not fit any more grants nothing any more.
    let state = &host.started.daemon.state;
    let ann = host.enrol("ann", Role::Deployer, &["shop-*"]).await;
    ann.grant(&to(&other, Role::Viewer, "shop-eu")).await.unwrap();
    let key: PublicKey = ann.whoami().key.parse().unwrap();
    state.enrol(&key, "ann", Role::Viewer, &[TenantGlob::new("shop-us").unwrap()], 1).unwrap();
    assert_eq!(reads(&other, &host, "shop-eu").await.unwrap_err().kind, Kind::Refused);
    // By its key, all of a host's grants go.
    assert_eq!(admin.access_revoke("other.example").await.unwrap().grants.len(), 1);
    assert!(state.grants_of(&other.started.daemon.identity.public(), now_unix()).unwrap().is_empty());
    admin.grant(&to(&other, Role::Viewer, "blog")).await.unwrap();
    admin.tenant_remove(&tenant("blog"), true).await.unwrap();
    admin.tenant_init(&new_tenant("blog")).await.unwrap();
    assert_eq!(reads(&other, &host, "blog").await.unwrap_err().kind, Kind::Unreachable, "it is another blog now");
    let soon = GrantTerms { expires_unix: Some(now_unix() + 3600), ..to(&other, Role::Viewer, "blog") };
    admin.grant(&soon).await.unwrap();
    let other_key = other.started.daemon.identity.public();
    assert_eq!(state.grants_of(&other_key, now_unix()).unwrap().len(), 1);
    assert!(state.grants_of(&other_key, now_unix() + 3600).unwrap().is_empty());
    assert_eq!(state.standing(&other_key, now_unix() + 3600).unwrap(), Standing::Unknown);
}
