//! The promises of the state: what is good once is good once, what is revoked stays out, and it is all there again later.

use super::*;

fn state() -> (tempfile::TempDir, State) {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(&dir.path().join("state.db")).unwrap();
    (dir, state)
}

fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

fn terms(role: Role, seconds: u64) -> InviteTerms {
    InviteTerms { role, tenants: vec![TenantGlob::new("shop-*").unwrap()], expires: Duration::from_secs(seconds) }
}

fn volume(tenant: &str, data: Option<(&str, &str)>) -> VolumeRef {
    let data = data.map(|(service, path)| DataVolume {
        service: ServiceName::new(service).unwrap(),
        path: VolumePath::new(path).unwrap(),
    });
    VolumeRef { tenant: TenantName::new(tenant).unwrap(), data }
}

#[test]
fn an_invitation_is_good_once_and_until_it_expires() {
    let (_dir, state) = state();
    state.invite(&key(1), &terms(Role::Deployer, 10), 100).unwrap();
    assert_eq!(state.standing(&key(1), 109).unwrap(), Standing::Invited);
    assert_eq!(state.standing(&key(1), 110).unwrap(), Standing::Unknown);
    assert!(state.accept(&key(1), &key(2), "late", 110).is_err());

    state.accept(&key(1), &key(2), "ann", 105).unwrap();
    assert_eq!(state.standing(&key(1), 105).unwrap(), Standing::Unknown);
    let Standing::Enrolled { label, role, tenants } = state.standing(&key(2), 105).unwrap() else { panic!() };
    assert_eq!((label.as_str(), role, tenants[0].as_str()), ("ann", Role::Deployer, "shop-*"));
    let error = state.accept(&key(1), &key(3), "bob", 105).unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable);
    assert_eq!(state.standing(&key(3), 105).unwrap(), Standing::Unknown);
}

#[test]
fn a_revoked_key_is_unknown_until_it_is_invited_again() {
    let (_dir, state) = state();
    state.enrol(&key(1), "ann", Role::Admin, &[], 1).unwrap();
    state.seen(&key(1), 7).unwrap();
    assert_eq!(state.keys().unwrap()[0].last_seen_unix, Some(7));
    state.revoke(&key(1), 2).unwrap();
    assert_eq!(state.standing(&key(1), 3).unwrap(), Standing::Unknown);
    assert!(state.keys().unwrap().is_empty());
    state.invite(&key(9), &terms(Role::Viewer, 10), 3).unwrap();
    state.accept(&key(9), &key(1), "ann", 4).unwrap();
    assert_eq!(state.keys().unwrap()[0].role, Role::Viewer);
}

#[test]
fn a_ticket_is_good_once_for_one_source_one_host_and_a_while() {
    let (_dir, state) = state();
    let source = volume("shop", Some(("redis", "/data")));
    let issue = || state.issue_ticket(b"secret", &key(2), &source, 100, 160).unwrap();
    issue();
    assert_eq!(state.standing(&key(2), 159).unwrap(), Standing::Ticketed);
    assert_eq!(state.standing(&key(2), 160).unwrap(), Standing::Unknown);
    assert!(!state.redeem_ticket(b"secret", &key(3), &source, 110).unwrap(), "another host");
    assert!(!state.redeem_ticket(b"secret", &key(2), &volume("shop", None), 110).unwrap(), "another volume");
    assert!(!state.redeem_ticket(b"guess", &key(2), &source, 110).unwrap(), "another secret");
    assert!(!state.redeem_ticket(b"secret", &key(2), &source, 160).unwrap(), "too late");
    assert!(state.redeem_ticket(b"secret", &key(2), &source, 110).unwrap());
    assert!(!state.redeem_ticket(b"secret", &key(2), &source, 110).unwrap(), "twice");
    assert_eq!(state.standing(&key(2), 110).unwrap(), Standing::Unknown);
}

#[test]
fn tenants_and_audit_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.db");
    let data = volume("shop", Some(("redis", "/data"))).data.unwrap();
    let tenant = Tenant {
        name: TenantName::new("shop").unwrap(),
        env: None,
        path: "/srv".into(),
        volumes: vec![data],
        created_unix: 5,
    };
    let row = TenantRow { tenant, config: "redis:\n".into(), external: true };
    {
        let state = State::open(&file).unwrap();
        state.add_tenant(&row).unwrap();
        let error = state.add_tenant(&row).unwrap_err();
        assert!(error.message.contains("exists already") && error.hint.unwrap().contains("update"));
        let number = state.audit_begin(&key(1), "ann", "init", "shop", "shop", 5).unwrap();
        state.audit_end(number, "ok").unwrap();
        state.audit_begin(&key(1), "ann", "sync", "other", "redis.other:/data", 6).unwrap();
    }
    let state = State::open(&file).unwrap();
    assert_eq!(state.tenants().unwrap(), vec![row.clone()]);
    assert_eq!(state.tenant(&row.tenant.name).unwrap(), Some(row.clone()));
    assert_eq!(state.audit(None, 0).unwrap().len(), 2);
    assert_eq!(state.audit(None, 6).unwrap()[0].result, "started");
    let of_shop = state.audit(Some(&row.tenant.name), 0).unwrap();
    assert_eq!((of_shop.len(), of_shop[0].result.as_str()), (1, "ok"));
    state.remove_tenant(&row.tenant.name).unwrap();
    assert!(state.tenants().unwrap().is_empty());
    state.add_tenant(&row).unwrap();
}

#[test]
fn a_newer_or_damaged_database_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.db");
    State::open(&file).unwrap().writer().pragma_update(None, "user_version", 99).unwrap();
    let error = State::open(&file).unwrap_err();
    assert!(error.message.contains("newer"), "{error}");
    let other = dir.path().join("other.db");
    std::fs::write(&other, "this is no database, but it is long enough to be looked at as if it were one".repeat(20))
        .unwrap();
    let error = State::open(&other).unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(error.message.contains("other.db"), "{error}");
}

#[test]
fn a_route_leads_to_a_tenant_of_this_host_or_of_another_and_moves_in_one_step() {
    use crate::model::host::FarHost;
    use crate::model::publish::Route;
    use crate::model::{Domain, Seat};
    let (_dir, state) = state();
    let seat = |text: &str| text.parse::<Seat>().unwrap();
    let (there, far_key) = (seat("shop@203.0.113.9"), key(9));
    let far = |grant| FarHost { host_key: far_key.to_string(), addresses: vec!["203.0.113.9:7080".into()], grant };
    assert_eq!(state.keep_far(&there, &far_key, &far(1)).unwrap(), None);
    assert_eq!(state.keep_far(&there, &far_key, &far(2)).unwrap(), Some(1), "the new grant takes the place of the old");
    assert_eq!(state.far(&there).unwrap(), Some(far(2)));
    assert_eq!(state.name_of_far(&seat("shop@h.example"), &far_key).unwrap(), there, "it keeps its name");
    let route = |tenant: &Seat| Route {
        domain: Domain::new("a.example").unwrap(),
        ssl: false,
        tenant: tenant.clone(),
        port: None,
    };
    assert!(state.move_routes(&[(route(&there), None)], 1).unwrap());
    assert_eq!(state.routes().unwrap(), [route(&there)]);
    // A tenant of that name here is another one.
    assert!(!state.move_routes(&[(route(&there), Some(seat("shop")))], 2).unwrap());
    assert!(
        state.move_routes(&[(route(&seat("blog@203.0.113.9")), Some(there.clone()))], 2).is_err(),
        "nobody knows it"
    );
    assert!(!state.remove_route(&route(&seat("shop"))).unwrap());
    assert!(state.remove_route(&route(&there)).unwrap());
    state.add_errand(&there, "resume").unwrap();
    let errands = state.errands().unwrap();
    assert_eq!((&errands[0].seat, errands[0].what.as_str()), (&there, "resume"));
    state.errand_done(errands[0].number).unwrap();
    assert!(state.errands().unwrap().is_empty());
}
