//! Who may do what. Every request goes through here.

use super::state::Standing;
use crate::model::host::{Grant, Role, TenantGlob};
use crate::model::{Error, Kind, Result, TenantName};
use crate::transport::PublicKey;

/// Whoever a connection belongs to, as far as the state knows at this moment.
#[derive(Clone, Debug)]
pub struct Principal {
    pub key: PublicKey,
    pub standing: Standing,
    /// What it was granted beside that, as another host.
    pub grants: Vec<Grant>,
}

impl Principal {
    /// How messages and the audit log call him.
    pub fn label(&self) -> String {
        match &self.standing {
            Standing::Enrolled { label, .. } => label.clone(),
            Standing::Invited => "an invitation".to_owned(),
            Standing::Ticketed => format!("host {}", self.key.short()),
            Standing::Granted(host) => format!("host {host}"),
            Standing::Unknown => format!("key {}", self.key.short()),
        }
    }

    pub fn may_administrate(&self) -> Result<()> {
        match &self.standing {
            Standing::Enrolled { role: Role::Admin, .. } => Ok(()),
            _ => Err(self.refused("this needs the role admin")),
        }
    }

    /// Needs `role` on `tenant`.
    pub fn may(&self, role: Role, tenant: &TenantName) -> Result<()> {
        if self.grants.iter().any(|grant| grant.terms.tenant == *tenant && grant.terms.role >= role) {
            return Ok(());
        }
        self.may_by_himself(role, tenant)
    }

    /// Needs `role` on `tenant` by his own key's standing: what was granted cannot be given on.
    pub fn may_by_himself(&self, role: Role, tenant: &TenantName) -> Result<()> {
        match &self.standing {
            Standing::Enrolled { role: Role::Admin, .. } => Ok(()),
            Standing::Enrolled { role: own, tenants, .. } if *own >= role && matches(tenants, tenant) => Ok(()),
            Standing::Enrolled { tenants, .. } if !matches(tenants, tenant) => {
                let globs = tenants.iter().map(TenantGlob::as_str).collect::<Vec<_>>().join(" ");
                let may = if globs.is_empty() { "no tenant".to_owned() } else { format!("only {globs}") };
                Err(self.refused(&format!(
                    "the tenant `{tenant}` needs the role {role} for it, and this key may act on {may}"
                )))
            }
            Standing::Granted(_) => Err(self.refused(&format!(
                "the tenant `{tenant}` needs the role {role} for it, and no grant that is good now gives that"
            ))),
            _ => Err(self.refused(&format!("this needs the role {role} for the tenant `{tenant}`"))),
        }
    }

    /// Whether he may know that `tenant` is there.
    pub fn sees(&self, tenant: &TenantName) -> bool {
        self.may(Role::Viewer, tenant).is_ok()
    }

    /// Anybody who has a right here, whatever it is.
    pub fn is_enrolled(&self) -> Result<()> {
        match &self.standing {
            Standing::Enrolled { .. } | Standing::Granted(_) => Ok(()),
            _ => Err(self.refused("this needs an enrolled key")),
        }
    }

    fn refused(&self, why: &str) -> Error {
        let who = match &self.standing {
            Standing::Enrolled { label, role, .. } => format!("{label} ({role})"),
            _ => self.label(),
        };
        let hint = match &self.standing {
            Standing::Granted(_) => "`mcloud access list` on this host shows what was granted, by whom and until when",
            _ => "an admin of this host can invite you with another role (`mcloud invite --role … --tenant …`)",
        };
        Error::new(Kind::Refused, format!("{who} may not do this: {why}")).hint(hint)
    }
}

fn matches(globs: &[TenantGlob], tenant: &TenantName) -> bool {
    globs.iter().any(|glob| glob.matches(tenant.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(role: Role, globs: &[&str]) -> Principal {
        let tenants = globs.iter().map(|glob| TenantGlob::new(glob).unwrap()).collect();
        let standing = Standing::Enrolled { label: "ann".into(), role, tenants };
        Principal { key: PublicKey([1; 32]), standing, grants: Vec::new() }
    }

    #[test]
    fn each_role_may_what_it_says_on_the_tenants_it_names() {
        let shop = TenantName::new("shop-eu").unwrap();
        let blog = TenantName::new("blog").unwrap();
        let admin = who(Role::Admin, &[]);
        assert!(admin.may_administrate().is_ok() && admin.may(Role::Admin, &blog).is_ok());
        let deployer = who(Role::Deployer, &["shop-*"]);
        assert!(deployer.may(Role::Deployer, &shop).is_ok() && deployer.may(Role::Viewer, &shop).is_ok());
        assert!(deployer.may(Role::Viewer, &blog).is_err() && deployer.may_administrate().is_err());
        assert!(deployer.may(Role::Admin, &shop).is_err());
        let viewer = who(Role::Viewer, &["*"]);
        assert!(viewer.may(Role::Viewer, &blog).is_ok());
        let error = viewer.may(Role::Deployer, &blog).unwrap_err();
        assert_eq!(error.kind, Kind::Refused);
        assert!(error.message.contains("ann (viewer)") && error.message.contains("deployer"), "{error}");
        for standing in [Standing::Invited, Standing::Ticketed, Standing::Unknown] {
            let nobody = Principal { key: PublicKey([1; 32]), standing, grants: Vec::new() };
            assert!(nobody.may(Role::Viewer, &shop).is_err() && nobody.is_enrolled().is_err());
        }
    }
}
