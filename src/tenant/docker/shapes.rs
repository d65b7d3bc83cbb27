//! What is asked of Docker and what it tells of containers, between its words and ours.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum, EndpointSettings, HealthStatusEnum, HostConfig, NetworkingConfig, RestartPolicy,
    RestartPolicyNameEnum,
};

use crate::tenant::runtime::{Checked, Container, Labels, Lively, Spec, State};

pub fn filters(labels: &Labels) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), labels.iter().map(|(name, value)| format!("{name}={value}")).collect())])
}

pub fn container(found: ContainerInspectResponse) -> Container {
    let state = found.state.unwrap_or_default();
    let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let ip = networks.into_values().filter_map(|endpoint| endpoint.ip_address).find(|ip| !ip.is_empty());
    let checked = state.health.as_ref().and_then(|health| match health.status {
        Some(HealthStatusEnum::HEALTHY) => Some(Checked::Healthy),
        Some(HealthStatusEnum::UNHEALTHY) => Some(Checked::Unhealthy),
        Some(HealthStatusEnum::STARTING) => Some(Checked::Starting),
        _ => None,
    });
    let started = state.started_at.clone().unwrap_or_default();
    Container {
        id: found.id.unwrap_or_default(),
        name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        labels: found.config.and_then(|config| config.labels).unwrap_or_default().into_iter().collect(),
        image_id: found.image.unwrap_or_default(),
        state: state_of(&state),
        exit_status: state.exit_code.unwrap_or(0),
        error: match state.oom_killed {
            Some(true) => "it ran out of memory".to_owned(),
            _ => state.error.unwrap_or_default(),
        },
        ip,
        started_at: if started.starts_with("0001-") { String::new() } else { started },
        restarts: found.restart_count.unwrap_or(0),
        checked,
    }
}

/// A container of the list of all, unless it is at rest. A state that is not known here is none of rest.
pub fn lively(listed: ContainerSummary) -> Option<Lively> {
    use ContainerSummaryStateEnum::{CREATED, DEAD, EXITED, REMOVING};
    if matches!(listed.state, Some(CREATED | EXITED | DEAD | REMOVING)) {
        return None;
    }
    let name = listed.names.unwrap_or_default().into_iter().next().unwrap_or_default();
    let mounts = listed.mounts.unwrap_or_default().into_iter();
    Some(Lively {
        id: listed.id.unwrap_or_default(),
        name: name.trim_start_matches('/').to_owned(),
        labels: listed.labels.unwrap_or_default().into_iter().collect(),
        writes: mounts
            .filter(|mount| mount.rw != Some(false))
            .filter_map(|mount| mount.source)
            .map(Into::into)
            .collect(),
    })
}

fn state_of(state: &ContainerState) -> State {
    match state.status {
        Some(ContainerStateStatusEnum::RUNNING) => State::Running,
        Some(ContainerStateStatusEnum::PAUSED) => State::Paused,
        Some(ContainerStateStatusEnum::RESTARTING) => State::Restarting,
        Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::REMOVING) => State::Exited,
        Some(ContainerStateStatusEnum::DEAD) => State::Dead,
        // A state that is not known here is none of rest.
        _ if state.running == Some(true) => State::Running,
        _ => State::Created,
    }
}

pub fn body(spec: &Spec) -> ContainerCreateBody {
    let endpoint = EndpointSettings { aliases: Some(spec.aliases.clone()), ..Default::default() };
    let restart = match spec.restart {
        true => RestartPolicyNameEnum::ON_FAILURE,
        false => RestartPolicyNameEnum::NO,
    };
    let binds = spec.binds.iter().map(|(from, to)| bollard::models::Mount {
        target: Some(to.clone()),
        source: Some(from.to_string_lossy().into_owned()),
        typ: Some(bollard::models::MountType::BIND),
        ..Default::default()
    });
    ContainerCreateBody {
        hostname: Some(spec.hostname.clone()),
        image: Some(spec.image.clone()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        env: Some(spec.env.clone()),
        cmd: spec.cmd.clone(),
        entrypoint: spec.entrypoint.clone(),
        working_dir: spec.workdir.clone(),
        tty: spec.attended.map(|attended| attended.tty),
        open_stdin: spec.attended.map(|_| true),
        stdin_once: spec.attended.map(|_| true),
        attach_stdin: spec.attended.map(|_| true),
        attach_stdout: spec.attended.map(|_| true),
        attach_stderr: spec.attended.map(|_| true),
        host_config: Some(HostConfig {
            mounts: Some(binds.collect()),
            network_mode: Some(spec.network.clone()),
            restart_policy: Some(RestartPolicy { name: Some(restart), maximum_retry_count: None }),
            ..Default::default()
        }),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(spec.network.clone(), endpoint)])),
        }),
        ..Default::default()
    }
}
