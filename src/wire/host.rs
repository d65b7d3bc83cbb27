//! Tenants, keys and requests as messages.

use super::{nonsense, proto};
use crate::model::host::{DataVolume, NewTenant, Role, Tenant, TenantGlob, VolumeRef};
use crate::model::{Result, ServiceName, TenantName, VolumePath};

pub fn volume_out(volume: &VolumeRef) -> proto::VolumeRef {
    let (service, path) = match &volume.data {
        Some(data) => (data.service.to_string(), data.path.to_string()),
        None => Default::default(),
    };
    proto::VolumeRef { tenant: volume.tenant.to_string(), service, path }
}

pub fn volume_in(volume: Option<proto::VolumeRef>) -> Result<VolumeRef> {
    let volume = volume.ok_or_else(|| nonsense("a sync without a volume"))?;
    let data = match (volume.service.as_str(), volume.path.as_str()) {
        ("", "") => None,
        (service, path) => Some(DataVolume { service: ServiceName::new(service)?, path: VolumePath::new(path)? }),
    };
    Ok(VolumeRef { tenant: TenantName::new(&volume.tenant)?, data })
}

pub fn tenant_out(tenant: &Tenant) -> proto::Tenant {
    let volume =
        |volume: &DataVolume| proto::Volume { service: volume.service.to_string(), path: volume.path.to_string() };
    proto::Tenant {
        name: tenant.name.to_string(),
        env: tenant.env.clone().unwrap_or_default(),
        path: tenant.path.clone(),
        volumes: tenant.volumes.iter().map(volume).collect(),
        created_unix: tenant.created_unix,
    }
}

pub fn tenant_in(tenant: proto::Tenant) -> Result<Tenant> {
    let volume = |volume: proto::Volume| {
        Ok(DataVolume { service: ServiceName::new(&volume.service)?, path: VolumePath::new(&volume.path)? })
    };
    Ok(Tenant {
        name: TenantName::new(&tenant.name)?,
        env: Some(tenant.env).filter(|env| !env.is_empty()),
        path: tenant.path,
        volumes: tenant.volumes.into_iter().map(volume).collect::<Result<_>>()?,
        created_unix: tenant.created_unix,
    })
}

pub fn new_tenant_out(new: &NewTenant) -> proto::TenantInit {
    proto::TenantInit {
        tenant: new.name.to_string(),
        config: new.config.clone(),
        env: new.env.clone().unwrap_or_default(),
        path: new.path.clone().unwrap_or_default(),
    }
}

pub fn new_tenant_in(init: proto::TenantInit) -> Result<NewTenant> {
    Ok(NewTenant {
        name: TenantName::new(&init.tenant)?,
        config: init.config,
        env: Some(init.env).filter(|env| !env.is_empty()),
        path: Some(init.path).filter(|path| !path.is_empty()),
    })
}

pub fn globs_out(globs: &[TenantGlob]) -> Vec<String> {
    globs.iter().map(TenantGlob::to_string).collect()
}

pub fn globs_in(globs: &[String]) -> Result<Vec<TenantGlob>> {
    globs.iter().map(|glob| TenantGlob::new(glob)).collect()
}

pub fn role_in(role: &str) -> Result<Role> {
    role.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_and_tenants_come_out_as_they_went_in() {
        let data = DataVolume { service: ServiceName::new("redis").unwrap(), path: VolumePath::new("/data").unwrap() };
        for data in [None, Some(data.clone())] {
            let volume = VolumeRef { tenant: TenantName::new("shop").unwrap(), data };
            assert_eq!(volume_in(Some(volume_out(&volume))).unwrap(), volume);
        }
        let tenant = Tenant {
            name: TenantName::new("shop").unwrap(),
            env: Some("prod".into()),
            path: "/srv/shop".into(),
            volumes: vec![data],
            created_unix: 5,
        };
        assert_eq!(tenant_in(tenant_out(&tenant)).unwrap(), tenant);
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        for (tenant, service, path) in
            [("../x", "", ""), ("a", "b", "../c"), ("a", "", "/data"), ("a", "s/t", "/data"), ("", "", "")]
        {
            let volume = proto::VolumeRef { tenant: tenant.into(), service: service.into(), path: path.into() };
            assert!(volume_in(Some(volume.clone())).is_err(), "{volume:?}");
        }
    }
}
