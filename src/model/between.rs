//! Which volumes a copy from one tenant to another is about, and several reports as one.

use super::host::{DataVolume, Tenant, VolumeRef};
use super::sync::Report;
use super::{Error, Kind, Reference, Result};

/// What goes from one tenant to another.
#[derive(Clone, Debug)]
pub struct Between {
    pub from: Reference,
    pub to: Reference,
    /// `--code`: the root volume, too.
    pub code: bool,
}

/// The one volume that a reference names.
pub fn one_volume(reference: &Reference) -> Result<VolumeRef> {
    let data = match (&reference.service, &reference.volume) {
        (None, None) => None,
        (Some(service), Some(path)) => Some(DataVolume { service: service.clone(), path: path.clone() }),
        (Some(service), None) => {
            return Err(Error::usage(format!("`{reference}` names a service but none of its volumes")).hint(format!(
                "such as {service}.{}:/data; the tenant's own folder is {}",
                reference.tenant, reference.tenant
            )));
        }
        (None, Some(path)) => {
            return Err(Error::usage(format!("`{reference}` names a volume but not its service"))
                .hint(format!("such as SERVICE.{}:{path}", reference.tenant)));
        }
    };
    Ok(VolumeRef { tenant: reference.tenant.clone(), data })
}

/// Which volume goes to which. Whatever has no counterpart is said before anything moves.
pub fn pair(between: &Between, from: &Tenant, to: &Tenant) -> Result<Vec<(VolumeRef, VolumeRef)>> {
    if between.from.volume.is_some() || between.to.volume.is_some() {
        if between.from.volume.is_none() || between.to.volume.is_none() {
            return Err(Error::usage("one side names a volume and the other does not").hint(
                "name a volume on both sides (S.A:/x T.B:/y), or on neither: then all data volumes go to their likes",
            ));
        }
        return Ok(vec![(one_volume(&between.from)?, one_volume(&between.to)?)]);
    }
    if between.to.service.is_some() && between.to.service != between.from.service {
        return Err(Error::usage(format!("`{}` and `{}` are different services", between.from, between.to))
            .hint("name the volumes, too: S.A:/x T.B:/y"));
    }
    let wanted = |volume: &&DataVolume| between.from.service.as_ref().is_none_or(|service| volume.service == *service);
    let volumes: Vec<&DataVolume> = from.volumes.iter().filter(wanted).collect();
    let missing: Vec<String> =
        volumes.iter().filter(|volume| !to.volumes.contains(volume)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        return Err(Error::new(
            Kind::NotFound,
            format!("`{}` lacks volumes that `{}` has: {}", to.name, from.name, missing.join(", ")),
        )
        .hint(format!(
            "give it an mcloud.yml with them (`mcloud update {}`), or name the volumes one by one",
            to.name
        )));
    }
    let of =
        |tenant: &Tenant, data: Option<&DataVolume>| VolumeRef { tenant: tenant.name.clone(), data: data.cloned() };
    let code = between.code.then_some(None);
    let pairs: Vec<_> =
        code.into_iter().chain(volumes.into_iter().map(Some)).map(|data| (of(from, data), of(to, data))).collect();
    if pairs.is_empty() {
        return Err(Error::failed(format!("`{}` has no data volumes", between.from)).hint(
            "--code copies the tenant's own folder; data volumes are those that its mcloud.yml names with `data:`",
        ));
    }
    Ok(pairs)
}

/// Several reports as one.
#[derive(Default)]
pub struct Sum {
    pub report: Report,
    reports: u32,
}

impl Sum {
    pub fn add(&mut self, more: Report) {
        let sum = &mut self.report;
        self.reports += 1;
        let single = self.reports == 1;
        sum.files_created += more.files_created;
        sum.files_updated += more.files_updated;
        sum.files_moved += more.files_moved;
        sum.files_removed += more.files_removed;
        sum.entries_total += more.entries_total;
        sum.bytes_total += more.bytes_total;
        sum.bytes_read += more.bytes_read;
        sum.bytes_sent += more.bytes_sent;
        sum.bytes_received += more.bytes_received;
        sum.seconds += more.seconds;
        sum.paused_ms += more.paused_ms;
        sum.held_requests += more.held_requests;
        sum.left_out += more.left_out;
        sum.root_source = more.root_source.filter(|_| single);
        sum.root_target = more.root_target.filter(|_| single);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Name, ServiceName, TenantName, VolumePath};

    fn tenant(name: &str, volumes: &[(&str, &str)]) -> Tenant {
        let volume = |(service, path): &(&str, &str)| DataVolume {
            service: ServiceName::new(service).unwrap(),
            path: VolumePath::new(path).unwrap(),
        };
        Tenant {
            name: TenantName::new(name).unwrap(),
            env: None,
            path: "/x".into(),
            volumes: volumes.iter().map(volume).collect(),
            created_unix: 0,
        }
    }

    fn pairs(from: &str, to: &str, code: bool) -> Result<Vec<String>> {
        let a = tenant("a", &[("redis", "/data"), ("web", "/up")]);
        let b = tenant("b", &[("web", "/up"), ("redis", "/data"), ("more", "/x")]);
        let between = Between { from: from.parse().unwrap(), to: to.parse().unwrap(), code };
        let (from, to) = match between.from.tenant.as_str() {
            "a" => (&a, &b),
            _ => (&b, &a),
        };
        Ok(pair(&between, from, to)?.iter().map(|(from, to)| format!("{from} {to}")).collect())
    }

    #[test]
    fn volumes_go_to_their_likes_and_code_only_when_asked() {
        assert_eq!(pairs("a", "b", false).unwrap(), ["redis.a:/data redis.b:/data", "web.a:/up web.b:/up"]);
        assert_eq!(pairs("a@h1", "b@h2", true).unwrap()[0], "a b");
        assert_eq!(pairs("web.a", "b", false).unwrap(), ["web.a:/up web.b:/up"]);
        assert_eq!(pairs("redis.a:/data", "more.b:/x", false).unwrap(), ["redis.a:/data more.b:/x"]);
        let error = pairs("b", "a", false).unwrap_err();
        assert!(error.message.contains("more:/x") && !error.message.contains("redis"), "{error}");
        assert_eq!(pairs("redis.a:/data", "b", false).unwrap_err().kind, Kind::Usage);
        assert_eq!(pairs("redis.a", "web.b", false).unwrap_err().kind, Kind::Usage);
        assert!(pairs("none.a", "b", false).is_err());
    }

    #[test]
    fn one_report_keeps_its_roots_and_several_have_none() {
        let report = Report { files_created: 2, root_source: Some(Name::of(b"x")), ..Report::default() };
        let mut sum = Sum::default();
        sum.add(report.clone());
        assert_eq!(sum.report, report);
        sum.add(report);
        assert_eq!((sum.report.files_created, sum.report.root_source), (4, None));
    }
}
