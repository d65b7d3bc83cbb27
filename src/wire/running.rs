//! What is asked for services and seen of them, as messages.

use super::{host, nonsense, proto};
use crate::model::running::{Act, Command, ServiceStatus, Task, TenantStatus};
use crate::model::{Result, ServiceName, TenantName, VolumePath};

fn service_in(service: &str) -> Result<Option<ServiceName>> {
    (!service.is_empty()).then(|| ServiceName::new(service)).transpose()
}

pub fn act_out(act: &Act) -> proto::Act {
    proto::Act {
        verb: act.verb.word().to_owned(),
        tenant: act.tenant.to_string(),
        service: act.service.as_ref().map(ToString::to_string).unwrap_or_default(),
        scrub_data: act.scrub_data,
        config: act.config.clone().unwrap_or_default(),
        env: act.env.clone().map(Option::unwrap_or_default),
        hooks: act.hooks,
    }
}

pub fn act_in(act: proto::Act) -> Result<Act> {
    Ok(Act {
        verb: act.verb.parse()?,
        tenant: TenantName::new(&act.tenant)?,
        service: service_in(&act.service)?,
        scrub_data: act.scrub_data,
        config: Some(act.config).filter(|text| !text.is_empty()),
        env: act.env.map(|env| Some(env).filter(|env| !env.is_empty())),
        hooks: act.hooks,
    })
}

pub fn status_out(status: &TenantStatus) -> proto::TenantStatus {
    let size = |(path, bytes): &(VolumePath, Option<u64>)| proto::VolumeSize { path: path.to_string(), bytes: *bytes };
    let service = |service: &ServiceStatus| proto::ServiceStatus {
        service: service.name.to_string(),
        state: service.seen.word().to_owned(),
        wanted: service.wanted.word().to_owned(),
        image: service.image.clone(),
        ip: service.ip.clone().unwrap_or_default(),
        exit_status: service.exit_status,
        cpu_millis: service.cpu_millis,
        memory_bytes: service.memory_bytes,
        volumes: service.volumes.iter().map(size).collect(),
        web: service.web.unwrap_or(0).into(),
        health: service.health.clone().unwrap_or_default(),
        container: service.container.clone(),
        urls: service.urls.clone(),
    };
    proto::TenantStatus {
        tenant: Some(host::tenant_out(&status.tenant)),
        services: status.services.iter().map(service).collect(),
        trouble: status.trouble.clone().unwrap_or_default(),
        failed_schedules: status.failed_schedules.clone(),
    }
}

pub fn status_in(status: proto::TenantStatus) -> Result<TenantStatus> {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let service = |service: proto::ServiceStatus| -> Result<ServiceStatus> {
        Ok(ServiceStatus {
            name: ServiceName::new(&service.service)?,
            seen: service.state.parse()?,
            wanted: service.wanted.parse()?,
            image: service.image,
            container: service.container,
            ip: some(service.ip),
            exit_status: service.exit_status,
            cpu_millis: service.cpu_millis,
            memory_bytes: service.memory_bytes,
            volumes: service
                .volumes
                .into_iter()
                .map(|volume| Ok((VolumePath::new(&volume.path)?, volume.bytes)))
                .collect::<Result<_>>()?,
            web: u16::try_from(service.web).ok().filter(|port| *port > 0),
            health: some(service.health),
            urls: service.urls,
        })
    };
    Ok(TenantStatus {
        tenant: host::tenant_in(status.tenant.ok_or_else(|| nonsense("a status of no tenant"))?)?,
        services: status.services.into_iter().map(service).collect::<Result<_>>()?,
        trouble: some(status.trouble),
        failed_schedules: status.failed_schedules,
    })
}

pub fn command_out(command: &Command) -> proto::Command {
    proto::Command {
        tenant: command.tenant.to_string(),
        service: command.service.to_string(),
        words: command.words.clone(),
        once: command.once,
        tty: command.tty,
        stdin: command.stdin,
        columns: command.size.0.into(),
        rows: command.size.1.into(),
    }
}

pub fn command_in(command: proto::Command) -> Result<Command> {
    Ok(Command {
        tenant: TenantName::new(&command.tenant)?,
        service: ServiceName::new(&command.service)?,
        words: command.words,
        once: command.once,
        tty: command.tty,
        stdin: command.stdin,
        size: (u16::try_from(command.columns).unwrap_or(0), u16::try_from(command.rows).unwrap_or(0)),
    })
}

pub fn task_out(task: &Task) -> proto::Task {
    proto::Task {
        number: task.number,
        what: task.what.clone(),
        on: task.on.clone(),
        label: task.label.clone(),
        since_unix: task.since_unix,
    }
}

pub fn task_in(task: proto::Task) -> Task {
    Task { number: task.number, what: task.what, on: task.on, label: task.label, since_unix: task.since_unix }
}
