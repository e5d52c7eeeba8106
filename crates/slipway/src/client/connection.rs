//! The connection to a runtime's socket.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use hyper_util::rt::TokioIo;
use slipway_cri_api::slipway::engines_client::EnginesClient;
use slipway_cri_api::slipway::pulls_client::PullsClient;
use slipway_cri_api::v1::image_service_client::ImageServiceClient;
use slipway_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::Request;
use tonic::transport::{self, Channel};
use tower::service_fn;

use super::duration;

const DEFAULT_ENDPOINT: &str = "unix:///run/slipway/slipway.sock";

/// Where an endpoint may also be named; the first that is set counts.
const ENDPOINT_VARIABLES: [&str; 2] = ["SLIPWAY_ENDPOINT", "CONTAINER_RUNTIME_ENDPOINT"];

/// A node can have thousands of images and containers; the 4 MiB that gRPC libraries allow by
/// default are not enough to list them.
const LARGEST_MESSAGE: usize = 16 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which runtime to ask, and how long to wait for it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Socket of the runtime, as unix:///PATH or a path
    /// [env: SLIPWAY_ENDPOINT or CONTAINER_RUNTIME_ENDPOINT] [default:
    /// unix:///run/slipway/slipway.sock]
    #[arg(long, global = true, value_name = "ENDPOINT", verbatim_doc_comment)]
    endpoint: Option<Endpoint>,

    /// Longest wait for an answer, such as 30s or 2m [default: none]; for `stop`, `rm -f` and `rmp`
    /// the time that a container has to stop by itself, for `exec` the time that the command may
    /// take
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration::parse)]
    timeout: Option<Duration>,
}

impl ConnectionArgs {
    /// Whether anything of this was on the command line.
    pub(crate) fn is_given(&self) -> bool {
        self.endpoint.is_some() || self.timeout.is_some()
    }

    fn endpoint(&self) -> anyhow::Result<Endpoint> {
        if let Some(endpoint) = &self.endpoint {
            return Ok(endpoint.clone());
        }
        for variable in ENDPOINT_VARIABLES {
            if let Ok(value) = std::env::var(variable)
                && !value.is_empty()
            {
                return value
                    .parse()
                    .map_err(|error| anyhow!("{variable}={value}: {error}"));
            }
        }
        DEFAULT_ENDPOINT.parse()
    }
}

/// The path of a runtime's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Endpoint(PathBuf);

impl FromStr for Endpoint {
    type Err = anyhow::Error;

    fn from_str(endpoint: &str) -> anyhow::Result<Self> {
        let path = match endpoint.split_once(':') {
            Some(("unix", rest)) => rest.strip_prefix("//").unwrap_or(rest),
            Some((scheme, rest)) if rest.starts_with("//") => {
                bail!("{scheme} is not supported; name a Unix socket, as unix:///PATH or a path")
            }
            _ => endpoint,
        };
        if path.is_empty() {
            bail!("there is no path in it; name a Unix socket, as unix:///PATH or a path");
        }
        Ok(Self(path.into()))
    }
}

/// A runtime that is asked by client commands.
#[derive(Clone)]
pub(super) struct Client {
    channel: Channel,
    /// How long an answer is waited for.
    answer: Option<Duration>,
    /// How long a container may take to stop, or a command in it.
    container: Option<Duration>,
}

/// What a command's `--timeout` limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timeout {
    /// The wait for each of the runtime's answers.
    OfAnswer,
    /// Something in a container, so that the runtime takes its time to answer.
    OfContainer,
}

impl Client {
    /// Connects to the runtime. The error says why it cannot be reached and what to do.
    pub(super) async fn connect(args: &ConnectionArgs, limits: Timeout) -> anyhow::Result<Self> {
        let Endpoint(path) = args.endpoint()?;
        let channel = open(&path)
            .await
            .map_err(|error| unreachable_socket(&path, &error))?;
        Ok(Self {
            channel,
            answer: args.timeout.filter(|_| limits == Timeout::OfAnswer),
            container: args.timeout.filter(|_| limits == Timeout::OfContainer),
        })
    }

    pub(super) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(super) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(super) fn engines(&self) -> EnginesClient<Channel> {
        EnginesClient::new(self.channel.clone())
    }

    pub(super) fn pulls(&self) -> PullsClient<Channel> {
        PullsClient::new(self.channel.clone())
    }

    /// `--timeout`, for the commands to which it means something else than the wait for an answer.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.container
    }

    /// A request that is given up after `--timeout`.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(timeout) = self.answer {
            request.set_timeout(timeout);
        }
        request
    }
}

/// Connects to a socket.
pub(crate) async fn open(socket: &Path) -> Result<Channel, transport::Error> {
    let socket = socket.to_owned();
    // The URI becomes the requests' :authority and has no other use: the connector knows the
    // socket.
    transport::Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector(service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
}

fn unreachable_socket(path: &Path, error: &transport::Error) -> anyhow::Error {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            let path = path.display();
            let running = "is `slipway serve` running? (--endpoint names another socket)";
            return match io.kind() {
                io::ErrorKind::NotFound => anyhow!("there is no socket {path}; {running}"),
                io::ErrorKind::ConnectionRefused => {
                    anyhow!("nobody listens on {path} (connection refused); {running}")
                }
                io::ErrorKind::PermissionDenied => {
                    anyhow!("permission denied on {path}; root is needed")
                }
                _ => anyhow!("cannot connect to {path}: {io}; {running}"),
            };
        }
        cause = error.source();
    }
    anyhow!("cannot connect to {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_unix_url_or_a_path() {
        for (text, path) in [
            ("unix:///run/a.sock", "/run/a.sock"),
            ("unix:/run/a.sock", "/run/a.sock"),
            ("/run/a.sock", "/run/a.sock"),
            ("a.sock", "a.sock"),
            ("/run/a:b.sock", "/run/a:b.sock"),
        ] {
            assert_eq!(
                text.parse::<Endpoint>().unwrap(),
                Endpoint(path.into()),
                "{text}"
            );
        }
        for text in ["tcp://127.0.0.1:1", "npipe:////./pipe/x", "unix://", ""] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
