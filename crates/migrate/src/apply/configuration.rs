//! The kubelet's configuration that kubeadm gives to new nodes: in which ConfigMaps it is, set there, and
//! put back.

use std::collections::BTreeMap;

use super::{Mover, StepError};
use crate::control_plane::{ControlPlane, Error, SYSTEM};
use crate::host::Host;
use crate::node::Version;
use crate::plan::kubelet_configuration;

/// How often a ConfigMap that others change as well is tried.
const ATTEMPTS: u32 = 10;

/// What ConfigMaps say, by their names; nothing of one that is not there.
pub(super) type Configurations = BTreeMap<String, Option<String>>;

/// The ConfigMaps that `kubeadm join` may read, as they are.
pub(super) async fn look<C: ControlPlane>(
    control_plane: &C,
    kubelet: Version,
) -> Result<Configurations, Error> {
    let server = control_plane.version().await?;
    let mut found = Configurations::new();
    for name in names(server, kubelet) {
        let text = control_plane.kubelet_configuration(&name).await?;
        found.insert(name, text);
    }
    Ok(found)
}

/// kubeadm writes `kubelet-config-1.N`, of its control plane's version, up to 1.23, and `kubelet-config`
/// from 1.24 on. 1.23 and 1.24 read the other one too (its feature gate `UnversionedKubeletConfigMap`).
/// Earlier ones went by the version of the kubelet that joins, up to 1.17 for certain.
fn names(server: Version, kubelet: Version) -> Vec<String> {
    let mut names = Vec::new();
    if server >= Version::new(1, 23) {
        names.push("kubelet-config".to_string());
    }
    if server <= Version::new(1, 24) {
        names.push(format!("kubelet-config-{server}"));
    }
    if kubelet <= Version::new(1, 18) && kubelet != server {
        names.push(format!("kubelet-config-{kubelet}"));
    }
    names
}

/// What is said where none of them is there.
pub(crate) fn none_is_there(found: &Configurations) -> String {
    let names = found.keys().map(|name| format!("{SYSTEM}/{name}"));
    let names: Vec<_> = names.collect();
    format!("there is no ConfigMap {}", names.join(" or "))
}

/// The configuration with these settings; nothing where it has them.
pub(super) fn configured(
    text: &str,
    settings: &[(String, String)],
) -> Result<Option<String>, StepError> {
    let wanted = kubelet_configuration(text, settings).map_err(StepError::Configuration)?;
    Ok((wanted != text).then_some(wanted))
}

impl<H: Host, C: ControlPlane> Mover<'_, H, C> {
    /// Sets it wherever it was found.
    pub(super) async fn configure(
        &self,
        found: &Configurations,
        settings: &[(String, String)],
    ) -> Result<(), StepError> {
        for (name, text) in found {
            if text.is_some() {
                self.configure_one(name, settings).await?;
            }
        }
        if found.values().all(Option::is_none) {
            let settings = settings
                .iter()
                .map(|(key, value)| format!("{key}: {value}"));
            let settings: Vec<_> = settings.collect();
            self.say(&format!(
                "{}, from which kubeadm makes new nodes: have whatever makes them set {}",
                none_is_there(found),
                settings.join(", ")
            ));
        }
        Ok(())
    }

    async fn configure_one(
        &self,
        name: &str,
        settings: &[(String, String)],
    ) -> Result<(), StepError> {
        for _ in 0..ATTEMPTS {
            let Some(text) = self.control_plane.kubelet_configuration(name).await? else {
                return Ok(());
            };
            let Some(wanted) = configured(&text, settings)? else {
                return Ok(());
            };
            let replaced = self
                .control_plane
                .replace_kubelet_configuration(name, &text, &wanted);
            if replaced.await? {
                return Ok(());
            }
        }
        Err(StepError::Contended {
            name: name.to_string(),
        })
    }

    /// Puts back what was there, where nobody else has changed it since.
    pub(super) async fn restore_configurations(
        &self,
        before: &Configurations,
        settings: &[(String, String)],
    ) -> Result<(), StepError> {
        for (name, text) in before {
            if let Some(text) = text {
                self.restore_configuration(name, settings, text).await?;
            }
        }
        Ok(())
    }

    async fn restore_configuration(
        &self,
        name: &str,
        settings: &[(String, String)],
        before: &str,
    ) -> Result<(), StepError> {
        let Some(wanted) = configured(before, settings)? else {
            return Ok(());
        };
        let replaced = self
            .control_plane
            .replace_kubelet_configuration(name, &wanted, before);
        if !replaced.await?
            && self
                .control_plane
                .kubelet_configuration(name)
                .await?
                .as_deref()
                != Some(before)
        {
            self.say(&format!(
                "the ConfigMap {SYSTEM}/{name} was changed by somebody else since then, and is left as it is"
            ));
        }
        Ok(())
    }
}
