//! Two engines behind one face: a node that leaves one for the other has pods in both.

mod union;

use std::sync::Arc;

use futures_util::{StreamExt as _, future, stream};
use slipway_cri_api::slipway;
use slipway_cri_api::v1::{
    AuthConfig, CheckpointContainerRequest, Container, ContainerConfig, ContainerFilter,
    ContainerStats, ContainerStatsFilter, ContainerStatusResponse, ExecSyncResponse, Image,
    ImageFsInfoResponse, ImageSpec, ImageStatusResponse, MetricDescriptor, PodSandbox,
    PodSandboxConfig, PodSandboxFilter, PodSandboxMetrics, PodSandboxState, PodSandboxStats,
    PodSandboxStatsFilter, PodSandboxStatusResponse, RuntimeConfig, RuntimeConfigResponse,
    StatusResponse, UpdateContainerResourcesRequest, UpdatePodSandboxResourcesRequest,
};

use crate::{
    ContainerEventStream, Engine, Error, Kind, Output, PodName, PortConnection, PullProgressStream,
    Result, Session, Streams, Verbosity,
};

/// Brings images of the engine that is left to the one that stays.
#[tonic::async_trait]
pub trait CarryOver: Send + Sync + 'static {
    /// Takes over an image that the engine that stays does not have, under all its names.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when the other does not have it either.
    async fn carry(&self, image: &str) -> Result<()>;
}

/// An engine that new pods go to, and another one that keeps those that it has until they end.
///
/// Calls go to the engine that owns the pod or container. Lists are the union of both, and fail
/// when either does: a kubelet takes what is not listed for gone. Figures of what pods use are
/// those that can be had.
pub struct Router {
    stays: Arc<dyn Engine>,
    leaves: Leaving,
    carry_over: Option<Box<dyn CarryOver>>,
}

/// The engine that gets no new pods.
pub struct Leaving {
    /// What it is called, in conditions and messages.
    pub name: &'static str,
    /// The engine.
    pub engine: Arc<dyn Engine>,
}

impl Router {
    /// Routes between the two. Without `carry_over` an image that only the engine that is left has
    /// is not there for new pods, and is pulled.
    pub fn new(
        stays: Arc<dyn Engine>,
        leaves: Leaving,
        carry_over: Option<Box<dyn CarryOver>>,
    ) -> Self {
        Self {
            stays,
            leaves,
            carry_over,
        }
    }

    fn of_pod(&self, id: &str) -> Result<&dyn Engine> {
        let (stays, leaves) = (self.stays.has_pod(id), self.leaves.engine.has_pod(id));
        self.owner("pod", id, stays, leaves)
    }

    fn of_container(&self, id: &str) -> Result<&dyn Engine> {
        let stays = self.stays.has_container(id);
        let leaves = self.leaves.engine.has_container(id);
        self.owner("container", id, stays, leaves)
    }

    fn owner(
        &self,
        what: &str,
        id: &str,
        stays: Result<bool>,
        leaves: Result<bool>,
    ) -> Result<&dyn Engine> {
        match (stays?, leaves) {
            (true, Ok(true)) => Err(Error::invalid(format!(
                "{what} id {id} is ambiguous: one here and one in {} begin so; give more digits",
                self.leaves.name
            ))),
            (false, Ok(true)) => Ok(&*self.leaves.engine),
            // An id that nobody has is answered here as well.
            (true, _) | (false, Ok(false)) => Ok(&*self.stays),
            (false, Err(error)) => Err(error.context(format!(
                "the {what} {id} is not here, and may be in {}",
                self.leaves.name
            ))),
        }
    }

    /// Whether a pod lives in the engine that is left, so that what is pulled for it has to be
    /// there.
    async fn lives_there(&self, pod: &PodName) -> bool {
        let pods = self.leaves.engine.list_pods(None).await.unwrap_or_default();
        pods.iter().any(|one| {
            one.state() == PodSandboxState::SandboxReady
                && one
                    .metadata
                    .as_ref()
                    .is_some_and(|metadata| metadata.uid == pod.uid && metadata.name == pod.name)
        })
    }

    async fn has_image(engine: &dyn Engine, image: &ImageSpec) -> Result<bool> {
        Ok(Self::found(engine, image).await?.is_some())
    }

    async fn found(engine: &dyn Engine, image: &ImageSpec) -> Result<Option<Image>> {
        let status = engine.image_status(image.clone(), Verbosity::Plain).await?;
        Ok(status.image)
    }

    /// An image as the engine that is left has it, which pulls it where it has it not: a kubelet asks
    /// for images without saying for which pod, is answered by the engine that stays, and names them
    /// by the id from there.
    async fn as_known_there(&self, image: &ImageSpec) -> Result<ImageSpec> {
        let there = &*self.leaves.engine;
        if Self::has_image(there, image).await? {
            return Ok(image.clone());
        }
        let Some(name) = self.name(image).await? else {
            return Ok(image.clone());
        };
        let named = ImageSpec {
            image: name.clone(),
            ..image.clone()
        };
        let id = match Self::found(there, &named).await? {
            Some(found) => found.id,
            None => there.pull_image(named, None, None).await.map_err(|error| {
                let leaves = self.leaves.name;
                error.context(format!(
                    "the pod is in {leaves}, which does not have image {name} and pulls it here \
                     without credentials; where they are needed, give them by hand (docker login, \
                     docker pull {name})"
                ))
            })?,
        };
        Ok(ImageSpec {
            image: id,
            ..image.clone()
        })
    }

    /// What an image is called that a request names by its id: what the user wrote, which older
    /// kubelets do not say, or else what the engine that stays knows.
    async fn name(&self, image: &ImageSpec) -> Result<Option<String>> {
        if !image.user_specified_image.is_empty() {
            return Ok(Some(image.user_specified_image.clone()));
        }
        let found = Self::found(&*self.stays, image).await?.unwrap_or_default();
        Ok(found.repo_digests.into_iter().chain(found.repo_tags).next())
    }
}

/// Whether an engine could not be asked, or did not answer.
fn is_away(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded)
}

/// What both have to say, where the second one's absence takes away only figures.
fn as_far_as_there<T>(leaves: Result<Vec<T>>) -> Result<Vec<T>> {
    match leaves {
        Err(error) if is_away(&error) => Ok(Vec::new()),
        other => other,
    }
}

#[tonic::async_trait]
impl Engine for Router {
    async fn status(&self, verbosity: Verbosity) -> Result<StatusResponse> {
        let leaves = self.leaves.engine.status(verbosity);
        let (stays, leaves) = future::join(self.stays.status(verbosity), leaves).await;
        Ok(union::status(stays?, self.leaves.name, leaves))
    }

    async fn engines(&self) -> Result<Vec<slipway::Engine>> {
        let leaves = self.leaves.engine.engines();
        let (mut all, leaves) = future::try_join(self.stays.engines(), leaves).await?;
        all.extend(leaves.into_iter().map(|engine| slipway::Engine {
            takes_new_pods: false,
            ..engine
        }));
        Ok(all)
    }

    async fn runtime_config(&self) -> Result<RuntimeConfigResponse> {
        let leaves = self.leaves.engine.runtime_config();
        let (stays, leaves) = future::join(self.stays.runtime_config(), leaves).await;
        // Pods that are out of reach are in nobody's way.
        union::runtime_config(stays?, self.leaves.name, leaves.ok().as_ref())
    }

    fn has_pod(&self, id: &str) -> Result<bool> {
        Ok(self.stays.has_pod(id)? || self.leaves.engine.has_pod(id)?)
    }

    fn has_container(&self, id: &str) -> Result<bool> {
        Ok(self.stays.has_container(id)? || self.leaves.engine.has_container(id)?)
    }

    async fn run_pod(&self, config: PodSandboxConfig, handler: String) -> Result<String> {
        self.stays.run_pod(config, handler).await
    }

    async fn stop_pod(&self, id: &str) -> Result<()> {
        self.of_pod(id)?.stop_pod(id).await
    }

    async fn remove_pod(&self, id: &str) -> Result<()> {
        self.of_pod(id)?.remove_pod(id).await
    }

    async fn pod_status(&self, id: &str, verbosity: Verbosity) -> Result<PodSandboxStatusResponse> {
        self.of_pod(id)?.pod_status(id, verbosity).await
    }

    async fn list_pods(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>> {
        let leaves = self.leaves.engine.list_pods(filter.clone());
        let (stays, leaves) = future::try_join(self.stays.list_pods(filter), leaves).await?;
        Ok(union::newest_first(stays, leaves, |pod| pod.created_at))
    }

    async fn create_container(&self, pod: &str, mut config: ContainerConfig) -> Result<String> {
        let owner = self.of_pod(pod)?;
        if let Some(image) = &config.image
            && self.leaves.engine.has_pod(pod).unwrap_or_default()
        {
            config.image = Some(self.as_known_there(image).await?);
        } else if let (Some(carry_over), Some(image)) = (&self.carry_over, &config.image)
            && self.stays.has_pod(pod)?
            && !Self::has_image(&*self.stays, image).await?
        {
            match carry_over.carry(&image.image).await {
                // Which the engine itself says better.
                Err(error) if error.kind() == Kind::NotFound => {}
                other => other?,
            }
        }
        owner.create_container(pod, config).await
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        self.of_container(id)?.start_container(id).await
    }

    async fn stop_container(&self, id: &str, timeout: i64) -> Result<()> {
        self.of_container(id)?.stop_container(id, timeout).await
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.of_container(id)?.remove_container(id).await
    }

    async fn container_status(
        &self,
        id: &str,
        verbosity: Verbosity,
    ) -> Result<ContainerStatusResponse> {
        self.of_container(id)?.container_status(id, verbosity).await
    }

    async fn list_containers(&self, filter: Option<ContainerFilter>) -> Result<Vec<Container>> {
        let leaves = self.leaves.engine.list_containers(filter.clone());
        let (stays, leaves) = future::try_join(self.stays.list_containers(filter), leaves).await?;
        Ok(union::newest_first(stays, leaves, |container| {
            container.created_at
        }))
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: i64,
    ) -> Result<ExecSyncResponse> {
        self.of_container(id)?.exec_sync(id, command, timeout).await
    }

    async fn check_exec(&self, id: &str) -> Result<()> {
        self.of_container(id)?.check_exec(id).await
    }

    async fn exec(&self, id: &str, command: Vec<String>, streams: Streams) -> Result<Session> {
        self.of_container(id)?.exec(id, command, streams).await
    }

    async fn check_attach(&self, id: &str, streams: Streams) -> Result<()> {
        self.of_container(id)?.check_attach(id, streams).await
    }

    async fn attach(&self, id: &str, streams: Streams) -> Result<Session> {
        self.of_container(id)?.attach(id, streams).await
    }

    async fn check_port_forward(&self, pod: &str) -> Result<()> {
        self.of_pod(pod)?.check_port_forward(pod).await
    }

    async fn connect_port(&self, pod: &str, port: u16) -> Result<PortConnection> {
        self.of_pod(pod)?.connect_port(pod, port).await
    }

    async fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> Result<()> {
        self.of_container(&request.container_id)?
            .update_container_resources(request)
            .await
    }

    async fn update_pod_resources(&self, request: UpdatePodSandboxResourcesRequest) -> Result<()> {
        self.of_pod(&request.pod_sandbox_id)?
            .update_pod_resources(request)
            .await
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        self.of_container(id)?.container_stats(id).await
    }

    async fn list_container_stats(
        &self,
        filter: Option<ContainerStatsFilter>,
    ) -> Result<Vec<ContainerStats>> {
        let leaves = self.leaves.engine.list_container_stats(filter.clone());
        let (stays, leaves) = future::join(self.stays.list_container_stats(filter), leaves).await;
        Ok(union::both(stays?, as_far_as_there(leaves)?))
    }

    async fn pod_stats(&self, id: &str) -> Result<PodSandboxStats> {
        self.of_pod(id)?.pod_stats(id).await
    }

    async fn list_pod_stats(
        &self,
        filter: Option<PodSandboxStatsFilter>,
    ) -> Result<Vec<PodSandboxStats>> {
        let leaves = self.leaves.engine.list_pod_stats(filter.clone());
        let (stays, leaves) = future::join(self.stays.list_pod_stats(filter), leaves).await;
        Ok(union::both(stays?, as_far_as_there(leaves)?))
    }

    async fn metric_descriptors(&self) -> Result<Vec<MetricDescriptor>> {
        let leaves = self.leaves.engine.metric_descriptors();
        let (stays, leaves) = future::join(self.stays.metric_descriptors(), leaves).await;
        Ok(union::metric_descriptors(stays?, as_far_as_there(leaves)?))
    }

    async fn list_pod_metrics(&self) -> Result<Vec<PodSandboxMetrics>> {
        let leaves = self.leaves.engine.list_pod_metrics();
        let (stays, leaves) = future::join(self.stays.list_pod_metrics(), leaves).await;
        Ok(union::both(stays?, as_far_as_there(leaves)?))
    }

    fn container_events(&self) -> ContainerEventStream {
        // It has to end with either: its reader looks anew then, and nothing is missed.
        let until_end = |events: ContainerEventStream| {
            events.map(Some).chain(stream::once(future::ready(None)))
        };
        let events = stream::select(
            until_end(self.stays.container_events()),
            until_end(self.leaves.engine.container_events()),
        );
        let events = events.take_while(|event| future::ready(event.is_some()));
        Box::pin(events.filter_map(future::ready))
    }

    async fn update_runtime_config(&self, config: RuntimeConfig) -> Result<()> {
        self.stays.update_runtime_config(config).await
    }

    async fn checkpoint_container(&self, request: CheckpointContainerRequest) -> Result<()> {
        self.of_container(&request.container_id)?
            .checkpoint_container(request)
            .await
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        self.of_container(id)?.reopen_container_log(id).await
    }

    async fn pull_image(
        &self,
        image: ImageSpec,
        auth: Option<AuthConfig>,
        pod: Option<PodName>,
    ) -> Result<String> {
        let engine = match &pod {
            Some(pod) if self.lives_there(pod).await => &self.leaves.engine,
            _ => &self.stays,
        };
        engine.pull_image(image, auth, pod).await
    }

    async fn list_images(&self, image: Option<ImageSpec>) -> Result<Vec<Image>> {
        let leaves = self.leaves.engine.list_images(image.clone());
        let (stays, leaves) = future::join(self.stays.list_images(image), leaves).await;
        Ok(union::images(stays?, as_far_as_there(leaves)?))
    }

    async fn image_status(
        &self,
        image: ImageSpec,
        verbosity: Verbosity,
    ) -> Result<ImageStatusResponse> {
        let stays = self.stays.image_status(image.clone(), verbosity).await?;
        if stays.image.is_some() || self.carry_over.is_none() {
            return Ok(stays);
        }
        match self.leaves.engine.image_status(image, verbosity).await {
            Err(error) if is_away(&error) => Ok(stays),
            other => other,
        }
    }

    async fn remove_image(&self, image: ImageSpec) -> Result<()> {
        self.stays.remove_image(image.clone()).await?;
        match self.leaves.engine.remove_image(image).await {
            // A kubelet that is told of an error counts nothing as freed, and removes the next one.
            Err(error) if is_away(&error) => Ok(()),
            other => other,
        }
    }

    async fn import_image(&self, id: &str, names: Vec<String>, archive: Output) -> Result<()> {
        self.stays.import_image(id, names, archive).await
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfoResponse> {
        let leaves = self.leaves.engine.image_fs_info();
        let (stays, leaves) = future::join(self.stays.image_fs_info(), leaves).await;
        match leaves {
            Err(error) if is_away(&error) => stays,
            leaves => Ok(union::image_fs_info(stays?, leaves?)),
        }
    }

    fn watch_pull(&self, image: &str) -> PullProgressStream {
        self.stays.watch_pull(image)
    }
}
