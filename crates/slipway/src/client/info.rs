//! `slipway info` and `version`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use clap::builder::styling::AnsiColor;
use serde::Serialize;
use serde_json::Value;
use slipway_cri_api::v1::{
    CgroupDriver, RuntimeConfigRequest, RuntimeConfigResponse, RuntimeFeatures, RuntimeHandler,
    RuntimeStatus, StatusRequest, StatusResponse, VersionRequest, VersionResponse,
};
use tonic::Code;

use super::connection::{Client, ConnectionArgs, Timeout};
use super::inspect::parsed_info;
use super::output::{Format, print_structured, print_table, write_stdout};
use super::table::{Cell, Table};

/// What `slipway info` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  slipway info
  slipway info -o json | jq .config")]
pub(crate) struct InfoArgs {
    /// How the answer is written; JSON and YAML have the verbose information too
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

impl InfoArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let verbose = self.output != Format::Table;
        let status = client
            .runtime()
            .status(client.request(StatusRequest { verbose }))
            .await;
        let status = status.context("ask for the runtime's status")?.into_inner();
        let config = runtime_config(client).await?;
        if verbose {
            print_structured(self.output, &Document::new(status, config))?;
        } else {
            print_table(&table(&status, config.as_ref()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The part of the kubelet's configuration that it asks the runtime for; runtimes before 2023 have
/// no answer.
async fn runtime_config(client: &Client) -> anyhow::Result<Option<RuntimeConfigResponse>> {
    match client
        .runtime()
        .runtime_config(client.request(RuntimeConfigRequest {}))
        .await
    {
        Ok(response) => Ok(Some(response.into_inner())),
        Err(status) if status.code() == Code::Unimplemented => Ok(None),
        Err(status) => Err(status).context("ask for the runtime's configuration"),
    }
}

/// The runtime's status and configuration, with the entries of the verbose information beside them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    status: Option<RuntimeStatus>,
    runtime_handlers: Vec<RuntimeHandler>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<RuntimeFeatures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime_config: Option<RuntimeConfigResponse>,
    #[serde(flatten)]
    info: BTreeMap<String, Value>,
}

impl Document {
    fn new(status: StatusResponse, runtime_config: Option<RuntimeConfigResponse>) -> Self {
        let own_keys = ["status", "runtimeHandlers", "features", "runtimeConfig"];
        Self {
            status: status.status,
            runtime_handlers: status.runtime_handlers,
            features: status.features,
            runtime_config,
            info: parsed_info(status.info, &own_keys),
        }
    }
}

fn table(status: &StatusResponse, config: Option<&RuntimeConfigResponse>) -> Table {
    let mut table = Table::new(["WHAT", "VALUE", "REASON"]);
    for condition in status.status.iter().flat_map(|status| &status.conditions) {
        let value = if condition.status {
            Cell::coloured("true", AnsiColor::Green)
        } else {
            Cell::coloured("false", AnsiColor::Red)
        };
        let reason = [condition.reason.as_str(), condition.message.as_str()];
        let reason = reason
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>();
        table.push([
            condition.r#type.as_str().into(),
            value,
            reason.join(": ").into(),
        ]);
    }
    if let Some(linux) = config.and_then(|config| config.linux.as_ref()) {
        let driver = match linux.cgroup_driver() {
            CgroupDriver::Systemd => "systemd",
            CgroupDriver::Cgroupfs => "cgroupfs",
        };
        table.push(["CgroupDriver".into(), driver.into(), "".into()]);
    }
    for handler in &status.runtime_handlers {
        let name = if handler.name.is_empty() {
            "(default)"
        } else {
            &handler.name
        };
        let features = handler.features.unwrap_or_default();
        let mut can = Vec::new();
        if features.recursive_read_only_mounts {
            can.push("recursive read-only mounts");
        }
        if features.user_namespaces {
            can.push("user namespaces");
        }
        table.push(["RuntimeHandler".into(), name.into(), can.join(", ").into()]);
    }
    table
}

/// What `slipway version` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  slipway version
  slipway version -o json | jq -r .runtimeVersion")]
pub(crate) struct VersionArgs {
    /// How the answer is written; JSON and YAML have that of the runtime only
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

impl VersionArgs {
    /// Shows the client's version even if no runtime answers.
    pub(super) async fn run(self, connection: &ConnectionArgs) -> anyhow::Result<ExitCode> {
        let for_people = self.output == Format::Table;
        if for_people {
            let client = format!(
                "Client:             slipway {}\n",
                env!("CARGO_PKG_VERSION")
            );
            write_stdout(client.as_bytes())?;
        }
        let client = Client::connect(connection, Timeout::OfAnswer).await?;
        let request = client.request(VersionRequest {
            version: "v1".into(),
        });
        let version = client
            .runtime()
            .version(request)
            .await
            .context("ask for the version")?;
        let version = version.into_inner();
        if for_people {
            write_stdout(lines(&version).as_bytes())?;
        } else {
            print_structured(self.output, &version)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn lines(version: &VersionResponse) -> String {
    let mut text = String::new();
    for (label, value) in [
        ("RuntimeName:", &version.runtime_name),
        ("RuntimeVersion:", &version.runtime_version),
        ("RuntimeApiVersion:", &version.runtime_api_version),
    ] {
        let _ = writeln!(text, "{label:19} {value}");
    }
    text
}
