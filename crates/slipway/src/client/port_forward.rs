//! `slipway port-forward`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use futures_util::future::select_all;
use futures_util::{SinkExt as _, StreamExt as _};
use slipway_cri_api::v1::PortForwardRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::connection::Client;
use super::exec::exit_code;
use super::failure::complain;
use super::output::print_line;
use super::resolve::find;
use super::session::{Connection, Encoding, Said, connect, fatal_signal};

/// Only the first of them can tell that one direction has ended.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// The channels of a connection's only port: its bytes, and what went wrong with it.
const DATA: u8 = 0;
const ERROR: u8 = 1;

/// How much is read from a connection at once, in bytes.
const PIECE: usize = 32 * 1024;

/// What `slipway port-forward` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Connections to the local ports go to the pod's, on its loopback address, until ctrl-c.

Examples:
  slipway port-forward web 8080:80
  slipway port-forward db 5432 9187
  slipway port-forward --address 0.0.0.0 web :80")]
pub(crate) struct PortForwardArgs {
    /// Listen on this address [default: 127.0.0.1, and ::1 where there is one]
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<IpAddr>,

    /// Name or ID
    pod: String,

    /// A port here and the pod's port; without the first the same one, with nothing before the
    /// colon a free one
    #[arg(required = true, value_name = "[LOCAL:]REMOTE")]
    ports: Vec<Ports>,
}

/// A port here and one in the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    /// 0 takes a free one.
    local: u16,
    remote: u16,
}

impl FromStr for Ports {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let port = |text: &str| {
            text.parse::<u16>()
                .map_err(|_| anyhow!("{text:?} is not a port, which is between 1 and 65535"))
        };
        let (local, remote) = match text.split_once(':') {
            None => (port(text)?, port(text)?),
            Some(("", remote)) => (0, port(remote)?),
            Some((local, remote)) => (port(local)?, port(remote)?),
        };
        if remote == 0 {
            return Err(anyhow!("0 is not a port of a pod"));
        }
        Ok(Self { local, remote })
    }
}

impl PortForwardArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        self.forward(client)
            .await
            .with_context(|| format!("port-forward to {}", self.pod))
    }

    async fn forward(&self, client: &Client) -> anyhow::Result<ExitCode> {
        let pods = client.all_pods().await?;
        let pod = find(&self.pod, &pods)?.id.clone();
        let remotes: Vec<u16> = self.ports.iter().map(|ports| ports.remote).collect();
        // Whether it can be done at all is better heard of now than at the first connection.
        url(client, &pod, &remotes).await?;
        let mut listeners = Vec::new();
        for ports in &self.ports {
            for listener in self.listen(ports.local).await? {
                print_line(&format!(
                    "Forwarding from {} -> {}",
                    listener.local_addr()?,
                    ports.remote
                ))?;
                listeners.push((listener, ports.remote));
            }
        }
        let mut connections = JoinSet::new();
        let mut signal = std::pin::pin!(fatal_signal());
        loop {
            let accepts = listeners
                .iter()
                .map(|(listener, remote)| Box::pin(async { (listener.accept().await, *remote) }));
            tokio::select! {
                ((accepted, remote), ..) = select_all(accepts) => {
                    let (local, _) = accepted.context("accept a connection")?;
                    let (client, pod) = (client.clone(), pod.clone());
                    connections.spawn(async move {
                        let carried = carry(&client, &pod, remote, local).await;
                        carried.with_context(|| format!("port {remote}"))
                    });
                }
                Some(carried) = connections.join_next() => {
                    if let Err(error) = carried? {
                        complain(&error);
                    }
                }
                number = &mut signal => return Ok(exit_code(128 + number?)),
            }
        }
    }

    /// Listens on a port of each address.
    async fn listen(&self, port: u16) -> anyhow::Result<Vec<TcpListener>> {
        let bind = async |address: IpAddr, port: u16| {
            let address = SocketAddr::new(address, port);
            TcpListener::bind(address)
                .await
                .with_context(|| format!("listen on {address}"))
        };
        let mut listeners = Vec::new();
        for &address in &self.address {
            listeners.push(bind(address, port).await?);
        }
        if listeners.is_empty() {
            let listener = bind(Ipv4Addr::LOCALHOST.into(), port).await?;
            let port = listener.local_addr()?.port();
            listeners.push(listener);
            // A machine without IPv6 does without.
            listeners.extend(bind(Ipv6Addr::LOCALHOST.into(), port).await);
        }
        Ok(listeners)
    }
}

/// A URL for connections to these ports.
async fn url(client: &Client, pod: &str, ports: &[u16]) -> anyhow::Result<String> {
    let request = client.request(PortForwardRequest {
        pod_sandbox_id: pod.to_owned(),
        port: ports.iter().copied().map(i32::from).collect(),
    });
    let response = client.runtime().port_forward(request).await?;
    Ok(response.into_inner().url)
}

/// Carries one connection to its end.
async fn carry(client: &Client, pod: &str, port: u16, mut local: TcpStream) -> anyhow::Result<()> {
    local.set_nodelay(true)?;
    let url = url(client, pod, &[port]).await?;
    let Connection { socket, encoding } = connect(&url, &PROTOCOLS).await?;
    let (mut sink, mut messages) = socket.split();
    let (mut from, mut to) = local.split();
    let uploading = async {
        let mut buffer = vec![0; PIECE];
        // Where one side is no more, there is nothing to say about it.
        while let Ok(length) = from.read(&mut buffer).await {
            let message = match length {
                0 => encoding.close(DATA),
                _ => Some(Encoding::encode(DATA, &buffer[..length])),
            };
            if let Some(message) = message
                && sink.send(message).await.is_err()
            {
                break;
            }
            if length == 0 {
                // The other direction goes on.
                return std::future::pending().await;
            }
        }
    };
    let downloading = async {
        let mut names = Names::default();
        while let Some(message) = messages.next().await {
            let message = message?;
            if !(message.is_binary() || message.is_text()) {
                continue;
            }
            match encoding.decode(message.into_data())? {
                Said::Bytes(DATA, bytes) => {
                    let bytes = names.without(DATA, &bytes);
                    if to.write_all(&bytes).await.is_err() {
                        return Ok(());
                    }
                }
                Said::Bytes(ERROR, bytes) => {
                    let bytes = names.without(ERROR, &bytes);
                    if !bytes.is_empty() {
                        return Err(anyhow!("{}", String::from_utf8_lossy(&bytes)));
                    }
                }
                Said::Close(DATA) => drop(to.shutdown().await),
                Said::Bytes(..) | Said::Close(_) | Said::Nothing => {}
            }
        }
        Ok(())
    };
    tokio::select! {
        carried = downloading => carried,
        () = uploading => Ok(()),
    }
}

/// Each channel begins with the number of its port, in two bytes.
#[derive(Debug, Default)]
struct Names {
    seen: [usize; 2],
}

impl Names {
    fn without(&mut self, channel: u8, bytes: &Bytes) -> Bytes {
        let seen = &mut self.seen[usize::from(channel)];
        let skipped = bytes.len().min(2 - *seen);
        *seen += skipped;
        bytes.slice(skipped..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_kubectl_has_them() {
        for (text, local, remote) in [
            ("80", 80, 80),
            ("8080:80", 8080, 80),
            (":80", 0, 80),
            ("0:80", 0, 80),
        ] {
            assert_eq!(text.parse::<Ports>().unwrap(), Ports { local, remote });
        }
        for text in ["", "http", "80:", "0", "1:0", "65536", "1:2:3", "-1"] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_name_of_a_port_is_not_part_of_its_bytes() {
        let mut names = Names::default();
        let mut without = |channel, text: &'static [u8]| {
            let bytes = Bytes::from_static(text);
            names.without(channel, &bytes)
        };
        assert_eq!(without(DATA, b"\x50"), "");
        assert_eq!(without(ERROR, b"\x50\x00"), "");
        assert_eq!(without(DATA, b"\x00hello"), "hello");
        assert_eq!(without(DATA, b"world"), "world");
        assert_eq!(without(ERROR, b"refused"), "refused");
    }
}
