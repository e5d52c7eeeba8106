//! Connections to ports in a pod, made from inside its network namespace.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;
use slipway_cri_api::v1::NamespaceMode;
use slipway_engine::{Error, PortConnection, Result};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

use crate::node::Node;
use crate::pod::Pod;
use crate::spec::pod_namespaces;

/// How long a listener may take. Nothing is between it and us but its own queue.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether a pod's ports could be connected to now.
pub(crate) fn check(node: &Node, id: &str) -> Result<()> {
    find(node, id).map(drop)
}

fn find(node: &Node, id: &str) -> Result<Arc<Pod>> {
    let pod = node.pods.get(id)?;
    pod.shim()?;
    Ok(pod)
}

/// Connects to a port on a pod's loopback address (CRI `PortForward`).
pub(crate) async fn connect(node: &Node, id: &str, port: u16) -> Result<PortConnection> {
    let pod = find(node, id)?;
    if port == 0 {
        return Err(Error::invalid("there is no port 0 to connect to"));
    }
    let mut refusals = Vec::new();
    for address in [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ] {
        let connected = async {
            let socket = socket(&pod, address).await?;
            tokio::time::timeout(PATIENCE, socket.connect(address))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        match connected.await {
            Ok(connection) => {
                // What is typed at one end is to be seen at the other.
                let _ = connection.set_nodelay(true);
                return Ok(Box::pin(connection));
            }
            Err(error) => refusals.push((address, error)),
        }
    }
    Err(refused(pod.id(), port, &refusals))
}

fn refused(pod: &str, port: u16, refusals: &[(SocketAddr, io::Error)]) -> Error {
    // A pod without IPv6 says so to the second address, which tells nobody anything.
    let absent = |error: &io::Error| {
        let errno = Errno::from_io_error(error);
        matches!(errno, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
    };
    let told: Vec<&(SocketAddr, io::Error)> = refusals
        .iter()
        .filter(|(_, error)| !absent(error))
        .collect();
    if told
        .iter()
        .all(|(_, error)| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        return Error::precondition(format!(
            "nothing listens on port {port} of pod {pod}: its loopback address refuses the \
             connection (a program that listens on the pod's own address only cannot be reached)"
        ));
    }
    let told: Vec<String> = told
        .iter()
        .map(|(address, error)| format!("{address}: {error}"))
        .collect();
    Error::internal(format!(
        "port {port} of pod {pod} cannot be connected to: {}",
        told.join("; ")
    ))
}

/// A socket of the pod's network namespace; a socket stays in the one that it was made in.
async fn socket(pod: &Pod, address: SocketAddr) -> io::Result<TcpSocket> {
    if pod_namespaces(&pod.record.config).network == NamespaceMode::Node as i32 {
        return match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
    }
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let namespace = pod.directory.join("ns/net");
    let (sender, receiver) = oneshot::channel();
    // A thread of its own, which ends: none that has other work may stay in a pod's namespace.
    std::thread::Builder::new()
        .name("port-forward".to_owned())
        .spawn(move || {
            // Whoever asked may have stopped waiting.
            let _ = sender.send(make_socket(namespace, family));
        })?;
    let socket = receiver
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the connecting thread crashed")))?;
    Ok(TcpSocket::from_std_stream(socket))
}

/// Moves the calling thread into a network namespace and makes a socket there.
fn make_socket(namespace: PathBuf, family: AddressFamily) -> io::Result<TcpStream> {
    let namespace = File::open(namespace)?;
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&namespace),
        Some(LinkNameSpaceType::Network),
    )?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    Ok(TcpStream::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    use slipway_engine::Kind;

    fn at(address: &str, errno: Errno) -> (SocketAddr, io::Error) {
        (address.parse().unwrap(), errno.into())
    }

    #[test]
    fn what_is_told_of_a_port_that_nothing_listens_on() {
        let error = refused(
            "web",
            80,
            &[
                at("127.0.0.1:80", Errno::CONNREFUSED),
                at("[::1]:80", Errno::ADDRNOTAVAIL),
            ],
        );
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(error.to_string().contains("nothing listens on port 80"));
        let error = refused(
            "web",
            80,
            &[
                at("127.0.0.1:80", Errno::TIMEDOUT),
                at("[::1]:80", Errno::CONNREFUSED),
            ],
        );
        assert_eq!(error.kind(), Kind::Internal);
        assert!(error.to_string().contains("127.0.0.1:80"), "{error}");
    }
}
