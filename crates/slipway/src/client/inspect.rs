//! `slipway inspect`.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use slipway_cri_api::v1::{
    ContainerStatusRequest, ImageSpec, ImageStatusRequest, PodSandboxStatusRequest,
};

use super::connection::Client;
use super::output::{Format, print_structured};
use super::resolve::{Named, ambiguous, candidate, matches};

/// What `slipway inspect` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  slipway inspect web
  slipway inspect --type pod web
  slipway inspect 3f2a9c | jq .info.pid")]
pub(crate) struct InspectArgs {
    /// What it is [default: whatever has that name or ID]
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,

    /// How the answer is written
    #[arg(short, long, value_name = "FORMAT", default_value = "json")]
    output: StructuredFormat,

    /// Name or ID of a container, a pod or an image
    id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Container,
    Pod,
    Image,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StructuredFormat {
    Json,
    Yaml,
}

/// What the name or ID turned out to be.
struct Target {
    kind: Kind,
    id: String,
    description: String,
}

impl InspectArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        self.inspect(client)
            .await
            .with_context(|| format!("inspect {}", self.id))
    }

    async fn inspect(&self, client: &Client) -> anyhow::Result<ExitCode> {
        let target = self.target(client).await?;
        let format = match self.output {
            StructuredFormat::Json => Format::Json,
            StructuredFormat::Yaml => Format::Yaml,
        };
        match target.kind {
            Kind::Container => container(client, target.id, format).await?,
            Kind::Pod => pod(client, target.id, format).await?,
            Kind::Image => image(client, target.id, format).await?,
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn target(&self, client: &Client) -> anyhow::Result<Target> {
        let wanted = |kind| self.kind.is_none_or(|wanted| wanted == kind);
        let mut targets = Vec::new();
        if wanted(Kind::Container) {
            targets.extend(self.targets(Kind::Container, &client.all_containers().await?));
        }
        if wanted(Kind::Pod) {
            targets.extend(self.targets(Kind::Pod, &client.all_pods().await?));
        }
        if wanted(Kind::Image) {
            targets.extend(self.targets(Kind::Image, &client.all_images().await?));
        }
        if let Some(whole) = targets.iter().position(|target| target.id == self.id) {
            return Ok(targets.swap_remove(whole));
        }
        match targets.len() {
            0 => match self.kind {
                None => bail!("there is no container, pod or image with this name or ID"),
                Some(kind) => bail!("there is no such {}", format!("{kind:?}").to_lowercase()),
            },
            1 => Ok(targets.remove(0)),
            _ => Err(ambiguous(
                targets.into_iter().map(|target| target.description),
            )),
        }
    }

    fn targets<T: Named>(&self, kind: Kind, all: &[T]) -> Vec<Target> {
        let target = |one: &&T| Target {
            kind,
            id: one.id().into(),
            description: candidate(*one),
        };
        matches(&self.id, all).iter().map(target).collect()
    }
}

/// A verbose answer as crictl shows it: the entries of `info` stand beside the status.
#[derive(Serialize)]
struct Document<T> {
    status: T,
    #[serde(flatten)]
    info: BTreeMap<String, Value>,
}

fn print<T: Serialize>(
    format: Format,
    status: T,
    info: HashMap<String, String>,
) -> anyhow::Result<()> {
    print_structured(
        format,
        &Document {
            status,
            info: parsed_info(info, &["status"]),
        },
    )
}

async fn container(client: &Client, container_id: String, format: Format) -> anyhow::Result<()> {
    let request = client.request(ContainerStatusRequest {
        container_id,
        verbose: true,
    });
    let response = client
        .runtime()
        .container_status(request)
        .await?
        .into_inner();
    print(
        format,
        response.status.ok_or_else(no_status)?,
        response.info,
    )
}

async fn pod(client: &Client, pod_sandbox_id: String, format: Format) -> anyhow::Result<()> {
    let request = client.request(PodSandboxStatusRequest {
        pod_sandbox_id,
        verbose: true,
    });
    let response = client
        .runtime()
        .pod_sandbox_status(request)
        .await?
        .into_inner();
    print(
        format,
        response.status.ok_or_else(no_status)?,
        response.info,
    )
}

async fn image(client: &Client, image: String, format: Format) -> anyhow::Result<()> {
    let image = Some(ImageSpec {
        image,
        ..Default::default()
    });
    let request = client.request(ImageStatusRequest {
        image,
        verbose: true,
    });
    let response = client.images().image_status(request).await?.into_inner();
    let image = response
        .image
        .ok_or_else(|| anyhow!("the image has just been removed"))?;
    print(format, image, response.info)
}

fn no_status() -> anyhow::Error {
    anyhow!("the runtime's answer has no status")
}

/// The verbose information of an answer, not as strings where it is JSON. What would stand in for
/// one of the `reserved` keys of the answer itself is left out.
pub(super) fn parsed_info(
    info: HashMap<String, String>,
    reserved: &[&str],
) -> BTreeMap<String, Value> {
    info.into_iter()
        .filter(|(key, _)| !reserved.contains(&key.as_str()))
        .map(|(key, text)| {
            (
                key,
                serde_json::from_str(&text).unwrap_or(Value::String(text)),
            )
        })
        .collect()
}
