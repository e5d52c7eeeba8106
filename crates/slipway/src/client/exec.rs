//! `slipway exec`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use slipway_cri_api::v1::{ExecRequest, ExecSyncRequest};
use tonic::Request;

use super::connection::Client;
use super::output::{write_stderr, write_stdout};
use super::session::{self, Wanted};

/// What `slipway exec` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Ends with the exit code of the command. With --timeout the runtime kills a command that takes
longer, with all that it has started; that implies --sync.

Examples:
  slipway exec web -- cat /etc/hosts
  slipway exec -it web -- sh
  slipway exec -i db -- psql < dump.sql
  slipway exec --timeout 5s web -- sh -c 'wget -qO- localhost:8080'")]
pub(crate) struct ExecArgs {
    /// Pass standard input on
    #[arg(short = 'i', long = "stdin", visible_alias = "interactive")]
    stdin: bool,

    /// Give the command a terminal
    #[arg(short = 't', long)]
    tty: bool,

    /// Show the output, of which there may be 16 MiB, when the command has ended
    #[arg(short = 's', long, conflicts_with_all = ["stdin", "tty"])]
    sync: bool,

    /// Name or ID
    container: String,

    /// The command with its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    command: Vec<String>,
}

impl ExecArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let wanted = Wanted {
            stdin: self.stdin,
            tty: self.tty,
            detach_keys: false,
        };
        let answer = if self.sync || (client.timeout().is_some() && !self.stdin && !self.tty) {
            self.exec_sync(client).await
        } else {
            self.exec(client, wanted).await
        };
        answer.with_context(|| format!("exec in {}", self.container))
    }

    async fn exec(&self, client: &Client, wanted: Wanted) -> anyhow::Result<ExitCode> {
        if client.timeout().is_some() {
            bail!("--timeout cannot be kept with -i or -t: a session ends with its command");
        }
        wanted.check()?;
        let request = ExecRequest {
            container_id: client.container_id(&self.container).await?,
            cmd: self.command.clone(),
            tty: self.tty,
            stdin: self.stdin,
            stdout: true,
            stderr: !self.tty,
        };
        let response = client.runtime().exec(request).await?.into_inner();
        Ok(session::converse(&response.url, wanted).await?.code())
    }

    async fn exec_sync(&self, client: &Client) -> anyhow::Result<ExitCode> {
        let container_id = client.container_id(&self.container).await?;
        let timeout = client.timeout().unwrap_or_default();
        // CRI counts whole seconds, and 0 is no limit.
        let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        let mut request = Request::new(ExecSyncRequest {
            container_id,
            cmd: self.command.clone(),
            timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
        });
        if seconds > 0 {
            // The runtime's own answer to the timeout says more than a cut connection.
            request.set_timeout(Duration::from_secs(seconds.saturating_add(15)));
        }
        let response = client.runtime().exec_sync(request).await?.into_inner();
        write_stdout(&response.stdout)?;
        write_stderr(&response.stderr)?;
        Ok(exit_code(response.exit_code))
    }
}

/// An exit code of a command as that of this process.
pub(super) fn exit_code(code: i32) -> ExitCode {
    // What does not fit is a failure that must not turn into a success.
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
