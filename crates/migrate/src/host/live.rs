//! The node that this process runs on.

use std::collections::HashSet;
use std::path::Path;

use super::kernel::Kernel;
use super::network::Network;
use super::packages::Packages;
use super::units::Units;
use super::{
    DockerNode, DockerPods, Error, Host, KernelState, NetworkState, Progress, Services, UnitState,
    images, pods,
};
use crate::Root;
use crate::plan::Target;

/// The node that this process runs on: systemd by D-Bus, the package manager, `iptables-save`,
/// `iptables-restore` and `nft`, and Docker by its socket.
#[derive(Debug)]
pub struct Live<P> {
    units: Units,
    packages: Packages,
    kernel: Kernel,
    network: Network,
    docker: DockerNode,
    pods: P,
}

impl<P: DockerPods> Live<P> {
    /// With what was known of Docker before the move. Nothing is connected to yet.
    pub fn new(pods: P, docker: DockerNode) -> Self {
        let root = Root::new("/");
        Self {
            units: Units::new(),
            packages: Packages::new(root.clone()),
            kernel: Kernel::new(root.clone()),
            network: Network::new(root, docker.bridge.clone(), docker.networks.clone()),
            docker,
            pods,
        }
    }
}

impl<P: DockerPods> Services for Live<P> {
    async fn unit(&self, name: &str) -> Result<UnitState, Error> {
        self.units.unit(name).await
    }
}

impl<P: DockerPods> Host for Live<P> {
    async fn unit_to_keep(&self, name: &str) -> Result<UnitState, Error> {
        self.units.to_keep(name).await
    }

    async fn start(&self, name: &str) -> Result<(), Error> {
        self.units.start(name).await
    }

    async fn stop(&self, name: &str) -> Result<(), Error> {
        self.units.stop(name).await
    }

    async fn disable(&self, name: &str, before: &UnitState) -> Result<(), Error> {
        self.units.disable(name, before).await
    }

    async fn restore_unit(&self, name: &str, before: &UnitState) -> Result<(), Error> {
        self.units.restore(name, before).await
    }

    async fn reload(&self) -> Result<(), Error> {
        self.units.reload().await
    }

    async fn has_package(&self, name: &str, progress: Progress<'_>) -> Result<bool, Error> {
        self.packages.has(name, progress).await
    }

    async fn install(&self, name: &str, progress: Progress<'_>) -> Result<(), Error> {
        self.packages.install(name, progress).await
    }

    async fn remove(&self, name: &str, progress: Progress<'_>) -> Result<(), Error> {
        self.packages.remove(name, progress).await
    }

    async fn kernel(
        &self,
        modules: &[String],
        parameters: &[String],
    ) -> Result<KernelState, Error> {
        self.kernel.state(modules, parameters)
    }

    async fn set_kernel(&self, modules: &[String], parameters: &[String]) -> Result<(), Error> {
        self.kernel.set(modules, parameters).await
    }

    async fn restore_kernel(&self, before: &KernelState) -> Result<(), Error> {
        self.kernel.restore(before)
    }

    async fn carry_images(&self, target: Target, progress: Progress<'_>) -> Result<(), Error> {
        let endpoint = target.endpoint();
        let socket = &self.docker.socket;
        images::carry(socket, target, endpoint, progress).await
    }

    async fn stop_pods(&self, progress: Progress<'_>) -> Result<(), Error> {
        self.pods.stop(&self.docker, progress).await
    }

    async fn forget(&self) -> Result<(), Error> {
        images::forget()?;
        self.pods.forget()
    }

    async fn remove_pods(
        &self,
        endpoint: &str,
        but_dockers: bool,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let others = if but_dockers {
            images::containers(&self.docker.socket).await?
        } else {
            HashSet::new()
        };
        let socket = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        pods::remove(endpoint, Path::new(socket), &others, progress).await
    }

    async fn network(&self) -> Result<NetworkState, Error> {
        self.network.state().await
    }

    async fn clean_network(&self, progress: Progress<'_>) -> Result<(), Error> {
        self.network.clean(progress).await
    }

    async fn restore_network(&self, before: &NetworkState) -> Result<(), Error> {
        self.network.restore(before).await
    }
}
