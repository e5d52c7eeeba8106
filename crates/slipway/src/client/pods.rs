//! `slipway pods` and `rmp`.

use std::collections::HashSet;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use clap::builder::styling::AnsiColor;
use slipway_cri_api::v1::{
    ContainerFilter, ContainerState, ContainerStateValue, ListContainersRequest,
    ListPodSandboxRequest, PodSandbox, PodSandboxState, RemovePodSandboxRequest,
    StopPodSandboxRequest,
};
use tonic::Request;

use super::connection::Client;
use super::containers::{GRACE, for_each};
use super::output::{ListArgs, print_line};
use super::table::{Cell, Table};
use super::{duration, engines, resolve, run};

/// What `slipway pods` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  slipway pods
  slipway pods -o yaml
  slipway pods -q | xargs slipway rmp")]
pub(crate) struct PodsArgs {
    #[command(flatten)]
    list: ListArgs,
}

impl PodsArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let request = client.request(ListPodSandboxRequest::default());
        let response = client
            .runtime()
            .list_pod_sandbox(request)
            .await
            .context("list pods")?;
        let mut response = response.into_inner();
        response
            .items
            .sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
        let unknown = engines::unknown_pods(client).await?;
        let ids = response.items.iter().map(|pod| pod.id.as_str());
        self.list
            .print(&response, ids, || self.table(&response.items, &unknown))?;
        Ok(ExitCode::SUCCESS)
    }

    fn table(&self, pods: &[PodSandbox], unknown: &HashSet<String>) -> Table {
        let mut table = Table::new([
            "POD ID",
            "CREATED",
            "STATE",
            "NAME",
            "NAMESPACE",
            "ATTEMPT",
            "RUNTIME",
        ]);
        for pod in pods {
            let metadata = pod.metadata.clone().unwrap_or_default();
            let handler = match pod.runtime_handler.as_str() {
                "" => "(default)",
                handler => handler,
            };
            table.push([
                self.list.id(&pod.id).into(),
                duration::ago(pod.created_at).into(),
                state_cell(pod.state(), unknown.contains(&pod.id)),
                metadata.name.into(),
                metadata.namespace.into(),
                metadata.attempt.to_string().into(),
                handler.into(),
            ]);
        }
        table
    }
}

/// A pod's state, as crictl's users know it.
pub(super) fn state_name(state: PodSandboxState) -> &'static str {
    match state {
        PodSandboxState::SandboxReady => "Ready",
        PodSandboxState::SandboxNotready => "NotReady",
    }
}

/// The same in a table, where CRI does not say that it is unknown.
pub(super) fn state_cell(state: PodSandboxState, is_unknown: bool) -> Cell {
    if is_unknown {
        return Cell::coloured("Unknown", AnsiColor::Red);
    }
    let colour = match state {
        PodSandboxState::SandboxReady => AnsiColor::Green,
        PodSandboxState::SandboxNotready => AnsiColor::Yellow,
    };
    Cell::coloured(state_name(state), colour)
}

/// What `slipway rmp` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Containers that still run have --timeout (default 10s) to end by themselves.
A kubelet makes its pods again.

Examples:
  slipway rmp web
  slipway rmp -f default/web 81d0e4")]
pub(crate) struct RmpArgs {
    /// Kill running containers at once
    #[arg(short, long)]
    force: bool,

    /// Names, NAMESPACE/NAMEs or IDs
    #[arg(required = true, value_name = "POD")]
    pods: Vec<String>,
}

impl RmpArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let all = client.all_pods().await?;
        for_each("rmp", &self.pods, async |query| {
            let pod = resolve::find(query, &all)?;
            if !self.force {
                stop_containers(client, &pod.id).await?;
            }
            client.remove_pod(&pod.id).await?;
            run::remove_logs(pod);
            print_line(&pod.id)
        })
        .await
    }
}

async fn stop_containers(client: &Client, pod_id: &str) -> anyhow::Result<()> {
    let state = ContainerState::ContainerRunning.into();
    let filter = ContainerFilter {
        pod_sandbox_id: pod_id.into(),
        state: Some(ContainerStateValue { state }),
        ..Default::default()
    };
    let request = Request::new(ListContainersRequest {
        filter: Some(filter),
    });
    let running = client
        .runtime()
        .list_containers(request)
        .await
        .context("list containers")?;
    for container in running.into_inner().containers {
        client
            .stop_container(&container.id, client.timeout().unwrap_or(GRACE))
            .await
            .with_context(|| format!("stop container {}", container.id))?;
    }
    Ok(())
}

impl Client {
    /// Stops a pod, which kills what still runs in it, and removes it with all its containers.
    pub(super) async fn remove_pod(&self, id: &str) -> anyhow::Result<()> {
        let stop = StopPodSandboxRequest {
            pod_sandbox_id: id.into(),
        };
        self.runtime()
            .stop_pod_sandbox(Request::new(stop))
            .await
            .context("stop the pod")?;
        let remove = RemovePodSandboxRequest {
            pod_sandbox_id: id.into(),
        };
        self.runtime()
            .remove_pod_sandbox(Request::new(remove))
            .await
            .context("remove the pod")?;
        Ok(())
    }
}
