//! What a daemon needs to know of an mcloud.yml: the volumes with live data.

use crate::model::host::DataVolume;
use crate::model::{Error, Result, ServiceName, VolumePath};

/// The volumes that `data:` names, in their order.
pub fn data_volumes(config: &str, env: Option<&str>) -> Result<Vec<DataVolume>> {
    let _ = env;
    let wrong = |what: String| {
        Error::usage(format!("mcloud.yml: {what}")).hint("data: [/data] under a service names its volumes")
    };
    let parsed: serde_yaml::Value =
        serde_yaml::from_str(config).map_err(|error| wrong("it is not valid YAML".to_owned()).because(error))?;
    let services = parsed.as_mapping().ok_or_else(|| wrong("its top level is no map of services".to_owned()))?;
    let mut volumes = Vec::new();
    for (name, service) in services {
        let name = name.as_str().ok_or_else(|| wrong("a service's name is no text".to_owned()))?;
        let Some(data) = service.get("data").filter(|_| name != "---") else { continue };
        let service = ServiceName::new(name)?;
        let paths = data.as_sequence().ok_or_else(|| wrong(format!("`data` of `{name}` is no list")))?;
        for path in paths {
            let path =
                path.as_str().ok_or_else(|| wrong(format!("`data` of `{name}` has an entry that is no path")))?;
            volumes.push(DataVolume { service: service.clone(), path: VolumePath::new(path)? });
        }
    }
    volumes.dedup();
    Ok(volumes)
}
