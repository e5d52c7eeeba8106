//! `slipway engines`.

use std::collections::HashSet;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use clap::builder::styling::AnsiColor;
use slipway_cri_api::slipway::{Engine, ListEnginesRequest};
use slipway_cri_api::v1::PodSandboxState;
use tonic::Code;

use super::connection::Client;
use super::output::{Format, print_line, print_structured, print_table, short_id};
use super::table::{Cell, Table};
use super::{duration, pods};

/// What `slipway engines` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
With --engine native --also docker, a node leaves Docker without being drained: new pods are
native, and those in Docker stay there until they end.

Examples:
  slipway engines
  slipway engines -o json")]
pub(crate) struct EnginesArgs {
    /// How the list is written
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

impl EnginesArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let request = client.request(ListEnginesRequest {});
        let response = match client.engines().list(request).await {
            Err(status) if status.code() == Code::Unimplemented => {
                bail!("this runtime is not Slipway, or an older one: it has no engines to list")
            }
            other => other.context("list engines")?.into_inner(),
        };
        if self.output != Format::Table {
            print_structured(self.output, &response)?;
            return Ok(ExitCode::SUCCESS);
        }
        print_table(&overview(&response.engines))?;
        for engine in response.engines.iter().filter(|one| !one.takes_new_pods) {
            print_line("")?;
            if engine.pods.is_empty() && engine.trouble.is_empty() {
                print_line(&format!(
                    "No pod is left in {name}: it can be stopped, and `slipway serve` needs no --also {name} any more.",
                    name = engine.name
                ))?;
            } else if !engine.pods.is_empty() {
                print_line(&format!("Left in {}:", engine.name))?;
                print_table(&left(engine))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn overview(engines: &[Engine]) -> Table {
    let mut table = Table::new(["ENGINE", "NEW PODS", "PODS", "STATE"]);
    for engine in engines {
        table.push([
            engine.name.as_str().into(),
            if engine.takes_new_pods { "yes" } else { "no" }.into(),
            engine.pods.len().to_string().into(),
            match engine.trouble.as_str() {
                "" => Cell::coloured("Ready", AnsiColor::Green),
                trouble => Cell::coloured(format!("NotReady: {trouble}"), AnsiColor::Yellow),
            },
        ]);
    }
    table
}

fn left(engine: &Engine) -> Table {
    let mut table = Table::new(["POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT"]);
    for pod in &engine.pods {
        let state = if pod.ready {
            PodSandboxState::SandboxReady
        } else {
            PodSandboxState::SandboxNotready
        };
        table.push([
            short_id(&pod.id).into(),
            duration::ago(pod.created_at).into(),
            pods::state_cell(state, pod.unknown),
            pod.name.as_str().into(),
            pod.namespace.as_str().into(),
            pod.attempt.to_string().into(),
        ]);
    }
    table
}

/// The pods that were ready when they were last seen, and whose engine cannot be asked now: CRI lists
/// them as they were. A runtime that is not Slipway has none.
///
/// # Errors
///
/// When the runtime does not know which pods it has.
pub(super) async fn unknown_pods(client: &Client) -> anyhow::Result<HashSet<String>> {
    let request = client.request(ListEnginesRequest {});
    let engines = match client.engines().list(request).await {
        Err(status) if status.code() == Code::Unimplemented => return Ok(HashSet::new()),
        other => other.context("list engines")?.into_inner().engines,
    };
    let pods = engines.into_iter().flat_map(|engine| engine.pods);
    let unknown = pods.filter(|pod| pod.unknown);
    Ok(unknown.map(|pod| pod.id).collect())
}
