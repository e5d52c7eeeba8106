//! `slipway ps`, `stop` and `rm`.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use clap::builder::styling::AnsiColor;
use slipway_cri_api::v1::{
    Container, ContainerFilter, ContainerState, ContainerStateValue, ListContainersRequest,
    PodSandbox, RemoveContainerRequest, StopContainerRequest,
};
use tonic::Request;

use super::connection::Client;
use super::output::{ListArgs, print_line, short_id};
use super::table::{Cell, Table};
use super::{duration, engines, failure, resolve};

/// What a container is given to stop by itself where nobody says otherwise.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// What `slipway ps` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  slipway ps
  slipway ps -a --pod web
  slipway ps -q | xargs slipway stop
  slipway ps -o json | jq -r '.containers[].imageRef'")]
pub(crate) struct PsArgs {
    /// Not only the running ones
    #[arg(short, long)]
    all: bool,

    /// Only those of this pod (name or ID)
    #[arg(long)]
    pod: Option<String>,

    #[command(flatten)]
    list: ListArgs,
}

impl PsArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let pods = client.all_pods().await?;
        let mut filter = ContainerFilter::default();
        if !self.all {
            let state = ContainerState::ContainerRunning.into();
            filter.state = Some(ContainerStateValue { state });
        }
        if let Some(pod) = &self.pod {
            let pod = resolve::find(pod, &pods).with_context(|| format!("pod {pod}"))?;
            filter.pod_sandbox_id.clone_from(&pod.id);
        }
        let request = client.request(ListContainersRequest {
            filter: Some(filter),
        });
        let response = client
            .runtime()
            .list_containers(request)
            .await
            .context("list containers")?;
        let mut response = response.into_inner();
        response
            .containers
            .sort_by_key(|container| std::cmp::Reverse(container.created_at));
        let unknown = engines::unknown_pods(client).await?;
        for container in &mut response.containers {
            let runs = container.state() == ContainerState::ContainerRunning;
            if runs && unknown.contains(&container.pod_sandbox_id) {
                container.set_state(ContainerState::ContainerUnknown);
            }
        }
        let ids = response
            .containers
            .iter()
            .map(|container| container.id.as_str());
        self.list
            .print(&response, ids, || self.table(&response.containers, &pods))?;
        Ok(ExitCode::SUCCESS)
    }

    fn table(&self, containers: &[Container], pods: &[PodSandbox]) -> Table {
        let pod_names: HashMap<_, _> = pods
            .iter()
            .filter_map(|pod| Some((pod.id.as_str(), pod.metadata.as_ref()?.name.as_str())))
            .collect();
        let mut table = Table::new([
            "CONTAINER",
            "IMAGE",
            "CREATED",
            "STATE",
            "NAME",
            "ATTEMPT",
            "POD ID",
            "POD",
        ]);
        for container in containers {
            let metadata = container.metadata.clone().unwrap_or_default();
            let pod = pod_names.get(container.pod_sandbox_id.as_str()).copied();
            table.push([
                self.list.id(&container.id).into(),
                image_name(container, &self.list).into(),
                duration::ago(container.created_at).into(),
                Cell::coloured(
                    state_name(container.state()),
                    state_colour(container.state()),
                ),
                metadata.name.into(),
                metadata.attempt.to_string().into(),
                self.list.id(&container.pod_sandbox_id).into(),
                pod.unwrap_or("unknown").into(),
            ]);
        }
        table
    }
}

/// The image as its user named it, if the runtime remembers.
fn image_name<'a>(container: &'a Container, list: &ListArgs) -> &'a str {
    let spec = container.image.as_ref();
    let name = spec
        .map(|spec| match spec.user_specified_image.as_str() {
            "" => spec.image.as_str(),
            image => image,
        })
        .filter(|name| !name.is_empty())
        .unwrap_or(&container.image_ref);
    if name.starts_with("sha256:") {
        list.id(name)
    } else {
        name
    }
}

/// A container's state, as crictl's users know it.
pub(super) fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::ContainerCreated => "Created",
        ContainerState::ContainerRunning => "Running",
        ContainerState::ContainerExited => "Exited",
        ContainerState::ContainerUnknown => "Unknown",
    }
}

fn state_colour(state: ContainerState) -> AnsiColor {
    match state {
        ContainerState::ContainerCreated => AnsiColor::Cyan,
        ContainerState::ContainerRunning => AnsiColor::Green,
        ContainerState::ContainerExited => AnsiColor::Yellow,
        ContainerState::ContainerUnknown => AnsiColor::Red,
    }
}

/// What `slipway stop` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
A container that has not ended by itself after --timeout (default 10s) is killed.

Examples:
  slipway stop web
  slipway stop --timeout 1m 3f2a9c 81d0e4")]
pub(crate) struct StopArgs {
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl StopArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let all = client.all_containers().await?;
        for_each("stop", &self.containers, async |query| {
            let container = resolve::find(query, &all)?;
            client
                .stop_container(&container.id, client.timeout().unwrap_or(GRACE))
                .await?;
            print_line(&container.id)
        })
        .await
    }
}

/// What `slipway rm` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  slipway rm web
  slipway rm -f web
  slipway ps -aq | xargs slipway rm")]
pub(crate) struct RmArgs {
    /// Running ones too: stop them first, and kill those that have not ended after --timeout
    /// (default 0)
    #[arg(short, long)]
    force: bool,

    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl RmArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let all = client.all_containers().await?;
        for_each("rm", &self.containers, async |query| {
            let container = resolve::find(query, &all)?;
            if container.state() == ContainerState::ContainerRunning {
                if !self.force {
                    let id = short_id(&container.id);
                    bail!("{id} is running; `slipway stop` it first, or force it with -f");
                }
                client
                    .stop_container(&container.id, client.timeout().unwrap_or_default())
                    .await?;
            }
            let request = Request::new(RemoveContainerRequest {
                container_id: container.id.clone(),
            });
            client.runtime().remove_container(request).await?;
            print_line(&container.id)
        })
        .await
    }
}

impl Client {
    /// Stops a container, which has `grace` to end by itself.
    pub(super) async fn stop_container(&self, id: &str, grace: Duration) -> anyhow::Result<()> {
        // CRI counts whole seconds; a part of one is time that the container was promised.
        let timeout = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let timeout = i64::try_from(timeout).unwrap_or(i64::MAX);
        let request = StopContainerRequest {
            container_id: id.into(),
            timeout,
        };
        self.runtime().stop_container(Request::new(request)).await?;
        Ok(())
    }
}

/// Does `action` to each of `queries`. Where it fails it says so and goes on with the next; then it
/// ends with 1.
pub(super) async fn for_each(
    verb: &str,
    queries: &[String],
    mut action: impl AsyncFnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for query in queries {
        match action(query).await {
            Ok(()) => {}
            Err(error) if error.is::<failure::OutputClosed>() => return Err(error),
            Err(error) => {
                failure::complain(&error.context(format!("{verb} {query}")));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}
