//! Connections to ports in a pod, made from inside its network namespace.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

/// How long a listener may take. Nothing is between it and us but its own queue.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a port in a pod cannot be connected to.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// It is no port.
    #[error("there is no port 0 to connect to")]
    Zero,
    /// Nobody answers there.
    #[error(
        "nothing listens on port {port}: the loopback address refuses the connection (a program \
         that listens on the pod's own address only cannot be reached)"
    )]
    Refused {
        /// The port.
        port: u16,
    },
    /// Something else is in the way.
    #[error("port {port} cannot be connected to: {tried}")]
    Failed {
        /// The port.
        port: u16,
        /// What each address has answered.
        tried: String,
    },
}

/// Connects to a TCP port on a pod's loopback addresses: those of the network namespace at this
/// path, or the node's own without one.
pub async fn connect_to_loopback(
    namespace: Option<&Path>,
    port: u16,
) -> Result<TcpStream, PortError> {
    if port == 0 {
        return Err(PortError::Zero);
    }
    let mut refusals = Vec::new();
    for address in [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ] {
        let connected = async {
            let socket = socket(namespace, address).await?;
            tokio::time::timeout(PATIENCE, socket.connect(address))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        match connected.await {
            Ok(connection) => {
                // What is typed at one end is to be seen at the other.
                let _ = connection.set_nodelay(true);
                return Ok(connection);
            }
            Err(error) => refusals.push((address, error)),
        }
    }
    Err(refused(port, &refusals))
}

fn refused(port: u16, refusals: &[(SocketAddr, io::Error)]) -> PortError {
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
        return PortError::Refused { port };
    }
    let told: Vec<String> = told
        .iter()
        .map(|(address, error)| format!("{address}: {error}"))
        .collect();
    PortError::Failed {
        port,
        tried: told.join("; "),
    }
}

/// A socket of a network namespace; a socket stays in the one that it was made in.
async fn socket(namespace: Option<&Path>, address: SocketAddr) -> io::Result<TcpSocket> {
    let Some(namespace) = namespace else {
        return match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
    };
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let namespace = namespace.to_owned();
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
fn make_socket(namespace: PathBuf, family: AddressFamily) -> io::Result<std::net::TcpStream> {
    let namespace = File::open(namespace)?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    Ok(std::net::TcpStream::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str, errno: Errno) -> (SocketAddr, io::Error) {
        (address.parse().unwrap(), errno.into())
    }

    #[test]
    fn what_is_told_of_a_port_that_nothing_listens_on() {
        let error = refused(
            80,
            &[
                at("127.0.0.1:80", Errno::CONNREFUSED),
                at("[::1]:80", Errno::ADDRNOTAVAIL),
            ],
        );
        assert!(matches!(error, PortError::Refused { port: 80 }));
        assert!(error.to_string().contains("nothing listens on port 80"));
        let error = refused(
            80,
            &[
                at("127.0.0.1:80", Errno::TIMEDOUT),
                at("[::1]:80", Errno::CONNREFUSED),
            ],
        );
        assert!(matches!(error, PortError::Failed { .. }));
        assert!(error.to_string().contains("127.0.0.1:80"), "{error}");
    }
}
