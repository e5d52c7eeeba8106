//! The server: URLs for those who ask over CRI, sessions for those who come with one.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use slipway_engine::{Engine, Error, Streams};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::Config;
use crate::idle::Watched;
use crate::order::{Order, PortForward, Process, Which};
use crate::session::{self, Io};
use crate::tls::{self, TlsError};
use crate::token::{NotIssued, Tokens};
use crate::upgrade::{Protocol, Purpose, Refusal, agree};

/// Connections that have not shown a token yet.
const MAX_STRANGERS: usize = 128;

/// How long a connection may take to show its token.
const PATIENCE: Duration = Duration::from_secs(15);

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// The most headers of a request.
const MAX_HEADERS: usize = 64;

/// How long nobody is accepted after that has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be bound.
    #[error("streaming.listen {0} cannot be used: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The streaming server. It and all its sessions end when it is dropped.
#[derive(Debug)]
pub struct Streaming {
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Streaming {
    /// Binds the address and begins to accept. Must be called within a tokio runtime, which the
    /// sessions run on.
    ///
    /// # Errors
    /// When the address or the certificate cannot be used.
    pub async fn start(config: &Config, engine: Arc<dyn Engine>) -> Result<Self, StartError> {
        let reloaded = Reloaded::new(config)?;
        let cannot_listen = |error| StartError::Listen(config.listen, error);
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(cannot_listen)?;
        let address = reachable(listener.local_addr().map_err(cannot_listen)?);
        let shared = Arc::new(Shared {
            engine,
            address,
            tokens: Tokens::new(config.token_lifetime),
            reloaded: watch::Sender::new(Arc::new(reloaded)),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, accepting })
    }

    /// The scheme and address that URLs begin with now.
    pub fn base(&self) -> String {
        self.shared.base()
    }

    /// What replaces the configuration while the server works.
    pub fn reloader(&self) -> Reloader {
        Reloader(Arc::clone(&self.shared))
    }

    /// A URL under which a command can be run in a container, once (CRI `Exec`).
    ///
    /// # Errors
    /// `ResourceExhausted` when too many URLs are outstanding.
    pub fn exec(
        &self,
        container: String,
        command: Vec<String>,
        streams: Streams,
    ) -> Result<String, Error> {
        let order = Order::Process(Process {
            container,
            which: Which::New(command),
            streams,
        });
        self.url("exec", order)
    }

    /// A URL under which a container's own process can be spoken with, once (CRI `Attach`).
    ///
    /// # Errors
    /// As [`exec`](Self::exec).
    pub fn attach(&self, container: String, streams: Streams) -> Result<String, Error> {
        let order = Order::Process(Process {
            container,
            which: Which::Own,
            streams,
        });
        self.url("attach", order)
    }

    /// A URL under which a pod's ports can be connected to, in one session (CRI `PortForward`).
    ///
    /// # Errors
    /// As [`exec`](Self::exec).
    pub fn port_forward(&self, pod: String, ports: Vec<u16>) -> Result<String, Error> {
        let order = Order::PortForward(PortForward { pod, ports });
        self.url("portforward", order)
    }

    fn url(&self, kind: &str, order: Order) -> Result<String, Error> {
        let issued = self.shared.tokens.issue(order, Instant::now());
        let token = issued.map_err(|error| match error {
            NotIssued::TooMany => Error::exhausted(error.to_string()),
            NotIssued::NoRandomness(_) => Error::internal(error.to_string()),
        })?;
        Ok(format!("{}/{kind}/{token}", self.shared.base()))
    }
}

/// Replaces the configuration of a [`Streaming`] server.
#[derive(Debug, Clone)]
pub struct Reloader(Arc<Shared>);

impl Reloader {
    /// Puts another configuration into force for sessions that begin from now on, and reads the
    /// certificate again. The address and the lifetime of URLs are as they were.
    ///
    /// # Errors
    /// When the certificate cannot be used; the old configuration stays in force.
    pub fn reload(&self, config: &Config) -> Result<(), TlsError> {
        let mut new = Reloaded::new(config)?;
        self.0.reloaded.send_modify(|reloaded| {
            if new.config.max_sessions == reloaded.config.max_sessions {
                new.sessions = Arc::clone(&reloaded.sessions);
            }
            new.config.listen = reloaded.config.listen;
            new.config.token_lifetime = reloaded.config.token_lifetime;
            *reloaded = Arc::new(new);
        });
        Ok(())
    }
}

/// An address that this node can connect to.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

struct Shared {
    engine: Arc<dyn Engine>,
    /// Where clients connect.
    address: SocketAddr,
    tokens: Tokens<Order>,
    reloaded: watch::Sender<Arc<Reloaded>>,
}

/// What a new configuration replaces. A session has the same one to its end.
struct Reloaded {
    config: Config,
    tls: Option<TlsAcceptor>,
    sessions: Arc<Semaphore>,
}

impl Reloaded {
    fn new(config: &Config) -> Result<Self, TlsError> {
        Ok(Self {
            tls: tls::acceptor(config)?,
            sessions: Arc::new(Semaphore::new(config.max_sessions)),
            config: config.clone(),
        })
    }
}

impl Shared {
    fn reloaded(&self) -> Arc<Reloaded> {
        Arc::clone(&self.reloaded.borrow())
    }

    fn base(&self) -> String {
        let scheme = match self.reloaded.borrow().tls {
            Some(_) => "https",
            None => "http",
        };
        format!("{scheme}://{}", self.address)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the tokens: they are secrets.
        to.debug_struct("Shared").finish_non_exhaustive()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(stranger) = Arc::clone(&strangers).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, Arc::clone(&shared), stranger));
            }
            Err(error) => {
                tracing::warn!(%error, "the streaming server cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, stranger: OwnedSemaphorePermit) {
    prepare(&stream);
    let reloaded = shared.reloaded();
    let introduced = tokio::time::timeout(PATIENCE, async {
        match &reloaded.tls {
            None => introduce(stream, &shared, &reloaded).await,
            Some(tls) => introduce(tls.accept(stream).await.ok()?, &shared, &reloaded).await,
        }
    })
    .await;
    drop(stranger);
    let Ok(Some((granted, upgraded))) = introduced else {
        return;
    };
    let (io, last) = Watched::new(TokioIo::new(upgraded));
    let Granted {
        order,
        protocol,
        place: _place,
    } = granted;
    let session = session::run(Arc::clone(&shared.engine), order, protocol, io);
    tokio::select! {
        ended = session => if let Err(error) = ended {
            tracing::debug!(error, "a streaming session was broken off");
        },
        () = last.silent_for(reloaded.config.idle_timeout) => {
            tracing::debug!("a streaming session has been idle for too long");
        }
    }
}

/// Keystrokes do not wait for each other, and a client that vanished is noticed.
fn prepare(stream: &TcpStream) {
    let prepared = sockopt::set_tcp_nodelay(stream, true)
        .and_then(|()| sockopt::set_socket_keepalive(stream, true))
        .and_then(|()| sockopt::set_tcp_keepidle(stream, Duration::from_mins(1)))
        .and_then(|()| sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15)))
        .and_then(|()| sockopt::set_tcp_keepcnt(stream, 4));
    if let Err(error) = prepared {
        tracing::debug!(%error, "a connection keeps the kernel's own settings");
    }
}

/// What a client has been let in for.
struct Granted {
    order: Order,
    protocol: Protocol,
    place: OwnedSemaphorePermit,
}

/// Answers a connection's one request; none when that was its end.
async fn introduce(
    stream: impl Io + 'static,
    shared: &Shared,
    reloaded: &Reloaded,
) -> Option<(Granted, Upgraded)> {
    let granted = Mutex::new(None);
    let service = service_fn(|mut request: Request<Incoming>| {
        let answer = match grant(&request, shared, reloaded) {
            Ok((this, headers)) => {
                let upgrade = hyper::upgrade::on(&mut request);
                *granted.lock().unwrap_or_else(PoisonError::into_inner) = Some((this, upgrade));
                let mut response = Response::new(Full::new(Bytes::new()));
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *response.headers_mut() = headers;
                response
            }
            Err(refusal) => refused(refusal),
        };
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let served = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "what came to the streaming server was no request");
    }
    let granted = granted.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (granted, upgrade) = granted?;
    Some((granted, upgrade.await.ok()?))
}

/// Takes a request's token, whatever else is wrong with it.
fn grant(
    request: &Request<Incoming>,
    shared: &Shared,
    reloaded: &Reloaded,
) -> Result<(Granted, HeaderMap), Refusal> {
    if ![Method::GET, Method::POST].contains(request.method()) {
        let message = "only GET and POST begin a session\n";
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message));
    }
    let order = redeem(request.uri().path(), shared).ok_or_else(|| {
        let seconds = reloaded.config.token_lifetime.as_secs();
        Refusal::new(
            StatusCode::NOT_FOUND,
            format!("nothing is here: a URL is good once, within {seconds} seconds of its issue\n"),
        )
    })?;
    let purpose = match &order {
        Order::Process(_) => Purpose::Process,
        Order::PortForward(_) => Purpose::PortForward,
    };
    let agreed = agree(request.headers(), purpose)?;
    if let (Order::PortForward(forward), Protocol::WebSocket(encoding, _)) =
        (&order, agreed.protocol)
        && !(1..=encoding.channels() / 2).contains(&forward.ports.len())
    {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            format!(
                "PortForwardRequest.port had {} ports, and this protocol has channels for 1 to {}; \
                 SPDY/3.1 needs none there\n",
                forward.ports.len(),
                encoding.channels() / 2
            ),
        ));
    }
    let place = Arc::clone(&reloaded.sessions).try_acquire_owned();
    let place = place.map_err(|_| {
        let limit = reloaded.config.max_sessions;
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("there are {limit} sessions already (streaming.max_sessions)\n"),
        )
    })?;
    let granted = Granted {
        order,
        protocol: agreed.protocol,
        place,
    };
    Ok((granted, agreed.headers))
}

fn redeem(path: &str, shared: &Shared) -> Option<Order> {
    let (kind, token) = path.strip_prefix('/')?.split_once('/')?;
    let order = shared.tokens.redeem(token, Instant::now())?;
    let own = match &order {
        Order::Process(Process {
            which: Which::New(_),
            ..
        }) => "exec",
        Order::Process(_) => "attach",
        Order::PortForward(_) => "portforward",
    };
    (kind == own).then_some(order)
}

fn refused(refusal: Refusal) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(refusal.message));
    *response.status_mut() = refusal.status;
    response.headers_mut().extend(refusal.header);
    // One request a connection. Said here and not to hyper, which would say it in upgrades as well.
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}
