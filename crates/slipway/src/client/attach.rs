//! `slipway attach`.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use slipway_cri_api::v1::{AttachRequest, ContainerState, ContainerStatusRequest};

use super::connection::Client;
use super::exec::exit_code;
use super::session::{self, Ended, Wanted};

/// What `slipway attach` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Shows what the container writes from now on; `slipway logs` has what it wrote before. With -t, which
has to be given where the container was made with a terminal, and only there, ctrl-p ctrl-q leaves
the container and lets it go on. Ends with the exit code of the container where that has ended.

Examples:
  slipway attach web
  slipway attach -it shell
  echo 'select 1;' | slipway attach -i db")]
pub(crate) struct AttachArgs {
    /// Pass standard input on
    #[arg(short = 'i', long = "stdin", visible_alias = "interactive")]
    stdin: bool,

    /// The container has a terminal
    #[arg(short = 't', long)]
    tty: bool,

    /// Name or ID
    container: String,
}

impl AttachArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        self.attach(client)
            .await
            .with_context(|| format!("attach to {}", self.container))
    }

    async fn attach(&self, client: &Client) -> anyhow::Result<ExitCode> {
        let wanted = Wanted {
            stdin: self.stdin,
            tty: self.tty,
            detach_keys: true,
        };
        wanted.check()?;
        let container_id = client.container_id(&self.container).await?;
        let request = client.request(AttachRequest {
            container_id: container_id.clone(),
            stdin: self.stdin,
            tty: self.tty,
            stdout: true,
            stderr: !self.tty,
        });
        let response = client.runtime().attach(request).await?.into_inner();
        match session::converse(&response.url, wanted).await? {
            // The session says that it has ended well, not how the container has.
            Ended::Exited(0) => self.code(client, container_id).await,
            ended => Ok(ended.code()),
        }
    }

    async fn code(&self, client: &Client, container_id: String) -> anyhow::Result<ExitCode> {
        let request = client.request(ContainerStatusRequest {
            container_id,
            verbose: false,
        });
        let response = client.runtime().container_status(request).await?;
        let status = response.into_inner().status.unwrap_or_default();
        let exited = status.state() == ContainerState::ContainerExited;
        Ok(exit_code(if exited { status.exit_code } else { 0 }))
    }
}
