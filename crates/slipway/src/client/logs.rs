//! `slipway logs`, and the output of `slipway run`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use jiff::Timestamp;
use slipway_cri_api::v1::{ContainerState, ContainerStatus, ContainerStatusRequest};
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Request};

use super::connection::Client;
use super::follow::{LogEvent, LogFile, LogWatch};
use super::log_format::{self, Stream};
use super::output::{write_stderr, write_stdout};
use super::{duration, failure};

/// What `slipway logs` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
What the container wrote to standard error goes to standard error.

Examples:
  slipway logs web
  slipway logs -f --tail 20 web
  slipway logs --since 10m -t web")]
pub(crate) struct LogsArgs {
    /// Go on with what is written from now on, until the container ends
    #[arg(short, long)]
    follow: bool,

    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,

    /// Only what was written after this time (2024-01-31T08:00:00Z), or this long ago (10m)
    #[arg(long, value_name = "TIME", value_parser = duration::parse_moment)]
    since: Option<Timestamp>,

    /// With the time of each line
    #[arg(short, long)]
    timestamps: bool,

    /// Name or ID
    container: String,
}

impl LogsArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        self.show(client)
            .await
            .with_context(|| format!("logs {}", self.container))?;
        Ok(ExitCode::SUCCESS)
    }

    async fn show(&self, client: &Client) -> anyhow::Result<()> {
        let id = client.container_id(&self.container).await?;
        let path = client.container_status(&id).await?.log_path;
        if path.is_empty() {
            bail!("it writes no log: its pod was made without a log directory");
        }
        let mut printer = LogPrinter {
            since: self.since,
            timestamps: self.timestamps,
            ..Default::default()
        };
        let path = Path::new(&path);
        if !self.follow && !path.exists() {
            bail!("its log {} is not there", path.display());
        }
        // Watched before it is read, so that nothing falls between.
        let watch = if self.follow {
            Some(watch(path)?)
        } else {
            None
        };
        let mut log = LogFile::new(path);
        let unreadable = || format!("read {}", path.display());
        if let Some(count) = self.tail {
            log.skip_to_last(count).with_context(unreadable)?;
        }
        match watch {
            Some(watch) => follow(client, &id, &mut log, &watch, &mut printer)
                .await
                .map(drop),
            None => printer.print_rest(&mut log),
        }
    }
}

/// Watches a container's log.
pub(super) fn watch(log: &Path) -> anyhow::Result<LogWatch> {
    LogWatch::new(log).with_context(|| format!("watch {}", log.display()))
}

/// How soon to ask for the first time whether the container has ended.
const FIRST_QUESTION: Duration = Duration::from_millis(2);

/// How often to ask in the long run. A container that ends closes its log, which is seen at once;
/// this is for one whose log is held open.
const RARE_QUESTION: Duration = Duration::from_secs(1);

/// How long a runtime may be away to be restarted while its container runs on.
const RESTART: Duration = Duration::from_mins(1);

/// Prints a container's log until the container has ended, and returns how it ended; `None` if it
/// was removed meanwhile. A runtime that is restarted meanwhile is waited for.
pub(super) async fn follow(
    client: &Client,
    id: &str,
    log: &mut LogFile,
    watch: &LogWatch,
    printer: &mut LogPrinter,
) -> anyhow::Result<Option<ContainerStatus>> {
    let mut pause = FIRST_QUESTION;
    let mut last_answer = Instant::now();
    loop {
        printer.print_new(log)?;
        let ended = match client.container_status(id).await {
            Ok(status) if status.state() == ContainerState::ContainerExited => Some(Some(status)),
            Err(error) if is_not_found(&error) => Some(None),
            Err(error) if !is_restart(&error) || last_answer.elapsed() > RESTART => {
                return Err(error);
            }
            Ok(_) => {
                last_answer = Instant::now();
                None
            }
            Err(_) => None,
        };
        if let Some(status) = ended {
            printer.print_rest(log)?;
            return Ok(status);
        }
        let next_question = Instant::now() + pause;
        pause = (2 * pause).min(RARE_QUESTION);
        loop {
            tokio::select! {
                event = watch.event() => {
                    printer.print_new(log)?;
                    if event? == LogEvent::Closed {
                        pause = FIRST_QUESTION;
                        break;
                    }
                }
                () = sleep_until(next_question) => break,
            }
        }
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<tonic::Status>()
        .is_some_and(|status| status.code() == Code::NotFound)
}

fn is_restart(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<tonic::Status>()
        .is_some_and(failure::is_disconnected)
}

impl Client {
    /// The status of a container.
    pub(super) async fn container_status(&self, id: &str) -> anyhow::Result<ContainerStatus> {
        let request = ContainerStatusRequest {
            container_id: id.into(),
            verbose: false,
        };
        let response = self
            .runtime()
            .container_status(Request::new(request))
            .await?;
        response
            .into_inner()
            .status
            .ok_or_else(|| anyhow!("the runtime's answer has no status"))
    }
}

/// Writes the lines of a log to the streams they came from.
#[derive(Default)]
pub(super) struct LogPrinter {
    since: Option<Timestamp>,
    timestamps: bool,
    /// Whether the last record of standard output, and of standard error, left its line open.
    inside_line: [bool; 2],
}

impl LogPrinter {
    fn print_new(&mut self, log: &mut LogFile) -> anyhow::Result<()> {
        let mut batch = Batch::default();
        log.read(|line| self.print(line, &mut batch))?;
        batch.flush()
    }

    fn print_rest(&mut self, log: &mut LogFile) -> anyhow::Result<()> {
        let mut batch = Batch::default();
        log.finish(|line| self.print(line, &mut batch))?;
        batch.flush()
    }

    fn print(&mut self, line: &[u8], batch: &mut Batch) -> anyhow::Result<()> {
        let Some(record) = log_format::parse(line) else {
            // Whatever it is, it is in the log.
            batch.add(Stream::Stdout, &[line, b"\n"]);
            return batch.flush_if_large();
        };
        if let Some(since) = self.since
            && record
                .time
                .parse::<Timestamp>()
                .is_ok_and(|time| time < since)
        {
            return Ok(());
        }
        let inside_line = &mut self.inside_line[record.stream as usize];
        if self.timestamps && !*inside_line {
            batch.add(record.stream, &[record.time.as_bytes(), b" "]);
        }
        *inside_line = record.partial;
        let end: &[u8] = if record.partial { b"" } else { b"\n" };
        batch.add(record.stream, &[&record.content, end]);
        batch.flush_if_large()
    }
}

/// Output that is written in one go as long as it belongs to one stream, so that both streams keep
/// their order on a terminal.
#[derive(Default)]
struct Batch {
    stream: Option<Stream>,
    bytes: Vec<u8>,
    /// Earlier output of the other stream.
    before: Vec<(Stream, Vec<u8>)>,
}

impl Batch {
    fn add(&mut self, stream: Stream, parts: &[&[u8]]) {
        if let Some(other) = self.stream.filter(|other| *other != stream) {
            self.before.push((other, std::mem::take(&mut self.bytes)));
        }
        self.stream = Some(stream);
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
    }

    fn flush_if_large(&mut self) -> anyhow::Result<()> {
        if self.bytes.len() >= 64 << 10 || self.before.len() >= 64 {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let last = self
            .stream
            .take()
            .map(|stream| (stream, std::mem::take(&mut self.bytes)));
        for (stream, bytes) in self.before.drain(..).chain(last) {
            match stream {
                Stream::Stdout => write_stdout(&bytes)?,
                Stream::Stderr => write_stderr(&bytes)?,
            }
        }
        Ok(())
    }
}
